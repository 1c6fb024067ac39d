"""A run as a folder: run.toml says what it is; RunSpec is that file, Run is the folder with its autoencoders."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder
from gossamer.autoencoder.files import SPEC, load, save
from gossamer.sources.source import Source, SourceSpec
from gossamer.spec import Spec
from gossamer.storage import replace_file
from gossamer.training.spec import Derived, TrainSpec

__all__ = ["PythonSource", "Run", "RunSpec", "autoencoder_folders", "differences"]


@dataclass(frozen=True, kw_only=True)
class PythonSource(SourceSpec):
    """Stand in run.toml for a source that was made in Python: its fingerprint can be compared, not rebuilt."""

    kind: ClassVar[str] = "python"

    def build(self, *, device: str = "cpu") -> Source:
        """Raise ValueError: only the program that made the source can make it again."""
        raise ValueError(
            "the source of this run was made in Python; call gs.train with the same arguments and resume=True"
        )


@dataclass(frozen=True, kw_only=True)
class RunSpec(Spec):
    """All that a run depends on. derived: per autoencoder, the numbers that followed from the rest."""

    autoencoders: tuple[AutoencoderSpec, ...]
    source: SourceSpec
    train: TrainSpec
    fingerprint: dict[str, str]
    derived: tuple[Derived, ...]
    version: str

    def write(self, folder: Path) -> None:
        """Write run.toml."""
        text = self.to_toml()
        replace_file(folder / "run.toml", lambda temporary: temporary.write_text(text, encoding="utf-8"))

    @classmethod
    def read(cls, folder: str | Path) -> RunSpec:
        """Read run.toml; raises ValueError if there is none or it is damaged."""
        path = Path(folder) / "run.toml"
        if not path.is_file():
            raise ValueError(f"{path} does not exist; is {folder} the folder of a run?")
        try:
            return cls.from_toml(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error


@dataclass(frozen=True)
class Run:
    """A finished run: its folder (None if nothing was to be kept) and its autoencoders, scaling folded in."""

    folder: Path | None
    autoencoders: tuple[SparseAutoencoder, ...]

    @property
    def autoencoder(self) -> SparseAutoencoder:
        """The only autoencoder; raises ValueError if there are several."""
        if len(self.autoencoders) != 1:
            raise ValueError(f"the run has {len(self.autoencoders)} autoencoders; choose one of .autoencoders")
        return self.autoencoders[0]

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open a finished run; raises ValueError if there is none."""
        folder = Path(folder)
        places = autoencoder_folders(folder, RunSpec.read(folder).autoencoders)
        if not all((place / SPEC).is_file() for place in places):
            raise ValueError(f"{folder} has not finished; go on with it: gossamer train --resume {folder}")
        return cls(folder, tuple(load(place) for place in places))

    def save(self) -> None:
        """Write the autoencoders into the folder."""
        if self.folder is not None:
            specs = [sae.spec for sae in self.autoencoders]
            for sae, place in zip(self.autoencoders, autoencoder_folders(self.folder, specs), strict=True):
                save(sae, place)


def autoencoder_folders(folder: Path, specs: Sequence[AutoencoderSpec]) -> list[Path]:
    """Return where a run keeps each autoencoder: `sae`, or `sae/0-name`, `sae/1-name`, … if there are several."""
    if len(specs) == 1:
        return [folder / "sae"]
    return [folder / "sae" / f"{number}-{spec.name}" for number, spec in enumerate(specs)]


def differences(saved: Spec, given: Spec) -> list[str]:
    """Return one line for each field in which two specs differ: name, saved value, given value."""
    return _differences(saved.to_dict(), given.to_dict(), "")


def _differences(saved: Any, given: Any, name: str) -> list[str]:
    if isinstance(saved, dict) and isinstance(given, dict):
        keys = [*saved, *(key for key in given if key not in saved)]
        prefix = f"{name}." if name else ""
        return [line for key in keys for line in _differences(saved.get(key), given.get(key), f"{prefix}{key}")]
    if isinstance(saved, list) and isinstance(given, list) and len(saved) == len(given):
        pairs = enumerate(zip(saved, given, strict=True))
        return [line for number, (a, b) in pairs for line in _differences(a, b, f"{name}[{number}]")]
    return [] if saved == given else [f"{name}: saved {saved!r}, given {given!r}"]
