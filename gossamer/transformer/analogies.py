"""Analogies: a source, and how what looks like it is turned into a target.

A word that no dictionary has is said like words that it has: pronunciation by analogy (Dedina & Nusbaum 1991; Damper &
Eastmond 1996, https://aclanthology.org/C96-1046). Here the transformer is given such words and finds out itself what
to make of them; it reads

    w a l k e d | W AO K | T AO K T

which is the word, how the word is said that begins most like it (walke), and how that is said which ends most like it
(talked). In translation: Bulte & Tezcan 2019, https://aclanthology.org/P19-1175.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import ClassVar, Self

from gossamer.transformer.vocabulary import SPECIAL, Characters, Vocabulary

__all__ = ["Analogies"]

NEARBY = 4
"""Examples on either side, in the order of the alphabet, that are looked at."""


@dataclass(frozen=True, kw_only=True)
class Analogies(Vocabulary):
    """The vocabulary of sources that are read beside the targets of similar examples.

    letters: of the sources. target: the vocabulary of the other side. sources, targets: the examples; those that are
    trained on, so that nothing else is told. alike: so many examples that begin most like a source, and so many that
    end most like it. A source is never its own example, so that one that was trained on is read like a new one.
    """

    kind: ClassVar[str] = "analogies"
    noun: ClassVar[str] = "symbol"
    joint: ClassVar[str] = " "
    letters: Characters
    target: Vocabulary
    sources: tuple[str, ...] = field(repr=False)
    targets: tuple[str, ...] = field(repr=False)
    alike: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.sources) != len(self.targets):
            raise ValueError(f"{len(self.sources)} sources of examples, but {len(self.targets)} targets")
        if self.alike < 1:
            raise ValueError(f"alike must be at least 1, got {self.alike}")

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]], *, letters: Characters, target: Vocabulary, alike: int = 1) -> Self:
        """Return the vocabulary with these pairs as examples; of several targets of a source the first is told."""
        told: dict[str, str] = {}
        for one, other in pairs:
            told.setdefault(one, other)
        return cls(letters=letters, target=target, sources=tuple(told), targets=tuple(told.values()), alike=alike)

    def __len__(self) -> int:
        return self._first + len(self.target) - len(SPECIAL)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a source and, after a bar each, of its examples' targets."""
        ids = self.letters.encode(text)
        for number in self.examples(text):
            told = self.target.encode(self.targets[number])
            ids += [self._bar, *(self._first + index - len(SPECIAL) for index in told)]
        return ids

    def cut(self, text: str) -> Sequence[str]:
        """Return the letters of a source, known or not."""
        return self.letters.cut(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the source alone."""
        return self.letters.decode(takewhile(lambda index: index != self._bar, ids))

    def token(self, index: int) -> str:
        """Return what an id stands for."""
        if index < self._bar:
            return self.letters.token(index)
        return "|" if index == self._bar else self.target.token(index - self._first + len(SPECIAL))

    def examples(self, text: str) -> list[int]:
        """Return the numbers of the examples: those that begin most like a source, then those that end most like it.

        Of equally similar ones the shortest come first.
        """
        forward, backward = self._orders
        return [*self._next_to(text, forward), *self._next_to(text[::-1], backward)]

    @property
    def _bar(self) -> int:
        """The id of the bar; those of the letters are below it."""
        return len(self.letters)

    @property
    def _first(self) -> int:
        """The first id of what targets are made of."""
        return self._bar + 1

    def _next_to(self, text: str, order: list[tuple[str, int]]) -> list[int]:
        """Return the examples with the longest common beginning: they are side by side in the order of the alphabet."""
        place, near = bisect_left(order, (text,)), max(NEARBY, self.alike)
        around = [one for one in order[max(0, place - near) : place + near + 1] if one[0] != text]
        around.sort(key=lambda one: (-_shared(one[0], text), len(one[0]), one[0]))
        return [number for _, number in around[: self.alike]]

    @cached_property
    def _orders(self) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
        """Return the examples in the order of the alphabet, read forward and backward."""
        forward = sorted((source, number) for number, source in enumerate(self.sources))
        return forward, sorted((source[::-1], number) for source, number in forward)


def _shared(one: str, other: str) -> int:
    """Return how many letters two words have in common at their beginning."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
