"""CMUdict: English spellings and their pronunciations, the task of turning letters into phonemes.

135,166 pronunciations of 126,052 words, out of the package `cmudict` (see `gossamer.sources.assets`). Here live reading
the dictionary and its split; words, not pronunciations, are held out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from gossamer.sources.assets import locate
from gossamer.sources.pairs import Pair, Pairs, SequencesSpec, numbered_lines, with_analogies
from gossamer.transformer.vocabulary import Characters, Phonemes

__all__ = ["CmudictSpec", "Entries", "read_dictionary", "split"]

Entries = Mapping[str, tuple[str, ...]]
"""Pronunciations by word, each a string of ARPAbet phonemes with spaces between them."""

Part = Literal["train", "validation", "test"]
SHARES: dict[Part, float] = {"test": 0.10, "validation": 0.02}


@dataclass(frozen=True, kw_only=True)
class CmudictSpec(SequencesSpec):
    """Words of CMUdict, letter by letter, and their pronunciations.

    A tenth of the words are for the test and never seen, 2 % for validation; `split` says which. stress: whether the
    marks 0, 1, 2 of vowels are kept; without them there are 39 phonemes, as in most published figures. path: another
    dictionary in the same format. words: only so many of the words to train on, drawn at random. analogies: beside a
    word stands how so many words are said that begin most like it, and so many that end most like it, out of those to
    train on; see `Analogies`. bucket, buffer_rows: as in `Pairs`.
    """

    kind: ClassVar[str] = "cmudict"
    stress: bool = False
    path: str | None = None
    words: int | None = None
    analogies: int = 0
    bucket: int = 256
    buffer_rows: int = 16_384

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.words is not None and self.words < 2:
            raise ValueError(f"words must be at least 2, got {self.words}")

    def build(self, *, device: str = "cpu") -> Pairs:
        """Read the dictionary; words of the test are left out."""
        entries = self.entries()
        train, held = split(entries, "train")[: self.words], split(entries, "validation")
        pairs = [Pair(word, spoken, number) for number, word in enumerate(train) for spoken in entries[word]]
        kept = [Pair(word, spoken, len(train) + number) for number, word in enumerate(held) for spoken in entries[word]]
        letters = Characters.learned(entries)
        target = Phonemes.learned(spoken for variants in entries.values() for spoken in variants)
        source = with_analogies(letters, target, pairs, self.analogies)
        return Pairs(
            pairs, source=source, target=target, validation=kept, bucket=self.bucket, buffer_rows=self.buffer_rows
        )

    def references(self) -> dict[str, tuple[str, ...]]:
        """Return the words of the test and all their pronunciations."""
        entries = self.entries()
        return {word: entries[word] for word in split(entries, "test")}

    def entries(self) -> Entries:
        """Return the pronunciations of all words."""
        place = Path(self.path) if self.path else locate("cmudict", "data/cmudict.dict")
        return read_dictionary(place, stress=self.stress)


def read_dictionary(path: str | Path, *, stress: bool) -> dict[str, tuple[str, ...]]:
    """Read a dictionary in CMUdict's format.

    A line is `word P H O N EH1 M Z`, further pronunciations are `word(2)`, comments come after #. Pronunciations that
    differ in stress alone are one if stress is left out. Raises ValueError, naming the line, for one that is no entry.
    """
    entries: dict[str, dict[str, None]] = {}
    for number, line in numbered_lines(Path(path)):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        word, *phonemes = fields
        if not phonemes:
            raise ValueError(f"{path}, line {number}: expected a word and its phonemes, got {line!r}")
        spoken = " ".join(phonemes if stress else (phoneme.rstrip("012") for phoneme in phonemes))
        entries.setdefault(re.sub(r"\(\d+\)$", "", word), {})[spoken] = None
    return {word: tuple(variants) for word, variants in entries.items()}


def split(entries: Entries, part: Part) -> list[str]:
    """Return the words of a part: by the SHA-256 of the word, the first tenth is the test, the next 2 % validation.

    So a word is always in the same part, whatever the other words and the version of a random generator.
    """
    words = sorted(entries, key=lambda word: hashlib.sha256(word.encode()).digest())
    test, validation = (round(len(words) * share) for share in np.cumsum([SHARES["test"], SHARES["validation"]]))
    return {"test": words[:test], "validation": words[test:validation], "train": words[validation:]}[part]
