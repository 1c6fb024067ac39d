"""JumpReLU: a learned threshold for each latent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gossamer.autoencoder.pre_activations import PreActivations
from gossamer.autoencoder.sparsity.rule import Rule, Sparsity
from gossamer.codes import DenseCodes, SparseCodes, spread
from gossamer.spec import nearest

__all__ = ["JumpReLU", "JumpReLUThresholds"]

KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "rectangle": lambda u: torch.ones_like(u),
    "triangle": lambda u: 2 - 4 * u.abs(),
    "parabola": lambda u: 1.5 - 6 * u.square(),
}
"""Straight-through kernels K(u) on |u| < ½, each with integral 1."""


@dataclass(frozen=True, kw_only=True)
class JumpReLU(Sparsity):
    """Keep the pre-activations above a learned threshold of each latent: z = p · H(p − θ).

    Gradients of the thresholds as in Rajamanoharan et al. 2024 (https://arxiv.org/abs/2407.14435): with a kernel K(u)
    that is 0 for |u| ≥ ½,  ∂z/∂θ = −(θ/ε) K((p − θ)/ε)  and, for counting penalties,  ∂H/∂θ = −(1/ε) K((p − θ)/ε).

    threshold: θ at the start; bandwidth: ε, how far from its threshold a pre-activation still moves it. Both are in
    training units, in which an entry of a row has mean square 1. kernel: K, "rectangle" (1), "triangle" (2 − 4|u|) or
    "parabola" (1.5 − 6u²).
    """

    kind: ClassVar[str] = "jumprelu"
    ragged: ClassVar[bool] = True
    gated: ClassVar[bool] = True
    threshold: float = 0.5
    bandwidth: float = 0.25
    kernel: str = "rectangle"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.threshold > 0 and self.bandwidth > 0):
            raise ValueError(f"threshold and bandwidth must be above 0, got {self.threshold} and {self.bandwidth}")
        if self.kernel not in KERNELS:
            raise ValueError(f"unknown kernel {self.kernel!r}; {nearest(self.kernel, KERNELS)}")

    def build(self, *, latents: int) -> JumpReLUThresholds:
        """Return the module that holds the thresholds."""
        return JumpReLUThresholds(self, latents)


class JumpReLUThresholds(nn.Module, Rule):
    """Hold ln θ `(latents,)`, so that thresholds stay positive."""

    def __init__(self, spec: JumpReLU, latents: int) -> None:
        super().__init__()
        self.spec = spec
        self.log_threshold = nn.Parameter(torch.empty(latents))
        self.reset()

    def forward(self, pre: PreActivations) -> SparseCodes:
        """Return what is above its threshold."""
        return pre.above(self.log_threshold.detach().exp())

    def training_codes(self, pre: PreActivations, progress: float = 1.0) -> SparseCodes:
        """Return, beside what is above its threshold, what is near enough to move it; it holds zero."""
        threshold = self.log_threshold.exp()
        near = pre.above(threshold.detach() - self.spec.bandwidth / 2)
        values, gates = self._jump(near.values, spread(near, threshold))
        return SparseCodes(offsets=near.offsets, indices=near.indices, values=values, latents=near.latents, gates=gates)

    def dense(self, pre: PreActivations, progress: float = 1.0) -> DenseCodes:
        """Return the training codes as a matrix, with the same gradients."""
        everything = pre.dense()
        threshold = self.log_threshold.exp()
        values, gates = self._jump(everything, threshold.expand_as(everything))
        entries = (everything > threshold - self.spec.bandwidth / 2).count_nonzero()
        return DenseCodes(values=values, gates=gates, entries=entries)

    def floor(self, latents: Tensor) -> Tensor:
        """Return the thresholds of these latents."""
        return self.log_threshold.index_select(0, latents).exp()

    @torch.no_grad()
    def reset(self) -> None:
        """Set all thresholds to the spec's."""
        self.log_threshold.fill_(math.log(self.spec.threshold))

    @torch.no_grad()
    def start(self, floor: Tensor) -> bool:
        """Set the thresholds, to no less than half a bandwidth."""
        self.log_threshold.copy_(floor.clamp_min(self.spec.bandwidth / 2).log())
        return True

    @torch.no_grad()
    def rescale(self, factor: Tensor) -> None:
        """Follow a change of units."""
        self.log_threshold += factor.log()

    def _jump(self, p: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        """Return p · H(p − θ) and H(p − θ), with the gradients that `JumpReLU` states."""
        with torch.no_grad():
            gates = (p > threshold).to(p.dtype)
            u = (p - threshold) / self.spec.bandwidth
            slope = KERNELS[self.spec.kernel](u) * (u.abs() < 0.5) / -self.spec.bandwidth
            value_slope = slope * threshold
        nothing = threshold - threshold.detach()  # zero, with a gradient
        return p * gates + value_slope * nothing, gates + slope * nothing
