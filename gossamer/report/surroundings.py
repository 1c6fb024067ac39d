"""What surrounds a place where a latent is active: tokens of a text, a moment of a recording, or the row's number."""

from __future__ import annotations

import base64
import io
import struct
import wave
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gossamer.report.data import Clip, Context
from gossamer.sources.activations import Activations
from gossamer.sources.sequences import SequenceActivations
from gossamer.sources.signals import resampled
from gossamer.sources.source import Source
from gossamer.sources.speech import Speech

__all__ = ["Place", "Surroundings", "spectrogram", "surroundings"]

BEFORE, AFTER = 20, 10
"""Tokens shown before and after the one in focus."""

HALF = 25
"""Frames shown before and after the one in focus: half a second."""

SOUND_RATE = 8000
"""Samples per second of the sound in a page, 8 bits each: 240 kB for a window of 30 s."""

BANDS = 40
"""Rows of a spectrogram."""


class Place(NamedTuple):
    """Where a latent is active: the held-out window, the offset in it, and the origin of the row."""

    window: int
    offset: int
    document: int
    position: int


class Surroundings:
    """Contexts for rows with nothing around them: a number. span: offsets of a window that are one place; 0: all."""

    span = 0

    def __init__(self) -> None:
        self.sounds: tuple[str, ...] = ()

    def context(self, place: Place, value: float, activations: np.ndarray) -> Context:
        """Return the context of an activation. activations: of the latent in the window, by offset."""
        return Context(tokens=(), activations=(value,), origin=f"row {place.position:,}")


class Words(Surroundings):
    """The tokens around the one in focus. texts: what stands at each position of a window; origin: a place in words."""

    def __init__(self, texts: Callable[[int, slice], tuple[str, ...]], origin: Callable[[Place], str]) -> None:
        super().__init__()
        self._texts, self._origin = texts, origin

    def context(self, place: Place, value: float, activations: np.ndarray) -> Context:
        """Return the tokens around a place, each with the latent's activation."""
        start = max(0, place.offset - BEFORE)
        tokens = self._texts(place.window, slice(start, place.offset + AFTER + 1))
        values = np.zeros(start + len(tokens), np.float32)
        values[: len(activations)] = activations[: len(values)]
        return Context(
            tokens=tokens,
            activations=tuple(values[start:].tolist()),
            focus=place.offset - start,
            origin=self._origin(place),
        )


class Sounds(Surroundings):
    """The second of a recording around a frame: what is heard, its spectrogram, and the activation of every frame.

    The sound of each window is kept once, however many contexts are in it.
    """

    span = 2 * HALF

    def __init__(self, source: SequenceActivations, speech: Speech) -> None:
        super().__init__()
        self._source, self._speech = source, speech
        self._numbers: dict[int, int] = {}

    def context(self, place: Place, value: float, activations: np.ndarray) -> Context:
        """Return a context with a clip of sound."""
        ear, samples = self._speech.ear, self._speech.sound(place.window)
        if place.window not in self._numbers:
            self._numbers[place.window] = len(self.sounds)
            self.sounds = (*self.sounds, _wav(samples, ear.rate))
        frames = len(samples) // ear.frame
        start, stop = max(0, place.offset - HALF), min(frames, place.offset + HALF + 1)
        shown = np.zeros(stop, np.float32)
        shown[: min(stop, len(activations))] = activations[:stop]
        seconds = ear.frame / ear.rate
        clip = Clip(
            picture=spectrogram(samples[start * ear.frame : stop * ear.frame], ear.loaded.features),
            activations=tuple(shown[start:].tolist()),
            focus=place.offset - start,
            sound=self._numbers[place.window],
            start=start * seconds,
            stop=stop * seconds,
        )
        origin = self._speech.place(place.document, place.position, self._source.side)
        return Context(tokens=(), activations=(value,), origin=origin, clip=clip)


def surroundings(source: Source) -> Surroundings:
    """Return what makes contexts for the rows of a source."""
    if isinstance(source, Activations):
        return Words(lambda *where: _read(source, *where), _document)
    if isinstance(source, SequenceActivations):
        inputs, side = source.inputs, source.side
        if isinstance(inputs, Speech) and side == "encoder":
            return Sounds(source, inputs)
        return Words(
            lambda window, where: (inputs.tokens(window, side) or ())[where],
            lambda place: inputs.place(place.document, place.position, side),
        )
    return Surroundings()


def spectrogram(samples: np.ndarray, features: Any) -> str:
    """Return a gray picture of a sound as a data URI: time to the right, pitch up (mel scale), loud is dark.

    features: the feature extractor of the model, whose window, step and bands are used.
    """
    size, step, bands = features.n_fft, features.hop_length, np.asarray(features.mel_filters)
    padded = np.pad(samples, (size // 2, size // 2 + step))
    starts = np.arange(0, max(len(samples), step), step)
    frames = np.stack([padded[start : start + size] for start in starts]) * np.hanning(size + 1)[:-1]
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2 @ bands
    power = np.stack([band.mean(axis=1) for band in np.array_split(power, BANDS, axis=1)], axis=1)
    level = np.log10(np.maximum(power, 1e-10))
    shade = np.clip((level - level.max()) / 5 + 1, 0, 1)  # five powers of ten, 50 dB
    return _png(255 - np.round(255 * shade).astype(np.uint8).T[::-1])


def _read(source: Activations, window: int, where: slice) -> tuple[str, ...]:
    tokens = source.windows.batch(np.array([window]))
    ids = tokens.ids[0, : int(tokens.real.sum())]
    return tuple(source.tokenizer.decode([token]) for token in ids[where])


def _document(place: Place) -> str:
    return f"document {place.document:,}, position {place.position:,}"


def _wav(samples: np.ndarray, rate: int) -> str:
    """Return sound as a data URI of 8 bits per sample, as loud as it may be."""
    small = resampled(samples, rate, SOUND_RATE)
    loudest = float(np.abs(small).max(initial=0.0)) or 1.0
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(1)
        writer.setframerate(SOUND_RATE)
        writer.writeframes(np.round(128 + 127 * small / loudest).astype(np.uint8).tobytes())
    return "data:audio/wav;base64," + base64.b64encode(file.getvalue()).decode()


def _png(gray: np.ndarray) -> str:
    """Return a gray picture `(rows, columns)` of 8 bits as a data URI."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    lines = np.pad(gray, ((0, 0), (1, 0))).tobytes()  # each line begins with its filter: none
    header = struct.pack(">IIBBBBB", gray.shape[1], gray.shape[0], 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()
