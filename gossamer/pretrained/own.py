"""Text in, text out, with a transformer that was trained here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch

from gossamer.pretrained.writer import Given, Places, Writer, Written
from gossamer.sources.sequences import side_of
from gossamer.transformer.files import SPEC
from gossamer.transformer.generate import Decoding
from gossamer.transformer.translator import MODEL, VOCABULARIES, Translator
from gossamer.transformer.vocabulary import END, PAD, START

__all__ = ["TransformerWriter", "is_run"]


def is_run(folder: str | Path) -> bool:
    """Say whether a folder is the run of a transformer, finished or not, or one of its models."""
    return any((Path(folder) / part).exists() for part in (MODEL, VOCABULARIES, SPEC))


class TransformerWriter(Writer):
    """The transformer of a run, such as `runs/g2p`: it writes the target of a source."""

    reads: ClassVar[str] = "text"

    def __init__(self, folder: str | Path, *, device: str = "cpu", dtype: torch.dtype | None = None) -> None:
        self.translator = Translator.open(folder, device=device)
        self.translator.model.to(dtype)
        self.name, self.model = str(folder), self.translator.model
        self.joint = self.translator.target.joint

    def write(self, given: Sequence[Given], decoding: Decoding) -> list[Written]:
        """Return the likeliest target of each text; raises ValueError for one that is empty or cannot be encoded."""
        texts = [text for text in given if isinstance(text, str)]
        if len(texts) != len(given):
            raise TypeError(f"{self.name} reads text, got {', '.join(type(text).__name__ for text in given)}")
        made = [translation.hypotheses[0] for translation in self.translator.translate(texts, decoding)]
        return [Written(one.text, tuple(map(self.translator.target.token, _real(one.ids)))) for one in made]

    def places(self, given: Given, site: str) -> Places:
        """Return the source's tokens, but for its end, on the encoder's side; what is written on the decoder's."""
        if side_of([site]) == "decoder":
            return Places(None)
        return Places(0, len(self.translator.encode(str(given))) - 1)


def _real(ids: Sequence[int]) -> list[int]:
    return [index for index in ids if index not in (PAD, START, END)]
