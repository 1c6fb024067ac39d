"""What a code costs beside its reconstruction error: penalties on codes, and losses that revive dead latents.

Every penalty is summed over the latents of a row and averaged over rows, so that neither the batch size nor the
number of rows changes its value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gossamer import kernels
from gossamer.autoencoder.encoders import PreActivations, rows_of
from gossamer.autoencoder.sparsity import Sparsity
from gossamer.codes import Codes, spread
from gossamer.spec import Spec

__all__ = ["L0", "L1", "AuxK", "Auxiliary", "Penalty"]


class Penalty(Spec):
    """The family of penalties: a non-negative cost of the codes; `weight` multiplies it in the loss."""

    weight: float

    def check(self, sparsity: Sparsity) -> None:
        """Raise ValueError if codes of this sparsity cannot be charged for."""

    def __call__(self, codes: Codes, directions: Tensor) -> Tensor:
        """Return the mean cost of a row, a scalar; directions: decoder rows `(latents, input_width)`."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class L1(Penalty):
    """Charge every latent for what it adds to the reconstruction: mean over rows of Σ_i |z_i| ‖d_i‖.

    With the norms ‖d_i‖ of the decoder rows, shrinking codes while growing the decoder gains nothing.
    Conerly et al. 2024 (https://transformer-circuits.pub/2024/april-update).
    """

    kind: ClassVar[str] = "l1"
    weight: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_weight(self.weight)

    def __call__(self, codes: Codes, directions: Tensor) -> Tensor:
        """Return the penalty without its weight."""
        norms = torch.linalg.vector_norm(directions, dim=1)
        return (codes.values.abs() * spread(codes, norms)).sum() / max(codes.rows, 1)


@dataclass(frozen=True, kw_only=True)
class L0(Penalty):
    """Charge for every active latent: mean over rows of Σ_i H(p_i − θ_i), with the gradient that JumpReLU defines.

    Rajamanoharan et al. 2024 (https://arxiv.org/abs/2407.14435).
    """

    kind: ClassVar[str] = "l0"
    weight: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_weight(self.weight)

    def check(self, sparsity: Sparsity) -> None:
        """Raise ValueError unless the number of active latents has a gradient."""
        if not sparsity.gated:
            raise ValueError(f"the l0 penalty has no gradient with {sparsity.kind!r}; use it with 'jumprelu'")

    def __call__(self, codes: Codes, directions: Tensor) -> Tensor:
        """Return the mean number of active latents of a row."""
        assert codes.gates is not None
        return codes.gates.sum() / max(codes.rows, 1)


class Auxiliary(Spec):
    """The family of losses that give dead latents a gradient."""

    weight: float

    def __call__(self, pre: PreActivations, residual: Tensor, dead: Tensor, directions: Tensor) -> Tensor:
        """Return a scalar.

        residual: `(rows, input_width)`, target minus reconstruction, outside the graph; dead: indices of the dead
        latents; directions: decoder rows `(latents, input_width)`.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class AuxK(Auxiliary):
    """Let the k dead latents with the largest pre-activations explain what the living ones left over.

    With residual e = x − x̂ and ê its reconstruction from those latents: ‖e − ê‖² / ‖e‖². The gradient
    reaches the encoder and the decoder rows of the dead latents, and nothing else.

    k: how many dead latents per row; by default the power of two nearest to half the input width.

    Gao et al. 2024, appendix A.2 (https://arxiv.org/abs/2406.04093).
    """

    kind: ClassVar[str] = "auxk"
    weight: float = 1 / 32
    k: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_weight(self.weight)
        if self.k is not None and self.k < 1:
            raise ValueError(f"k is the number of dead latents per row, at least 1; got {self.k}")

    def __call__(self, pre: PreActivations, residual: Tensor, dead: Tensor, directions: Tensor) -> Tensor:
        """Return the auxiliary loss without its weight; zero if no latent is dead."""
        if dead.shape[0] == 0:
            return residual.new_zeros(())
        k = min(self.k or nearest_power_of_two(residual.shape[1] / 2), dead.shape[0])
        codes, rows = pre.of(dead).topk(k), rows_of(directions, dead)
        places = (codes.offsets, codes.indices, codes.values.relu())
        _, square = kernels.residual(*places, rows, rows.new_zeros(rows.shape[1]), residual)
        scale = torch.linalg.vector_norm(residual).square()
        left = scale > 0  # with nothing left to explain there is nothing to learn
        return square * left / scale.where(left, 1.0)


def _require_weight(weight: float) -> None:
    if weight < 0:
        raise ValueError(f"a weight below 0 would reward what it should charge for; got {weight}")


def nearest_power_of_two(x: float) -> int:
    """Return the power of two whose logarithm is nearest to that of x, at least 1."""
    return 2 ** max(0, round(math.log2(x)))
