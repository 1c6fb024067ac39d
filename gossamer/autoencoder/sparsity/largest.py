"""Sparsities that keep a fixed number of latents of each row: TopK, AbsTopK, GroupMax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from gossamer.autoencoder.pre_activations import PreActivations
from gossamer.autoencoder.sparsity.rule import Sparsity, require_k
from gossamer.codes import SparseCodes

if TYPE_CHECKING:
    from gossamer.autoencoder.autoencoder import AutoencoderSpec

__all__ = ["AbsTopK", "GroupMax", "LinearTopK", "TopK"]


@dataclass(frozen=True, kw_only=True)
class TopK(Sparsity):
    """Keep the k largest pre-activations of each row, those that are positive: z = ReLU(top_k(p)).

    k: active latents per row, at most; equal to L0 except on rows with fewer positive pre-activations.
    start_k: k at the first step, if it is to fall linearly to k over the first half of the training (Makhzani & Frey
    2013, section 4.2.1); None keeps it.

    Makhzani & Frey 2013 (https://arxiv.org/abs/1312.5663), Gao et al. 2024 (https://arxiv.org/abs/2406.04093).
    """

    kind: ClassVar[str] = "topk"
    k: int
    start_k: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1:
            raise ValueError(f"k is the number of active latents per row, at least 1; got {self.k}")
        if self.start_k is not None and self.start_k < self.k:
            raise ValueError(f"start_k falls to k = {self.k}, so it must not be lower; got {self.start_k}")

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless k <= latents."""
        require_k(max(self.k, self.start_k or 0), spec.latents)

    def __call__(self, pre: PreActivations) -> SparseCodes:
        """Select in low precision where that is fast; the values are in full precision."""
        return self._keep(pre, self.k)

    def training_codes(self, pre: PreActivations, progress: float = 1.0) -> SparseCodes:
        """Keep as many as at this point of the training."""
        start = self.k if self.start_k is None else self.start_k
        return self._keep(pre, self.k + round(max(0.0, 1 - 2 * progress) * (start - self.k)))

    def with_l0(self, l0: int) -> Self:
        """Return the rule with another k."""
        return self.replace(k=l0, start_k=None)

    def _keep(self, pre: PreActivations, k: int) -> SparseCodes:
        codes = pre.topk(k)
        return codes.replace_values(codes.values.relu())


@dataclass(frozen=True, kw_only=True)
class LinearTopK(TopK):
    """Keep the k largest pre-activations of each row, whatever their sign: z = top_k(p).

    The activation of k-sparse autoencoders: Makhzani & Frey 2013 (https://arxiv.org/abs/1312.5663).
    """

    kind: ClassVar[str] = "linear-topk"
    signed: ClassVar[bool] = True

    def _keep(self, pre: PreActivations, k: int) -> SparseCodes:
        return pre.topk(k)


@dataclass(frozen=True, kw_only=True)
class AbsTopK(TopK):
    """Keep the k pre-activations of each row with the largest magnitude, with their signs: one latent, two directions.

    activation: "linear"; "relu" is refused, because it would take one sign away again. Zhu et al. 2025
    (https://arxiv.org/abs/2510.00404).
    """

    kind: ClassVar[str] = "abs-topk"
    signed: ClassVar[bool] = True
    activation: str = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation != "linear":
            raise ValueError(
                f"codes of 'abs-topk' are signed, which activation {self.activation!r} would undo; use 'topk' for "
                "codes that are not negative"
            )

    def _keep(self, pre: PreActivations, k: int) -> SparseCodes:
        return pre.abs_topk(k)


@dataclass(frozen=True, kw_only=True)
class GroupMax(Sparsity):
    """Cut the latents into k equal groups and keep the largest pre-activation of each, if it is positive.

    k: groups, and active latents per row at most. Latents are consecutive in a group. The one-hot groups of
    compositional codes (Shu & Nakayama 2018, https://arxiv.org/abs/1711.01068) with magnitudes.
    """

    kind: ClassVar[str] = "group-max"
    k: int

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless the latents can be cut into k equal groups."""
        require_k(self.k, spec.latents)
        if spec.latents % self.k:
            raise ValueError(f"{spec.latents} latents cannot be cut into {self.k} equal groups")

    def __call__(self, pre: PreActivations) -> SparseCodes:
        """Select in low precision where that is fast; the values are in full precision."""
        codes = pre.group_max(self.k)
        return codes.replace_values(codes.values.relu())
