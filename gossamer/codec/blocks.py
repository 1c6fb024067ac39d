"""One block of rows: from rows and codes to bytes, and from bytes to rows, with models that learn between blocks.

    x̂ = prediction(q)     lossy: x̂ as it is     residual: r = round((x − x̂) / δ), and x̂ + δ r is given back

For integers x̂ is rounded first and δ is a whole number; δ = 1 gives the rows back exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gossamer.codec.numbers import Decoder, Encoder, Numbers, Signs, bit_length
from gossamer.codec.quantizer import Prediction, QuantizedCodes
from gossamer.codec.supports import Supports
from gossamer.codes import SparseCodes

__all__ = ["FIRST_BLOCK", "BlockCodec", "EncodedBlock", "next_block"]

FIRST_BLOCK = 32
"""Rows of the first block, whose models have seen nothing."""

VALUE_KINDS = 16
VALUE_LEVELS = np.array([2, 3, 4, 5, 7])
"""How loud a row has been so far, in quarters of what its latents are usually: one context below each, one above."""

RESIDUAL_KINDS, RESIDUAL_LEVELS = 12, 10


def next_block(rows_so_far: int, largest: int) -> int:
    """Return how many rows the next block has: as many as there were so far, so that models are never far behind."""
    return min(largest, max(FIRST_BLOCK, rows_so_far))


@dataclass(frozen=True, eq=False)
class EncodedBlock:
    """The bytes of a block, and the rows that decoding will give."""

    payload: bytes
    rows: np.ndarray


class BlockCodec:
    """Encode or decode consecutive blocks; one object does one of the two.

    prediction: from codes to rows. dtype: of the rows. residual: δ, in the units of the rows; 0 for none.
    """

    def __init__(self, prediction: Prediction, dtype: np.dtype, *, residual: float = 0.0) -> None:
        if residual and not prediction.exact:
            raise ValueError(
                "a residual needs a linear decoder: any other is computed in floating point, which differs from "
                "machine to machine in the last bits"
            )
        self._prediction = prediction
        self._dtype = np.dtype(dtype)
        self._residual = residual
        self._supports = Supports(prediction.latents)
        self._values = _Values(prediction.latents)
        self._residuals = _Residuals(prediction.width)

    def encode(self, x: np.ndarray, codes: SparseCodes) -> EncodedBlock:
        """Return the bytes of the rows `(rows, width)` with these codes."""
        coder = Encoder()
        whole = self._prediction.quantize(codes)
        support = self._supports.write(coder, whole.counts, whole.rows, whole.latents)
        place = np.lexsort((whole.latents, whole.rows))
        wanted = np.lexsort((support.latents, support.rows))
        values = np.empty_like(whole.values)
        values[wanted] = whole.values[place]
        whole = QuantizedCodes(whole.offsets, support.latents, values)
        self._values.write(coder, whole)
        base = self._base(whole)
        if self._residual:
            residual = self._difference(x, base)
            self._residuals.write(coder, residual, self._floor(base))
            base = self._corrected(base, residual)
        self._advance()
        return EncodedBlock(coder.bytes(), base.astype(self._dtype))

    def decode(self, payload: bytes, rows: int) -> np.ndarray:
        """Return the rows of a block; raises ValueError if the bytes cannot be one."""
        coder = Decoder(payload)
        support = self._supports.read(coder, rows)
        offsets = np.concatenate(([0], np.cumsum(support.counts)))
        whole = QuantizedCodes(offsets, support.latents, np.zeros(len(support.latents), np.int64))
        self._values.read(coder, whole)
        base = self._base(whole)
        if self._residual:
            base = self._corrected(base, self._residuals.read(coder, self._floor(base)))
        if not coder.finished:
            raise ValueError("bytes are left over")
        self._advance()
        return base.astype(self._dtype)

    def _advance(self) -> None:
        self._supports.advance()
        self._values.advance()
        self._residuals.advance()

    def _base(self, codes: QuantizedCodes) -> np.ndarray:
        rows = self._prediction.rows(codes)
        if not self._whole:
            limit = float(np.finfo(self._dtype).max)
            return np.clip(rows, -limit, limit)
        limits = np.iinfo(self._dtype)
        return np.clip(np.rint(rows), limits.min, limits.max).astype(np.int64)

    @property
    def _whole(self) -> bool:
        return np.issubdtype(self._dtype, np.integer)

    def _difference(self, x: np.ndarray, base: np.ndarray) -> np.ndarray:
        if not self._whole:
            scaled = (x.astype(np.float64) - base) / self._residual
            if scaled.size and not np.abs(scaled).max() < 2.0**39:
                raise ValueError("the largest error allowed is too small for these rows: over 2^39 steps of residual")
            return np.rint(scaled).astype(np.int64)
        difference, delta = x.astype(np.int64) - base, int(self._residual)
        return np.sign(difference) * ((np.abs(difference) + delta // 2) // delta)

    def _corrected(self, base: np.ndarray, residual: np.ndarray) -> np.ndarray:
        if not self._whole:
            return base + residual * self._residual
        limits = np.iinfo(self._dtype)
        return np.clip(base + residual * int(self._residual), limits.min, limits.max)

    def _floor(self, base: np.ndarray) -> np.ndarray:
        """Return 3, 2, 1 or 0: how near the prediction is to the least number of the type.

        There no residual is negative.
        """
        if not self._whole:
            return np.zeros(base.shape, np.int64)
        return 3 - np.minimum(bit_length(base - np.iinfo(self._dtype).min), 3)


class _Values:
    """Code the values: magnitudes in contexts of what the latent and the row have had so far, and signs."""

    def __init__(self, latents: int) -> None:
        self._magnitudes, self._signs = Numbers(), Signs()
        self._total, self._times = np.zeros(latents, np.int64), np.zeros(latents, np.int64)
        self._seen: QuantizedCodes | None = None

    def write(self, coder: Encoder, codes: QuantizedCodes) -> None:
        """Add the values of a block."""
        for entries, contexts in self._ranks(codes):
            self._magnitudes.write(coder, np.abs(codes.values[entries]) - 1, contexts)
        self._signs.write(coder, codes.values < 0, np.zeros(len(codes.values), np.int64))

    def read(self, coder: Decoder, codes: QuantizedCodes) -> None:
        """Fill in the values of a block."""
        for entries, contexts in self._ranks(codes):
            codes.values[entries] = self._magnitudes.read(coder, contexts) + 1
        negative = self._signs.read(coder, np.zeros(len(codes.values), np.int64))
        codes.values[negative != 0] *= -1

    def advance(self) -> None:
        """Learn from the block that ended."""
        if self._seen is not None:
            np.add.at(self._total, self._seen.latents, np.abs(self._seen.values))
            np.add.at(self._times, self._seen.latents, 1)
        self._seen = None
        self._magnitudes.advance()
        self._signs.advance()

    def _ranks(self, codes: QuantizedCodes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Return the first entries of all rows, then the second ones, ..., with their contexts.

        The values of a rank have to be there before the next rank is asked for.
        """
        self._seen = codes
        common = 2 * (2 * int(self._total.sum()) + 1) // max(2 * int(self._times.sum()), 1)
        usual = np.where(self._times > 0, 4 * self._total // np.maximum(self._times, 1), 2 * common)  # quarters
        kind = np.minimum(bit_length(usual), VALUE_KINDS - 1)
        counts = codes.counts
        had, expected = np.zeros(len(counts), np.int64), np.zeros(len(counts), np.int64)
        for rank in range(int(counts.max(initial=0))):
            which = np.flatnonzero(counts > rank)
            entries = codes.offsets[which] + rank
            latents = codes.latents[entries]
            level = np.digitize(16 * had[which] // np.maximum(expected[which], 1), VALUE_LEVELS) + 1 if rank else 0
            yield entries, kind[latents] * (len(VALUE_LEVELS) + 2) + level
            had[which] += np.abs(codes.values[entries])
            expected[which] += usual[latents]


class _Residuals:
    """Code the residual column by column, in contexts of the column and of the two entries to the left."""

    def __init__(self, width: int) -> None:
        self._magnitudes, self._signs = Numbers(), Signs()
        self._total, self._rows = np.zeros(width, np.int64), 0
        self._seen: np.ndarray | None = None

    def write(self, coder: Encoder, residual: np.ndarray, floor: np.ndarray) -> None:
        """Add the residuals `(rows, width)` of a block; floor: as `_floor` says."""
        for column, contexts, signs in self._columns(residual, floor):
            magnitudes = np.abs(residual[:, column])
            self._magnitudes.write(coder, magnitudes, contexts)
            there = magnitudes != 0
            self._signs.write(coder, residual[there, column] < 0, signs[there])

    def read(self, coder: Decoder, floor: np.ndarray) -> np.ndarray:
        """Return the residuals of a block."""
        residual = np.zeros(floor.shape, np.int64)
        for column, contexts, signs in self._columns(residual, floor):
            magnitudes = self._magnitudes.read(coder, contexts)
            there = magnitudes != 0
            magnitudes[there] *= 1 - 2 * self._signs.read(coder, signs[there])
            residual[:, column] = magnitudes
        return residual

    def advance(self) -> None:
        """Learn from the block that ended."""
        if self._seen is not None:
            self._total += np.abs(self._seen).sum(axis=0)
            self._rows += len(self._seen)
        self._seen = None
        self._magnitudes.advance()
        self._signs.advance()

    def _columns(self, residual: np.ndarray, floor: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Return each column with the contexts of its magnitudes and of its signs; it has to be there for the next."""
        self._seen = residual
        kinds = np.minimum(bit_length(4 * self._total // max(self._rows, 1)), RESIDUAL_KINDS - 1)
        near = far = np.zeros(len(residual), np.int64)
        for column in range(residual.shape[1]):
            level = np.minimum(bit_length(2 * np.abs(near) + np.abs(far)), RESIDUAL_LEVELS - 1)
            contexts = (kinds[column] * RESIDUAL_LEVELS + level) * 4 + floor[:, column]
            yield column, contexts, 4 * (np.sign(near) + 1) + floor[:, column]
            far, near = near, residual[:, column]
