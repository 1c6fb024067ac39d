"""Criteria: which value of a path to take, and why, in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gossamer.selection.path import Path
from gossamer.spec import nearest

__all__ = ["CRITERIA", "Choice", "choose", "require_criterion"]


@dataclass(frozen=True, eq=False)
class Choice:
    """The value that a criterion takes: its place on the path, the curve that was looked at, and the reason.

    curve, spread: `(values,)`, mean and standard error over folds of what is to be small.
    """

    index: int
    value: float
    criterion: str
    curve: np.ndarray
    spread: np.ndarray
    reason: str


def choose(
    path: Path, criterion: str = "one-se", *, density_cost: float | None = None, l0: float | None = None, width: int
) -> Choice:
    """Return the value that a criterion takes.

    - "one-se": the sparsest value whose held-out error, plus `density_cost` for each active component, is within one
      standard error of the least (Hastie, Tibshirani & Friedman 2009, section 7.10). Held-out error alone prefers the
      densest codes, always, because a code that may use more components reconstructs better: a price has to be named.
      None: 1 / width, so that a component has to explain at least what a feature has on the average.
    - "error": the least held-out error.
    - "description-length": the fewest bits for code and residual.
    - "probe": the sparsest value whose accuracy is within one standard error of the best; needs labels.
    - "stability": the sparsest value whose directions agree across folds within one standard error of the best.
    - "l0": the value whose held-out L0 is nearest to `l0`.

    width: entries of a row. Raises ValueError for an unknown criterion, or one that the path has no figures for.
    """
    require_criterion(criterion, l0=l0, directions=path.stability is not None)
    if criterion == "l0":
        return _nearest_l0(path, l0)
    price = 1 / width if density_cost is None else density_cost
    costs, unit, slack = CRITERIA[criterion](path, price)
    curve, spread = costs.mean(axis=1), _standard_error(costs)
    best = int(curve.argmin())
    near = np.flatnonzero(curve <= curve[best] + slack * spread[best])
    l0s = path.l0.mean(axis=1)
    index = int(near[l0s[near].argmin()])
    value, name = path.values[index], path.parameter
    if index == best:
        reason = f"{name} = {value:.4g} has the {unit.format(curve[best])}"
    else:
        reason = (
            f"{name} = {value:.4g} is the sparsest within one standard error ({spread[best]:.2g}) of the "
            f"{unit.format(curve[best])}, which {name} = {path.values[best]:.4g} has"
        )
    reason += (
        f"; {l0s[index]:.1f} components are active per row and {path.error[index].mean():.1%} of the variance is lost"
    )
    if criterion == "one-se":
        densest = int(path.error.mean(axis=1).argmin())
        reason += (
            f". An active component was charged {price:.2g}; without a charge the least error alone would have chosen "
            f"{name} = {path.values[densest]:.4g}, with {l0s[densest]:.1f} active"
        )
    return Choice(index, float(value), criterion, curve, spread, reason + ".")


def require_criterion(criterion: str, *, l0: float | None = None, directions: bool = True) -> None:
    """Raise ValueError for an unknown criterion, or one that lacks what it goes by."""
    if criterion not in CRITERIA:
        raise ValueError(f"unknown criterion {criterion!r}; {nearest(criterion, CRITERIA)}")
    if criterion == "l0" and l0 is None:
        raise ValueError("criterion 'l0' needs the L0 to come near to: give l0")
    if criterion == "stability" and not directions:
        raise ValueError("criterion 'stability' compares directions, and decoders with hidden layers have none")


def _nearest_l0(path: Path, l0: float | None) -> Choice:
    assert l0 is not None
    curve = np.abs(np.log(np.maximum(path.l0, 1e-9) / l0))
    index = int(curve.mean(axis=1).argmin())
    reason = (
        f"{path.parameter} = {path.values[index]:.4g} has {path.l0[index].mean():.2f} active components per row, the "
    )
    reason += f"nearest to the {l0:g} asked for; {path.error[index].mean():.1%} of the variance is lost."
    return Choice(index, float(path.values[index]), "l0", curve.mean(axis=1), _standard_error(curve), reason)


def _standard_error(costs: np.ndarray) -> np.ndarray:
    """Return that of the mean over columns, `(values,)`; 0 if there is but one (two folds are one pair)."""
    count = costs.shape[1]
    return costs.std(axis=1, ddof=1) / np.sqrt(count) if count > 1 else np.zeros(len(costs))


def _probe(path: Path, price: float) -> tuple[np.ndarray, str, float]:
    if path.probe is None:
        raise ValueError("criterion 'probe' needs labels: fit(X, y)")
    return 1 - path.probe, "least error of the probe, {:.3f}", 1.0


def _stability(path: Path, price: float) -> tuple[np.ndarray, str, float]:
    assert path.stability is not None
    return 1 - path.stability, "least disagreement between folds, {:.3f}", 1.0


CRITERIA: dict[str, Callable[[Path, float], tuple[np.ndarray, str, float]]] = {
    "one-se": lambda path, price: (path.error + price * path.l0, "least error with the charge, {:.3f}", 1.0),
    "error": lambda path, price: (path.error, "least held-out error, {:.3f}", 0.0),
    "description-length": lambda path, price: (path.bits, "shortest description, {:.1f} bits per row", 0.0),
    "probe": _probe,
    "stability": _stability,
    "l0": lambda path, price: (path.l0, "", 0.0),
}
"""By name: what is to be small, how to say it, and how many standard errors may be given away for sparser codes."""
