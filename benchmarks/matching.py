"""Which coefficient gives the L0 that is wanted, and which learning rate to try next.

Both are searches over runs that cost a minute each, so both use what earlier runs have shown. Nothing here runs any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

TOLERANCE = 0.05
"""Two L0 are the same when they differ by at most this share of the one that is wanted."""
ATTEMPTS = 7
STRIDE = 8.0
"""A step beyond what is known changes the coefficient by at most this factor."""


class Scored(Protocol):
    """What a run must tell: the L0 that was wanted, L0 and FVU on held-out rows."""

    @property
    def l0_wanted(self) -> int: ...

    @property
    def l0(self) -> float | None: ...

    @property
    def fvu(self) -> float | None: ...


Run = TypeVar("Run", bound=Scored)


def matches(l0: float | None, target: float) -> bool:
    """Tell whether an L0 is near enough to the one that is wanted."""
    return l0 is not None and abs(l0 - target) <= TOLERANCE * target


def match_l0(
    attempt: Callable[[float], Run | None], *, start: float, target: float, known: Sequence[tuple[float, Run]] = ()
) -> Run | None:
    """Run with one coefficient after the other until L0 is near enough to the target; give the nearest run.

    known: runs that were made before, with their coefficients; the search goes on from them, else it begins at `start`.
    Each next coefficient comes from a line through two known points of log L0 over log coefficient: those that
    enclose the target where there are such, else the two nearest. None where a run failed before any had succeeded.
    """
    found = list(known)
    while not any(matches(run.l0, target) for _, run in found) and len(found) < ATTEMPTS:
        coefficient = next_coefficient([(tried, run.l0 or 0.0) for tried, run in found], target) if found else start
        if any(math.isclose(coefficient, tried, rel_tol=1e-3) for tried, _ in found):
            break
        run = attempt(coefficient)
        if run is None:
            break
        found.append((coefficient, run))
    return min((run for _, run in found), key=lambda run: abs(math.log(_positive(run.l0) / target)), default=None)


def next_coefficient(tried: Sequence[tuple[float, float]], target: float) -> float:
    """Choose the coefficient to try after these (coefficient, L0), to four significant digits."""
    points = sorted((math.log(coefficient), math.log(_positive(l0) / target)) for coefficient, l0 in tried)
    below = [point for point in points if point[1] > 0]  # too many active latents: the coefficient is too small
    above = [point for point in points if point[1] <= 0]
    if below and above:
        low, high = max(below), min(above)
        if low[0] > high[0]:  # noise; L0 should fall with the coefficient
            low, high = sorted(points, key=lambda point: abs(point[1]))[:2]
            return _rounded((low[0] + high[0]) / 2)
        share = low[1] / (low[1] - high[1])
        return _rounded(low[0] + min(0.9, max(0.1, share)) * (high[0] - low[0]))
    last = max(below) if below else min(above)
    slope = -1.0
    if len(points) > 1:
        other = sorted(points, key=lambda point: abs(point[0] - last[0]))[1]
        slope = min(-0.3, (last[1] - other[1]) / (last[0] - other[0]))
    limit = math.log(STRIDE)
    return _rounded(last[0] + min(limit, max(-limit, -last[1] / slope)))


def next_rate(ladder: Sequence[float], tried: Mapping[float, Scored | None], first: float) -> float | None:
    """Choose the learning rate to try next; None when the best so far has a tried neighbor on either side.

    ladder: the rates that may be tried. tried: what came of those that were; a run that failed counts as the worst.
    """
    rungs = sorted(ladder)
    if not tried:
        return first if first in rungs else rungs[len(rungs) // 2]
    best = rungs.index(best_rate(tried))
    neighbors = [rungs[i] for i in (best + 1, best - 1) if 0 <= i < len(rungs)]
    return next((rate for rate in neighbors if rate not in tried), None)


def best_rate(tried: Mapping[float, Scored | None]) -> float:
    """Give the rate with the least FVU among those that have the L0 wanted; among all where none has."""

    def badness(rate: float) -> tuple[bool, float]:
        run = tried[rate]
        if run is None or run.fvu is None or math.isnan(run.fvu):
            return True, math.inf
        return not matches(run.l0, run.l0_wanted), run.fvu

    return min(tried, key=badness)


def _positive(l0: float | None) -> float:
    return max(l0 or 0.0, 1e-2)


def _rounded(logarithm: float) -> float:
    return float(f"{math.exp(logarithm):.4g}")
