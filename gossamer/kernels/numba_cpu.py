"""The four primitives for CPUs as compiled loops over rows (or over latents), and the optimizer's step in one pass.

Selection is in `numba_select.py`. Everything here reads the rows that it needs and writes its result, with no
intermediate of size (E, D). README.md has the derivation and the memory traffic.

Legend: B rows, D input width, F latents, E entries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gossamer.kernels import reference, torch_cpu
from gossamer.kernels.compilation import compiled
from gossamer.kernels.gradient import AdamStep, Outer
from gossamer.kernels.numba_select import (
    gather_dot_rows,
    select_above,
    select_abs_topk,
    select_batch_topk,
    select_group_max,
    select_topk,
)
from gossamer.kernels.threads import by_torch, in_blocks

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

DENSE = 0.25
"""Density from which products of matrices are faster than products with the chosen latents."""


# ------------------------------------------------------------------------- products with the chosen latents


def gather_dot(x_BD: Tensor, weight_FD: Tensor, offsets: Tensor, indices_E: Tensor) -> Tensor:
    """Return `(E,)`: the product of each entry's row of x with its latent's row of the weight."""
    if _is_dense(offsets, indices_E, weight_FD.shape[0]) or not _supported(x_BD, weight_FD):
        return by_torch(torch_cpu.gather_dot, x_BD, weight_FD, offsets, indices_E)
    products_E = torch.empty(indices_E.shape[0], dtype=x_BD.dtype)
    arrays = _arrays(x_BD, weight_FD, offsets, indices_E)
    in_blocks(gather_dot_rows, x_BD.shape[0], *arrays, products_E.numpy())
    return products_E


def gather_sum(offsets: Tensor, indices_E: Tensor, values_E: Tensor, weight_FD: Tensor) -> Tensor:
    """Return `(B, D)`: for each row, the sum of its latents' weight rows times their values."""
    if _is_dense(offsets, indices_E, weight_FD.shape[0]) or not _supported(values_E, weight_FD):
        return by_torch(torch_cpu.gather_sum, offsets, indices_E, values_E, weight_FD)
    out_BD = torch.empty(offsets.shape[0] - 1, weight_FD.shape[1], dtype=weight_FD.dtype)
    arrays = _arrays(offsets, indices_E, values_E, weight_FD)
    in_blocks(_gather_sum_rows, out_BD.shape[0], *arrays, out_BD.numpy())
    return out_BD


def residual(
    offsets: Tensor, indices_E: Tensor, values_E: Tensor, weight_FD: Tensor, bias_D: Tensor, target_BD: Tensor
) -> tuple[Tensor, Tensor]:
    """Return r = target − (codes @ W + b), `(B, D)`, and the sum of its squares, in one pass."""
    if _is_dense(offsets, indices_E, weight_FD.shape[0]) or not _supported(weight_FD, bias_D, target_BD):
        return by_torch(torch_cpu.residual, offsets, indices_E, values_E, weight_FD, bias_D, target_BD)
    rest_BD = torch.empty(target_BD.shape, dtype=target_BD.dtype)
    square_B = np.empty(target_BD.shape[0])
    arrays = _arrays(offsets, indices_E, values_E, weight_FD, bias_D, target_BD)
    in_blocks(_residual_rows, target_BD.shape[0], *arrays, rest_BD.numpy(), square_B)
    return rest_BD, torch.tensor(square_B.sum(), dtype=target_BD.dtype)


def scatter_outer(offsets: Tensor, indices_E: Tensor, values_E: Tensor, g_BD: Tensor, latents: int) -> Tensor:
    """Return `(F, D)`: for each latent, the sum over its entries of value times the entry's row of g.

    The entries are sorted by latent, so that each row of the result is one sum in a fixed order.
    """
    if _is_dense(offsets, indices_E, latents) or not _supported(values_E, g_BD):
        return by_torch(torch_cpu.scatter_outer, offsets, indices_E, values_E, g_BD, latents)
    out_FD = torch.empty(latents, g_BD.shape[1], dtype=g_BD.dtype)
    in_blocks(
        _gather_sum_rows, latents, *_by_latent(Outer(offsets, indices_E, values_E, g_BD), latents), out_FD.numpy()
    )
    return out_FD


def _is_dense(offsets: Tensor, indices_E: Tensor, latents: int) -> bool:
    return indices_E.shape[0] > DENSE * (offsets.shape[0] - 1) * latents


def _supported(*tensors: Tensor) -> bool:
    dtype = tensors[0].dtype
    return dtype in (torch.float32, torch.float64) and all(t.dtype == dtype and t.numel() for t in tensors)


def _arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(tensor.detach().contiguous().numpy() for tensor in tensors)


def _by_latent(term: Outer, latents: int) -> tuple[np.ndarray, ...]:
    """Return offsets `(F + 1,)`, rows, values and the rows' matrix of a term, entries sorted by latent."""
    offsets, indices_E, values_E, rows_BD = _arrays(term.offsets, term.indices, term.values, term.rows)
    return *_sort_by_latent(offsets, indices_E, values_E, latents), rows_BD


@compiled
def _gather_sum_rows(start, stop, offsets, indices_E, values_E, weight_FD, out_BD):
    for row in range(start, stop):
        out_BD[row] = 0
        _add_rows(out_BD[row], offsets[row], offsets[row + 1], indices_E, values_E, weight_FD)


@compiled
def _residual_rows(start, stop, offsets, indices_E, values_E, weight_FD, bias_D, target_BD, rest_BD, square_B):
    for row in range(start, stop):
        rest_D, target_D = rest_BD[row], target_BD[row]
        rest_D[:] = bias_D
        _add_rows(rest_D, offsets[row], offsets[row + 1], indices_E, values_E, weight_FD)
        for d in range(rest_D.shape[0]):
            rest_D[d] = target_D[d] - rest_D[d]
        square_B[row] = _dot(rest_D, rest_D)


@compiled
def _add_rows(out_D, first, last, indices_E, values_E, weight_FD):
    """Add value · weight[index] of the entries from first to last; four at a time, to read and write out_D less."""
    e = first
    while e + 4 <= last:
        a, b, c, d = values_E[e], values_E[e + 1], values_E[e + 2], values_E[e + 3]
        a_D, b_D = weight_FD[indices_E[e]], weight_FD[indices_E[e + 1]]
        c_D, d_D = weight_FD[indices_E[e + 2]], weight_FD[indices_E[e + 3]]
        for i in range(out_D.shape[0]):
            out_D[i] += a * a_D[i] + b * b_D[i] + c * c_D[i] + d * d_D[i]
        e += 4
    while e < last:
        value, row_D = values_E[e], weight_FD[indices_E[e]]
        for i in range(out_D.shape[0]):
            out_D[i] += value * row_D[i]
        e += 1


@compiled
def _dot(a_D, b_D):
    total = a_D.dtype.type(0)
    for d in range(a_D.shape[0]):
        total += a_D[d] * b_D[d]
    return total


@compiled
def _sort_by_latent(offsets, indices_E, values_E, latents):
    """Return offsets per latent, and rows and values in the order of latents (a counting sort: rows stay ascending)."""
    offsets_F = np.zeros(latents + 1, np.int64)
    for e in range(indices_E.shape[0]):
        offsets_F[indices_E[e] + 1] += 1
    for f in range(latents):
        offsets_F[f + 1] += offsets_F[f]
    next_F = offsets_F[:-1].copy()
    rows_E, sorted_E = np.empty(indices_E.shape[0], np.int64), np.empty(indices_E.shape[0], values_E.dtype)
    for row in range(offsets.shape[0] - 1):
        for e in range(offsets[row], offsets[row + 1]):
            place = next_F[indices_E[e]]
            rows_E[place], sorted_E[place] = row, values_E[e]
            next_F[indices_E[e]] += 1
    return offsets_F, rows_E, sorted_E


# --------------------------------------------------------------------------------------------- optimization


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
    """Do one step of Adam in place, row by row, on a gradient that is no matrix (see `reference.adam_rows`)."""
    if not (_supported(weight_FD, *(term.rows for term in terms)) and weight_FD.is_contiguous()):
        return reference.adam_rows(weight_FD, first_FD, second_FD, terms, dense, step, unit_rows=unit_rows)
    latents, width = weight_FD.shape
    (weight, gradient) = _arrays(weight_FD, weight_FD.new_empty(0, width) if dense is None else dense)
    sorted_terms = tuple(_by_latent(term, latents) for term in terms if term.indices.numel())
    nothing = (np.zeros(latents + 1, np.int64), np.empty(0, np.int64), weight[0, :0], weight[:0])
    rate = step.rate / step.correction1
    numbers = (rate, step.beta1, 1 - step.beta1, step.beta2, 1 - step.beta2, step.eps, step.correction2**-0.5)
    numbers = tuple(weight.dtype.type(number) for number in numbers)

    def update(start: int, stop: int) -> None:
        stored = (first_FD[start:stop], second_FD[start:stop])
        moments = [moment.to(weight_FD.dtype) for moment in stored]
        arrays = (weight, *(moment.numpy() for moment in moments), gradient)
        _adam_rows(start, stop, *arrays, sorted_terms or (nothing,), numbers, unit_rows)
        for place, moment in zip(stored, moments, strict=True):
            if place.dtype != moment.dtype:
                place.copy_(moment)

    in_blocks(update, latents)
    return None


@compiled
def _adam_rows(start, stop, weight_FD, first_BD, second_BD, dense_FD, terms, numbers, unit_rows):
    rate, beta1, rest1, beta2, rest2, eps, correction = numbers
    zero = weight_FD.dtype.type(0)
    g_D = np.empty(weight_FD.shape[1], weight_FD.dtype)
    for f in range(start, stop):
        if dense_FD.shape[0]:
            g_D[:] = dense_FD[f]
        else:
            g_D[:] = 0
        for offsets_F, rows_E, values_E, rows_BD in terms:
            _add_rows(g_D, offsets_F[f], offsets_F[f + 1], rows_E, values_E, rows_BD)
        weight_D, first_D, second_D = weight_FD[f], first_BD[f - start], second_BD[f - start]
        along, square = _dot(g_D, weight_D) if unit_rows else zero, zero
        for d in range(g_D.shape[0]):
            g = g_D[d] - along * weight_D[d]
            first = beta1 * first_D[d] + rest1 * g
            second = beta2 * second_D[d] + rest2 * g * g
            weight = weight_D[d] - rate * first / (np.sqrt(second) * correction + eps)
            first_D[d], second_D[d], weight_D[d] = first, second, weight
            square += weight * weight
        if unit_rows and square > 0:
            inverse = weight_FD.dtype.type(1) / np.sqrt(square)
            for d in range(g_D.shape[0]):
                weight_D[d] *= inverse
