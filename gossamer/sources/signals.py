"""Signals: rows that are frames of sound, of an electrocardiogram, of any series of samples at equal distances.

Reading files is `signal_files`; how a signal is cut and put together again is `frames`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import gcd
from pathlib import Path
from typing import ClassVar, Final, Literal, TypeAlias

import numpy as np

from gossamer.sources.frames import Frames
from gossamer.sources.laid_out import Items, LaidOut, Piece, counted, found_files
from gossamer.sources.signal_files import AUDIO, TABLES, Recording, read_signal, require_readers
from gossamer.sources.source import SourceSpec

__all__ = ["Signals", "SignalsSpec", "audio_range", "float_samples", "resampled"]

Recordings: TypeAlias = "np.ndarray | str | Path | Sequence[np.ndarray] | Sequence[str | Path]"

FULL_SCALE: Final = {"u1": 128.0, "i2": 2.0**15, "i4": 2.0**31}
"""What the whole numbers of audio files are divided by, so that the loudest sound is 1."""


class Signals(LaidOut[Frames]):
    """Rows of signals: frames of recordings.

    signals: files, folders and globs (WAV and other audio, CSV, .npy), or an array `(samples,)` or
    `(samples, channels)`, or a list of arrays. frames: how they are cut. rate: samples per second to resample to.
    file_rate: samples per second of what does not state it (arrays, CSV, .npy). channels: "mix" takes the mean of
    a recording's channels, "each" takes one after the other as a recording of its own. column: of a CSV file, its
    name. on_error: "skip" leaves out what cannot be read and names it. validation: share of recordings held out, or
    of the stretches of a lone one.

    Whole numbers of audio files are divided by full scale; other numbers stay as they are.

    Raises ValueError, naming the file, for what does not exist, is damaged, cut off or empty, or holds NaN; for
    several rates where none is asked for; where nothing is left; and if the package that reads the files is missing.
    """

    kind = "signals"
    noun = "signal"
    one_shape = "use recordings of one kind"

    def __init__(
        self,
        signals: Recordings,
        *,
        frames: Frames,
        rate: int | None = None,
        file_rate: int | None = None,
        channels: Literal["mix", "each"] = "mix",
        column: str | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        validation: float = 0.05,
        buffer_rows: int = 65_536,
    ) -> None:
        for name, value in (("rate", rate), ("file_rate", file_rate)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is in samples per second and at least 1, got {value}")
        if channels not in ("mix", "each"):
            raise ValueError(f"channels is 'mix' or 'each', got {channels!r}")
        self.rate = rate
        self._wanted, self._file_rate, self._channels, self._column = rate, file_rate, channels, column
        self._frames = frames
        super().__init__(
            self._items(signals), layout=frames, on_error=on_error, validation=validation, buffer_rows=buffer_rows
        )

    def rebuilt(self, document: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Return one signal, `(samples,)` at `rate`, from its rows or from reconstructions of them."""
        return self.layout.join(self.restored(document, rows), self.shapes[document][0])

    def describe(self) -> dict[str, str]:
        """Return which signals are read and how they are cut, how many rows that gives, and what was left out."""
        samples = sum(shape[0] for shape in self.shapes)
        length, hop = self.layout.length, self.layout.hop or self.layout.length
        time = f" ({samples / self.rate:,.1f} s at {self.rate:,} Hz)" if self.rate else ""
        read = f"{counted(len(self.shapes), 'signal')}, {samples:,} samples{time}, frames of {length} every {hop}"
        return {"signals": read} | super().describe()

    def _items(self, signals: Recordings) -> Items:
        """List the files or arrays to read."""
        given = [signals] if isinstance(signals, str | Path | np.ndarray) else list(signals)
        if given and not any(isinstance(signal, str | Path) for signal in given):
            arrays = [(f"signal {number}", np.asarray(signal)) for number, signal in enumerate(given)]
            return Items([(name, partial(self._of_array, name, signal)) for name, signal in arrays])
        found = found_files([str(path) for path in given], _is_signal)
        for path in found.files:
            require_readers(path)
        return Items([(str(path), partial(self._of_file, path)) for path in found.files], found.passed_over)

    def _of_array(self, name: str, signal: np.ndarray, _: int) -> Piece:
        if signal.ndim not in (1, 2) or not signal.size:
            shape = f"expected (samples,) or (samples, channels) with samples, got shape {signal.shape}"
            raise ValueError(f"{name}: {shape}")
        recording = Recording(signal if signal.ndim == 2 else signal[:, None])
        return self._piece(name, recording, scaled=False)

    def _of_file(self, path: Path, _: int) -> Piece:
        return self._piece(str(path), read_signal(path, column=self._column), scaled=path.suffix.lower() in AUDIO)

    def _piece(self, name: str, recording: Recording, *, scaled: bool) -> Piece:
        content = recording.samples
        samples = float_samples(content, name, scaled=scaled)
        samples = samples.mean(axis=1, keepdims=True) if self._channels == "mix" else samples
        rate = recording.rate or self._file_rate
        if self._wanted and rate is None:
            raise ValueError(f"{name}: states no sampling rate, so that it cannot be resampled: give file_rate")
        if self._wanted and rate:
            samples = resampled(samples, rate, self._wanted)
        elif rate != self.rate and self.names:
            raise ValueError(
                f"{name} has {rate} samples per second, {self.names[0]} has {self.rate}: give the rate to resample to"
            )
        else:
            self.rate = rate
        frames = self._frames
        short = len(samples) < frames.length
        note = f"{name} is shorter than a frame and continued with zeros" if short else ""
        rows = np.concatenate([frames.split(channel) for channel in samples.T])
        return Piece(name, content, rows, (frames.length,), [(len(samples),)] * samples.shape[1], note)


@dataclass(frozen=True, kw_only=True)
class SignalsSpec(SourceSpec):
    """Frames of signals in files; the fields are those of `Signals`, with paths in place of signals."""

    kind: ClassVar[str] = "signals"
    paths: tuple[str, ...]
    frames: Frames
    rate: int | None = None
    file_rate: int | None = None
    channels: Literal["mix", "each"] = "mix"
    column: str | None = None
    on_error: Literal["raise", "skip"] = "raise"
    validation: float = 0.05
    buffer_rows: int = 65_536

    def build(self, *, device: str = "cpu") -> Signals:
        """Read the signals; rows stay on the CPU until they are used."""
        return Signals(
            list(self.paths),
            frames=self.frames,
            rate=self.rate,
            file_rate=self.file_rate,
            channels=self.channels,
            column=self.column,
            on_error=self.on_error,
            validation=self.validation,
            buffer_rows=self.buffer_rows,
        )


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Return samples, along the first axis, at another rate: ⌈samples · wanted / rate⌉ of them, low-pass filtered.

    The borders are continued with their own value. Raises ValueError if scipy, whose polyphase filter does it, is
    missing.
    """
    if rate == wanted:
        return samples
    try:
        from scipy.signal import resample_poly
    except ImportError as error:
        raise ValueError("resampling needs scipy: pip install 'gossamer[sklearn]'") from error
    common = gcd(rate, wanted)
    return resample_poly(samples, wanted // common, rate // common, axis=0, padtype="edge")


def float_samples(samples: np.ndarray, name: str, *, scaled: bool) -> np.ndarray:
    """Return finite float64 samples, with full scale 1 if they are those of an audio file."""
    if samples.dtype.kind not in "fiub":
        raise ValueError(f"{name}: expected real numbers, got {samples.dtype}")
    numbers = samples.astype(np.float64)
    if not (np.abs(numbers) <= np.finfo(np.float32).max).all():
        raise ValueError(f"{name}: holds NaN, infinity or numbers too large for float32")
    silence, full = audio_range(samples.dtype) if scaled else (0.0, 1.0)
    return (numbers - silence) / full


def audio_range(dtype: np.dtype) -> tuple[float, float]:
    """Return the numbers of silence and, less that, of the loudest sound, in audio files of a type."""
    kind = dtype.str[1:]
    return 128.0 if kind == "u1" else 0.0, FULL_SCALE.get(kind, 1.0)


def _is_signal(path: Path) -> bool:
    return path.suffix.lower() in (*AUDIO, *(suffix for suffix in TABLES if suffix != ".txt"), ".npy")
