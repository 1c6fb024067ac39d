"""The sparse primitives for GPUs, in Triton: sums over entries, and the optimizer's step in one pass.

Selection is in `triton_select.py`; `gather_dot`, on which its exact values rest, in `triton_dots.py`.

Everything here is a weighted sum of rows of a table: a row's latents (`gather_sum`), or, with the entries sorted by
latent, a latent's rows (`scatter_outer`, and the gradient inside `adam_rows`). One program makes one row of the result
(or a block of its columns) and adds in a fixed order: no atomics, no (E, D) intermediate, the same bits every time.
4·E·D bytes are read, mostly from the cache where the table fits there, and the result is written once. `adam_rows`
reads and writes weight and moments once, 24·F·D bytes in float32, where a gradient in memory would add 8·F·D or more.

A latent that is active in very many rows would keep one program busy long after all others are done. So the sorted
entries are cut into segments of `SEGMENT`, wherever latents begin; each segment that lies within one latent is summed
by its own program beforehand, and the latent's program adds such sums instead of entries.

Legend: B rows, D input width, F latents, E entries, S segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gossamer.codes import row_of_entry
from gossamer.kernels import reference
from gossamer.kernels.gradient import AdamStep, Outer
from gossamer.kernels.triton_dots import gather_dot, launch, sum_dtype
from gossamer.kernels.triton_select import (
    select_above,
    select_abs_topk,
    select_batch_topk,
    select_group_max,
    select_topk,
)

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

SEGMENT = 256
"""Entries of a latent that are summed beforehand, by a program of their own."""

WIDEST = 8192
"""Columns of a row that `adam_rows` holds in registers: 16 of each array in each of 512 threads."""


def gather_sum(offsets: Tensor, indices_E: Tensor, values_E: Tensor, weight_FD: Tensor) -> Tensor:
    """Return `(B, D)`: for each row, the sum of its latents' weight rows times their values."""
    weight_FD, values_E, indices_E, offsets = _contiguous(weight_FD, values_E, indices_E, offsets)
    out_BD = weight_FD.new_empty(offsets.shape[0] - 1, weight_FD.shape[1])
    _sum_rows(_Lists(offsets, indices_E, values_E, weight_FD.new_empty(0)), weight_FD, out_BD, segment=0)
    return out_BD


def scatter_outer(offsets: Tensor, indices_E: Tensor, values_E: Tensor, g_BD: Tensor, latents: int) -> Tensor:
    """Return `(F, D)`: for each latent, the sum over its entries of value times the entry's row of g."""
    (g_BD,) = _contiguous(g_BD)
    out_FD = g_BD.new_empty(latents, g_BD.shape[1])
    _sum_rows(_by_latent(offsets, indices_E, values_E, g_BD, latents), g_BD, out_FD, segment=SEGMENT)
    return out_FD


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
    """Do one step of Adam in place, row by row (Kingma & Ba 2014, https://arxiv.org/abs/1412.6980).

        g = Σ codesᵀ @ rows over the terms, + dense            if unit_rows: g ← g − ⟨g, w⟩ w
        m ← β₁ m + (1 − β₁) g      v ← β₂ v + (1 − β₂) g²
        w ← w − rate · (m / correction₁) / (√(v / correction₂) + eps)       if unit_rows: w ← w / ‖w‖

    A latent's row is in the registers of one program from its gradient to its new weight. The gradient of the first
    term is never in memory; further terms are written out and added to `dense`. Moments may be float32 or bfloat16.
    """
    latents, width = weight_FD.shape
    fused = weight_FD.dtype == torch.float32 and width <= WIDEST
    for term in terms[1:] if fused else terms:
        more_FD = scatter_outer(*term, latents)
        dense = more_FD if dense is None else dense + more_FD
    in_place = [weight_FD.detach(), first_FD.detach(), second_FD.detach()]
    if not fused:
        reference.adam_rows(in_place[0], in_place[1], in_place[2], [], dense, step, unit_rows=unit_rows)
        return
    held = _contiguous(*in_place)
    _adam(held, terms[0] if terms else _no_entries(weight_FD), dense, step, unit_rows=unit_rows)
    for target, result in zip(in_place, held, strict=True):
        if target.data_ptr() != result.data_ptr():
            target.copy_(result)


def _no_entries(weight_FD: Tensor) -> Outer:
    nothing = torch.zeros(1, dtype=torch.int64, device=weight_FD.device)
    return Outer(nothing, nothing[:0], weight_FD.new_empty(0), weight_FD[:0])


def _contiguous(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().contiguous() for tensor in tensors]


class _Lists(NamedTuple):
    """Which rows of a table make up each row of a result: those from one offset to the next, times their values.

    partial: the sums of those segments of the list that lie within one row of the result.
    """

    offsets: Tensor
    rows: Tensor
    values: Tensor
    partial: Tensor


def _by_latent(offsets: Tensor, indices_E: Tensor, values_E: Tensor, g_BD: Tensor, latents: int) -> _Lists:
    """Return the entries of each latent, in the order of rows, and the sums of its whole segments."""
    latent_E, order_E = indices_E.int().sort(stable=True)
    bounds = torch.arange(latents + 1, dtype=torch.int32, device=indices_E.device)
    offsets_F = torch.searchsorted(latent_E, bounds)
    rows_E, values_E = row_of_entry(offsets, indices_E)[order_E], values_E.detach()[order_E]
    segments, width = latent_E.shape[0] // SEGMENT, g_BD.shape[1]
    partial_SD = g_BD.new_empty(segments, width, dtype=torch.promote_types(g_BD.dtype, torch.float32))
    grid, options = _blocks(segments, width, g_BD)
    tensors = (latent_E, rows_E, values_E, g_BD, partial_SD)
    launch(_segments_kernel, grid, *tensors, width, SEGMENT=SEGMENT, **options)
    return _Lists(offsets_F, rows_E, values_E, partial_SD)


def _sum_rows(lists: _Lists, table: Tensor, out: Tensor, *, segment: int) -> None:
    """Fill `out` with the sums of the listed rows of the table."""
    grid, options = _blocks(out.shape[0], out.shape[1], table)
    launch(_sums_kernel, grid, *lists, table, out, out.shape[1], SEGMENT=segment, **options)


def _blocks(rows: int, width: int, table: Tensor) -> tuple[tuple[int, int], dict[str, object]]:
    """Return a grid over rows and blocks of columns, and the sizes of the blocks.

    With 8 entries of 256 columns at a time each of the 128 threads has four loads of 16 bytes under way, and a block
    of columns is small enough that a batch of rows fills the device.
    """
    block = max(16, min(256, triton.next_power_of_2(width)))
    return (rows, triton.cdiv(width, block)), {"SUM": sum_dtype(table), "BLOCK_E": 8, "BLOCK_D": block}


def _adam(held: list[Tensor], term: Outer, dense: Tensor | None, step: AdamStep, *, unit_rows: bool) -> None:
    """Launch one program per latent: the whole row in one block, at most 32 numbers of each array per thread."""
    latents, width = held[0].shape
    (rows_BD,) = _contiguous(term.rows)
    lists = _by_latent(term.offsets, term.indices, term.values, rows_BD, latents)
    (dense_FD,) = _contiguous(held[0] if dense is None else dense)
    decays = (step.beta1, 1 - step.beta1, step.beta2, 1 - step.beta2)  # in float32, 1 − β would lose digits
    scalars = (step.rate / step.correction1, *decays, step.eps, 1 / step.correction2)
    block = max(16, triton.next_power_of_2(width))
    flags = {"HAS_DENSE": dense is not None, "UNIT_ROWS": unit_rows, "SEGMENT": SEGMENT}
    options = {"BLOCK_E": max(1, min(8, 4096 // block)), "BLOCK_D": block, "num_warps": max(4, min(16, block // 512))}
    launch(_adam_kernel, (latents,), *held, *lists, rows_BD, dense_FD, *scalars, width, **flags, **options)


@triton.jit
def _sums_kernel(
    offsets_ptr,
    row_ptr,
    value_ptr,
    partial_ptr,
    table_ptr,
    out_ptr,
    width,
    SEGMENT: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    target = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK_E, BLOCK_D), dtype=SUM)
    begin, end = tl.load(offsets_ptr + target), tl.load(offsets_ptr + target + 1)
    total = _add_list(total, begin, end, row_ptr, value_ptr, partial_ptr, table_ptr, column, width, SEGMENT, BLOCK_E)
    tl.store(out_ptr + target * width + column, tl.sum(total, 0), mask=column < width)


@triton.jit
def _segments_kernel(
    latent_ptr,
    row_ptr,
    value_ptr,
    table_ptr,
    partial_ptr,
    width,
    SEGMENT: tl.constexpr,
    SUM: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    segment = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    begin, end = segment * SEGMENT, (segment + 1) * SEGMENT
    if tl.load(latent_ptr + begin) == tl.load(latent_ptr + end - 1):
        total = tl.zeros((BLOCK_E, BLOCK_D), dtype=SUM)
        total = _add_entries(total, begin, end, row_ptr, value_ptr, table_ptr, column, width, BLOCK_E)
        tl.store(partial_ptr + segment * width + column, tl.sum(total, 0), mask=column < width)


@triton.jit
def _adam_kernel(
    weight_ptr,
    first_ptr,
    second_ptr,
    offsets_ptr,
    row_ptr,
    value_ptr,
    partial_ptr,
    table_ptr,
    dense_ptr,
    rate,
    beta1,
    rest1,
    beta2,
    rest2,
    eps,
    second_scale,
    width,
    HAS_DENSE: tl.constexpr,
    UNIT_ROWS: tl.constexpr,
    SEGMENT: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    latent = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK_D)
    place, inside = latent * width + column, column < width
    total = tl.zeros((BLOCK_E, BLOCK_D), dtype=tl.float32)
    begin, end = tl.load(offsets_ptr + latent), tl.load(offsets_ptr + latent + 1)
    total = _add_list(total, begin, end, row_ptr, value_ptr, partial_ptr, table_ptr, column, width, SEGMENT, BLOCK_E)
    gradient = tl.sum(total, 0)
    if HAS_DENSE:
        gradient += tl.load(dense_ptr + place, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + place, mask=inside, other=0.0)
    if UNIT_ROWS:
        gradient -= tl.sum(gradient * weight, 0) * weight
    first = beta1 * tl.load(first_ptr + place, mask=inside, other=0.0).to(tl.float32) + rest1 * gradient
    second = beta2 * tl.load(second_ptr + place, mask=inside, other=0.0).to(tl.float32) + rest2 * gradient * gradient
    weight -= rate * first / (tl.sqrt(second * second_scale) + eps)
    if UNIT_ROWS:
        weight /= tl.maximum(tl.sqrt(tl.sum(weight * weight, 0)), 1.1754943508222875e-38)
    tl.store(weight_ptr + place, weight, mask=inside)
    tl.store(first_ptr + place, first, mask=inside)
    tl.store(second_ptr + place, second, mask=inside)


@triton.jit
def _add_list(
    total,
    begin,
    end,
    row_ptr,
    value_ptr,
    partial_ptr,
    table_ptr,
    column,
    width,
    SEGMENT: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Add the listed rows from begin to end: entries, then the sums of whole segments, then entries."""
    if SEGMENT == 0:
        total = _add_entries(total, begin, end, row_ptr, value_ptr, table_ptr, column, width, BLOCK_E)
    else:
        first = tl.cdiv(begin, SEGMENT)
        last = tl.maximum(end // SEGMENT, first)
        head, tail = tl.minimum(first * SEGMENT, end), last * SEGMENT
        total = _add_entries(total, begin, head, row_ptr, value_ptr, table_ptr, column, width, BLOCK_E)
        for start in range(first, last, BLOCK_E):
            segment = start + tl.arange(0, BLOCK_E)
            inside = (segment < last)[:, None] & (column < width)[None, :]
            total += tl.load(partial_ptr + segment[:, None] * width + column[None, :], mask=inside, other=0.0)
        total = _add_entries(total, tail, end, row_ptr, value_ptr, table_ptr, column, width, BLOCK_E)
    return total


@triton.jit
def _add_entries(total, begin, end, row_ptr, value_ptr, table_ptr, column, width, BLOCK_E: tl.constexpr):
    """Add the listed rows of the table times their values to `(BLOCK_E, BLOCK_D)` sums, one entry to each row of it."""
    for start in range(begin, end, BLOCK_E):
        entry = start + tl.arange(0, BLOCK_E)
        row = tl.load(row_ptr + entry, mask=entry < end, other=0).to(tl.int64)
        value = tl.load(value_ptr + entry, mask=entry < end, other=0.0).to(total.dtype)
        inside = (entry < end)[:, None] & (column < width)[None, :]
        numbers = tl.load(table_ptr + row[:, None] * width + column[None, :], mask=inside, other=0.0)
        total += value[:, None] * numbers.to(total.dtype)
    return total
