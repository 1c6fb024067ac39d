"""Sparsity: from pre-activations to codes. One frozen class per rule; it is its own part when it has no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gossamer import kernels
from gossamer.autoencoder.encoders import PreActivations
from gossamer.codes import SparseCodes
from gossamer.spec import Spec

__all__ = ["ReLU", "Sparsity", "TopK"]


class Sparsity(Spec):
    """The family of sparsities: called with PreActivations, they return SparseCodes."""

    def check(self, *, latents: int) -> None:
        """Raise ValueError if the rule cannot serve this many latents."""

    def __call__(self, pre: PreActivations) -> SparseCodes:
        """Choose the active latents of each row and return their values, differentiable."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TopK(Sparsity):
    """Keep the k largest pre-activations of each row, those that are positive: z = ReLU(top_k(p)).

    k: active latents per row, at most; equal to L0 except on rows with fewer positive pre-activations.

    Makhzani & Frey 2013 (https://arxiv.org/abs/1312.5663), Gao et al. 2024 (https://arxiv.org/abs/2406.04093).
    """

    kind: ClassVar[str] = "topk"
    k: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1:
            raise ValueError(f"k is the number of active latents per row, at least 1; got {self.k}")

    def check(self, *, latents: int) -> None:
        """Raise ValueError unless k <= latents."""
        if self.k > latents:
            raise ValueError(
                f"l0 = {self.k} active latents per row are more than the {latents} latents there are; "
                "lower l0 or raise latents"
            )

    def __call__(self, pre: PreActivations) -> SparseCodes:
        """Select in low precision where that is fast, compute the values in full precision."""
        indices = kernels.select_topk(pre.x, pre.weight, pre.bias, self.k)
        latents = pre.weight.shape[0]
        where = SparseCodes.from_topk(indices, indices.new_empty(indices.shape), latents=latents)
        codes = pre.at(where.offsets, where.indices)
        return codes.replace_values(codes.values.relu())


@dataclass(frozen=True, kw_only=True)
class ReLU(Sparsity):
    """Keep every positive pre-activation: z = max(p, 0). How many there are depends on a penalty, such as L1."""

    kind: ClassVar[str] = "relu"

    def __call__(self, pre: PreActivations) -> SparseCodes:
        """Return the positive pre-activations."""
        codes = pre.at(*kernels.select_positive(pre.x, pre.weight, pre.bias))
        return codes.replace_values(codes.values.relu())  # rounding can bring a chosen one below zero
