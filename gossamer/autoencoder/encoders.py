"""Encoders: from a row to its pre-activations, and the pre-activations themselves.

The last affine map of an encoder is returned *not yet multiplied out*, so that the sparsity can choose the active
latents in low precision and compute only those in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gossamer import kernels
from gossamer.codes import SparseCodes
from gossamer.spec import Spec

__all__ = ["Encoder", "EncoderModule", "Linear", "LinearEncoder", "PreActivations", "rows_of"]


@dataclass(frozen=True, eq=False)
class PreActivations:
    """Stand for x Wᵀ + b, `(rows, latents)`, without computing it.

    x: `(rows, width)`; weight: `(latents, width)`; bias: `(latents,)`.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor

    @property
    def latents(self) -> int:
        """Number of latents."""
        return self.weight.shape[0]

    def dense(self) -> Tensor:
        """Return all of them, `(rows, latents)`."""
        return nn.functional.linear(self.x, self.weight, self.bias)

    def topk(self, k: int) -> SparseCodes:
        """Return the k largest of each row, differentiable."""
        return SparseCodes.from_topk(*kernels.select_topk(self.x, self.weight, self.bias, k), latents=self.latents)

    def above(self, floor: Tensor) -> SparseCodes:
        """Return those above their latent's floor `(latents,)`, differentiable."""
        offsets, indices, values = kernels.select_above(self.x, self.weight, self.bias, floor)
        return SparseCodes(offsets=offsets, indices=indices, values=values, latents=self.latents)

    def batch_topk(self, count: int) -> SparseCodes:
        """Return the `count` largest of all rows together, differentiable."""
        offsets, indices, values = kernels.select_batch_topk(self.x, self.weight, self.bias, count)
        return SparseCodes(offsets=offsets, indices=indices, values=values, latents=self.latents)

    def of(self, latents: Tensor) -> PreActivations:
        """Return the pre-activations of some latents only, `(rows, len(latents))`."""
        return PreActivations(self.x, rows_of(self.weight, latents), self.bias.index_select(0, latents))


def rows_of(weight: Tensor, latents: Tensor) -> Tensor:
    """Return `weight[latents]`, as codes of one entry each: their gradient is no matrix of the size of the weight."""
    offsets = torch.arange(latents.shape[0] + 1, device=latents.device)
    return kernels.gather_sum(offsets, latents, weight.new_ones(latents.shape[0]), weight)


class EncoderModule(nn.Module):
    """What every encoder is: weight `(latents, width)` and bias `(latents,)` of its last affine map, and `forward`."""

    weight: nn.Parameter
    bias: nn.Parameter

    def forward(self, x: Tensor) -> PreActivations:
        """Return the pre-activations of `(rows, input_width)` rows."""
        raise NotImplementedError


class Encoder(Spec):
    """The family of encoders: `build(input_width=, latents=)` makes the module."""

    def build(self, *, input_width: int, latents: int) -> EncoderModule:
        """Return a module that maps `(rows, input_width)` to PreActivations of `latents`."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Linear(Encoder):
    """One affine map: pre-activations = x Wᵀ + b."""

    kind: ClassVar[str] = "linear"

    def build(self, *, input_width: int, latents: int) -> LinearEncoder:
        """Return the module; its weights are zero until they are initialised."""
        return LinearEncoder(input_width, latents)


class LinearEncoder(EncoderModule):
    """Hold weight `(latents, input_width)`, one latent per row, and bias `(latents,)`."""

    def __init__(self, input_width: int, latents: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(latents, input_width))
        self.bias = nn.Parameter(torch.zeros(latents))

    def forward(self, x: Tensor) -> PreActivations:
        """Return x Wᵀ + b, not yet multiplied out."""
        return PreActivations(x, self.weight, self.bias)
