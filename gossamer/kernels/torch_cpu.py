"""The four primitives for CPUs, from operators that torch and MKL already make fast.

The arithmetic is 2·E·D each (E entries, D width), with no (E, D) or, for selection, float32 (B, F) intermediate.
Where the codes are not sparse (`DENSE` and above) a dense product serves: it gives the same result, faster.
Legend: B rows, D input width, F latents, E entries, K per row, C candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, linear, pad

from gossamer.codes import row_of_entry
from gossamer.kernels import reference
from gossamer.kernels.capability import fast_bfloat16

__all__ = ["gather_dot", "gather_sum", "scatter_outer", "select_positive", "select_topk"]

DENSE = 0.1
"""Density from which the dense products are used."""

SAFETY = 1.5
"""How many times the largest error seen among a row's candidates the cut-off must lie below its k-th value."""


def select_topk(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, k: int) -> Tensor:
    """Return `(B, k)`: the latents with the k largest pre-activations.

    Where bfloat16 products are fast, candidates come from one (with a margin of `margin(k)` latents beyond k), and
    the k best of them are chosen by their values in full precision. A row is done again in full precision unless its
    k-th value is above the candidates' cut-off by more than `SAFETY` times the largest error among its candidates:
    then a latent that was cut off could belong to the k best. Elsewhere all products are in full precision.
    """
    latents = weight_FD.shape[0]
    candidates = k + margin(k)
    if x_BD.dtype != torch.float32 or 2 * candidates > latents or not fast_bfloat16(x_BD.device):
        return reference.select_topk(x_BD, weight_FD, bias_F, k)
    rough_BF = linear(x_BD.bfloat16(), weight_FD.bfloat16(), bias_F.bfloat16())
    rough_BC, indices_BC = rough_BF.topk(candidates, dim=-1, sorted=False)
    offsets = torch.arange(0, indices_BC.numel() + 1, candidates)
    exact_E = gather_dot(x_BD, weight_FD, offsets, indices_BC.view(-1)) + bias_F[indices_BC.view(-1)]
    exact_BC = exact_E.view_as(indices_BC)
    exact_BK, best_BK = exact_BC.topk(k, dim=-1, sorted=False)
    chosen_BK = indices_BC.gather(1, best_BK)
    error_B = (rough_BC - exact_BC).abs().amax(dim=1)
    doubtful = (exact_BK.amin(dim=1) <= rough_BC.amin(dim=1) + SAFETY * error_B).nonzero()[:, 0]
    if doubtful.numel():
        chosen_BK[doubtful] = reference.select_topk(x_BD[doubtful], weight_FD, bias_F, k)
    return chosen_BK


def margin(k: int) -> int:
    """Return how many candidates beyond k the low-precision selection keeps."""
    return max(8, k // 2)


def select_positive(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor) -> tuple[Tensor, Tensor]:
    """Return offsets and indices of the positive pre-activations, latents in order."""
    return reference.select_positive(x_BD, weight_FD, bias_F)


def gather_dot(x_BD: Tensor, weight_FD: Tensor, offsets: Tensor, indices_E: Tensor) -> Tensor:
    """Return `(E,)`: the product of each entry's row of x with its latent's row of the weight."""
    if not _supported(x_BD) or indices_E.numel() == 0:
        return reference.gather_dot(x_BD, weight_FD, offsets, indices_E)
    if _is_dense(offsets, indices_E, weight_FD.shape[0]):
        row_E = row_of_entry(offsets, indices_E)
        return (x_BD @ weight_FD.T)[row_E, indices_E]
    pattern = torch.sparse_csr_tensor(
        offsets.int(),
        indices_E.int(),
        x_BD.new_zeros(indices_E.shape[0]),
        size=(x_BD.shape[0], weight_FD.shape[0]),
        check_invariants=False,
    )
    return torch.sparse.sampled_addmm(pattern, x_BD, weight_FD.T, beta=0.0).values()


def gather_sum(offsets: Tensor, indices_E: Tensor, values_E: Tensor, weight_FD: Tensor) -> Tensor:
    """Return `(B, D)`: for each row, the sum of its latents' weight rows times their values."""
    if not _supported(weight_FD) or indices_E.numel() == 0:
        return reference.gather_sum(offsets, indices_E, values_E, weight_FD)
    if _is_dense(offsets, indices_E, weight_FD.shape[0]):
        return _to_dense(offsets, indices_E, values_E, weight_FD.shape[0]) @ weight_FD
    return _bag(offsets, indices_E, values_E, weight_FD)


def scatter_outer(offsets: Tensor, indices_E: Tensor, values_E: Tensor, g_BD: Tensor, latents: int) -> Tensor:
    """Return `(F, D)`: for each latent, the sum over its entries of value times the entry's row of g.

    Entries are sorted by latent, so that each output row is one sum in a fixed order: no atomics, the same bits
    every time.
    """
    if not _supported(g_BD) or indices_E.numel() == 0:
        return reference.scatter_outer(offsets, indices_E, values_E, g_BD, latents)
    if _is_dense(offsets, indices_E, latents):
        return _to_dense(offsets, indices_E, values_E, latents).T @ g_BD
    row_E = row_of_entry(offsets, indices_E)
    order_E = indices_E.argsort(stable=True)
    offsets_F = pad(torch.bincount(indices_E, minlength=latents).cumsum(0), (1, 0))
    return _bag(offsets_F, row_E[order_E], values_E[order_E], g_BD)


def _bag(offsets: Tensor, indices_E: Tensor, values_E: Tensor, table: Tensor) -> Tensor:
    return embedding_bag(indices_E, table, offsets, mode="sum", per_sample_weights=values_E, include_last_offset=True)


def _to_dense(offsets: Tensor, indices_E: Tensor, values_E: Tensor, latents: int) -> Tensor:
    row_E = row_of_entry(offsets, indices_E)
    dense_BF = values_E.new_zeros(offsets.shape[0] - 1, latents)
    return dense_BF.index_put_((row_E, indices_E), values_E)


def _is_dense(offsets: Tensor, indices_E: Tensor, latents: int) -> bool:
    return indices_E.shape[0] > DENSE * (offsets.shape[0] - 1) * latents


def _supported(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
