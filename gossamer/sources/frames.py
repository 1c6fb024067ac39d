"""Frames: a signal as rows of equal length, and back. Arrays in, arrays out; files are the business of `signals`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from gossamer.sources.layouts import Layout, starts

__all__ = ["Frames"]


@dataclass(frozen=True, kw_only=True)
class Frames(Layout):
    """Cut signals `(samples,)` into rows of `length` samples.

        x̂[t] = Σ_f w[t − s_f] · row_f[t − s_f]  /  Σ_f w[t − s_f]        s_f: where frame f starts

    length: of a frame, in samples. hop: samples from one frame to the next, `length` by default; smaller ones
    overlap. A last frame lies flush with the end, so that all samples are covered. window: weights w of a frame's
    samples when frames are added up; "hann" fades overlapping frames into each other, so that their errors make no
    steps. The rows themselves are the plain signal: a weighted mean is exact for every hop and never magnifies an
    error, which dividing by an analysis window would. normalization, epsilon: see `Layout`.
    """

    kind: ClassVar[str] = "frames"
    length: int
    hop: int | None = None
    window: Literal["none", "hann"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 1:
            raise ValueError(f"length must be at least 1 sample, got {self.length}")
        if self.hop is not None and not 1 <= self.hop <= self.length:
            raise ValueError(f"hop is from 1 to length = {self.length} samples, got {self.hop}: no sample may be lost")

    def split(self, signal: np.ndarray) -> np.ndarray:
        """Return `(frames, length)` with the signal's type; a signal shorter than a frame is continued with zeros.

        Raises ValueError for a signal without samples or with several dimensions.
        """
        signal = np.asarray(signal)
        if signal.ndim != 1 or not len(signal):
            raise ValueError(f"expected a signal of shape (samples,) with samples, got shape {signal.shape}")
        if len(signal) < self.length:
            signal = np.pad(signal, (0, self.length - len(signal)))
        return sliding_window_view(signal, self.length)[self._starts(len(signal))]

    def join(self, rows: np.ndarray, samples: int) -> np.ndarray:
        """Return the signal of `samples` samples, `(samples,)`; where frames overlap, their weighted mean.

        rows: what `split` gave, or as many others; whole numbers are rounded to whole numbers. `join(split(x))` is
        x, exactly, for whole numbers and float32. Raises ValueError if the rows do not make this many samples.
        """
        if samples < 1 or rows.shape != (self.count(samples), self.length):
            raise ValueError(
                f"rows of shape {rows.shape} do not make a signal of {samples} samples: expected "
                f"{self.count(samples) if samples > 0 else 'some'} frames of {self.length}"
            )
        extent = max(samples, self.length)
        first = self._starts(extent)
        total, cover = np.zeros(extent), np.zeros(extent)
        for sample, weight in enumerate(self.weights()):
            total[first + sample] += weight * rows[:, sample]
            cover[first + sample] += weight
        total = total[:samples] / cover[:samples]
        return (np.rint(total) if rows.dtype.kind in "iub" else total).astype(rows.dtype)

    def weights(self) -> np.ndarray:
        """Return the window w, `(length,)`, above 0 everywhere; Hann's is w[t] = sin²(π (t + ½) / length)."""
        if self.window == "none":
            return np.ones(self.length)
        return np.sin(np.pi * (np.arange(self.length) + 0.5) / self.length) ** 2

    def count(self, samples: int) -> int:
        """Return how many frames cover a signal of this many samples."""
        return len(self._starts(max(samples, self.length)))

    def _starts(self, extent: int) -> np.ndarray:
        return starts(extent, self.length, self.hop or self.length)
