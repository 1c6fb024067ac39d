"""Sparsity: from pre-activations to codes. One frozen class per rule; it is its own part when it has no tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gossamer.autoencoder.encoders import PreActivations
from gossamer.codes import DenseCodes, SparseCodes, spread
from gossamer.spec import Spec

__all__ = ["JumpReLU", "JumpReLUThresholds", "ReLU", "Sparsity", "TopK"]


class Sparsity(Spec):
    """The family of sparsities: called with PreActivations, they return SparseCodes.

    ragged: whether the number of active latents depends on the data, so that it may be large at first; then `dense`
    gives the same codes as a matrix. gated: whether the codes have gates, for penalties that count active latents.
    """

    ragged: ClassVar[bool] = False
    gated: ClassVar[bool] = False

    def check(self, *, latents: int) -> None:
        """Raise ValueError if the rule cannot serve this many latents."""

    def __call__(self, pre: PreActivations) -> SparseCodes:
        """Choose the active latents of each row and return their values, differentiable."""
        raise NotImplementedError

    def training_codes(self, pre: PreActivations) -> SparseCodes:
        """Return the codes with what only training needs: entries that hold zero but have a gradient, gates."""
        return self(pre)

    def dense(self, pre: PreActivations) -> DenseCodes:
        """Return the training codes as a matrix, with the same gradients."""
        raise NotImplementedError

    def reset(self) -> None:
        """Go back to the start, if there is anything learned."""

    def rescale(self, factor: Tensor) -> None:
        """Follow a change of the training units, in which all pre-activations are multiplied by this factor."""


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
        """Select in low precision where that is fast; the values are in full precision."""
        codes = pre.topk(self.k)
        return codes.replace_values(codes.values.relu())


@dataclass(frozen=True, kw_only=True)
class ReLU(Sparsity):
    """Keep every positive pre-activation: z = max(p, 0). How many there are depends on a penalty, such as L1."""

    kind: ClassVar[str] = "relu"
    ragged: ClassVar[bool] = True

    def __call__(self, pre: PreActivations) -> SparseCodes:
        """Return the positive pre-activations."""
        return pre.above(pre.bias.new_zeros(pre.latents))

    def dense(self, pre: PreActivations) -> DenseCodes:
        """Return them as a matrix."""
        return DenseCodes(values=pre.dense().relu())


@dataclass(frozen=True, kw_only=True)
class JumpReLU(Sparsity):
    """Keep the pre-activations above a learned threshold of each latent: z = p · H(p − θ).

    Gradients of the thresholds as in Rajamanoharan et al. 2024 (https://arxiv.org/abs/2407.14435): with the rectangle
    K(u) = 1 for |u| < ½,  ∂z/∂θ = −(θ/ε) K((p − θ)/ε)  and, for counting penalties,  ∂H/∂θ = −(1/ε) K((p − θ)/ε).

    threshold: θ at the start; bandwidth: ε, how far from its threshold a pre-activation still moves it. Both are in
    training units, in which an entry of a row has mean square 1.
    """

    kind: ClassVar[str] = "jumprelu"
    ragged: ClassVar[bool] = True
    gated: ClassVar[bool] = True
    threshold: float = 0.5
    bandwidth: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.threshold > 0 and self.bandwidth > 0):
            raise ValueError(f"threshold and bandwidth must be above 0, got {self.threshold} and {self.bandwidth}")

    def build(self, *, latents: int) -> JumpReLUThresholds:
        """Return the module that holds the thresholds."""
        return JumpReLUThresholds(self, latents)


class JumpReLUThresholds(nn.Module):
    """Hold ln θ `(latents,)`, so that thresholds stay positive."""

    def __init__(self, spec: JumpReLU, latents: int) -> None:
        super().__init__()
        self.spec = spec
        self.log_threshold = nn.Parameter(torch.empty(latents))
        self.reset()

    def forward(self, pre: PreActivations) -> SparseCodes:
        """Return what is above its threshold."""
        return pre.above(self.log_threshold.detach().exp())

    def training_codes(self, pre: PreActivations) -> SparseCodes:
        """Return, beside what is above its threshold, what is near enough to move it; it holds zero."""
        threshold = self.log_threshold.exp()
        near = pre.above(threshold.detach() - self.spec.bandwidth / 2)
        values, gates = _jump(near.values, spread(near, threshold), self.spec.bandwidth)
        return SparseCodes(offsets=near.offsets, indices=near.indices, values=values, latents=near.latents, gates=gates)

    def dense(self, pre: PreActivations) -> DenseCodes:
        """Return the training codes as a matrix, with the same gradients."""
        everything = pre.dense()
        threshold = self.log_threshold.exp()
        values, gates = _jump(everything, threshold.expand_as(everything), self.spec.bandwidth)
        entries = (everything > threshold - self.spec.bandwidth / 2).count_nonzero()
        return DenseCodes(values=values, gates=gates, entries=entries)

    @torch.no_grad()
    def reset(self) -> None:
        """Set all thresholds to the spec's."""
        self.log_threshold.fill_(math.log(self.spec.threshold))

    @torch.no_grad()
    def rescale(self, factor: Tensor) -> None:
        """Follow a change of the training units."""
        self.log_threshold += factor.log()


def _jump(p: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    """Return p · H(p − θ) and H(p − θ), with the gradients that `JumpReLU` states."""
    with torch.no_grad():
        gates = (p > threshold).to(p.dtype)
        slope = ((p - threshold).abs() < bandwidth / 2).to(p.dtype) / -bandwidth
        value_slope = slope * threshold
    nothing = threshold - threshold.detach()  # zero, with a gradient
    return p * gates + value_slope * nothing, gates + slope * nothing
