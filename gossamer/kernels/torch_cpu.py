"""The four primitives for CPUs, from operators that torch and MKL already make fast.

They serve where numba is not installed, and where every pre-activation is wanted in full precision. The arithmetic is
2·E·D each (E entries, D width), with no intermediate of size (E, D).
Where the codes are not sparse (`DENSE` and above) a dense product serves: it gives the same result, faster.
Legend: B rows, D input width, F latents, E entries, K per row, C rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

from gossamer.codes import SparseCodes, concatenate_codes, row_of_entry
from gossamer.kernels import reference
from gossamer.kernels.reference import adam_rows, select_batch_topk

__all__ = [
    "adam_rows",
    "gather_dot",
    "gather_sum",
    "residual",
    "scatter_outer",
    "select_above",
    "select_abs_topk",
    "select_batch_topk",
    "select_group_max",
    "select_topk",
]

DENSE = 0.1
"""Density from which the dense products are used."""

CHUNK_BYTES = 64 * 2**20
"""How much memory the pre-activations of one chunk of rows may take."""


def select_topk(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return indices and values `(B, k)` of the k largest pre-activations of each row."""
    return _as_defined(reference.select_topk, x_BD, weight_FD, bias_F, k)


def select_abs_topk(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return indices and values `(B, k)` of the k pre-activations of each row that are largest in magnitude."""
    return _as_defined(reference.select_abs_topk, x_BD, weight_FD, bias_F, k)


def select_group_max(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return indices and values `(B, groups)` of the largest pre-activation of each group of consecutive latents."""
    return _as_defined(reference.select_group_max, x_BD, weight_FD, bias_F, groups)


def _as_defined(
    select: Callable[..., tuple[Tensor, Tensor]], x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Return what a definition selects, `(B, count)`, a chunk of rows at a time.

    The values are computed once more, one by one: the last bits of those of a product of matrices depend on how many
    rows it has.
    """
    indices_BK = torch.cat([select(x_CD, weight_FD, bias_F, count)[0] for x_CD in _chunks(x_BD, weight_FD)])
    offsets = torch.arange(0, indices_BK.numel() + 1, max(count, 1))
    values_E = gather_dot(x_BD, weight_FD, offsets, indices_BK.view(-1)) + bias_F[indices_BK.view(-1)]
    return indices_BK, values_E.view(indices_BK.shape)


def select_above(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, floor_F: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return offsets, indices and values of all pre-activations above their latent's floor, latents in order."""
    latents = weight_FD.shape[0]
    found = [reference.select_above(x_CD, weight_FD, bias_F, floor_F) for x_CD in _chunks(x_BD, weight_FD)]
    codes = concatenate_codes(SparseCodes(offsets=o, indices=i, values=v, latents=latents) for o, i, v in found)
    offsets, indices_E = codes.offsets, codes.indices
    values_E = gather_dot(x_BD, weight_FD, offsets, indices_E) + bias_F[indices_E]
    above_E = ~(values_E <= floor_F[indices_E])  # rounding can bring one that was found down to its floor
    above_before = pad(above_E.cumsum(0), (1, 0))
    return above_before[offsets], indices_E[above_E], values_E[above_E]


def _chunks(x_BD: Tensor, weight_FD: Tensor) -> tuple[Tensor, ...]:
    return x_BD.split(max(1, CHUNK_BYTES // (x_BD.element_size() * max(1, weight_FD.shape[0]))))


def gather_dot(x_BD: Tensor, weight_FD: Tensor, offsets: Tensor, indices_E: Tensor) -> Tensor:
    """Return `(E,)`: the product of each entry's row of x with its latent's row of the weight."""
    if not _supported(x_BD) or indices_E.numel() == 0:
        return reference.gather_dot(x_BD, weight_FD, offsets, indices_E)
    if _is_dense(offsets, indices_E, weight_FD.shape[0]):
        products_BF = x_BD @ weight_FD.T
        if (indices_BK := _as_matrix(offsets, indices_E)) is not None:
            return products_BF.gather(1, indices_BK).view(-1)
        return products_BF[row_of_entry(offsets, indices_E), indices_E]
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


def residual(
    offsets: Tensor, indices_E: Tensor, values_E: Tensor, weight_FD: Tensor, bias_D: Tensor, target_BD: Tensor
) -> tuple[Tensor, Tensor]:
    """Return r = target − (codes @ W + b), `(B, D)`, and the sum of its squares."""
    rest_BD = target_BD - gather_sum(offsets, indices_E, values_E, weight_FD).add_(bias_D)
    return rest_BD, torch.linalg.vector_norm(rest_BD).square()


def _bag(offsets: Tensor, indices_E: Tensor, values_E: Tensor, table: Tensor) -> Tensor:
    return embedding_bag(indices_E, table, offsets, mode="sum", per_sample_weights=values_E, include_last_offset=True)


def _to_dense(offsets: Tensor, indices_E: Tensor, values_E: Tensor, latents: int) -> Tensor:
    dense_BF = values_E.new_zeros(offsets.shape[0] - 1, latents)
    if (indices_BK := _as_matrix(offsets, indices_E)) is not None:
        return dense_BF.scatter_(1, indices_BK, values_E.reshape(indices_BK.shape))
    return dense_BF.index_put_((row_of_entry(offsets, indices_E), indices_E), values_E)


def _as_matrix(offsets: Tensor, indices_E: Tensor) -> Tensor | None:
    """Return `(B, K)` indices if every row has K of them: for a matrix of places there are faster operators."""
    rows, entries = offsets.shape[0] - 1, indices_E.shape[0]
    if entries % rows or not torch.equal(offsets, torch.arange(0, entries + 1, entries // rows)):
        return None
    return indices_E.view(rows, -1)


def _is_dense(offsets: Tensor, indices_E: Tensor, latents: int) -> bool:
    return indices_E.shape[0] > DENSE * (offsets.shape[0] - 1) * latents


def _supported(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
