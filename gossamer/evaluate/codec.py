"""What a lossy codec is judged by: PSNR, PRD, SNR, largest error, and bits per entry, accumulated in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Distortion", "DistortionScore", "bits_per_entry", "prd", "psnr", "snr"]


@dataclass(frozen=True)
class DistortionScore:
    """psnr, snr: decibels, infinite for equal data. prd: percent. max_error: the largest |x − x̂|.

    rows, entries: how much they rest on; NaN for none.
    """

    psnr: float
    snr: float
    prd: float
    max_error: float
    rows: int
    entries: int


class Distortion:
    """Accumulate rows and what a codec made of them, block by block.

        PSNR = 10 log₁₀(peak² / mean (x − x̂)²)     SNR = 10 log₁₀(Σ x² / Σ (x − x̂)²)     PRD = 100 √(Σ (x − x̂)² / Σ x²)

    PRD is the percent root-mean-square difference of the electrocardiogram literature, without subtracting a mean or
    an offset, so that SNR = −20 log₁₀(PRD / 100). peak: 255 for uint8 and so on, the width of the range of an integer
    type; for floats the largest minus the smallest entry of all rows, unless it is given.
    """

    def __init__(self, *, peak: float | None = None) -> None:
        self._peak = peak
        self._rows = self._entries = 0
        self._error = self._power = self._max_error = 0.0
        self._low, self._high = math.inf, -math.inf

    def update(self, x: np.ndarray, x_hat: np.ndarray) -> None:
        """Add rows `(rows, width)` and their reconstructions, of any real type."""
        if x.shape != x_hat.shape:
            raise ValueError(f"expected two arrays of one shape, got {x.shape} and {x_hat.shape}")
        if not x.size:
            return
        if self._peak is None and np.issubdtype(x.dtype, np.integer):
            self._peak = float(np.iinfo(x.dtype).max) - float(np.iinfo(x.dtype).min)
        wide = x.astype(np.float64)
        error = wide - x_hat.astype(np.float64)
        self._error += float(np.square(error).sum())
        self._power += float(np.square(wide).sum())
        self._max_error = max(self._max_error, float(np.abs(error).max()))
        self._low, self._high = min(self._low, float(wide.min())), max(self._high, float(wide.max()))
        self._rows += len(x)
        self._entries += x.size

    def score(self) -> DistortionScore:
        """Return the measures of all rows so far."""
        if not self._entries:
            return DistortionScore(math.nan, math.nan, math.nan, math.nan, 0, 0)
        peak = self._high - self._low if self._peak is None else self._peak
        ratio = math.sqrt(_divide(self._error, self._power))
        return DistortionScore(
            psnr=_decibels(peak**2, self._error / self._entries),
            snr=_decibels(self._power, self._error),
            prd=100 * ratio,
            max_error=self._max_error,
            rows=self._rows,
            entries=self._entries,
        )


def psnr(x: np.ndarray, x_hat: np.ndarray, *, peak: float | None = None) -> float:
    """Return the peak signal-to-noise ratio in decibels: 10 log₁₀(peak² / mean (x − x̂)²); peak as in `Distortion`."""
    return _score(x, x_hat, peak).psnr


def snr(x: np.ndarray, x_hat: np.ndarray) -> float:
    """Return the signal-to-noise ratio in decibels: 10 log₁₀(Σ x² / Σ (x − x̂)²)."""
    return _score(x, x_hat, None).snr


def prd(x: np.ndarray, x_hat: np.ndarray) -> float:
    """Return the percent root-mean-square difference: 100 √(Σ (x − x̂)² / Σ x²)."""
    return _score(x, x_hat, None).prd


def bits_per_entry(stored_bytes: int, entries: int) -> float:
    """Return 8 · bytes / entries; NaN for no entries."""
    return 8 * stored_bytes / entries if entries else math.nan


def _score(x: np.ndarray, x_hat: np.ndarray, peak: float | None) -> DistortionScore:
    accumulated = Distortion(peak=peak)
    accumulated.update(x, x_hat)
    return accumulated.score()


def _divide(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return part / whole if whole else math.inf


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
