"""Rows on their way in: an array that can be read again, or a stream that cannot, a block at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
from torch import Tensor

from gossamer.codec.blocks import next_block
from gossamer.codec.container import DTYPES

__all__ = ["OpenedRows", "Rows"]

SAMPLE_ROWS = 4096
"""Rows on which steps are tried, at most."""

READ_ROWS = 4096
"""Rows of an array that are read together."""

Rows = np.ndarray | Tensor | Iterable[np.ndarray]


class OpenedRows:
    """Rows to be read a block at a time: an array as often as wanted, anything else once."""

    def __init__(self, rows: Rows, width: int) -> None:
        self._array: np.ndarray | None = None
        self._parts: Iterator[np.ndarray] = iter(())
        if isinstance(rows, Tensor):
            rows = rows.detach().cpu().numpy()
        if isinstance(rows, np.ndarray):
            first = self._array = rows
        else:
            first = self._start(rows)
        if first.ndim != 2 or first.shape[1] != width:
            raise ValueError(f"expected rows of width {width}, shape (rows, {width}); got shape {first.shape}")
        if first.dtype.name not in DTYPES:
            raise ValueError(f"rows of {first.dtype} cannot be compressed; convert them to one of {', '.join(DTYPES)}")
        self.dtype, self.width = first.dtype, width

    def _start(self, rows: Iterable[np.ndarray]) -> np.ndarray:
        """Read the first rows of a stream, for the sample."""
        parts, count, self._parts = [], 0, iter(rows)
        for part in self._parts:
            parts.append(np.asarray(part))
            count += len(part)
            if count >= SAMPLE_ROWS:
                break
        if not parts:
            raise ValueError("there are no rows; an array of shape (0, width) can be compressed, an empty stream not")
        self._first = np.concatenate(parts)
        return self._first

    @property
    def rows(self) -> int | None:
        """How many rows there are, if that is known."""
        return None if self._array is None else len(self._array)

    def sample(self) -> np.ndarray:
        """Return at most SAMPLE_ROWS rows, evenly spread if all can be reached."""
        if self._array is None:
            return _checked(self._first[:SAMPLE_ROWS], 0)
        count = min(len(self._array), SAMPLE_ROWS)
        places = np.arange(count) * len(self._array) // max(count, 1)
        return _checked(np.asarray(self._array[places]), 0)

    def blocks(self, largest: int) -> Iterator[np.ndarray]:
        """Iterate over all rows in blocks of the sizes that coding wants."""
        parts = self._array_parts(self._array) if self._array is not None else chain([self._first], self._parts)
        done, held = 0, np.zeros((0, self.width), self.dtype)
        for part in parts:
            if part.ndim != 2 or part.shape[1] != self.width or part.dtype != self.dtype:
                raise ValueError(f"all parts need width {self.width} and {self.dtype}; got {part.shape} {part.dtype}")
            held = np.concatenate([held, part]) if len(held) else np.asarray(part)
            while len(held) >= (size := next_block(done, largest)):
                yield _checked(held[:size], done)
                held, done = held[size:], done + size
        if len(held):
            yield _checked(held, done)

    @staticmethod
    def _array_parts(array: np.ndarray) -> Iterator[np.ndarray]:
        return (array[start : start + READ_ROWS] for start in range(0, len(array), READ_ROWS))


def _checked(rows: np.ndarray, first: int) -> np.ndarray:
    if not np.issubdtype(rows.dtype, np.integer) and not (finite := np.isfinite(rows).all(axis=1)).all():
        raise ValueError(
            f"row {first + int(np.argmin(finite))} holds NaN or infinite entries; they cannot be compressed"
        )
    return rows
