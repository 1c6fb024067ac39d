"""How well sequences are said: edit distance, error rates of sequences and of their tokens, and what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Mistake", "SequenceScore", "edit_distance", "score_sequences"]

Tokens = Sequence[str]


class Mistake(NamedTuple):
    """A source that was said wrong: what was said, the nearest reference, and the edits between them."""

    source: str
    said: str
    reference: str
    edits: int


@dataclass(frozen=True)
class SequenceScore:
    """How well sources were said, when any of several references counts.

    error_rate: share of sources whose hypothesis has the tokens of none of their references (word error rate, where
    sources are words). token_error_rate: Σ edits to the nearest reference / Σ tokens of that reference (phoneme error
    rate, …). sources: what they rest on. mistakes: in the order of the sources.
    """

    error_rate: float
    token_error_rate: float
    sources: int
    mistakes: tuple[Mistake, ...]


def edit_distance(said: Tokens, reference: Tokens) -> int:
    """Return the fewest insertions, deletions and substitutions of tokens that turn one sequence into the other.

    d_ij = min(d_{i−1,j} + 1, d_{i,j−1} + 1, d_{i−1,j−1} + [said_i ≠ reference_j]). Levenshtein 1966; Wagner & Fischer
    1974 (https://doi.org/10.1145/321796.321811).

    >>> edit_distance("K AE T".split(), "K AA T S".split())
    2
    """
    row = list(range(len(reference) + 1))
    for number, token in enumerate(said, start=1):
        before, row[0] = row[0], number
        for place, wanted in enumerate(reference, start=1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (token != wanted))
    return row[-1]


def score_sequences(
    sources: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    cut: Callable[[str], Tokens] = str.split,
) -> SequenceScore:
    """Return the score of one hypothesis per source. cut: a text into tokens; by default what stands between spaces.

    Raises ValueError for lists of different lengths, no sources, or a source without reference.
    """
    if not (len(sources) == len(hypotheses) == len(references)) or not sources:
        raise ValueError(
            f"expected as many hypotheses and lists of references as sources, and some of them; got {len(sources)} "
            f"sources, {len(hypotheses)} hypotheses, {len(references)} lists"
        )
    mistakes, edits, tokens = [], 0, 0
    for source, said, known in zip(sources, hypotheses, references, strict=True):
        if not known:
            raise ValueError(f"{source!r} has no reference")
        distances = [edit_distance(cut(said), cut(reference)) for reference in known]
        nearest = min(range(len(known)), key=distances.__getitem__)
        edits, tokens = edits + distances[nearest], tokens + len(cut(known[nearest]))
        if distances[nearest]:
            mistakes.append(Mistake(source, said, known[nearest], distances[nearest]))
    return SequenceScore(len(mistakes) / len(sources), edits / tokens, len(sources), tuple(mistakes))
