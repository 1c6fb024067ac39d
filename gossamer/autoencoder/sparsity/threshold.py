"""Fixed thresholds: what autoencoders that were trained elsewhere keep, once training is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gossamer.autoencoder.pre_activations import PreActivations
from gossamer.autoencoder.sparsity.rule import Rule, Sparsity
from gossamer.codes import DenseCodes, SparseCodes

__all__ = ["Threshold", "Thresholds"]


@dataclass(frozen=True, kw_only=True)
class Threshold(Sparsity):
    """Keep the pre-activations above a fixed threshold of each latent: z = p · H(p − θ), θ ≥ 0.

    What JumpReLU and BatchTopK come down to at inference, whoever trained them. θ is held as it is, zeros included, and
    is no parameter: 'jumprelu', which learns its thresholds, holds their logarithms.
    """

    kind: ClassVar[str] = "threshold"
    ragged: ClassVar[bool] = True

    def build(self, *, latents: int) -> Thresholds:
        """Return the module that holds the thresholds."""
        return Thresholds(latents)


class Thresholds(nn.Module, Rule):
    """Hold θ, `threshold` `(latents,)`."""

    threshold: Tensor

    def __init__(self, latents: int) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.zeros(latents))

    def forward(self, pre: PreActivations) -> SparseCodes:
        """Return what is above its threshold."""
        return pre.above(self.threshold)

    def dense(self, pre: PreActivations, progress: float = 1.0) -> DenseCodes:
        """Return the same codes as a matrix."""
        everything = pre.dense()
        return DenseCodes(values=everything * (everything > self.threshold))

    def floor(self, latents: Tensor) -> Tensor:
        """Return the thresholds of these latents."""
        return self.threshold[latents]

    @torch.no_grad()
    def reset(self) -> None:
        """Set all thresholds to zero."""
        self.threshold.zero_()

    @torch.no_grad()
    def start(self, floor: Tensor) -> bool:
        """Set the thresholds."""
        self.threshold.copy_(floor.clamp_min(0))
        return True

    @torch.no_grad()
    def rescale(self, factor: Tensor) -> None:
        """Follow a change of units."""
        self.threshold.mul_(factor)
