"""Rate and distortion of signals, every method through the same quantizer and the same range coder.

A method is a linear map from coefficients to rows: the directions of an autoencoder, or the identity for coefficients
of a fixed transform, which is undone afterwards. Bits are the payload of the blocks of a `.gsm` file; the header of
some hundred bytes is left out for all alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from scipy.fft import dct, idct

import gossamer as gs
from gossamer.codec.blocks import BlockCodec, next_block
from gossamer.codec.fitting import refitted
from gossamer.codec.quantizer import IntegerPrediction, linear_decoder
from gossamer.codes import SparseCodes
from gossamer.evaluate.codec import prd, snr

__all__ = ["Coder", "CosineCoder", "DictionaryCoder", "Point", "WaveletCoder", "at_bits", "standing_out", "sweep"]

LARGEST_BLOCK = 4096


@dataclass(frozen=True)
class Point:
    """bits: per sample. prd: percent. snr: decibels."""

    bits: float
    prd: float
    snr: float


class Coder(Protocol):
    """Give back a signal from whole numbers of steps, and say how many bytes these took."""

    def code(self, step: float) -> tuple[np.ndarray, int]:
        """Return the signal decoded and the bytes."""
        ...


class DictionaryCoder:
    """Frames of a signal in the directions of an autoencoder of the sparsity 'matching-pursuit'.

    The pursuit goes on to `most` directions. Those whose value stays below `threshold` steps are left out, and the
    values of the others are fitted again by least squares.
    """

    def __init__(
        self, sae: gs.SparseAutoencoder, signal: np.ndarray, *, length: int, most: int = 48, threshold: float = 1.1
    ) -> None:
        self._rows, self._threshold = signal.reshape(-1, length), threshold
        self._linear = linear_decoder(sae)
        with torch.no_grad():
            codes = gs.with_l0(sae, most).encode(torch.from_numpy(self._rows.astype(np.float32)))
        self._codes = codes.replace_values(codes.values.double())
        norms = torch.from_numpy(np.linalg.norm(self._linear.directions, axis=1))
        self._sizes = self._codes.values.abs() * norms[self._codes.indices]

    def code(self, step: float) -> tuple[np.ndarray, int]:
        """Return the signal decoded and the bytes."""
        kept = refitted(entries(self._codes, self._sizes > self._threshold * step), self._rows, *self._linear)
        decoded, stored = _coded(kept, IntegerPrediction(*self._linear, step=step))
        return decoded.reshape(-1), stored


class _TransformCoder:
    """Coefficients `(rows, width)` of a fixed transform, and what undoes it."""

    def __init__(self, coefficients: np.ndarray, undo: Callable[[np.ndarray], np.ndarray]) -> None:
        self._codes = SparseCodes.from_dense(torch.from_numpy(np.ascontiguousarray(coefficients)))
        self._width, self._undo = coefficients.shape[1], undo

    def code(self, step: float) -> tuple[np.ndarray, int]:
        """Return the signal decoded and the bytes."""
        unit = np.eye(self._width, dtype=np.float32)
        decoded, stored = _coded(self._codes, IntegerPrediction(unit, np.zeros(self._width), step=step))
        return self._undo(decoded), stored


class CosineCoder(_TransformCoder):
    """The orthonormal discrete cosine transform of frames."""

    def __init__(self, signal: np.ndarray, *, length: int) -> None:
        def undo(rows: np.ndarray) -> np.ndarray:
            return np.asarray(idct(rows, norm="ortho")).reshape(-1)

        super().__init__(np.asarray(dct(signal.reshape(-1, length), norm="ortho")), undo)


class WaveletCoder(_TransformCoder):
    """Wavelet coefficients of the whole signal, periodized.

    A row is what belongs to 2^levels samples: one coefficient of the coarsest scales, 2, 4, … of the finer ones. So the
    coder learns how often and how large each place of each scale is, and how busy a stretch of the signal is.
    """

    def __init__(self, signal: np.ndarray, *, wavelet: str, levels: int) -> None:
        import pywt

        scales = pywt.wavedec(signal, wavelet, "periodization", level=levels)
        rows = len(signal) >> levels
        ends = np.cumsum([len(scale) // rows for scale in scales])[:-1]

        def undo(decoded: np.ndarray) -> np.ndarray:
            parts: list[Any] = [part.reshape(-1) for part in np.split(decoded, ends, axis=1)]
            return pywt.waverec(parts, wavelet, "periodization")

        super().__init__(np.concatenate([scale.reshape(rows, -1) for scale in scales], axis=1), undo)


def sweep(coder: Coder, signal: np.ndarray, steps: Sequence[float]) -> list[Point]:
    """Return what each step gives, from few bits to many."""
    points = []
    for step in steps:
        decoded, stored = coder.code(float(step))
        points.append(Point(8 * stored / len(signal), prd(signal, decoded), snr(signal, decoded)))
    return sorted(points, key=lambda point: point.bits)


def at_bits(points: Sequence[Point], bits: float) -> Point:
    """Return the point at a number of bits: SNR interpolated over log bits; NaN outside of what was measured."""
    known = np.log([point.bits for point in points])
    found = float(np.interp(np.log(bits), known, [point.snr for point in points], left=np.nan, right=np.nan))
    return Point(bits, 100 * 10 ** (-found / 20), found)


def entries(codes: SparseCodes, kept: torch.Tensor) -> SparseCodes:
    """Return the codes with those entries only for which `kept` `(entries,)` holds."""
    counts = torch.bincount(codes.row_of_entry()[kept], minlength=codes.rows)
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return SparseCodes(offsets=offsets, indices=codes.indices[kept], values=codes.values[kept], latents=codes.latents)


def standing_out(sae: gs.SparseAutoencoder, rows: np.ndarray, threshold: float, *, most: int) -> np.ndarray:
    """Return noisy rows as a mixture of the directions that stand out of the noise, fitted by least squares.

    sae: of the sparsity 'matching-pursuit', which goes on to `most` directions; those whose part of the row is not
    longer than the threshold are left out.
    """
    linear = linear_decoder(sae)
    norms = torch.from_numpy(np.linalg.norm(linear.directions, axis=1))
    with torch.no_grad():
        codes = gs.with_l0(sae, most).encode(torch.from_numpy(rows.astype(np.float32)))
    codes = codes.replace_values(codes.values.double())
    kept = refitted(entries(codes, codes.values.abs() * norms[codes.indices] > threshold), rows, *linear)
    return kept.to_scipy() @ linear.directions.astype(np.float64) + linear.bias


def _coded(codes: SparseCodes, prediction: IntegerPrediction) -> tuple[np.ndarray, int]:
    """Return rows decoded and bytes, in the blocks of a file."""
    codec, decoded, stored, start = BlockCodec(prediction, np.dtype(np.float64)), [], 0, 0
    while start < codes.rows:
        end = min(start + next_block(start, LARGEST_BLOCK), codes.rows)
        first, last = int(codes.offsets[start]), int(codes.offsets[end])
        part = SparseCodes(
            offsets=codes.offsets[start : end + 1] - first,
            indices=codes.indices[first:last],
            values=codes.values[first:last],
            latents=codes.latents,
        )
        block = codec.encode(np.zeros((end - start, prediction.width)), part)
        decoded.append(block.rows)
        stored += len(block.payload)
        start = end
    return np.concatenate(decoded), stored
