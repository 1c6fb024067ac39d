"""Scaling: the units in which an autoencoder is trained, so that learning rates mean the same on any data.

Codes and decoder rows always speak the input's own units. Scaling changes only what the two biases are counted in,
which is why it folds into them without a trace (`SparseAutoencoder.fold`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gossamer.kernels.sharing import once
from gossamer.spec import Spec

__all__ = ["MeanScale", "Scaler", "Scaling", "Unscaled"]


class Scaler(nn.Module):
    """Map a row x to (x − mean) · scale and back. mean: `(input_width,)`, scale: a number > 0."""

    mean: Tensor
    scale: Tensor

    def __init__(self, input_width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(input_width))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the row in training units."""
        return once("scaled", x, (self.mean, self.scale), lambda: (x - self.mean).mul_(self.scale))

    def undo(self, x: Tensor) -> Tensor:
        """Return the row in the input's own units."""
        return x / self.scale + self.mean


class Scaling(Spec):
    """The family of scalings: what is measured on a sample of rows before training."""

    def measure(self, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean `(input_width,)` and scale `()` for these rows."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Unscaled(Scaling):
    """Train in the input's own units."""

    kind: ClassVar[str] = "unscaled"

    def measure(self, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean 0 and scale 1."""
        return sample.new_zeros(sample.shape[1]), sample.new_ones(())


@dataclass(frozen=True, kw_only=True)
class MeanScale(Scaling):
    """Subtract the mean row and divide by one number, so that the mean square of an entry is 1.

    A loss of 1 is then what predicting the mean costs. Conerly et al. 2024, "Update on how we train SAEs"
    (https://transformer-circuits.pub/2024/april-update), with the mean taken out.
    """

    kind: ClassVar[str] = "mean-scale"

    def measure(self, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean row and 1 / root mean square of what is left."""
        mean = sample.mean(dim=0, dtype=torch.float64)
        square = (sample - mean).square().mean()
        rounding = (torch.finfo(sample.dtype).eps * sample.abs().amax()).square()
        scale = torch.where(square > rounding, square, torch.ones_like(square)).rsqrt()
        return mean.to(sample.dtype), scale.to(sample.dtype)
