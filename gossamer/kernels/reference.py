"""The four primitives written as their definitions: slow, obviously right, any device and dtype.

Every other backend is tested against this file. Legend: B rows, D input width, F latents, E entries.
`offsets` (B + 1,) and `indices` (E,) say which latents each row uses, as in `SparseCodes`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gossamer.codes import row_of_entry
from gossamer.kernels.gradient import AdamStep, Outer

__all__ = [
    "adam_rows",
    "gather_dot",
    "gather_sum",
    "group_size",
    "residual",
    "scatter_outer",
    "select_above",
    "select_abs_topk",
    "select_batch_topk",
    "select_group_max",
    "select_topk",
]


def select_topk(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return indices and values `(B, k)` of the k largest pre-activations x Wᵀ + b, in no particular order."""
    values_BK, indices_BK = (x_BD @ weight_FD.T + bias_F).topk(k, dim=-1, sorted=False)
    return indices_BK, values_BK


def select_abs_topk(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return indices and values `(B, k)` of the k pre-activations x Wᵀ + b of largest magnitude, in no order."""
    pre_BF = x_BD @ weight_FD.T + bias_F
    indices_BK = pre_BF.abs().topk(k, dim=-1, sorted=False).indices
    return indices_BK, pre_BF.gather(1, indices_BK)


def select_group_max(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return indices and values `(B, groups)` of the largest pre-activation of each group of consecutive latents."""
    size = group_size(weight_FD.shape[0], groups)
    pre_BF = x_BD @ weight_FD.T + bias_F
    values_BG, places_BG = pre_BF.view(-1, groups, size).max(dim=-1)
    return places_BG + size * torch.arange(groups, device=x_BD.device), values_BG


def group_size(latents: int, groups: int) -> int:
    """Return how many latents a group has; ValueError if latents cannot be cut into that many equal groups."""
    if not 1 <= groups <= latents or latents % groups:
        raise ValueError(f"{latents} latents cannot be cut into {groups} equal groups; groups must divide latents")
    return latents // groups


def select_above(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, floor_F: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return offsets, indices and values of the pre-activations above their latent's floor, latents in order."""
    pre_BF = x_BD @ weight_FD.T + bias_F
    return _entries(pre_BF, ~(pre_BF <= floor_F))  # NaN stays, so that it is seen


def select_batch_topk(
    x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, count: int, guess: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return offsets, indices and values of the `count` largest pre-activations of all rows. A guess is ignored."""
    pre_BF = x_BD @ weight_FD.T + bias_F
    chosen_BF = torch.zeros_like(pre_BF, dtype=torch.bool)
    chosen_BF.view(-1)[pre_BF.view(-1).topk(count, sorted=False).indices] = True
    return _entries(pre_BF, chosen_BF)


def _entries(pre_BF: Tensor, chosen_BF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    row_E, indices_E = chosen_BF.nonzero(as_tuple=True)
    offsets = torch.nn.functional.pad(chosen_BF.sum(dim=1).cumsum(0), (1, 0))
    return offsets, indices_E.clone(), pre_BF[row_E, indices_E]


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


def residual(
    offsets: Tensor, indices_E: Tensor, values_E: Tensor, weight_FD: Tensor, bias_D: Tensor, target_BD: Tensor
) -> tuple[Tensor, Tensor]:
    """Return r = target − (codes @ W + b), `(B, D)`, and the sum of its squares."""
    rest_BD = target_BD - (gather_sum(offsets, indices_E, values_E, weight_FD) + bias_D)
    return rest_BD, rest_BD.square().sum()


def adam_rows(
    weight_FD: Tensor,
    first_FD: Tensor,
    second_FD: Tensor,
    terms: Sequence[Outer],
    dense: Tensor | None,
    step: AdamStep,
    *,
    unit_rows: bool,
) -> None:
    """Do one step of Adam in place (Kingma & Ba 2014, https://arxiv.org/abs/1412.6980).

        g = Σ codesᵀ @ rows over the terms, + dense            if unit_rows: g ← g − ⟨g, w⟩ w, row by row
        m ← β₁ m + (1 − β₁) g      v ← β₂ v + (1 − β₂) g²
        w ← w − rate · (m / correction₁) / (√(v / correction₂) + eps)       if unit_rows: w ← w / ‖w‖

    The moments may be stored in another dtype than the weight's, in which the arithmetic is done.
    """
    g_FD = torch.zeros_like(weight_FD) if dense is None else dense.clone()
    for term in terms:
        g_FD += scatter_outer(*term, weight_FD.shape[0])
    if unit_rows:
        g_FD -= (g_FD * weight_FD).sum(1, keepdim=True) * weight_FD
    m_FD = step.beta1 * first_FD.to(weight_FD.dtype) + (1 - step.beta1) * g_FD
    v_FD = step.beta2 * second_FD.to(weight_FD.dtype) + (1 - step.beta2) * g_FD.square()
    first_FD.copy_(m_FD)
    second_FD.copy_(v_FD)
    weight_FD -= step.rate * (m_FD / step.correction1) / ((v_FD / step.correction2).sqrt() + step.eps)
    if unit_rows:
        norm_F1 = torch.linalg.vector_norm(weight_FD, dim=1, keepdim=True)
        weight_FD /= norm_F1.where(norm_F1 > 0, 1.0)
