"""What a file format is: it recognizes a place on disk, reads one autoencoder from it, and may write one.

**To add a format, add one file to this folder.** It holds one subclass of `Format`, and ends with the functions that
people call:

    class MyLibrary(Format):
        name, title = "my_library", "MyLibrary"
        files = frozenset({"config.json", "weights.safetensors"})

        def recognizes(self, place): ...      # cheap: names of files, a key of a configuration
        def read(self, place): ...            # returns Loaded(sae, notes)
        def fill(self, sae, folder): ...      # only if the format can be written

    FORMAT = MyLibrary()
    read, write = FORMAT.read, FORMAT.write

Nothing else has to change: `formats()` knows every subclass whose module has been imported, and imports those of this
folder. `gossamer.interop.affine` makes an autoencoder of the matrices and biases that nearly every format holds, and
gives them back for writing; `gossamer.interop.tensors` reads tensors safely. A test in `tests/interop` reads a file
that the other library itself has written, and compares.

Rules that hold for all formats:

- Nothing is executed: no pickle beyond `weights_only=True`, no code from a configuration.
- Names, shapes and dtypes are checked before memory is taken. Tensors may stay mapped from the file.
- What Gossamer cannot compute is refused, ValueError with the reason. What can be folded into the weights exactly is
  folded, and a note says so.
- Whatever is wrong with a file is a ValueError that names the file.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.spec import nearest
from gossamer.storage import replace_folder

__all__ = ["Format", "Loaded", "format_of", "formats"]

DEEPEST = 6
"""How many folders deep autoencoders are looked for."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """What was read: the autoencoder, which knows its `provenance`, and notes.

    notes: one sentence each for what was folded into the weights, left out or assumed: the reader is told.
    """

    sae: SparseAutoencoder
    notes: tuple[str, ...] = ()


class Format(ABC):
    """A way to keep an autoencoder on disk.

    name: for `--from` and `--to`, and of the module. title: what messages call it. files: what one autoencoder consists
    of; a folder that holds anything else is not written over.

    A place is a folder or, for formats that are single files, a file.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    files: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def recognizes(self, place: Path) -> bool:
        """Say whether one autoencoder of this format is at this place; cheap, and never an error."""

    @abstractmethod
    def read(self, place: str | Path) -> Loaded:
        """Read one autoencoder, on the CPU, in the precision of the file; tensors may be mapped from it.

        Raises ValueError, naming the file, for anything that is damaged, missing, or cannot be computed here.
        """

    def members(self, place: Path) -> list[str]:
        """Return the autoencoders below a folder, as paths relative to it, sorted.

        A format that keeps several in one file overrides this, and reads `file/member`.
        """
        found, level = [], [place]
        for _ in range(DEEPEST):
            level = [child for folder in level for child in folder.iterdir() if child.is_dir()]
            found += [child.relative_to(place).as_posix() for child in level if self.recognizes(child)]
        return sorted(found)

    def fill(self, sae: SparseAutoencoder, folder: Path) -> tuple[str, ...]:
        """Write an autoencoder into an empty folder, and return notes; formats that can be written override it.

        Raises ValueError, before anything is written, for what the format cannot express, with the reason.
        """
        raise ValueError(f"{self.title} files are read, not written; {_writable()}")

    def write(self, sae: SparseAutoencoder, folder: str | Path) -> tuple[str, ...]:
        """Write an autoencoder into a folder, whole or not at all, and return notes on what was folded or left out.

        Raises ValueError for what the format cannot express or if the folder holds something else, StorageError if it
        cannot be written; what was there before stays.
        """
        folder = Path(folder)
        present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if folder.is_file() or present - self.files:
            raise ValueError(f"{folder} holds something else than a {self.title} autoencoder; choose another folder")
        notes: list[str] = []
        try:
            replace_folder(folder, lambda temporary: notes.extend(self.fill(sae, temporary)))
        except ValueError as error:
            raise ValueError(f"{self.title} cannot hold this autoencoder, {sae.spec.name!r}: {error}") from error
        return tuple(notes)

    @property
    def writable(self) -> bool:
        """Whether autoencoders can be written in this format."""
        return type(self).fill is not Format.fill


def formats() -> dict[str, Format]:
    """Return every known format by name: those of this folder, and those of modules that were imported elsewhere."""
    package = importlib.import_module("gossamer.interop")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted((member.name, member()) for member in _concrete(Format)))


def format_of(name: str) -> Format:
    """Return a format by name; raises ValueError for an unknown one, naming the nearest."""
    known = formats()
    if name not in known:
        raise ValueError(f"unknown format {name!r}; {nearest(name, known)}")
    return known[name]


def _concrete(family: type[Format]) -> list[type[Format]]:
    found = [] if family.__abstractmethods__ else [family]
    return found + [member for child in family.__subclasses__() for member in _concrete(child)]


def _writable() -> str:
    return "can be written: " + ", ".join(name for name, known in formats().items() if known.writable)
