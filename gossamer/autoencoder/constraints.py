"""Constraints: what decoder directions may be. Applied around each optimizer step, in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gossamer.spec import Spec

__all__ = ["Constraint", "Free", "NonNegative", "UnitRows"]


class Constraint(Spec):
    """The family of constraints on the decoder rows.

    before: whether the gradient is changed before a step, and `before_step` must be called.
    """

    before: ClassVar[bool] = False

    def before_step(self, weight: Tensor, gradient: Tensor) -> None:
        """Change the gradient so that the step does not leave the constraint to first order."""

    def after_step(self, weight: Tensor) -> None:
        """Bring the weight `(latents, width)` back to the constraint."""


@dataclass(frozen=True, kw_only=True)
class Free(Constraint):
    """Leave the decoder rows as the optimizer makes them."""

    kind: ClassVar[str] = "free"


@dataclass(frozen=True, kw_only=True)
class UnitRows(Constraint):
    """Keep every decoder row at norm 1: the gradient loses its part along the row, g − (g·w) w, then w / ‖w‖.

    Bricken et al. 2023 (https://transformer-circuits.pub/2023/monosemantic-features).
    """

    kind: ClassVar[str] = "unit-rows"
    before: ClassVar[bool] = True

    def before_step(self, weight: Tensor, gradient: Tensor) -> None:
        """Remove the part of each row's gradient that is parallel to the row."""
        along = torch.linalg.vecdot(weight, gradient)
        gradient.addcmul_(weight, along[:, None], value=-1.0)

    def after_step(self, weight: Tensor) -> None:
        """Divide each row by its norm."""
        norm = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
        weight.div_(norm.clamp_min_(torch.finfo(weight.dtype).tiny))


@dataclass(frozen=True, kw_only=True)
class NonNegative(Constraint):
    """Keep every entry of the decoder rows at 0 or above, so that parts only add up: w ← max(w, 0).

    Lee & Seung 1999 (https://doi.org/10.1038/44565); as a projection after each step, Lemme et al. 2012
    (https://doi.org/10.1016/j.neunet.2012.05.003).
    """

    kind: ClassVar[str] = "non-negative"

    def after_step(self, weight: Tensor) -> None:
        """Raise what is negative to 0."""
        weight.clamp_min_(0)
