"""Gated: one set of numbers decides which latents are active, another how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from gossamer.autoencoder.pre_activations import PreActivations
from gossamer.autoencoder.sparsity.rule import Rule, Sparsity
from gossamer.codes import DenseCodes, SparseCodes, spread

if TYPE_CHECKING:
    from gossamer.autoencoder.autoencoder import AutoencoderSpec

__all__ = ["Gated", "GatedMagnitudes"]


@dataclass(frozen=True, kw_only=True)
class Gated(Sparsity):
    """Let the encoder's pre-activation p open a gate, and a second one, with the same weights, say how much passes:

        z = H(p) · ReLU(exp(r) (p − b_gate) + b_mag)

    The gate has no gradient through z. It learns from what penalties on magnitudes charge, ReLU(p), and from the
    reconstruction that ReLU(p) would make ('gate-reconstruction', which is required). b_mag is kept as its difference
    from exp(r) b_gate, which does not depend on units. Rajamanoharan et al. 2024 (https://arxiv.org/abs/2404.16014).
    """

    kind: ClassVar[str] = "gated"
    ragged: ClassVar[bool] = True

    def build(self, *, latents: int) -> GatedMagnitudes:
        """Return the module that holds the gains and biases of the magnitudes."""
        return GatedMagnitudes(latents)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError if the gates would learn from a penalty alone, and all close."""
        if not any(penalty.kind == "gate-reconstruction" for penalty in spec.penalties):
            raise ValueError("gates learn from the penalty 'gate-reconstruction'; add it")


class GatedMagnitudes(nn.Module, Rule):
    """Hold r, `log_gain` `(latents,)`, and the bias of the magnitudes `(latents,)`."""

    def __init__(self, latents: int) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(latents))
        self.bias = nn.Parameter(torch.zeros(latents))

    def forward(self, pre: PreActivations) -> SparseCodes:
        """Return the magnitudes of what has an open gate."""
        return self.training_codes(pre)

    def training_codes(self, pre: PreActivations, progress: float = 1.0) -> SparseCodes:
        """Return the magnitudes; penalties are charged for the gates."""
        gate = pre.above(pre.offset().new_zeros(pre.latents))
        gain, bias, offset = (spread(gate, t) for t in (self.log_gain.exp(), self.bias, pre.offset()))
        values = _magnitude(gate.values, gain, bias, offset)
        places = {"offsets": gate.offsets, "indices": gate.indices, "latents": gate.latents}
        return SparseCodes(**places, values=values, charged=gate.values)

    def dense(self, pre: PreActivations, progress: float = 1.0) -> DenseCodes:
        """Return the training codes as a matrix, with the same gradients."""
        gate = pre.dense()
        opened = gate > 0
        values = _magnitude(gate, self.log_gain.exp(), self.bias, pre.offset()) * opened
        return DenseCodes(values=values, charged=gate.relu(), entries=opened.count_nonzero())

    @torch.no_grad()
    def reset(self) -> None:
        """Let the magnitudes be the gates' pre-activations."""
        self.log_gain.zero_()
        self.bias.zero_()

    @torch.no_grad()
    def rescale(self, factor: Tensor) -> None:
        """Follow a change of units."""
        self.bias.mul_(factor)


def _magnitude(gate: Tensor, gain: Tensor, bias: Tensor, offset: Tensor) -> Tensor:
    """Return ReLU(gain · gate + bias), whose gradient does not reach the bias of the gate."""
    return (gain * (gate - (offset - offset.detach())) + bias).relu()
