"""What every sparsity is: from pre-activations to codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from gossamer.autoencoder.pre_activations import PreActivations
from gossamer.codes import Codes, DenseCodes, SparseCodes
from gossamer.spec import Spec

if TYPE_CHECKING:
    from gossamer.autoencoder.autoencoder import AutoencoderSpec

__all__ = ["Rule", "Sparsity", "require_k"]


class Rule:
    """What a sparsity does: called with PreActivations, it returns SparseCodes, each row by itself."""

    def __call__(self, pre: PreActivations) -> SparseCodes:
        """Choose the active latents of each row and return their values, differentiable."""
        raise NotImplementedError

    def training_codes(self, pre: PreActivations, progress: float = 1.0) -> SparseCodes:
        """Return the codes with what only training needs: a choice that looks at the whole batch or at how much of the
        training is done (progress, 0 to 1), entries that hold zero but have a gradient, gates."""
        return self(pre)

    def dense(self, pre: PreActivations, progress: float = 1.0) -> DenseCodes:
        """Return the training codes as a matrix, with the same gradients."""
        raise NotImplementedError

    def note(self, codes: Codes) -> None:
        """Take note of the training codes of a step."""

    def floor(self, latents: Tensor) -> Tensor:
        """Return `(len(latents),)`: what pre-activations of these latents have to exceed to be active."""
        return latents.new_zeros(latents.shape, dtype=torch.get_default_dtype())

    def reset(self) -> None:
        """Go back to the start, if there is anything learned."""

    def start(self, floor: Tensor) -> bool:
        """Take `(latents,)` values that pre-activations shall have to exceed at first; say whether the rule can."""
        return False

    def rescale(self, factor: Tensor) -> None:
        """Follow a change of units, in which all pre-activations are multiplied by this factor."""


class Sparsity(Spec, Rule):
    """The family of sparsities. One without tensors is its own Rule; others `build` one.

    ragged: whether the number of active latents depends on the data, so that it may be large at first; then `dense`
    gives the same codes as a matrix. gated: whether the codes have gates, for penalties that count active latents.
    signed: whether values may be negative. homogeneous: whether codes of c · p are c times those of p, for c > 0.
    """

    ragged: ClassVar[bool] = False
    gated: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    homogeneous: ClassVar[bool] = True

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError if the rule cannot serve in this autoencoder."""

    def with_l0(self, l0: int) -> Self:
        """Return the rule with another number of active latents per row; raises ValueError if it has none."""
        raise ValueError(f"sparsity {self.kind!r} has no number of active latents that could be chosen")


def require_k(k: int, latents: int) -> None:
    """Raise ValueError unless there are k latents."""
    if k < 1:
        raise ValueError(f"k is the number of active latents per row, at least 1; got {k}")
    if k > latents:
        raise ValueError(
            f"l0 = {k} active latents per row are more than the {latents} latents there are; lower l0 or raise latents"
        )
