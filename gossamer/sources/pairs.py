"""Pairs: sequences and what they are to be turned into, as ids, for a transformer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch

from gossamer.sources.source import Batch, Source, SourceSpec, held_out
from gossamer.spec import nearest
from gossamer.transformer.analogies import Analogies
from gossamer.transformer.files import load_vocabularies, save_vocabularies
from gossamer.transformer.translator import VOCABULARIES, padded
from gossamer.transformer.vocabulary import END, PAD, START, BytePairs, Characters, Listed, Phonemes, Vocabulary, Words

__all__ = [
    "Pair",
    "Pairs",
    "PairsSpec",
    "SequencesSpec",
    "Tokens",
    "learned_vocabulary",
    "numbered_lines",
    "read_pairs",
    "with_analogies",
]

SOURCE, TARGET = "source", "target"
"""The sites of a batch."""

Tokens = Literal["characters", "words", "phonemes", "byte-pairs"]
VOCABULARIES_OF: dict[Tokens, type[Listed | BytePairs]] = {
    "characters": Characters,
    "words": Words,
    "phonemes": Phonemes,
    "byte-pairs": BytePairs,
}


class Pair(NamedTuple):
    """A source text, a target text, and the document they belong to: pairs of one document are never split up."""

    source: str
    target: str
    document: int


class Pairs(Source):
    """Rows of two sites, "source" and "target": ids, END last, targets with START first, padded on the right.

    pairs: what there is. source, target: the vocabularies of either side. validation: share of the documents held out,
    or further pairs to hold out. bucket: rows of like length that stay together, so that little is padded; the batch
    must be a multiple of it. buffer_rows: rows that are shuffled, and sorted by length, at a time. numbers: which pairs
    are of either part, "train" and "validation".

    An epoch holds every pair once, and a few twice, so that it is a whole number of buckets.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        source: Vocabulary,
        target: Vocabulary,
        validation: float | Sequence[Pair] = 0.02,
        bucket: int = 256,
        buffer_rows: int = 16_384,
    ) -> None:
        if not pairs:
            raise ValueError("there are no pairs to train on")
        if bucket < 1:
            raise ValueError(f"a bucket holds at least one pair, got {bucket}")
        known = len(pairs)
        pairs = [*pairs, *([] if isinstance(validation, float | int) else validation)]
        self._pairs, self.vocabularies = pairs, {SOURCE: source, TARGET: target}
        self._ids = {SOURCE: _table(pairs, source, target=False), TARGET: _table(pairs, target, target=True)}
        self._documents = np.array([pair.document for pair in pairs])
        held = np.arange(len(pairs)) >= known
        if isinstance(validation, float | int):
            held = _held_out(self._documents, validation)
        self._train, self._held = (np.random.default_rng(0).permutation(np.flatnonzero(part)) for part in (~held, held))
        self.numbers = {"train": self._train, "validation": self._held}
        self._lengths = (self._ids[SOURCE] != PAD).sum(dim=1).numpy() + (self._ids[TARGET] != PAD).sum(dim=1).numpy()
        self.block = bucket
        self.widths = {site: ids.shape[1] for site, ids in self._ids.items()}
        self.sizes = {site: len(vocabulary) for site, vocabulary in self.vocabularies.items()}
        self.rows, self.validation_rows = self.units * bucket, len(self._held)
        self.buffer_rows = buffer_rows

    @property
    def units(self) -> int:
        """Number of buckets of an epoch."""
        return -(-len(self._train) // self.block)

    @property
    def units_per_buffer(self) -> int:
        """Buckets that are sorted together."""
        return max(1, self.buffer_rows // self.block)

    def read(self, units: np.ndarray) -> Batch:
        """Return the pairs of these buckets, dealt anew to as many buckets by their length."""
        place = (units[:, None] * self.block + np.arange(self.block)).reshape(-1) % len(self._train)
        pairs = self._train[place]
        return self.rows_of(pairs[np.argsort(self._lengths[pairs], kind="stable")])

    def validation(self, *, batch: int) -> Iterator[Batch]:
        """Iterate over the held-out pairs in a random order that is always the same."""
        for start in range(0, len(self._held), batch):
            yield self.rows_of(self._held[start : start + batch])

    def held_out(self) -> list[Pair]:
        """Return the held-out pairs, in the order that they came in."""
        return [self._pairs[number] for number in np.sort(self._held)]

    def keep(self, folder: Path) -> None:
        """Write the vocabularies into the folder of a run."""
        save_vocabularies(self.vocabularies[SOURCE], self.vocabularies[TARGET], folder / VOCABULARIES)

    def fingerprint(self) -> dict[str, str]:
        """Return the number of pairs, a hash of their ids and documents, and the bucket."""
        digest = hashlib.sha256()
        for ids in self._ids.values():
            digest.update(ids.numpy().tobytes())
        digest.update(self._documents.tobytes() + self._held.tobytes())
        return {
            "kind": "pairs",
            "pairs": f"{len(self._documents):,}",
            "content": digest.hexdigest()[:16],
            "bucket": str(self.block),
        }

    def describe(self) -> dict[str, str]:
        """Return how many pairs there are, and the vocabularies."""
        sides = ", ".join(f"{site} {size} ids" for site, size in self.sizes.items())
        return {
            "pairs": f"{len(self._train):,} to train on, {len(self._held):,} held out for validation",
            "ids": f"{sides}; sources of up to {self.widths[SOURCE]}, targets of up to {self.widths[TARGET]}",
        }

    def rows_of(self, pairs: np.ndarray) -> Batch:
        """Return the ids of some pairs, by their numbers in `numbers`."""
        which = torch.from_numpy(pairs)
        origins = np.stack([self._documents[pairs], pairs], axis=1).astype(np.int64)
        return Batch({site: ids[which] for site, ids in self._ids.items()}, torch.from_numpy(origins))


class SequencesSpec(SourceSpec):
    """The family of sources of pairs that a file can describe."""

    def build(self, *, device: str = "cpu") -> Pairs:
        """Return the pairs; raises ValueError for what is missing or wrong."""
        raise NotImplementedError

    def references(self) -> dict[str, tuple[str, ...]]:
        """Return, for sources that training never saw, every target that is right."""
        found: dict[str, dict[str, None]] = {}
        for pair in self.build().held_out():
            found.setdefault(pair.source, {})[pair.target] = None
        return {source: tuple(targets) for source, targets in found.items()}


@dataclass(frozen=True, kw_only=True)
class PairsSpec(SequencesSpec):
    """Pairs of files. paths: text files with a pair a line, source and target separated by a tab.

    source_tokens, target_tokens: what the vocabularies are made of. vocabulary: ids at most of either one, the rest is
    read as unknown; None: as many as there are, and 8,192 byte pairs. vocabularies: the folder of a run whose
    vocabularies are taken instead, such as the one to start from. analogies: beside a source of characters stand the
    targets of so many sources that begin most like it, and of so many that end most like it; see `Analogies`. The other
    fields are those of `Pairs`.
    """

    kind: ClassVar[str] = "pairs"
    paths: tuple[str, ...]
    source_tokens: Tokens = "characters"
    target_tokens: Tokens = "characters"
    vocabulary: int | None = None
    vocabularies: str | None = None
    analogies: int = 0
    validation: float = 0.02
    bucket: int = 256
    buffer_rows: int = 16_384

    def build(self, *, device: str = "cpu") -> Pairs:
        """Read the files and learn the vocabularies."""
        pairs = read_pairs(self.paths)
        source, target = self._sides(pairs)
        held = _held_out(np.array([pair.document for pair in pairs]), self.validation)
        known = [pair for pair, is_held in zip(pairs, held, strict=True) if not is_held]
        return Pairs(
            pairs,
            source=with_analogies(source, target, known, self.analogies),
            target=target,
            validation=self.validation,
            bucket=self.bucket,
            buffer_rows=self.buffer_rows,
        )

    def _sides(self, pairs: Sequence[Pair]) -> tuple[Vocabulary, Vocabulary]:
        if self.vocabularies is None:
            source = learned_vocabulary(self.source_tokens, (pair.source for pair in pairs), self.vocabulary)
            return source, learned_vocabulary(self.target_tokens, (pair.target for pair in pairs), self.vocabulary)
        if self.vocabulary is not None:
            raise ValueError("give vocabulary, a number of ids, or vocabularies, the folder of a run; not both")
        source, target = load_vocabularies(Path(self.vocabularies) / VOCABULARIES)
        if source is None or target is None:
            raise ValueError(f"{self.vocabularies} has the vocabulary of one side only")
        return source, target


def learned_vocabulary(tokens: Tokens, texts: Iterator[str], size: int | None = None) -> Listed | BytePairs:
    """Return the vocabulary of some texts; raises ValueError for an unknown kind of token."""
    if tokens not in VOCABULARIES_OF:
        raise ValueError(f"unknown tokens {tokens!r}; {nearest(tokens, VOCABULARIES_OF)}")
    return VOCABULARIES_OF[tokens].learned(texts, size=size)


def with_analogies(source: Vocabulary, target: Vocabulary, pairs: Sequence[Pair], alike: int) -> Vocabulary:
    """Return the vocabulary of sources, with the targets of similar ones out of these pairs beside them if asked for.

    Raises ValueError for sources that are not read by characters.
    """
    if alike < 0:
        raise ValueError(f"analogies must not be negative, got {alike}")
    if not alike:
        return source
    if not isinstance(source, Characters):
        raise ValueError(f"analogies are found by characters; set source_tokens to them, not to {source.kind}")
    return Analogies.of(((pair.source, pair.target) for pair in pairs), letters=source, target=target, alike=alike)


def read_pairs(paths: Sequence[str]) -> list[Pair]:
    """Read tab-separated pairs; pairs with the same source are one document.

    Raises ValueError, naming file and line, for a line that is no pair, and if there are none.
    """
    pairs, documents = [], {}
    for path in map(Path, paths):
        for number, line in numbered_lines(path):
            if not line.strip():
                continue
            source, *targets = line.split("\t")
            if len(targets) != 1 or not (source.strip() and targets[0].strip()):
                raise ValueError(f"{path}, line {number}: expected a source, a tab and a target, got {line[:80]!r}")
            target = targets[0]
            pairs.append(Pair(source, target, documents.setdefault(source, len(documents))))
    if not pairs:
        raise ValueError(f"there are no pairs in {', '.join(paths)}")
    return pairs


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a text file with their numbers; raises ValueError if it is missing or not in UTF-8."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")  # line ends become \n
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8: {error}") from error
    return list(enumerate(text.split("\n"), start=1))


def _held_out(documents: np.ndarray, share: float) -> np.ndarray:
    """Say which pairs are held out, given the documents that they belong to."""
    names, document = np.unique(documents, return_inverse=True)
    return held_out(len(names), share)[document]


def _table(pairs: Sequence[Pair], vocabulary: Vocabulary, *, target: bool) -> torch.Tensor:
    """Return the ids of one side, `(pairs, longest)`."""
    texts = [pair.target if target else pair.source for pair in pairs]
    start = [START] if target else []
    return padded([[*start, *vocabulary.encode(text), END] for text in texts])
