"""Speech: recordings as the windows that Whisper reads, and what it writes about them.

Here lives the way from sound files to the input of a speech encoder–decoder. The source of rows is `sequences`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

import numpy as np
from torch import Tensor

from gossamer.sources.answers import Answered
from gossamer.sources.datasets import dataset
from gossamer.sources.laid_out import found_files
from gossamer.sources.models import LoadedModel, load_model, reads_sound
from gossamer.sources.sequences import SequenceActivations, SequenceBatch, Side
from gossamer.sources.signal_files import AUDIO, Recording, read_signal, require_readers
from gossamer.sources.signals import float_samples, resampled
from gossamer.sources.source import SourceSpec, held_out
from gossamer.transformer.generate import Decoding

__all__ = ["Ear", "Speech", "SpeechSpec", "read_speech", "speech_files"]

LONGEST: Final = 224
"""Tokens of a transcription, at most: half of Whisper's table of positions, as in its own decoding."""

_DATASET: Final = "dataset:"


@dataclass(frozen=True, eq=False)
class Ear:
    """How a speech model hears. rate: samples per second; window: samples that it reads at a time, what is shorter is
    followed by silence; frame: samples per position of its encoder (Whisper: 320, which is 20 ms).
    """

    loaded: LoadedModel
    rate: int
    window: int
    frame: int

    @classmethod
    def of(cls, loaded: LoadedModel) -> Ear:
        """Return the ear of a model; raises ValueError for one that reads no sound, or not in windows."""
        features, config = loaded.features, getattr(loaded.model, "config", None)
        frames, window = (
            getattr(part, name, None) for part, name in ((config, "max_source_positions"), (features, "n_samples"))
        )
        if features is None or not reads_sound(loaded.model) or not frames or not window:
            raise ValueError(
                f"{loaded.name} is a {type(loaded.model).__name__}, which does not read windows of sound; the packaged "
                "model that does is whisper-tiny.en"
            )
        return cls(loaded, features.sampling_rate, window, window // frames)  # pyright: ignore

    def input(self, sounds: Sequence[np.ndarray]) -> Tensor:
        """Return the model's input for sounds of at most a window each, `(sounds, bands, steps)`."""
        assert self.loaded.features is not None
        made = self.loaded.features(list(sounds), sampling_rate=self.rate, return_tensors="pt")  # pyright: ignore
        return made["input_features"].to(next(self.loaded.model.parameters()))


def read_speech(path: str | Path, *, rate: int) -> np.ndarray:
    """Return the samples `(samples,)` float32 of a sound file at a rate: channels are averaged, other rates resampled.

    Raises ValueError, naming the file, for what is no sound, damaged, cut off or empty, or states no rate.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.suffix.lower() not in AUDIO:
        raise ValueError(f"{path} is no sound: expected a file that ends in {' '.join(AUDIO)}")
    require_readers(path)
    return as_speech(read_signal(path), rate=rate, name=str(path))


def as_speech(recording: Recording, *, rate: int, name: str = "the recording") -> np.ndarray:
    """Return a recording's samples `(samples,)` float32 at a rate.

    Raises ValueError if the recording does not say at which rate it is, or lasts less than a thousandth of a second.
    """
    if not recording.rate:
        raise ValueError(f"{name} states no sampling rate; give Recording(samples, rate=samples per second)")
    samples = float_samples(recording.samples, name, scaled=True).reshape(len(recording.samples), -1).mean(axis=1)
    if len(samples) * 1000 < recording.rate:
        raise ValueError(
            f"{name} holds {len(samples)} samples at {recording.rate} Hz, less than a millisecond of sound"
        )
    return resampled(samples, recording.rate, rate).astype(np.float32)


def speech_files(names: Sequence[str]) -> list[Path]:
    """Return sound files: of folders, globs, paths, or of `dataset:NAME`, with a glob after it or without."""
    if isinstance(names, str):
        raise TypeError(f"files is one string; write [{names!r}]")
    places: list[str] = []
    for name in names:
        if name.startswith(_DATASET):
            data, _, below = name.removeprefix(_DATASET).partition("/")
            places.append(str(dataset(data) / below))
        else:
            places.append(name)
    return found_files(places, lambda path: path.suffix.lower() in AUDIO).files


@dataclass(frozen=True)
class _Piece:
    """A stretch of a recording in a window: document, its first frame there, its first frame in the window, frames."""

    document: int
    start: int
    offset: int
    frames: int


class Speech(Answered):
    """Recordings for Whisper.

    loaded: of `load_model("whisper-tiny.en")` or another model of its family. files: as in `speech_files`. layout:
    "joined" puts one recording after the other, with nothing in between, until a window of 30 s is full, which reads
    short ones many times faster; "separate" gives each a window of its own, the rest of which is silence. validation:
    share of the recordings held out.

    On the encoder's side there is a row per frame of 20 ms within a recording: the silence that fills a window up gives
    none. On the decoder's side there is a row per token of what the model itself writes (greedily) about a window; its
    special tokens give none. A recording that is longer than a window is cut.

    Memory: 230 MB per hour of sound.
    """

    noun: ClassVar[str] = "recording"

    def __init__(
        self,
        loaded: LoadedModel,
        files: Sequence[str],
        *,
        layout: Literal["joined", "separate"] = "joined",
        validation: float = 0.05,
    ) -> None:
        if layout not in ("joined", "separate"):
            raise ValueError(f"layout is 'joined' or 'separate', got {layout!r}")
        self.ear, self.model, self.layout, self.at_once = Ear.of(loaded), loaded.model, layout, 4
        self.tokenizer, self.decoding = loaded.tokenizer, Decoding(longest=LONGEST)
        self.files = speech_files(files)
        held = held_out(len(self.files), validation)
        self.sounds = [read_speech(path, rate=self.ear.rate) for path in self.files]
        parts = [self._windows(np.flatnonzero(held == part)) for part in (False, True)]
        self._pieces = parts[0] + parts[1]
        windows = np.arange(len(self._pieces))
        self.train = windows[: len(parts[0])]
        self.validation = np.random.default_rng(0).permutation(windows[len(parts[0]) :])

    @property
    def seconds(self) -> float:
        """How long all recordings are together."""
        return sum(map(len, self.sounds)) / self.ear.rate

    def sound(self, window: int) -> np.ndarray:
        """Return the samples of a window, `(samples,)`, without the silence that fills it up."""
        pieces, frame = self._pieces[window], self.ear.frame
        whole = np.zeros((pieces[-1].offset + pieces[-1].frames) * frame, np.float32)
        for piece in pieces:
            stretch = self.sounds[piece.document][piece.start * frame : (piece.start + piece.frames) * frame]
            whole[piece.offset * frame : piece.offset * frame + len(stretch)] = stretch
        return whole

    def given(self, which: np.ndarray) -> dict[str, Tensor]:
        """Return some windows as the encoder reads them."""
        return {"input_features": self.ear.input([self.sound(window) for window in which])}

    def batch(self, which: np.ndarray, side: Side) -> SequenceBatch:
        """Return some windows, with their transcriptions if the decoder is asked for."""
        if side == "encoder":
            return SequenceBatch(self.given(which), *self._frames(which))
        return self.answered(which, np.array([self._pieces[window][0].document for window in which]))

    def count(self, which: np.ndarray, side: Side) -> int:
        """Return the number of frames within recordings, or of tokens in transcriptions."""
        if side == "encoder":
            return sum(piece.frames for window in which for piece in self._pieces[window])
        return self.answer_rows(which)

    def tokens(self, sequence: int, side: Side) -> tuple[str, ...] | None:
        """Return the tokens of a transcription; a frame of sound has none."""
        return None if side == "encoder" else self.read_tokens(self.answers[sequence])

    def place(self, document: int, position: int, side: Side) -> str:
        """Return the time in a recording, or the token of a transcription."""
        name = self._name(document)
        if side == "encoder":
            return f"{position * self.ear.frame / self.ear.rate:.2f} s of {name}"
        return f"token {position:,} of what is heard from {name} on"

    def fingerprint(self) -> dict[str, str]:
        """Return the layout and a hash of all samples."""
        digest = hashlib.sha256()
        for sound in self.sounds:
            digest.update(sound.tobytes())
        windows = hashlib.sha256(repr(self._pieces).encode()).hexdigest()
        return {"layout": self.layout, "sound": digest.hexdigest()[:16], "windows": windows[:16]}

    def describe(self, side: Side) -> dict[str, str]:
        """Return how much sound there is, how it is cut, and what gives no rows."""
        window = self.ear.window / self.ear.rate
        step = 1000 * self.ear.frame / self.ear.rate
        per_row = (
            f"a row is a frame of {step:g} ms" if side == "encoder" else "a row is a token of the model's own text"
        )
        silence = "the silence that fills windows up gives no rows"
        special = "special tokens of the transcriptions give no rows"
        return {
            "speech": f"{len(self.files):,} recordings, {self.seconds / 60:,.1f} min, {self.layout} into "
            f"{len(self._pieces):,} windows of up to {window:g} s; {per_row}",
            "dropped": silence if side == "encoder" else special,
        }

    def _windows(self, documents: np.ndarray) -> list[list[_Piece]]:
        """Cut recordings into windows, a list of pieces each."""
        windows: list[list[_Piece]] = []
        capacity, filled = self.ear.window // self.ear.frame, 0
        for document in documents.tolist():
            frames = -(-len(self.sounds[document]) // self.ear.frame)
            for start in range(0, frames, capacity):
                length = min(capacity, frames - start)
                if self.layout == "separate" or not windows or filled + length > capacity:
                    windows.append([])
                    filled = 0
                windows[-1].append(_Piece(document, start, filled, length))
                filled += length
        return windows

    def _frames(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = (len(which), self.ear.window // self.ear.frame)
        keep, documents, positions = np.zeros(shape, bool), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, window in enumerate(which):
            for piece in self._pieces[window]:
                here = slice(piece.offset, piece.offset + piece.frames)
                keep[row, here], documents[row, here] = True, piece.document
                positions[row, here] = np.arange(piece.start, piece.start + piece.frames)
        return keep, documents, positions

    def _name(self, document: int) -> str:
        path = self.files[document]
        return f"{path.parent.name}/{path.name}"


@dataclass(frozen=True, kw_only=True)
class SpeechSpec(SourceSpec):
    """Activations of Whisper on recordings, described in a file.

    model: `whisper-tiny.en`, a folder, or a name on the Hugging Face hub. files: sound files, folders, globs, or
    `dataset:speech`. hook: sites of one side, such as `model.encoder.layers.2`. The other fields are those of `Speech`
    and `SequenceActivations`; dtype: of the forward pass.
    """

    kind: ClassVar[str] = "speech"
    files: tuple[str, ...]
    hook: tuple[str, ...]
    model: str = "whisper-tiny.en"
    layout: Literal["joined", "separate"] = "joined"
    validation: float = 0.05
    buffer_rows: int = 65_536
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    def build(self, *, device: str = "cpu") -> SequenceActivations:
        """Find the files, load the model, read the sound."""
        speech_files(self.files)
        loaded = load_model(self.model, device=device, dtype=self.dtype)
        inputs = Speech(loaded, self.files, layout=self.layout, validation=self.validation)
        return SequenceActivations(inputs, hook=self.hook, buffer_rows=self.buffer_rows)
