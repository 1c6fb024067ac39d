"""The rows that all methods share: to train on, held out, and what a probe is to find in their codes."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gossamer.sources.arrays import read_npy
from gossamer.sources.layouts import starts
from gossamer.sources.signals import Signals
from gossamer.sources.source import Batch, Source
from gossamer.spec import Spec

__all__ = ["Beats", "Classes", "Data", "Labels", "r_peaks", "read"]

PROBED = 4000
"""Training rows that a probe learns from."""


class Labels(Spec):
    """The family of what a linear probe is to tell from a code."""

    @abstractmethod
    def of(self, source: Source, batch: Batch) -> np.ndarray:
        """Return the class of each row; raises ValueError for a source that these labels do not fit."""

    @abstractmethod
    def describe(self) -> str:
        """Say in a few words what is to be told."""


@dataclass(frozen=True, kw_only=True)
class Beats(Labels):
    """Whether a frame of an electrocardiogram holds a beat: the sample of an R peak, as `r_peaks` finds it.

    The peaks are found in the signal, not in the frames: no method sees them.
    """

    kind: ClassVar[str] = "beats"

    def describe(self) -> str:
        """Say what is to be told."""
        return "whether the frame holds the sample of an R peak"

    def of(self, source: Source, batch: Batch) -> np.ndarray:
        """Return 1 for frames that hold a peak, 0 for others."""
        if not isinstance(source, Signals) or not source.rate:
            raise ValueError("labels 'beats' are found in a signal: they need a source 'signals' with a file_rate")
        if source.layout.normalization != "none":
            raise ValueError("labels 'beats' compare frames with their signal: leave out the normalization")
        frames = source.layout
        holds = []
        for document, (samples, *_) in enumerate(source.shapes):
            peaks = r_peaks(source.rebuilt(document), source.rate)
            first = starts(max(samples, frames.length), frames.length, frames.hop or frames.length)
            holds.append(np.searchsorted(peaks, first + frames.length) > np.searchsorted(peaks, first))
        return np.concatenate(holds)[batch.origins[:, 1].numpy()].astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Classes(Labels):
    """Classes of the rows of an array, in a .npy file beside it. path: of `(rows,)` whole numbers."""

    kind: ClassVar[str] = "classes"
    path: str

    def describe(self) -> str:
        """Say what is to be told."""
        return f"the class in {self.path}"

    def of(self, source: Source, batch: Batch) -> np.ndarray:
        """Return the classes of the rows of a batch."""
        classes = read_npy(self.path)
        rows = source.rows + source.validation_rows
        if classes.shape != (rows,) or classes.dtype.kind not in "iu":
            raise ValueError(
                f"{self.path} holds {classes.dtype} of shape {classes.shape}; expected one whole number for each of "
                f"the {rows:,} rows"
            )
        return classes[batch.origins[:, 1].numpy()]


@dataclass(frozen=True, eq=False)
class Data:
    """source: of training rows, for what trains in batches. train: some of them, `(rows, width)` float32, for what
    wants all at once; held_out. probed: the training rows that a probe learns from; labels, held_out_labels: of those
    and of the held-out ones."""

    source: Source
    train: np.ndarray
    held_out: np.ndarray
    probed: np.ndarray
    labels: np.ndarray | None = None
    held_out_labels: np.ndarray | None = None

    def fingerprint(self) -> dict[str, str]:
        """Return what tells these rows and labels from others."""
        labels = hashlib.sha256()
        for part in (self.labels, self.held_out_labels):
            labels.update(b"" if part is None else part.tobytes())
        return {**self.source.fingerprint(), "labels": labels.hexdigest()[:16]}

    @property
    def width(self) -> int:
        """Entries of a row."""
        return self.train.shape[1]


def read(source: Source, labels: Labels | None, *, rows: int, held_out: int) -> Data:
    """Read the rows of a source that has one site: at most so many to train on, and so many held out.

    Raises ValueError for a source of several sites or without held-out rows, or if all labels are alike.
    """
    site = source.site("")
    if not source.validation_rows:
        raise ValueError("nothing is held out, so nothing can be measured: give the source a validation above 0")
    train = _first(source, rows)
    parts = list(source.validation(batch=held_out))
    rest = Batch.concatenate(parts)[slice(0, held_out)]
    probed = train[slice(0, PROBED)]
    rows_of = {"train": train, "held_out": rest, "probed": probed}
    arrays = {name: np.ascontiguousarray(batch.rows[site].float().numpy()) for name, batch in rows_of.items()}
    if labels is None:
        return Data(source=source, **arrays)
    seen, unseen = labels.of(source, probed), labels.of(source, rest)
    if len(np.unique(seen)) < 2:
        raise ValueError(f"labels {labels.kind!r}: all rows are alike, there is nothing to tell")
    return Data(source=source, **arrays, labels=seen, held_out_labels=unseen)


def r_peaks(signal: np.ndarray, rate: int) -> np.ndarray:
    """Return the samples of the R peaks of an electrocardiogram, rising.

    The running median of 0.6 s is taken away; a peak is a largest sample within 0.25 s either way that stands higher
    than half of the 99th percentile. Simple, and enough for a recording with tall beats; upright ones only.
    """
    from scipy.ndimage import median_filter
    from scipy.signal import find_peaks

    above = signal - median_filter(signal, size=int(0.6 * rate) | 1)
    found, _ = find_peaks(above, height=0.5 * float(np.quantile(above, 0.99)), distance=max(1, int(0.25 * rate)))
    return found


def _first(source: Source, rows: int) -> Batch:
    """Return up to so many training rows, in an order of their own."""
    units = np.random.default_rng(0).permutation(source.units)
    parts, count = [], 0
    for start in range(0, len(units), max(1, source.units_per_buffer)):
        parts.append(source.read(units[start : start + source.units_per_buffer]))
        count += len(parts[-1])
        if count >= rows:
            break
    return Batch.concatenate(parts)[slice(0, rows)]
