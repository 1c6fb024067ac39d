"""What a source learned from its data, kept as JSON, so that later data become the same columns."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from gossamer.spec import Spec
from gossamer.storage import replace_file

__all__ = ["Learned"]


class Learned(Spec):
    """The family of things that were learned. noun: what one is called in messages."""

    noun: ClassVar[str]

    def save(self, path: str | Path) -> None:
        """Write it as JSON, in one step; raises StorageError if that cannot be done."""
        replace_file(Path(path), lambda temporary: temporary.write_text(self.to_json(), encoding="utf-8"))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; raises ValueError, naming the file, if it is missing, damaged or something else."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ValueError(f"{path} does not exist; expected {cls.noun}") from error
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged, or not {cls.noun} ({error})") from error
