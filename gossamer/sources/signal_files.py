"""Signals in files: WAV and other audio, CSV columns and .npy arrays, as numbers and a sampling rate.

Here lives reading alone. Cutting into rows is `frames`, going through many files `signals`.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from gossamer.sources.arrays import read_npy
from gossamer.spec import nearest

__all__ = ["AUDIO", "TABLES", "Recording", "read_signal", "require_readers"]

AUDIO: Final = (".wav", ".flac", ".ogg", ".aif", ".aiff", ".mp3")
TABLES: Final = (".csv", ".tsv", ".txt")
UNKNOWN_LENGTH: Final = (0, 0xFFFFFFFF)
"""What programs that write into a pipe state as the length of the data, because they cannot know it."""


@dataclass(frozen=True, eq=False)
class Recording:
    """A signal. samples: `(samples, channels)` in the file's own numbers; rate: samples per second, if it is stated."""

    samples: np.ndarray
    rate: int | None = None


def require_readers(path: Path) -> None:
    """Raise ValueError, with the command that installs it, if the package that reads this kind of file is missing."""
    suffix = path.suffix.lower()
    if suffix == ".wav" and importlib.util.find_spec("scipy") is None:
        raise ValueError("reading WAV files needs scipy: pip install 'gossamer[sklearn]'")
    if suffix in AUDIO and suffix != ".wav" and importlib.util.find_spec("soundfile") is None:
        raise ValueError(f"reading {suffix} files needs soundfile: pip install soundfile")


def read_signal(path: Path, *, column: str | None = None) -> Recording:
    """Read one file.

    column: of a table, its name, or its number from 0 where there is no header; needed if there are several. Raises
    ValueError, naming the file, if it is damaged, cut off or empty, and for a column that does not exist.
    """
    suffix = path.suffix.lower()
    if suffix == ".wav":
        recording = _wav(path)
    elif suffix in AUDIO:
        recording = _audio(path)
    elif suffix == ".npy":
        recording = Recording(read_npy(path))
    elif suffix in TABLES:
        recording = Recording(_table(path, column))
    else:
        known = " ".join((*AUDIO, *TABLES, ".npy"))
        raise ValueError(f"{path}: a signal is read from {known}, not from {suffix or 'a file without an ending'}")
    samples = recording.samples
    if samples.ndim not in (1, 2):
        raise ValueError(f"{path}: expected shape (samples,) or (samples, channels), got {samples.shape}")
    if not samples.size:
        raise ValueError(f"{path}: holds no samples")
    return Recording(samples if samples.ndim == 2 else samples[:, None], recording.rate)


def _wav(path: Path) -> Recording:
    from scipy.io import wavfile

    _require_whole(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks that hold no sound are no mistake
            rate, samples = wavfile.read(path)
    except Exception as error:  # whatever a damaged header leads to
        raise ValueError(f"{path}: cannot be read as WAV ({str(error) or type(error).__name__})") from error
    return Recording(samples, rate)


def _require_whole(path: Path) -> None:
    """Raise ValueError if a chunk of a RIFF file is longer than the file: readers return what is left of it."""
    data = path.read_bytes()
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return  # the reader says what it is
    place = 12
    while place + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, place)
        place += 8
        if name == b"data" and length in UNKNOWN_LENGTH:
            return
        if place + length > len(data):
            raise ValueError(
                f"{path}: cut off: the chunk {name.decode('latin-1')!r} states {length:,} bytes, "
                f"and {len(data) - place:,} are there"
            )
        place += length + length % 2


def _audio(path: Path) -> Recording:
    import soundfile

    try:
        samples, rate = soundfile.read(path)
    except soundfile.SoundFileError as error:
        raise ValueError(f"{path}: cannot be read as sound ({error})") from error
    return Recording(samples, rate)


def _table(path: Path, column: str | None) -> np.ndarray:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not valid UTF-8 ({error.reason} at byte {error.start})") from error
    rows = [(number, row) for number, row in enumerate(_fields(text), start=1) if any(field.strip() for field in row)]
    if not rows:
        raise ValueError(f"{path}: holds no samples")
    headed = not all(_is_number(field) for field in rows[0][1])
    names = [name.strip() for name in rows[0][1]] if headed else [str(i) for i in range(len(rows[0][1]))]
    which = _position(path, names, column)
    return np.array([_number(path, line, row, which, names[which]) for line, row in rows[headed:]])


def _fields(text: str) -> list[list[str]]:
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=first.count)
    if delimiter not in first:
        return [line.split() for line in text.splitlines()]
    return list(csv.reader(io.StringIO(text), delimiter=delimiter))


def _position(path: Path, names: list[str], column: str | None) -> int:
    if column is not None and column not in names:
        raise ValueError(f"{path}: there is no column {column!r}; {nearest(column, names)}")
    if column is None and len(names) > 1:
        raise ValueError(f"{path}: has the columns {', '.join(names)}; say which is the signal with column = …")
    return 0 if column is None else names.index(column)


def _number(path: Path, line: int, row: list[str], which: int, name: str) -> float:
    if which >= len(row) or not row[which].strip():
        raise ValueError(
            f"{path}, line {line}: no value in column {name!r}; a signal has no gaps: fill or cut it first"
        )
    try:
        value = float(row[which])
    except ValueError as error:
        raise ValueError(f"{path}, line {line}: {row[which]!r} in column {name!r} is no number") from error
    if not math.isfinite(value):
        raise ValueError(f"{path}, line {line}: {row[which]!r} in column {name!r} is not finite")
    return value


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
