"""Comparison: what `gossamer compare` reads from a TOML file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossamer.compare.data import Labels
from gossamer.compare.methods import Method, Sizes
from gossamer.sources.source import SourceSpec
from gossamer.spec import Spec

__all__ = ["SLACK", "Comparison"]

SLACK = 0.03
"""Parameters are called equal if they differ by no more than this share."""


@dataclass(frozen=True, kw_only=True)
class Comparison(Spec):
    """Say what is compared, on which rows, and what is made equal.

    out: the folder. source: where rows come from; labels: what a probe tells from the codes, if anything. method: what
    is compared. latents, l0: of the sparse autoencoders; a row is described by l0 numbers, and 2 · latents · width
    parameters and the biases are what every other method is sized to. rows: that each sees where rows are equal.
    seconds: of processor time that each trains where time is equal. batch: rows per step. quality: the FVU at which
    bits are counted. held_out: rows that figures rest on, at most. seed: of weights and of the order of rows.
    """

    out: str
    source: SourceSpec
    method: tuple[Method, ...]
    labels: Labels | None = None
    latents: int
    l0: int
    rows: int = 200_000
    seconds: float = 20.0
    batch: int = 512
    quality: float = 0.05
    held_out: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("latents", "l0", "rows", "batch", "held_out"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.seconds <= 0 or not 0 < self.quality < 1 or self.seed < 0:
            raise ValueError(
                f"seconds are above 0, quality is an FVU between 0 and 1, a seed is not negative; got "
                f"{self.seconds:g}, {self.quality:g} and {self.seed}"
            )
        if self.rows < self.batch:
            raise ValueError(f"rows = {self.rows:,} is less than one batch of {self.batch:,}")
        if not self.method:
            raise ValueError("the recipe names nothing to compare; add [[method]] tables")
        titles = [method.title for method in self.method]
        twice = {title for title in titles if titles.count(title) > 1}
        if twice:
            raise ValueError(
                f"two methods are both called {', '.join(sorted(map(repr, twice)))}; compare different ones"
            )

    @classmethod
    def read(cls, path: str | Path) -> Comparison:
        """Read a recipe; raises ValueError naming the file and the place in it."""
        path = Path(path)
        if not path.is_file():
            near = sorted(str(found) for found in path.parent.glob("compare*.toml")) if path.parent.is_dir() else []
            raise ValueError(f"there is no recipe {path}" + (f"; there are {', '.join(near)}" if near else ""))
        try:
            return cls.from_toml(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from error

    def override(self, **changes: Any) -> Comparison:
        """Return the recipe with some fields replaced; None leaves the file's."""
        return self.replace(**{name: value for name, value in changes.items() if value is not None})

    def sizes(self, width: int) -> Sizes:
        """Return what methods are sized by, for rows of a width.

        Raises ValueError if a method cannot have as many parameters as the others.
        """
        sizes = Sizes(width, self.latents, self.l0)
        if self.l0 > min(self.latents, width):
            raise ValueError(
                f"a row of {width} entries in {self.latents} latents cannot be described by l0 = {self.l0} of them"
            )
        for method in self.method:
            given = method.parameters(sizes)
            if method.sized and abs(given / sizes.parameters - 1) > SLACK:
                raise ValueError(
                    f"{method.title} cannot be made as large as the others: {given:,} parameters come nearest to "
                    f"{sizes.parameters:,}; change latents, or the method's own numbers"
                )
        return sizes
