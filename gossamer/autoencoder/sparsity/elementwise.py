"""Sparsities that look at each pre-activation alone and keep no number in mind: identity, ReLU, sigmoid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gossamer.autoencoder.pre_activations import PreActivations
from gossamer.autoencoder.sparsity.rule import Sparsity
from gossamer.codes import DenseCodes, SparseCodes

__all__ = ["Identity", "ReLU", "Sigmoid"]


@dataclass(frozen=True, kw_only=True)
class Identity(Sparsity):
    """Keep everything as it is, z = p: a plain autoencoder."""

    kind: ClassVar[str] = "none"
    ragged: ClassVar[bool] = True
    signed: ClassVar[bool] = True

    def __call__(self, pre: PreActivations) -> SparseCodes:
        """Return codes with an entry for every latent."""
        return _all_entries(pre.dense())

    def dense(self, pre: PreActivations, progress: float = 1.0) -> DenseCodes:
        """Return all pre-activations."""
        return DenseCodes(values=pre.dense())


@dataclass(frozen=True, kw_only=True)
class ReLU(Sparsity):
    """Keep every positive pre-activation: z = max(p, 0). How many there are depends on a penalty, such as L1."""

    kind: ClassVar[str] = "relu"
    ragged: ClassVar[bool] = True

    def __call__(self, pre: PreActivations) -> SparseCodes:
        """Return the positive pre-activations."""
        return pre.above(pre.offset().new_zeros(pre.latents))

    def dense(self, pre: PreActivations, progress: float = 1.0) -> DenseCodes:
        """Return them as a matrix."""
        return DenseCodes(values=pre.dense().relu())


@dataclass(frozen=True, kw_only=True)
class Sigmoid(Sparsity):
    """Squash every pre-activation: z = 1 / (1 + exp(−p)). A unit is never quite off; it counts as active above ½.

    Ng 2011, "Sparse autoencoder" (https://web.stanford.edu/class/cs294a/sparseAutoencoder_2011new.pdf).
    """

    kind: ClassVar[str] = "sigmoid"
    ragged: ClassVar[bool] = True
    homogeneous: ClassVar[bool] = False
    LEVEL: ClassVar[float] = 0.5

    def __call__(self, pre: PreActivations) -> SparseCodes:
        """Return codes with an entry for every latent."""
        return _all_entries(pre.dense().sigmoid(), level=self.LEVEL)

    def dense(self, pre: PreActivations, progress: float = 1.0) -> DenseCodes:
        """Return all activations."""
        return DenseCodes(values=pre.dense().sigmoid(), level=self.LEVEL)


def _all_entries(values: Tensor, level: float = 0.0) -> SparseCodes:
    rows, latents = values.shape
    offsets = torch.arange(rows + 1, device=values.device) * latents
    indices = torch.arange(latents, device=values.device).repeat(rows)
    return SparseCodes(offsets=offsets, indices=indices, values=values.flatten(), latents=latents, level=level)
