"""Writer: something that is given texts or sound and writes text. What all of them share, and nothing of any model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from torch import nn

from gossamer.sources.signal_files import Recording
from gossamer.transformer.generate import Decoding

__all__ = ["Given", "Places", "Writer", "Written", "token_texts"]

Given: TypeAlias = str | Path | Recording
"""What a writer reads: a text, or for speech a sound file or a recording."""


@dataclass(frozen=True)
class Written:
    """text: as a person reads it. tokens: what each id adds to it, special ones left out."""

    text: str
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Places:
    """The positions of a site's sequence, from `first` to before `stop`, that give rows to an autoencoder.

    first None: those after the prompt that a decoder starts from. stop None: all that follow.
    """

    first: int | None
    stop: int | None = None


class Writer(ABC):
    """A model that writes.

    name: what it was asked for by. model: its modules can be hooked. reads: what it is given, for messages. joint: what
    stands between two of its tokens.
    """

    reads: ClassVar[str]
    name: str
    model: nn.Module
    joint: str = ""

    @abstractmethod
    def write(self, given: Sequence[Given], decoding: Decoding) -> list[Written]:
        """Return what the model writes for each of several inputs; raises ValueError for one that it cannot read."""

    @abstractmethod
    def places(self, given: Given, site: str) -> Places:
        """Return the positions of a site that give rows when one input is read."""


def token_texts(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Return what each id adds to the text of those before it; a byte that is half a character adds a mark for it."""
    texts, before = [], ""
    for end in range(1, len(ids) + 1):
        now = str(tokenizer.decode(list(ids[:end])))
        shared = next((at for at, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), len(before))
        texts.append(now[shared:])
        before = now
    return tuple(texts)
