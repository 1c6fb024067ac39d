"""World: which features there are, which way they point, how often they fire and on what that depends.

The parts that `gossamer.sources.synthetic` makes rows from. Nothing here makes a row.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from gossamer.spec import Spec

__all__ = ["Children", "Correlation", "FoldedNormal", "Forest", "Hierarchy", "LogNormal", "Magnitudes", "directions"]

MOST = 0.4
"""Largest firing probability; a feature that fires on most rows is an offset."""

MOST_CHILDREN = 0.8
"""Largest share of a parent's firings that its children take: one that is never alone cannot be told from them."""

TOGETHER = 1024
"""Directions that are moved together: bounds the memory for their overlaps with all others."""


class Magnitudes(Spec):
    """The family of distributions of how strongly a feature fires, given that it does."""

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Return `(count,)` positive numbers."""
        raise NotImplementedError

    @property
    def expectation(self) -> float:
        """Their mean."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class FoldedNormal(Magnitudes):
    """|a| with a normal of this mean and standard deviation."""

    kind: ClassVar[str] = "folded-normal"
    mean: float = 4.5
    deviation: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.deviation < 0 or (self.mean == 0 and self.deviation == 0):
            raise ValueError(f"a deviation is not negative, nor are mean and deviation both 0; got {self.to_dict()}")

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Return `(count,)` positive numbers."""
        return np.abs(self.mean + self.deviation * rng.standard_normal(count))

    @property
    def expectation(self) -> float:
        """σ √(2/π) exp(−μ²/2σ²) + μ erf(μ / √2σ)."""
        if self.deviation == 0:
            return abs(self.mean)
        ratio = self.mean / (math.sqrt(2) * self.deviation)
        return self.deviation * math.sqrt(2 / math.pi) * math.exp(-(ratio**2)) + self.mean * math.erf(ratio)


@dataclass(frozen=True, kw_only=True)
class LogNormal(Magnitudes):
    """exp(a) with a normal: heavy tails. median: of the magnitude. sigma: standard deviation of its logarithm."""

    kind: ClassVar[str] = "log-normal"
    median: float = 4.0
    sigma: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.median <= 0 or self.sigma < 0:
            raise ValueError(f"a median is positive and sigma not negative; got {self.to_dict()}")

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Return `(count,)` positive numbers."""
        return self.median * np.exp(self.sigma * rng.standard_normal(count))

    @property
    def expectation(self) -> float:
        """Median · exp(sigma² / 2)."""
        return self.median * math.exp(self.sigma**2 / 2)


@dataclass(frozen=True, kw_only=True)
class Correlation(Spec):
    """A Gaussian copula of low rank over the features that have no parent.

        feature i fires where u_i · z √strength + ε_i √(1 − strength) exceeds its quantile

    z: rank numbers per row, standard normal. u_i: a random unit vector. strength: share of the variance that features
    have in common, 0 to below 1; correlations before the threshold spread about 0 by strength / √rank.
    """

    rank: int = 25
    strength: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1 or not 0 <= self.strength < 1:
            raise ValueError(f"rank is at least 1 and strength from 0 to below 1; got {self.to_dict()}")


@dataclass(frozen=True, kw_only=True)
class Hierarchy(Spec):
    """Trees of features: a child fires only where its parent fires.

    roots: how many trees, 0 for none. branching: children per parent. depth: levels below the root. exclusive: share
    of the parents of whose children at most one fires at a time; elsewhere they fire independently of each other.
    coupling: the strength of a child is multiplied by (its parent's / the mean strength) to this power.
    """

    roots: int = 4
    branching: int = 4
    depth: int = 3
    exclusive: float = 1.0
    coupling: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.roots < 0 or self.branching < 1 or self.depth < 1:
            raise ValueError(f"branching and depth are at least 1 and roots not negative; got {self.to_dict()}")
        if not 0 <= self.exclusive <= 1:
            raise ValueError(f"exclusive is a share of the parents, 0 to 1; got {self.exclusive}")

    @property
    def sizes(self) -> list[int]:
        """Features per level, the roots first."""
        return [self.roots * self.branching**level for level in range(self.depth + 1)] if self.roots else []


@dataclass(frozen=True, eq=False)
class Children:
    """Features that fire because a parent does. parents: at which place the parent was given; features: which."""

    parents: np.ndarray
    features: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class Forest:
    """Who is whose child, and how often each fires.

    levels: features per depth, the roots first. tops: features without a parent. children: `(features, branching)`,
    −1 where there is none. upto: `(features, branching)`, cumulated shares of the parent's firings that its children
    take. exclusive: `(features,)`.
    """

    parents: np.ndarray
    probabilities: np.ndarray
    levels: list[np.ndarray]
    tops: np.ndarray
    children: np.ndarray
    upto: np.ndarray
    exclusive: np.ndarray

    @classmethod
    def grow(
        cls, hierarchy: Hierarchy, rng: np.random.Generator, *, features: int, l0: float, exponent: float
    ) -> Forest:
        """Choose the members of the trees at random; the most frequent ones become roots, the next their children.

        Firing probabilities fall as (i + 1)^−exponent, times the factor with which they add up to l0, within the
        limits. Raises ValueError if none does.
        """
        sizes, branching = hierarchy.sizes, hierarchy.branching
        members = np.sort(rng.permutation(features)[: sum(sizes)])
        levels = np.split(members, np.cumsum(sizes)[:-1]) if sizes else []
        parents = np.full(features, -1, dtype=np.int64)
        children = np.full((features, branching), -1, dtype=np.int64)
        for above, below in itertools.pairwise(levels):
            parents[below] = np.repeat(above, branching)
            children[above] = below.reshape(-1, branching)
        exclusive = np.zeros(features, dtype=bool)
        inner = np.flatnonzero(children[:, 0] >= 0)
        exclusive[rng.permutation(inner)[: round(hierarchy.exclusive * len(inner))]] = True
        zipf = np.arange(1, features + 1, dtype=np.float64) ** -exponent
        probabilities = _probabilities(zipf, l0, parents, levels, exclusive)
        taken = np.where(children >= 0, probabilities[children], 0.0) / probabilities[:, None]
        tops = np.flatnonzero(parents < 0)
        upto = taken.cumsum(axis=1)
        return cls(
            parents=parents,
            probabilities=probabilities,
            levels=levels,
            tops=tops,
            children=children,
            upto=upto,
            exclusive=exclusive,
        )

    def fire(self, rng: np.random.Generator, features: np.ndarray) -> Children:
        """Return, for features that fire, the children that fire with them."""
        entry = np.flatnonzero(self.children[features, 0] >= 0)
        parent = features[entry]
        chance = rng.random((len(parent), self.children.shape[1]))
        upto = self.upto[parent]
        below = np.diff(upto, axis=1, prepend=0.0)
        one = chance[:, :1]
        fires = np.where(self.exclusive[parent][:, None], (upto - below <= one) & (one < upto), chance < below)
        position, child = np.nonzero(fires)
        return Children(entry[position], self.children[parent[position], child])


def directions(rng: np.random.Generator, *, features: int, width: int, separation: int) -> Tensor:
    """Draw `(features, width)` unit rows, and move them apart in `separation` steps.

    A step is gradient descent on Σ_{i≠j} ⟨d_i, d_j⟩⁴, of a length that falls to 0. The square instead of the fourth
    power, as in SynthSAEBench, hardly changes random directions that are many more than the dimensions, because their
    mean square overlap is nearly the smallest possible as it is.
    """
    found = torch.from_numpy(rng.standard_normal((features, width), dtype=np.float32))
    found = torch.nn.functional.normalize(found, dim=1)
    for step in range(separation):
        length = 0.2 * (1 - step / separation)
        found = torch.cat([_away(found, some, length=length) for some in torch.arange(features).split(TOGETHER)])
    return found


def _away(directions: Tensor, some: Tensor, *, length: float) -> Tensor:
    overlap = directions[some] @ directions.T
    overlap[torch.arange(len(some)), some] = 0
    pull = overlap**3
    total = pull.abs().sum(dim=1, keepdim=True).clamp_min_(torch.finfo(pull.dtype).tiny)
    return torch.nn.functional.normalize(directions[some] - length * (pull @ directions) / total, dim=1)


def _probabilities(
    zipf: np.ndarray, l0: float, parents: np.ndarray, levels: list[np.ndarray], exclusive: np.ndarray
) -> np.ndarray:
    def limited(factor: float) -> np.ndarray:
        p = np.minimum(factor * zipf, MOST)
        for level in levels[1:]:
            above = parents[level]
            room = MOST_CHILDREN * p[above]
            wanted = np.where(exclusive[above], np.bincount(above, p[level], len(zipf))[above], p[level])
            p[level] *= np.minimum(1, room / wanted)
        return p

    low, high = 0.0, MOST / zipf[-1]
    most = limited(high).sum()
    if most < l0:
        raise ValueError(
            f"l0 = {l0:g} features per row cannot be reached with {len(zipf)} features, of which none fires "
            f"on more than {MOST:.0%} of the rows nor a child more often than its parent leaves room for; "
            f"at most {most:.1f}"
        )
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if limited(middle).sum() < l0 else (low, middle)
    return limited(high)
