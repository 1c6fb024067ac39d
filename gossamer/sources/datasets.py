"""Real images and signals that were fetched once: where they are, and what puts them there whole or not at all.

Here lives no network: `scripts/fetch_data.py` fetches and hands the files over to `publish`, which checks them. Models
and texts, which come out of Python packages, are the business of `assets`.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gossamer.sources.assets import MissingAsset, cache_folder
from gossamer.spec import nearest

__all__ = ["DATASETS", "FETCH_COMMAND", "DataSet", "dataset", "located", "publish"]

FETCH_COMMAND: Final = "python scripts/fetch_data.py"
"""What fetches a data set by name, run in a checkout of the project."""

PREFIX: Final = "data:"
"""What the path of a file of a data set begins with, in recipes and on the command line."""

LISTING: Final = "SHA256SUMS"
"""File in every data set that lists its files, in the format of the command sha256sum."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Say what a data set is. contents: one line for people; license: of the data; sha256: of its listing of files."""

    contents: str
    license: str
    sha256: str


DATASETS: Final[Mapping[str, DataSet]] = {
    "fashion-mnist": DataSet(
        contents="60,000 + 10,000 gray pictures of clothes, 28×28, with labels (IDX, gzip)",
        license="MIT",
        sha256="f37bf62265b0989968a94c78e420344f1ede1007dabf032a0dc5e88371fef370",
    ),
    "photographs": DataSet(
        contents="12 photographs of nature (JPEG)",
        license="CC-BY-SA and GPL, see the Debian package mate-backgrounds",
        sha256="fb1bdd6b07e819992e692199141021d119cd9b1a036797781949392cf6285d86",
    ),
    "speech": DataSet(
        contents="telephone prompts, one speaker, 25 minutes at 8 kHz (WAV, 16 bits)",
        license="CC-BY-SA-3.0",
        sha256="c5aaa003fc071d5f6d4ea9de116ca77a950fafeb7c6d4d03874f91ed4116662a",
    ),
    "ecg": DataSet(
        contents="an electrocardiogram, MIT-BIH record 208, 300 s at 360 Hz; ecg.npy is in millivolts",
        license="ODC-By-1.0",
        sha256="991ef7369a549d42ad55adda55c54545038e81cb36fc549ca0a64d45a947b2cd",
    ),
}


def dataset(name: str) -> Path:
    """Return the folder of a data set that was fetched.

    Raises ValueError for an unknown name, with the nearest; MissingAsset, with the command that fetches it, if it is
    not on this machine or a file of it was deleted.
    """
    folder = place(name)
    if not _is_whole(folder):
        raise MissingAsset(f"the data set {name} is not on this machine: fetch it with `{FETCH_COMMAND} {name}`")
    return folder


def located(name: str) -> Path:
    """Return the path that a name stands for: `data:ecg/ecg.npy` is that file of a data set that was fetched.

    Raises what `dataset` raises.
    """
    if not name.startswith(PREFIX):
        return Path(name).expanduser()
    owner, _, rest = name.removeprefix(PREFIX).partition("/")
    return dataset(owner) / rest


def place(name: str) -> Path:
    """Return where a data set belongs; it need not be there."""
    if name not in DATASETS:
        raise ValueError(f"there is no data set {name!r}; {nearest(name, DATASETS)}")
    return cache_folder() / "data" / name


def publish(name: str, fetched: Path) -> Path:
    """Copy a folder of fetched files to its place in the cache, whole or not at all, and return that place.

    Raises ValueError if the files are not those expected; OSError if the cache is full or cannot be written.
    """
    final = place(name)
    temporary = _sibling(final)
    try:
        shutil.copytree(fetched, temporary)
        listing = listed(temporary)
        found = hashlib.sha256(listing.encode()).hexdigest()
        if found != DATASETS[name].sha256:
            raise ValueError(
                f"the files of {name} are not those expected: their listing has SHA-256 {found}, expected "
                f"{DATASETS[name].sha256}; they are damaged or of another version"
            )
        (temporary / LISTING).write_text(listing, encoding="utf-8")
        _replace(final, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def listed(folder: Path) -> str:
    """Return one line, `sha256  path`, for each file below a folder, sorted by path."""
    files = sorted((file.relative_to(folder).as_posix(), file) for file in folder.rglob("*") if file.is_file())
    return "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {path}\n" for path, file in files)


def _is_whole(folder: Path) -> bool:
    """Say whether every file of the listing is there; the listing itself is written last."""
    try:
        lines = (folder / LISTING).read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return all((folder / line.split("  ", 1)[1]).is_file() for line in lines)


def _replace(final: Path, temporary: Path) -> None:
    if final.exists():  # rename cannot replace a folder that holds something
        trash = _sibling(final)
        with suppress(FileNotFoundError):
            os.rename(final, trash)
        shutil.rmtree(trash, ignore_errors=True)
    try:
        os.rename(temporary, final)
    except OSError:
        if not _is_whole(final):  # else another process was faster, and its folder is as good
            raise


def _sibling(final: Path) -> Path:
    # Not tempfile.mkdtemp: its folders are private to one user, and a cache may be shared.
    return final.with_name(f".{final.name}.{secrets.token_hex(6)}")
