"""Matching pursuit: the active latents are found one after the other, each by what the ones before left over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from gossamer import kernels
from gossamer.autoencoder.pre_activations import Affine, PreActivations
from gossamer.autoencoder.sparsity.rule import Sparsity, require_k
from gossamer.codes import SparseCodes

if TYPE_CHECKING:
    from gossamer.autoencoder.autoencoder import AutoencoderSpec

__all__ = ["MatchingPursuit", "OrthogonalMatchingPursuit"]


@dataclass(frozen=True, kw_only=True)
class MatchingPursuit(Sparsity):
    """Take the direction that explains most of the residual, subtract it, and again, k times:

        r⁰ = x − b_dec,   i = argmax_j ⟨d_j, rᵗ⟩,   z_i += ⟨d_i, rᵗ⟩,   rᵗ⁺¹ = rᵗ − ⟨d_i, rᵗ⟩ d_i

    until nothing has a positive product with the residual. The encoder is 'tied'; its bias plays no part. A step costs
    k products of rows and directions instead of one. Gradients pass through all steps of the residual.

    k: steps, and active latents per row, at most. Mallat & Zhang 1993 (https://doi.org/10.1109/78.258082); as a sparse
    autoencoder Costa et al. 2025 (https://arxiv.org/abs/2506.03093).
    """

    kind: ClassVar[str] = "matching-pursuit"
    k: int

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless 1 <= k <= latents and the encoder is tied."""
        require_k(self.k, spec.latents)
        if spec.encoder.kind != "tied":
            raise ValueError("matching pursuit subtracts the decoder's directions; it needs the encoder 'tied'")

    def __call__(self, pre: PreActivations) -> SparseCodes:
        """Return the codes; a direction that was taken twice has one entry."""
        assert isinstance(pre, Affine)
        indices, values = _Pursuit.apply(pre.x, pre.weight, self.k)
        return _summed(SparseCodes.from_topk(indices, values, latents=pre.latents))

    def with_l0(self, l0: int) -> Self:
        """Return the rule with another k."""
        return self.replace(k=l0)


@dataclass(frozen=True, kw_only=True)
class OrthogonalMatchingPursuit(MatchingPursuit):
    """Like matching pursuit, but after each choice all values are fitted again:

        i = argmax_j |⟨d_j, rᵗ⟩|, j not chosen,   z = argmin ‖x − b_dec − Σ_chosen z_j d_j‖²,   rᵗ⁺¹ = x − b_dec − z D

    Values may be negative. It comes nearest to the best code with k active latents. Codes have no gradient: they are a
    minimum, so that the gradient of the squared error by the directions is exact without one; but penalties on codes
    change nothing. A step costs as much as one product of rows and directions, and k of rows and a table of the
    directions' products, `(latents, latents)`; above `LARGEST_TABLE` latents, k products of rows and directions.

    Pati, Rezaiifar & Krishnaprasad 1993 (https://doi.org/10.1109/ACSSC.1993.342465); to learn directions by it, Aharon,
    Elad & Bruckstein 2006 (https://doi.org/10.1109/TSP.2006.881199).
    """

    kind: ClassVar[str] = "orthogonal-matching-pursuit"
    signed: ClassVar[bool] = True

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless matching pursuit could serve, and no penalty asks for a gradient of codes."""
        super().check(spec)
        if spec.penalties:
            raise ValueError(f"codes of {self.kind!r} have no gradient, which the penalties on them would need")

    def __call__(self, pre: PreActivations) -> SparseCodes:
        """Return the codes, k entries in each row."""
        assert isinstance(pre, Affine)
        return SparseCodes.from_topk(*_orthogonal(pre.x.detach(), pre.weight.detach(), self.k), latents=pre.latents)


LARGEST_TABLE = 8192
RIDGE = 1e-6
"""Added to the squared norm of directions, for the case that chosen ones depend on each other."""


@torch.no_grad()
def _orthogonal(x: Tensor, weight: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return indices and values `(rows, k)` of the orthogonal pursuit, by the normal equations of the chosen."""
    seen = x @ weight.T
    table = weight @ weight.T if len(weight) <= LARGEST_TABLE else None
    ridge = RIDGE * torch.eye(k, dtype=x.dtype, device=x.device)
    chosen, left, z = torch.empty(len(x), 0, dtype=torch.int64, device=x.device), seen, x[:, :0]
    for step in range(k):
        score = left.abs().scatter_(1, chosen, -1.0)
        chosen = torch.cat([chosen, score.argmax(dim=1, keepdim=True)], dim=1)
        if table is not None:
            among = table[chosen[:, :, None], chosen[:, None, :]]
        else:
            directions = weight[chosen]
            among = directions @ directions.mT
        factor = torch.linalg.cholesky_ex(among + ridge[: step + 1, : step + 1]).L
        z = torch.cholesky_solve(seen.gather(1, chosen)[:, :, None], factor)[:, :, 0]
        if step < k - 1:
            by = weight if table is None else table
            explained = torch.nn.functional.embedding_bag(chosen, by, per_sample_weights=z, mode="sum")
            left = seen - (explained if table is not None else explained @ weight.T)
    return chosen, z


class _Pursuit(torch.autograd.Function):
    """Indices and values `(rows, k)` of the pursuit. Backward goes the same way back: rᵗ = rᵗ⁺¹ + zᵗ dᵗ, so that no
    residual but the last is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, k: int) -> tuple[Tensor, Tensor]:
        rest, nothing = x, weight.new_zeros(weight.shape[0])
        indices, values = [], []
        for _ in range(k):
            index, value = kernels.select_topk(rest, weight, nothing, 1)
            value = value.relu_()
            rest = rest - value * weight[index[:, 0]]
            indices.append(index)
            values.append(value)
        chosen, z = torch.cat(indices, dim=1), torch.cat(values, dim=1)
        ctx.mark_non_differentiable(chosen)
        ctx.save_for_backward(weight, chosen, z, rest)
        return chosen, z

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        weight, chosen, z, rest = ctx.saved_tensors
        rest, g_rest, g_weight = rest.clone(), torch.zeros_like(rest), torch.zeros_like(weight)
        for step in reversed(range(z.shape[1])):
            index, value = chosen[:, step], z[:, step, None]
            direction = weight[index]
            g_value = gradients[1][:, step, None] - (g_rest * direction).sum(dim=1, keepdim=True)
            g_value = g_value * (value > 0)
            rest += value * direction
            g_weight.index_add_(0, index, g_value * rest - value * g_rest)
            g_rest += g_value * direction
        return g_rest, g_weight, None


def _summed(codes: SparseCodes) -> SparseCodes:
    """Return codes in which each latent of a row has one entry, the sum of what it had."""
    keys = codes.row_of_entry() * codes.latents + codes.indices
    found, place = torch.unique(keys, return_inverse=True)
    values = codes.values.new_zeros(len(found)).index_add(0, place, codes.values)
    rows = torch.bincount(found // codes.latents, minlength=codes.rows)
    return SparseCodes(
        offsets=torch.nn.functional.pad(rows.cumsum(0), (1, 0)),
        indices=found % codes.latents,
        values=values,
        latents=codes.latents,
    )
