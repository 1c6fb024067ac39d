"""Convergence: when training is over, for people who don't want to count rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

__all__ = ["Convergence"]


class Convergence:
    """Watch a loss until it stops falling.

    Training has converged when the loss of an epoch has not been below the least one by more than `tol` for
    `patience` epochs (losses are 1 for predicting the mean row). The learning rate then falls to zero, as it would at
    the end. With `tol` 0 or less the curves are kept and nothing ends. Where an L0 is steered to, training takes all
    its epochs, and has converged if the L0 was reached.

    score: gives the loss to go by, for instance on held-out rows, instead of that of training.
    """

    def __init__(self, *, tol: float, patience: int, score: Callable[[], float] | None = None) -> None:
        self.tol, self.patience, self.score = tol, patience, score
        self.losses: list[float] = []
        self.scores: list[float] = []
        self.l0 = math.nan
        self.converged = False
        self._best, self._waited = math.inf, 0
        self._last: Mapping[str, float] = {}

    def __call__(self, step: int, figures: Sequence[Mapping[str, float]]) -> bool:
        """Take note of an epoch; return whether to come to the end."""
        self._last = figures[0]
        self.losses.append(self._last["loss"])
        self.l0 = self._last["l0"]
        loss = self.losses[-1]
        if self.score is not None:
            loss = self.score()
            self.scores.append(loss)
        self._waited = 0 if loss < self._best - self.tol else self._waited + 1
        self._best = min(self._best, loss)
        if "target_l0" in self._last:
            self.converged = not self._last.get("missed_l0", True)
            return False
        self.converged = self.converged or (self.tol > 0 and self._waited >= self.patience)
        return self.converged

    def complaint(self) -> str:
        """Say what was not reached."""
        if "target_l0" in self._last:
            wanted, reached = self._last["target_l0"], self._last["reached_l0"]
            return (
                f"asked for {wanted:g} active components per row, reached {reached:.1f}; raise max_iter, or give alpha"
            )
        return (
            f"after max_iter = {len(self.losses)} epochs the loss was still falling by more than tol = {self.tol:g} in "
            f"{self.patience} epochs; raise max_iter or tol"
        )
