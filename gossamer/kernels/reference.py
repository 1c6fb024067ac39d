"""The four primitives written as their definitions: slow, obviously right, any device and dtype.

Every other backend is tested against this file. Legend: B rows, D input width, F latents, E entries.
`offsets` (B + 1,) and `indices` (E,) say which latents each row uses, as in `SparseCodes`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gossamer.codes import row_of_entry

__all__ = ["gather_dot", "gather_sum", "scatter_outer", "select_positive", "select_topk"]


def select_topk(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, k: int) -> Tensor:
    """Return `(B, k)`: the latents with the k largest pre-activations x Wᵀ + b, in no particular order."""
    return (x_BD @ weight_FD.T + bias_F).topk(k, dim=-1, sorted=False).indices


def select_positive(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor) -> tuple[Tensor, Tensor]:
    """Return offsets and indices of the positive pre-activations x Wᵀ + b, latents in order."""
    row_E, indices_E = (x_BD @ weight_FD.T + bias_F > 0).nonzero(as_tuple=True)
    counts_B = torch.bincount(row_E, minlength=x_BD.shape[0])
    return torch.nn.functional.pad(counts_B.cumsum(0), (1, 0)), indices_E.clone()


def gather_dot(x_BD: Tensor, weight_FD: Tensor, offsets: Tensor, indices_E: Tensor) -> Tensor:
    """Return `(E,)`: the product of each entry's row of x with its latent's row of the weight."""
    return (x_BD[row_of_entry(offsets, indices_E)] * weight_FD[indices_E]).sum(-1)


def gather_sum(offsets: Tensor, indices_E: Tensor, values_E: Tensor, weight_FD: Tensor) -> Tensor:
    """Return `(B, D)`: for each row, the sum of its latents' weight rows times their values."""
    out_BD = weight_FD.new_zeros(offsets.shape[0] - 1, weight_FD.shape[1])
    return out_BD.index_add(0, row_of_entry(offsets, indices_E), values_E[:, None] * weight_FD[indices_E])


def scatter_outer(offsets: Tensor, indices_E: Tensor, values_E: Tensor, g_BD: Tensor, latents: int) -> Tensor:
    """Return `(F, D)`: for each latent, the sum over its entries of value times the entry's row of g."""
    out_FD = g_BD.new_zeros(latents, g_BD.shape[1])
    return out_FD.index_add(0, indices_E, values_E[:, None] * g_BD[row_of_entry(offsets, indices_E)])
