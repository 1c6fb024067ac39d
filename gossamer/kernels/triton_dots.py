"""The products of rows and latents that are wanted exactly, on a GPU; and how kernels are launched.

Selection rests on these values, and `gather_dot` is nothing else. 4·E·D bytes of weights are read, mostly from the
cache where they fit there, and no (E, D) intermediate is written.

Legend: B rows, D input width, F latents, E entries.
"""

# In a kernel, the type of tl.max depends on its arguments in a way that type checkers do not follow.
# pyright: reportOperatorIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gossamer.codes import row_of_entry

__all__ = ["dots", "gather_dot", "launch", "sum_dtype"]


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Run a kernel on the device of its first argument; an empty grid is nothing to do, which CUDA calls an error.

    Products may be fused into sums. Triton's default for this depends on its version, and says so in a warning.
    """
    if all(grid):
        with torch.cuda.device_of(arguments[0]):
            kernel[grid](*arguments, enable_fp_fusion=True, **options)


def sum_dtype(x: Tensor) -> tl.dtype:
    """Return the dtype in which sums over x are taken: float64 for itself, float32 for everything else."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def gather_dot(x_BD: Tensor, weight_FD: Tensor, offsets: Tensor, indices_E: Tensor) -> Tensor:
    """Return `(E,)`: the product of each entry's row of x with its latent's row of the weight."""
    return dots(x_BD, weight_FD, row_of_entry(offsets, indices_E), indices_E)


def dots(x_BD: Tensor, weight_FD: Tensor, row_E: Tensor, indices_E: Tensor) -> Tensor:
    """Return `(E,)`: ⟨x_row, W_latent⟩, and 0 for entries whose latent is −1.

    A program takes 16 entries: they are mostly of one row, which is then read from the cache. It reads 128 columns at
    a time, 16 numbers per thread, and adds the columns up only at the end.
    """
    x_BD, weight_FD, row_E, indices_E = (t.detach().contiguous() for t in (x_BD, weight_FD, row_E, indices_E))
    width, entries = x_BD.shape[1], indices_E.shape[0]
    out_E = x_BD.new_empty(entries)
    block = max(16, min(128, triton.next_power_of_2(width)))
    tensors = (x_BD, weight_FD, row_E, indices_E, out_E)
    launch(
        _dots_kernel, (triton.cdiv(entries, 16),), *tensors, entries, width, sum_dtype(x_BD), BLOCK_E=16, BLOCK_D=block
    )
    return out_E


@triton.jit
def _dots_kernel(
    x_ptr,
    weight_ptr,
    row_ptr,
    latent_ptr,
    out_ptr,
    entries,
    width,
    SUM: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    entry = tl.program_id(0).to(tl.int64) * BLOCK_E + tl.arange(0, BLOCK_E)
    row = tl.load(row_ptr + entry, mask=entry < entries, other=0).to(tl.int64)
    latent = tl.load(latent_ptr + entry, mask=entry < entries, other=-1).to(tl.int64)
    wanted = latent >= 0
    total = tl.zeros((BLOCK_E, BLOCK_D), dtype=SUM)
    end = tl.where(tl.max(latent, 0) >= 0, width, 0)  # most blocks of a row's candidates may be empty
    for start in range(0, end, BLOCK_D):
        column = start + tl.arange(0, BLOCK_D)
        inside = wanted[:, None] & (column < width)[None, :]
        x = tl.load(x_ptr + row[:, None] * width + column[None, :], mask=inside, other=0.0)
        weight = tl.load(weight_ptr + latent[:, None] * width + column[None, :], mask=inside, other=0.0)
        total += x.to(SUM) * weight.to(SUM)
    tl.store(out_ptr + entry, tl.sum(total, 1), mask=entry < entries)
