"""Folds: autoencoders that share every batch, each leaving out the rows that it will be judged on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from gossamer.autoencoder.tasks import Reconstruct, Rows
from gossamer.kernels.sharing import once
from gossamer.sources.arrays import Arrays
from gossamer.sources.source import Batch, Source

__all__ = ["FoldedRows", "HoldOut"]

FOLD = "fold"


class FoldedRows(Source):
    """Rows, and beside them, as a second site of width 1, the number of each row's fold.

    x: what `Arrays` takes. folds: `(rows,)` integers.
    """

    def __init__(self, x: Any, folds: np.ndarray) -> None:
        self._rows = Arrays(x, validation=0.0)
        self._folds = torch.as_tensor(folds, dtype=torch.float32)[:, None]
        self.widths = {**self._rows.widths, FOLD: 1}
        self.rows, self.validation_rows, self.buffer_rows = self._rows.rows, 0, self._rows.buffer_rows

    @property
    def units(self) -> int:
        """Number of units of the rows."""
        return self._rows.units

    @property
    def units_per_buffer(self) -> int:
        """Units that are read at a time."""
        return self._rows.units_per_buffer

    def read(self, units: np.ndarray) -> Batch:
        """Return rows and folds."""
        batch = self._rows.read(units)
        return Batch({**batch.rows, FOLD: self._folds[batch.origins[:, 1]]}, batch.origins)

    def validation(self, *, batch: int) -> Iterator[Batch]:
        """Iterate over nothing: each fold's rows are held out from some of the models only."""
        return iter(())

    def fingerprint(self) -> dict[str, str]:
        """Return that of the rows."""
        return self._rows.fingerprint()

    def describe(self) -> dict[str, str]:
        """Return that of the rows, and how many folds there are."""
        return {**self._rows.describe(), "folds": str(int(self._folds.max()) + 1)}


@dataclass(frozen=True, kw_only=True)
class HoldOut(Reconstruct):
    """Give back the rows of all folds but one."""

    kind: ClassVar[str] = "hold-out"
    fold: int

    def rows(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return the rows of a batch that are not in the fold; models of one fold share them."""
        x, fold = rows[self.site], rows[FOLD][:, 0]
        kept = once(f"all but fold {self.fold}", x, (), lambda: x[fold != self.fold])
        return kept, kept
