"""The four primitives for CPUs as compiled loops over rows (or over latents), and the optimizer's step in one pass.

Selection never holds more than a chunk of pre-activations, in bfloat16; everything else reads the rows that it needs
and writes its result, with no intermediate of size (E, D). README.md has the derivation and the memory traffic.

Legend: B rows, D input width, F latents, E entries, K per row, S groups of latents, N candidates of a row.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numba import njit
from torch import Tensor

from gossamer.kernels import reference, torch_cpu
from gossamer.kernels.gradient import AdamStep, Outer
from gossamer.kernels.sharing import once
from gossamer.kernels.threads import block_rows, in_blocks, thread_count, torch_on_all_threads

__all__ = [
    "adam_rows",
    "gather_dot",
    "gather_sum",
    "residual",
    "scatter_outer",
    "select_above",
    "select_batch_topk",
    "select_topk",
]

SAFETY = 2.0
"""How many times the largest error seen among a row's candidates a latent must lie below the cut to be left out."""

SAMPLE = 16
"""A row has at least this many candidates, so that their errors say something about those of the others."""

DENSE = 0.25
"""Density from which products of matrices are faster than products with the chosen latents."""

MOST_WANTED, MOST_GROUPS = 2048, 1 << 14
"""Largest k that is selected in low precision, and largest number of groups: they are counted in 16 bits."""

SAMPLED_ROWS = 64
"""Rows from which the smallest of a batch's largest pre-activations is guessed."""

STEPS = 4
"""bfloat16 steps below the first bound at which candidates begin, so that most rows need no second look."""

ANY_ORDER = {"reassoc", "contract", "nsz", "arcp"}
"""Sums may be taken in any order and products fused into them; NaN and infinity keep their meaning."""

T = TypeVar("T")


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a loop on its first call; kept on disk between processes, if there is a place for it."""
    options = {"nogil": True, "fastmath": ANY_ORDER, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return njit(**options)(function)


END = 1 << 15
"""Above every key: the bits of a bfloat16 number as an int16 that is ordered like the number."""


# ------------------------------------------------------------------------------------------------- selection


def select_topk(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return indices and values `(B, k)` of the k largest pre-activations of each row.

    Candidates come from a bfloat16 product; their values are computed in full precision. With e the largest error
    among them and t the k-th largest value, every other latent whose low-precision value is at least t − 2 e is
    computed as well, and the k largest of all are chosen.
    """
    rows, latents = x_BD.shape[0], weight_FD.shape[0]
    if not _low_precision_serves(x_BD, latents, k):
        return _by_torch(torch_cpu.select_topk, x_BD, weight_FD, bias_F, k)
    indices_BK = torch.empty(rows, k, dtype=torch.int64)
    values_BK = torch.empty(rows, k)
    outputs = (indices_BK.numpy(), values_BK.numpy())
    shift_F = torch.zeros_like(bias_F)
    _with_low_precision(_topk_rows, x_BD, weight_FD, bias_F, shift_F, _groups(latents, k), *outputs)
    return indices_BK, values_BK


def select_above(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, floor_F: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return offsets, indices and values of all pre-activations above their latent's floor.

    As in `select_topk`, with t = 0 for the distance from the floor.
    """
    rows, latents = x_BD.shape[0], weight_FD.shape[0]
    if not _low_precision_serves(x_BD, latents, SAMPLE):
        return _by_torch(torch_cpu.select_above, x_BD, weight_FD, bias_F, floor_F)
    offsets = torch.zeros(rows + 1, dtype=torch.int64)
    counts_B = offsets[1:].numpy()
    found = _with_low_precision(_above_rows, x_BD, weight_FD, bias_F, -floor_F, _groups(latents, 64), counts_B)
    indices_E = torch.from_numpy(np.concatenate([indices for indices, _ in found] or [np.empty(0, np.int64)]))
    values_E = torch.from_numpy(np.concatenate([values for _, values in found] or [np.empty(0, np.float32)]))
    return offsets.cumsum_(0), indices_E, values_E


def select_batch_topk(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return offsets, indices and values of the `count` largest pre-activations of all rows.

    A floor for them is guessed from some of the rows; what lies above it is selected as in `select_above`. If that is
    too little, the floor was too high and is guessed again, a little lower. Then the largest are kept.
    """
    rows, latents = x_BD.shape[0], weight_FD.shape[0]
    if not (rows and count and _low_precision_serves(x_BD, latents, -(-count // rows))):
        return _by_torch(torch_cpu.select_batch_topk, x_BD, weight_FD, bias_F, count)
    sample_BD = x_BD[:: max(1, rows // SAMPLED_ROWS)]
    sample_N = (sample_BD @ weight_FD.T + bias_F).view(-1)
    share, entries = count / (rows * latents), 0
    while entries < count:
        share *= 1.25
        wanted = max(1, min(sample_N.shape[0], round(share * sample_N.shape[0])))
        floor = -torch.inf
        if wanted < sample_N.shape[0]:
            floor = sample_N.topk(wanted, sorted=False).values.amin().item()
        offsets, indices_E, values_E = select_above(x_BD, weight_FD, bias_F, torch.full_like(bias_F, floor))
        entries = values_E.shape[0]
    kept_E = torch.zeros(entries, dtype=torch.bool)
    kept_E[values_E.topk(count, sorted=False).indices] = True
    kept_before = torch.nn.functional.pad(kept_E.cumsum(0), (1, 0))
    return kept_before[offsets], indices_E[kept_E], values_E[kept_E]


def _low_precision_serves(x_BD: Tensor, latents: int, k: int) -> bool:
    return x_BD.dtype == torch.float32 and k <= MOST_WANTED and latents >= 4 * max(k, SAMPLE)


def _groups(latents: int, expected: int) -> int:
    """Return the number of groups whose maxima are compared: a few times the number of latents to be found."""
    return min(latents, MOST_GROUPS, 1 << (16 * max(expected, SAMPLE) - 1).bit_length())


def _with_low_precision(
    loop: Callable[..., T], x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, shift_F: Tensor, *arguments: object
) -> list[T]:
    """Call `loop(start, stop, rough, x, weight, bias, shift, *arguments)` on blocks of rows; return what it returned.

    rough: x Wᵀ + b + shift of the block, as the bits of bfloat16 numbers, in a buffer that each thread uses again. Bias
    and shift are one more column of the weight, beside a column of ones in x: adding them later would be another pass.
    """
    x_BD, weight_FD, bias_F, shift_F = (t.detach().contiguous() for t in (x_BD, weight_FD, bias_F, shift_F))
    exact = (x_BD.numpy(), weight_FD.numpy(), bias_F.numpy(), shift_F.numpy())
    (rows, width), latents = x_BD.shape, weight_FD.shape[0]
    padded = width + 8 - width % 8
    weight_FP = _buffer("weight", latents, padded)
    in_blocks(_widen, latents, weight_FP, weight_FD, bias_F + shift_F)
    x_BP = once("low precision", x_BD, (), lambda: _low_precision(x_BD, padded))
    block = max(1, min(block_rows(latents), -(-rows // thread_count())))

    def multiply_and_loop(start: int, stop: int) -> T:
        rough_BF = _buffer("pre_activations", block, latents)[: stop - start]
        torch.mm(x_BP[start:stop], weight_FP.T, out=rough_BF)
        return loop(start, stop, rough_BF.view(torch.int16).numpy(), *exact, *arguments)

    return in_blocks(multiply_and_loop, rows, block=block)


def _low_precision(x_BD: Tensor, padded: int) -> Tensor:
    x_BP = x_BD.new_empty(x_BD.shape[0], padded, dtype=torch.bfloat16)
    in_blocks(_widen, x_BD.shape[0], x_BP, x_BD, x_BD.new_ones(x_BD.shape[0]))
    return x_BP


def _widen(start: int, stop: int, wide: Tensor, matrix: Tensor, column: Tensor) -> None:
    """Copy rows of a matrix, and a column behind them, into bfloat16; what is left of the rows becomes zero."""
    width = matrix.shape[1]
    wide[start:stop, :width] = matrix[start:stop]
    wide[start:stop, width] = column[start:stop]
    wide[start:stop, width + 1 :] = 0


_buffers = threading.local()


def _buffer(name: str, rows: int, columns: int) -> Tensor:
    """Return uninitialised bfloat16 memory that this thread keeps: fresh pages would cost more than what fills them."""
    size = rows * columns
    held = getattr(_buffers, name, None)
    if held is None or held.shape[0] < size:
        held = torch.empty(size, dtype=torch.bfloat16)
        setattr(_buffers, name, held)
    return held[:size].view(rows, columns)


@compiled
def _topk_rows(start, stop, rough_BF, x_BD, weight_FD, bias_F, shift_F, groups, indices_BK, values_BK):
    """Write indices and values of the k largest pre-activations of some rows."""
    latents, k = rough_BF.shape[1], indices_BK.shape[1]
    best_S = np.empty(groups, np.int16)
    latent_N, value_N = np.empty(latents, np.int64), np.empty(latents, np.float32)
    for row in range(start, stop):
        rough_F = rough_BF[row - start]
        low, high, error, held = _order_and_bound(rough_F, best_S, max(k, SAMPLE)), END, np.float32(0), 0
        while low < high:
            found = _collect(rough_F, best_S, low, high, latent_N)
            error = max(error, _compute(rough_F, x_BD[row], weight_FD, bias_F, shift_F, latent_N, value_N, found))
            held = _keep_largest(value_N, latent_N, found, values_BK[row], indices_BK[row], held)
            low, high = min(low, _key_below(values_BK[row, 0] - SAFETY * error)), low


@compiled
def _above_rows(start, stop, rough_BF, x_BD, weight_FD, bias_F, shift_F, groups, count_B):
    """Return indices and values of what lies above the floor in some rows, and write how many there are per row."""
    latents = rough_BF.shape[1]
    best_S = np.empty(groups, np.int16)
    latent_N, value_N = np.empty(latents, np.int64), np.empty(latents, np.float32)
    indices_E, values_E = np.empty(64 * (stop - start), np.int64), np.empty(64 * (stop - start), np.float32)
    filled = 0
    for row in range(start, stop):
        rough_F, before = rough_BF[row - start], filled
        low, high, error = min(0, _order_and_bound(rough_F, best_S, SAMPLE)), END, np.float32(0)
        while low < high:
            found = _collect(rough_F, best_S, low, high, latent_N)
            error = max(error, _compute(rough_F, x_BD[row], weight_FD, bias_F, shift_F, latent_N, value_N, found))
            if filled + found > indices_E.shape[0]:
                indices_E, values_E = _doubled(indices_E, filled + found), _doubled(values_E, filled + found)
            for n in range(found):
                if not value_N[n] <= -shift_F[latent_N[n]]:  # NaN stays, so that it is seen
                    indices_E[filled], values_E[filled] = latent_N[n], value_N[n]
                    filled += 1
            low, high = min(low, _key_below(-SAFETY * error)), low
        count_B[row] = filled - before
    return indices_E[:filled].copy(), values_E[:filled].copy()


@compiled
def _doubled(array, needed):
    larger = np.empty(2 * needed, array.dtype)
    larger[: array.shape[0]] = array
    return larger


@compiled
def _order_and_bound(rough_F, best_S, count):
    """Return a key that at least `count` latents reach.

    Latent f is in group f mod S. If `count` groups have a maximum of at least t, so have `count` latents.
    """
    latents, groups = rough_F.shape[0], best_S.shape[0]
    for start in range(0, latents, groups):
        part = rough_F[start : start + groups]
        if start == 0:
            for s in range(groups):
                best_S[s] = _key(part[s])
        else:
            for s in range(part.shape[0]):
                best_S[s] = max(best_S[s], _key(part[s]))
    low, high = -END, END - 1
    while low < high:
        middle = (low + high + 1) >> 1
        reach = np.int16(0)
        for s in range(groups):
            reach = np.int16(reach + np.int16(best_S[s] >= np.int16(middle)))
        if reach >= count:
            low = middle
        else:
            high = middle - 1
    return max(low - STEPS, -END)


@compiled
def _collect(rough_F, best_S, low, high, latent_N):
    """List the latents with low <= key < high; return how many there are."""
    found = 0
    for s in range(best_S.shape[0]):
        if best_S[s] >= low:
            for latent in range(s, rough_F.shape[0], best_S.shape[0]):
                if low <= _key(rough_F[latent]) < high:
                    latent_N[found] = latent
                    found += 1
    return found


@compiled
def _compute(rough_F, x_D, weight_FD, bias_F, shift_F, latent_N, value_N, found):
    """Fill in the values in full precision; return the largest error of value + shift in low precision."""
    _dots(x_D, weight_FD, latent_N[:found], value_N)
    error = np.float32(0)
    for n in range(found):
        latent = latent_N[n]
        value_N[n] += bias_F[latent]
        error = max(error, abs(value_N[n] + shift_F[latent] - _bfloat16(rough_F[latent])))
    return error


@compiled
def _keep_largest(value_N, latent_N, found, value_K, latent_K, held):
    """Keep the k largest values seen so far in a heap, whose first is the smallest; return how many it holds."""
    k = value_K.shape[0]
    for n in range(found):
        value, latent = value_N[n], latent_N[n]
        if held < k:  # up from the end
            place, held = held, held + 1
            while place > 0 and value < value_K[(place - 1) // 2]:
                above = (place - 1) // 2
                value_K[place], latent_K[place] = value_K[above], latent_K[above]
                place = above
        elif value > value_K[0]:  # down from the top
            place = 0
            while True:
                child = 2 * place + 1
                if child + 1 < k and value_K[child + 1] < value_K[child]:
                    child += 1
                if child >= k or value <= value_K[child]:
                    break
                value_K[place], latent_K[place] = value_K[child], latent_K[child]
                place = child
        else:
            continue
        value_K[place], latent_K[place] = value, latent
    return held


@compiled
def _key(bits):
    """Return an int16 that is ordered like the bfloat16 number whose bits these are."""
    return bits ^ np.int16(0x7FFF) if bits < 0 else bits


@compiled
def _bfloat16(bits):
    """Return the number whose bits these are."""
    return np.int32(np.int32(bits) << 16).view(np.float32)


@compiled
def _key_below(value):
    """Return a key that no bfloat16 number >= value is below; END, which none reaches, for NaN."""
    if value != value:
        return END
    bits = np.float32(value).view(np.int32)
    return (np.int32(bits ^ np.int32(0x7FFFFFFF)) if bits < 0 else bits) >> 16


@compiled
def _dots(x_D, weight_FD, latent_N, value_N):
    """Write the product of x with each latent's row; four at a time, to have more reads under way at once."""
    n, found = 0, latent_N.shape[0]
    while n + 4 <= found:
        a_D, b_D = weight_FD[latent_N[n]], weight_FD[latent_N[n + 1]]
        c_D, d_D = weight_FD[latent_N[n + 2]], weight_FD[latent_N[n + 3]]
        a = b = c = d = x_D.dtype.type(0)
        for i in range(x_D.shape[0]):
            a += x_D[i] * a_D[i]
            b += x_D[i] * b_D[i]
            c += x_D[i] * c_D[i]
            d += x_D[i] * d_D[i]
        value_N[n], value_N[n + 1], value_N[n + 2], value_N[n + 3] = a, b, c, d
        n += 4
    while n < found:
        value_N[n] = _dot(x_D, weight_FD[latent_N[n]])
        n += 1


@compiled
def _dot(a_D, b_D):
    total = a_D.dtype.type(0)
    for d in range(a_D.shape[0]):
        total += a_D[d] * b_D[d]
    return total


# ------------------------------------------------------------------------- products with the chosen latents


def gather_dot(x_BD: Tensor, weight_FD: Tensor, offsets: Tensor, indices_E: Tensor) -> Tensor:
    """Return `(E,)`: the product of each entry's row of x with its latent's row of the weight."""
    if _is_dense(offsets, indices_E, weight_FD.shape[0]) or not _supported(x_BD, weight_FD):
        return _by_torch(torch_cpu.gather_dot, x_BD, weight_FD, offsets, indices_E)
    products_E = torch.empty(indices_E.shape[0], dtype=x_BD.dtype)
    arrays = _arrays(x_BD, weight_FD, offsets, indices_E)
    in_blocks(_gather_dot_rows, x_BD.shape[0], *arrays, products_E.numpy())
    return products_E


def gather_sum(offsets: Tensor, indices_E: Tensor, values_E: Tensor, weight_FD: Tensor) -> Tensor:
    """Return `(B, D)`: for each row, the sum of its latents' weight rows times their values."""
    if _is_dense(offsets, indices_E, weight_FD.shape[0]) or not _supported(values_E, weight_FD):
        return _by_torch(torch_cpu.gather_sum, offsets, indices_E, values_E, weight_FD)
    out_BD = torch.empty(offsets.shape[0] - 1, weight_FD.shape[1], dtype=weight_FD.dtype)
    arrays = _arrays(offsets, indices_E, values_E, weight_FD)
    in_blocks(_gather_sum_rows, out_BD.shape[0], *arrays, out_BD.numpy())
    return out_BD


def residual(
    offsets: Tensor, indices_E: Tensor, values_E: Tensor, weight_FD: Tensor, bias_D: Tensor, target_BD: Tensor
) -> tuple[Tensor, Tensor]:
    """Return r = target − (codes @ W + b), `(B, D)`, and the sum of its squares, in one pass."""
    if _is_dense(offsets, indices_E, weight_FD.shape[0]) or not _supported(weight_FD, bias_D, target_BD):
        return _by_torch(torch_cpu.residual, offsets, indices_E, values_E, weight_FD, bias_D, target_BD)
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
        return _by_torch(torch_cpu.scatter_outer, offsets, indices_E, values_E, g_BD, latents)
    out_FD = torch.empty(latents, g_BD.shape[1], dtype=g_BD.dtype)
    in_blocks(
        _gather_sum_rows, latents, *_by_latent(Outer(offsets, indices_E, values_E, g_BD), latents), out_FD.numpy()
    )
    return out_FD


def _by_torch(function: Callable[..., T], *arguments: object) -> T:
    with torch_on_all_threads():
        return function(*arguments)


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
def _gather_dot_rows(start, stop, x_BD, weight_FD, offsets, indices_E, products_E):
    for row in range(start, stop):
        first, last = offsets[row], offsets[row + 1]
        _dots(x_BD[row], weight_FD, indices_E[first:last], products_E[first:last])


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
