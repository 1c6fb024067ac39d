"""Sound in, text out: Whisper and models of its family."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import ClassVar

import numpy as np

from gossamer.pretrained.writer import Given, Places, Writer, Written, token_texts
from gossamer.sources.generation import written
from gossamer.sources.models import LoadedModel
from gossamer.sources.sequences import side_of
from gossamer.sources.signal_files import Recording
from gossamer.sources.speech import Ear, as_speech, read_speech
from gossamer.transformer.generate import Decoding

__all__ = ["SpeechWriter"]

AT_ONCE = 4
"""Windows per batch."""


class SpeechWriter(Writer):
    """Whisper: it transcribes recordings.

    Files of any rate are resampled to the model's (16 kHz) by a polyphase filter, and their channels averaged. What is
    longer than a window (30 s) is cut into windows, and their texts are joined.
    """

    reads: ClassVar[str] = "a sound file"

    def __init__(self, loaded: LoadedModel) -> None:
        self.name, self.model, self.tokenizer, self.ear = loaded.name, loaded.model, loaded.tokenizer, Ear.of(loaded)

    def write(self, given: Sequence[Given], decoding: Decoding) -> list[Written]:
        """Return the transcript of each recording; raises ValueError, naming the file, for what is no sound."""
        sounds = [self._windows(one) for one in given]
        windows = list(chain.from_iterable(sounds))
        rows: list[list[int]] = []
        for start in range(0, len(windows), AT_ONCE):
            heard = self.ear.input(windows[start : start + AT_ONCE])
            rows += written(self.model, {"input_features": heard}, decoding.after(start))
        left = iter(rows)
        return [self._written([next(left) for _ in sound]) for sound in sounds]

    def places(self, given: Given, site: str) -> Places:
        """Return the frames that hold the recording on the encoder's side, the written tokens on the decoder's.

        Raises ValueError for a recording of several windows.
        """
        windows = self._windows(given)
        if len(windows) > 1:
            seconds = self.ear.window / self.ear.rate
            raise ValueError(f"the recording is longer than a window of {seconds:g} s; cut it")
        if side_of([site]) == "decoder":
            return Places(None)
        return Places(0, -(-len(windows[0]) // self.ear.frame))

    def _windows(self, given: Given) -> list[np.ndarray]:
        if not isinstance(given, Recording | str | Path):
            kind = type(given).__name__
            raise TypeError(f"{self.name} reads sound files, or arrays as Recording(samples, rate=…); got {kind}")
        rate, window = self.ear.rate, self.ear.window
        sound = as_speech(given, rate=rate) if isinstance(given, Recording) else read_speech(given, rate=rate)
        return [sound[start : start + window] for start in range(0, len(sound), window)]

    def _written(self, rows: Sequence[Sequence[int]]) -> Written:
        special = set(self.tokenizer.all_special_ids)
        kept = [[index for index in row if index not in special] for row in rows]
        texts = [str(self.tokenizer.decode(row)).strip() for row in kept]
        tokens = chain.from_iterable(token_texts(self.tokenizer, row) for row in kept)
        return Written(" ".join(filter(None, texts)), tuple(tokens))
