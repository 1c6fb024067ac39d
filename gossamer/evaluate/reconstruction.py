"""How much of the rows the codes keep: FVU and cosine, accumulated in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Reconstruction", "ReconstructionScore", "cosine", "fvu"]


@dataclass(frozen=True)
class ReconstructionScore:
    """fvu: fraction of variance unexplained, 0 is perfect, 1 is as good as the mean row. cosine: mean over rows."""

    fvu: float
    cosine: float
    rows: int


class Reconstruction:
    """Accumulate rows and their reconstructions batch by batch.

        FVU = Σ‖x̂ − x‖² / Σ‖x − mean(x)‖²        cosine = mean of ⟨x, x̂⟩ / (‖x‖ ‖x̂‖)

    The mean is that of all rows given; sums of squares about it are merged without cancellation (Chan et al. 1979).
    """

    def __init__(self) -> None:
        self._rows = 0
        self._error = self._spread = self._cosine = 0.0
        self._mean: Tensor | None = None

    def update(self, x: Tensor, x_hat: Tensor) -> None:
        """Add `(rows, input_width)` rows and reconstructions."""
        if x.shape != x_hat.shape or x.dim() != 2:
            raise ValueError(f"expected two (rows, width) tensors, got {tuple(x.shape)} and {tuple(x_hat.shape)}")
        if not len(x):
            return
        x, x_hat = x.double(), x_hat.double()
        mean, rows, total = x.mean(dim=0), len(x), self._rows + len(x)
        self._spread += (x - mean).square().sum().item()
        if self._mean is None:
            self._mean = mean
        else:
            shift = mean - self._mean
            self._spread += shift.square().sum().item() * self._rows * rows / total
            self._mean = self._mean + shift * (rows / total)
        self._rows = total
        self._error += (x_hat - x).square().sum().item()
        self._cosine += torch.nn.functional.cosine_similarity(x, x_hat, dim=1, eps=1e-30).sum().item()

    @property
    def mean(self) -> Tensor:
        """The mean row so far, float64."""
        if self._mean is None:
            raise ValueError("no rows were given")
        return self._mean

    def score(self) -> ReconstructionScore:
        """Return FVU and cosine; NaN for no rows, and FVU is infinite for rows that are all the same but missed."""
        if not self._rows:
            return ReconstructionScore(float("nan"), float("nan"), 0)
        if self._spread == 0:
            return ReconstructionScore(0.0 if self._error == 0 else float("inf"), self._cosine / self._rows, self._rows)
        return ReconstructionScore(self._error / self._spread, self._cosine / self._rows, self._rows)


def fvu(x: Tensor, x_hat: Tensor) -> float:
    """Return the fraction of variance unexplained of `(rows, input_width)` rows: Σ‖x̂ − x‖² / Σ‖x − mean(x)‖²."""
    return _score(x, x_hat).fvu


def cosine(x: Tensor, x_hat: Tensor) -> float:
    """Return the mean cosine between `(rows, input_width)` rows and their reconstructions; 0 where one is zero."""
    return _score(x, x_hat).cosine


def _score(x: Tensor, x_hat: Tensor) -> ReconstructionScore:
    accumulated = Reconstruction()
    accumulated.update(x, x_hat)
    return accumulated.score()
