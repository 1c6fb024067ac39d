"""Layouts: how one picture or one signal becomes rows of numbers, and rows become what they were made from.

Two layouts share what lives here: pieces of equal size that cover everything, and a normalization of each row that is
undone with what it took away. Reading files is the business of `images` and `signals`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np

from gossamer.spec import Spec

__all__ = ["Layout", "Normalized", "starts"]


class Normalized(NamedTuple):
    """Normalized rows and what was taken from them.

    rows: `(rows, width)`; side: `(rows, columns)`, in the order of `Layout.side_columns`.
    """

    rows: np.ndarray
    side: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Layout(Spec):
    """Normalize each row on its own: x = shift + scale · x', with shift and scale kept beside the rows.

    normalization: "none"; "mean" (shift = mean); "contrast" (shift = mean, scale = √(variance + epsilon)); "peak"
    (scale = largest absolute value); "rms" (scale = root mean square). A row of zeros keeps the scale 1. epsilon: of
    contrast, in squared units of the rows; it keeps faint noise from being blown up to full contrast.

    Source of contrast: Coates, Ng & Lee 2011 (https://proceedings.mlr.press/v15/coates11a.html), where epsilon is 10
    for pixels up to 255, which is 0.00015 for pixels up to 1.
    """

    normalization: Literal["none", "mean", "contrast", "peak", "rms"] = "none"
    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon <= 0:
            raise ValueError(f"epsilon must be above 0, got {self.epsilon}")

    @property
    def side_columns(self) -> tuple[str, ...]:
        """Return the names of the columns of the side information: of "shift" and "scale" those that are needed."""
        shifted = self.normalization in ("mean", "contrast")
        scaled = self.normalization in _SCALES
        return ("shift",) * shifted + ("scale",) * scaled

    def normalize(self, rows: np.ndarray) -> Normalized:
        """Return x' = (x − shift) / scale and the side information.

        rows: `(rows, width)`, whole numbers or floats. The result is float64 for float64 rows, float32 for others;
        without a normalization the rows stay as they are, and no column is kept.
        """
        if not self.side_columns:
            return Normalized(rows, np.empty((len(rows), 0), dtype=np.float32))
        rows = rows.astype(np.float64 if rows.dtype == np.float64 else np.float32, copy=True)
        side = []
        if "shift" in self.side_columns:
            side.append(rows.mean(axis=1, keepdims=True, dtype=np.float64).astype(rows.dtype))
            rows -= side[0]
        if self.normalization in _SCALES:
            scale = _SCALES[self.normalization](rows, self.epsilon)
            side.append(np.where(scale > 0, scale, 1).astype(rows.dtype))
            rows /= side[-1]
        return Normalized(rows, np.concatenate(side, axis=1))

    def restore(self, rows: np.ndarray, side: np.ndarray) -> np.ndarray:
        """Return x = shift + scale · x', `(rows, width)`. Raises ValueError unless the side information fits."""
        columns = self.side_columns
        if side.shape != (len(rows), len(columns)):
            raise ValueError(
                f"side information has shape {side.shape}, expected {(len(rows), len(columns))}: one row for each "
                f"row, with the columns of normalization = {self.normalization!r}: {', '.join(columns) or 'none'}"
            )
        if "scale" in columns:
            rows = rows * side[:, -1:]
        if "shift" in columns:
            rows = rows + side[:, :1]
        return rows


def starts(extent: int, size: int, step: int) -> np.ndarray:
    """Return where pieces of a size begin so that they cover 0 … extent: every `step`, and a last one at the end."""
    regular = np.arange(0, extent - size + 1, step)
    return regular if regular[-1] == extent - size else np.append(regular, extent - size)


def _root_mean_square(rows: np.ndarray, epsilon: float) -> np.ndarray:
    return np.sqrt(np.square(rows, dtype=np.float64).mean(axis=1, keepdims=True))


_SCALES: Final[dict[str, Callable[[np.ndarray, float], np.ndarray]]] = {
    "contrast": lambda rows, epsilon: np.sqrt(_root_mean_square(rows, epsilon) ** 2 + epsilon),
    "peak": lambda rows, epsilon: np.abs(rows).max(axis=1, keepdims=True),
    "rms": _root_mean_square,
}
