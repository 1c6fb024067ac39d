"""Selection on a CPU: candidates from a low-precision product, chosen by exact values; and the loop for those values.

There is never more than a block of pre-activations per thread, in bfloat16. README.md has the derivation. Selection by
value and by magnitude are the same loops: only the integer that a bfloat16 number's bits are read as differs.

Legend: B rows, D input width, F latents, E entries, K per row, G groups that one latent each is chosen of, S parts of
the latents whose maxima are compared, N candidates of a row.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from gossamer.kernels import torch_cpu
from gossamer.kernels.compilation import compiled
from gossamer.kernels.reference import group_size
from gossamer.kernels.sharing import once
from gossamer.kernels.threads import block_rows, by_torch, in_blocks, thread_count

__all__ = [
    "gather_dot_rows",
    "select_above",
    "select_abs_topk",
    "select_batch_topk",
    "select_group_max",
    "select_topk",
]

SAFETY = 3.0
"""How many times the largest error seen among a row's candidates a latent must lie below the cut to be left out."""

BELOW_GUESS = 0.95
"""Where a floor that somebody guessed is set: a little lower, so that one selection is enough."""

SAMPLE = 16
"""A row has at least this many candidates, so that their errors say something about those of the others."""

MOST_WANTED, MOST_PARTS = 2048, 1 << 14
"""Most latents of a row that are selected in low precision, and most parts: they are counted in 16 bits."""

PARTS_OF_GROUP = 64
"""Parts of each group in `select_group_max`: enough for vector instructions, few enough to be looked through."""

SMALLEST_GROUP = 8
"""Latents in a group from which on candidates are faster than all of them in full precision: 8 were, 4 were not."""

SAMPLED_ROWS = 64
"""Rows from which the smallest of a batch's largest pre-activations is guessed."""

STEPS = 4
"""bfloat16 steps below the first bound at which candidates begin, so that most rows need no second look."""

VALUE = (np.int16(0x7FFF), np.int16(-1))
MAGNITUDE = (np.int16(0), np.int16(0x7FFF))
"""What makes the bits of bfloat16 numbers int16 keys that are ordered like the numbers, or like their magnitudes: which
bits are inverted where the number is negative, and which are kept then."""

END = 1 << 15
"""Above every key."""

T = TypeVar("T")


def select_topk(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return indices and values `(B, k)` of the k largest pre-activations of each row.

    Candidates come from a bfloat16 product; their values are computed in full precision. With e the largest error
    among them and t the k-th largest value, every other latent whose low-precision value is at least t − 2 e is
    computed as well, and the k largest of all are chosen.
    """
    if not _low_precision_serves(x_BD, weight_FD.shape[0], k):
        return by_torch(torch_cpu.select_topk, x_BD, weight_FD, bias_F, k)
    return _first_of_each_row(_topk_rows, x_BD, weight_FD, bias_F, k, _parts(weight_FD.shape[0], k), VALUE)


def select_abs_topk(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return indices and values `(B, k)` of the k pre-activations of each row that are largest in magnitude.

    As in `select_topk`, with magnitudes for values: that of a low-precision value is off by no more than the value.
    """
    if not _low_precision_serves(x_BD, weight_FD.shape[0], k):
        return by_torch(torch_cpu.select_abs_topk, x_BD, weight_FD, bias_F, k)
    return _first_of_each_row(_topk_rows, x_BD, weight_FD, bias_F, k, _parts(weight_FD.shape[0], k), MAGNITUDE)


def select_group_max(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return indices and values `(B, groups)` of the largest pre-activation of each group of consecutive latents.

    As in `select_topk` for k = 1 in each group, with t the group's own largest value, and e the row's largest error:
    one group has too few candidates to tell.
    """
    latents = weight_FD.shape[0]
    size = group_size(latents, groups)
    if size < SMALLEST_GROUP or not _low_precision_serves(x_BD, latents, groups):
        return by_torch(torch_cpu.select_group_max, x_BD, weight_FD, bias_F, groups)
    return _first_of_each_row(_group_rows, x_BD, weight_FD, bias_F, groups, min(size, PARTS_OF_GROUP))


def _first_of_each_row(
    loop: Callable[..., None], x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, count: int, *arguments: object
) -> tuple[Tensor, Tensor]:
    """Return the indices and values `(B, count)` that a loop writes."""
    indices_BK = torch.empty(x_BD.shape[0], count, dtype=torch.int64)
    values_BK = torch.empty(x_BD.shape[0], count)
    outputs = (indices_BK.numpy(), values_BK.numpy())
    _with_low_precision(loop, x_BD, weight_FD, bias_F, torch.zeros_like(bias_F), *arguments, *outputs)
    return indices_BK, values_BK


def select_above(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, floor_F: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return offsets, indices and values of all pre-activations above their latent's floor.

    As in `select_topk`, with t = 0 for the distance from the floor.
    """
    rows, latents = x_BD.shape[0], weight_FD.shape[0]
    if not _low_precision_serves(x_BD, latents, SAMPLE):
        return by_torch(torch_cpu.select_above, x_BD, weight_FD, bias_F, floor_F)
    offsets = torch.zeros(rows + 1, dtype=torch.int64)
    counts_B = offsets[1:].numpy()
    found = _with_low_precision(_above_rows, x_BD, weight_FD, bias_F, -floor_F, _parts(latents, 64), counts_B)
    indices_E = torch.from_numpy(np.concatenate([indices for indices, _ in found] or [np.empty(0, np.int64)]))
    values_E = torch.from_numpy(np.concatenate([values for _, values in found] or [np.empty(0, np.float32)]))
    return offsets.cumsum_(0), indices_E, values_E


def select_batch_topk(
    x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, count: int, guess: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return offsets, indices and values of the `count` largest pre-activations of all rows.

    What lies above a floor is selected as in `select_above`: a little below the guess that is given, or else guessed
    from some of the rows. If that is too little, the floor was too high and is guessed from the rows, lower by as much
    as was missing. Then the largest are kept.
    """
    rows, latents = x_BD.shape[0], weight_FD.shape[0]
    if not (rows and count and _low_precision_serves(x_BD, latents, -(-count // rows))):
        return by_torch(torch_cpu.select_batch_topk, x_BD, weight_FD, bias_F, count)
    share, entries = 1.25 * count / (rows * latents), 0
    offsets = indices_E = values_E = x_BD.new_empty(0)
    if guess > 0:
        offsets, indices_E, values_E = _above(x_BD, weight_FD, bias_F, BELOW_GUESS * guess)
        entries = values_E.shape[0]
    while entries < count:
        offsets, indices_E, values_E = _above(x_BD, weight_FD, bias_F, _floor(x_BD, weight_FD, bias_F, share))
        entries = values_E.shape[0]
        share *= 1.25 * min(4.0, count / max(entries, 1))
    kept_E = torch.zeros(entries, dtype=torch.bool)
    kept_E[values_E.topk(count, sorted=False).indices] = True
    kept_before = torch.nn.functional.pad(kept_E.cumsum(0), (1, 0))
    return kept_before[offsets], indices_E[kept_E], values_E[kept_E]


def _above(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    return select_above(x_BD, weight_FD, bias_F, torch.full_like(bias_F, floor))


def _floor(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, share: float) -> float:
    """Return what this share of the pre-activations exceeds on some of the rows."""
    sample_BD = x_BD[:: max(1, x_BD.shape[0] // SAMPLED_ROWS)]
    sample_N = (sample_BD @ weight_FD.T + bias_F).view(-1)
    wanted = max(1, round(share * sample_N.shape[0]))
    return sample_N.topk(wanted, sorted=False).values.amin().item() if wanted < sample_N.shape[0] else -torch.inf


def _low_precision_serves(x_BD: Tensor, latents: int, k: int) -> bool:
    return x_BD.dtype == torch.float32 and k <= MOST_WANTED and latents >= 4 * max(k, SAMPLE)


def _parts(latents: int, expected: int) -> int:
    """Return the number of parts whose maxima are compared: a few times the number of latents to be found."""
    return min(latents, MOST_PARTS, 1 << (16 * max(expected, SAMPLE) - 1).bit_length())


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
def _topk_rows(start, stop, rough_BF, x_BD, weight_FD, bias_F, shift_F, parts, order, indices_BK, values_BK):
    """Write indices and values of the k largest pre-activations of some rows."""
    latents, k = rough_BF.shape[1], indices_BK.shape[1]
    best_S = np.empty(parts, np.int16)
    latent_N, value_N = np.empty(latents, np.int64), np.empty(latents, np.float32)
    for row in range(start, stop):
        rough_F = rough_BF[row - start]
        _maxima(rough_F, best_S, order)
        low, high, error, held = _bound(best_S, max(k, SAMPLE)), END, np.float32(0), 0
        while low < high:
            found = _collect(rough_F, 0, best_S, order, low, high, latent_N, 0)
            error = max(error, _compute(rough_F, x_BD[row], weight_FD, bias_F, shift_F, latent_N, value_N, found))
            if order == MAGNITUDE:
                _fold(latent_N, value_N, found)
            held = _keep_largest(value_N, latent_N, found, values_BK[row], indices_BK[row], held)
            low, high = min(low, _key_below(values_BK[row, 0] - SAFETY * error)), low
        if order == MAGNITUDE:
            _unfold(indices_BK[row], values_BK[row])


@compiled
def _group_rows(start, stop, rough_BF, x_BD, weight_FD, bias_F, shift_F, parts, indices_BG, values_BG):
    """Write index and value of the largest pre-activation of each group of some rows."""
    latents, groups = rough_BF.shape[1], indices_BG.shape[1]
    size, sample = latents // groups, -(-SAMPLE // groups)
    best_GS = np.empty((groups, parts), np.int16)
    low_G, high_G = np.empty(groups, np.int32), np.empty(groups, np.int32)
    latent_N, value_N = np.empty(latents, np.int64), np.empty(latents, np.float32)
    for row in range(start, stop):
        rough_F = rough_BF[row - start]
        for g in range(groups):
            _maxima(rough_F[g * size : (g + 1) * size], best_GS[g], VALUE)
            low_G[g], high_G[g] = _bound(best_GS[g], sample), END
        indices_BG[row] = -1
        error, found = np.float32(0), -1
        while found != 0:
            found = 0
            for g in range(groups):
                if low_G[g] < high_G[g]:
                    group_F = rough_F[g * size : (g + 1) * size]
                    found = _collect(group_F, g * size, best_GS[g], VALUE, low_G[g], high_G[g], latent_N, found)
            error = max(error, _compute(rough_F, x_BD[row], weight_FD, bias_F, shift_F, latent_N, value_N, found))
            _keep_largest_of_group(value_N, latent_N, found, size, values_BG[row], indices_BG[row])
            for g in range(groups):
                low_G[g], high_G[g] = min(low_G[g], _key_below(values_BG[row, g] - SAFETY * error)), low_G[g]


@compiled
def _above_rows(start, stop, rough_BF, x_BD, weight_FD, bias_F, shift_F, parts, count_B):
    """Return indices and values of what lies above the floor in some rows, and write how many there are per row."""
    latents = rough_BF.shape[1]
    best_S = np.empty(parts, np.int16)
    latent_N, value_N = np.empty(latents, np.int64), np.empty(latents, np.float32)
    indices_E, values_E = np.empty(64 * (stop - start), np.int64), np.empty(64 * (stop - start), np.float32)
    filled = 0
    for row in range(start, stop):
        rough_F, before = rough_BF[row - start], filled
        _maxima(rough_F, best_S, VALUE)
        low, high, error = min(0, _bound(best_S, SAMPLE)), END, np.float32(0)
        while low < high:
            found = _collect(rough_F, 0, best_S, VALUE, low, high, latent_N, 0)
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
def _maxima(rough_F, best_S, order):
    """Write the largest key of each part of the latents; latent f is in part f mod S."""
    latents, parts = rough_F.shape[0], best_S.shape[0]
    for start in range(0, latents, parts):
        part = rough_F[start : start + parts]
        if start == 0:
            for s in range(parts):
                best_S[s] = _key(part[s], order)
        else:
            for s in range(part.shape[0]):
                best_S[s] = max(best_S[s], _key(part[s], order))


@compiled
def _bound(best_S, count):
    """Return a key that at least `count` latents reach: if `count` parts have a maximum of at least t, so have they."""
    largest = best_S[0]
    for s in range(best_S.shape[0]):
        largest = max(largest, best_S[s])
    low, high = largest if count == 1 else -END, largest
    while low < high:
        middle = (low + high + 1) >> 1
        reach = np.int16(0)
        for s in range(best_S.shape[0]):
            reach = np.int16(reach + np.int16(best_S[s] >= np.int16(middle)))
        if reach >= count:
            low = middle
        else:
            high = middle - 1
    return max(low - STEPS, -END)


@compiled
def _collect(rough_F, first, best_S, order, low, high, latent_N, found):
    """List the latents with low <= key < high behind those found before, counted from `first`; return how many now."""
    for s in range(best_S.shape[0]):
        if best_S[s] >= low:
            for latent in range(s, rough_F.shape[0], best_S.shape[0]):
                if low <= _key(rough_F[latent], order) < high:
                    latent_N[found] = first + latent
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
def _keep_largest_of_group(value_N, latent_N, found, size, value_G, latent_G):
    """Keep the largest value of each group seen so far."""
    for n in range(found):
        value, latent = value_N[n], latent_N[n]
        g = latent // size
        if latent_G[g] < 0 or value > value_G[g]:
            value_G[g], latent_G[g] = value, latent


@compiled
def _fold(latent_N, value_N, found):
    """Make values magnitudes; the latents of those that were negative become negative."""
    for n in range(found):
        if value_N[n] < 0:
            latent_N[n], value_N[n] = ~latent_N[n], -value_N[n]


@compiled
def _unfold(latent_K, value_K):
    """Undo `_fold`."""
    for n in range(latent_K.shape[0]):
        if latent_K[n] < 0:
            latent_K[n], value_K[n] = ~latent_K[n], -value_K[n]


@compiled
def _key(bits, order):
    """Return an int16 that is ordered like the bfloat16 number whose bits these are, or like its magnitude."""
    inverted, kept = order
    return np.int16((bits ^ (np.int16(bits >> np.int16(15)) & inverted)) & kept)


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
def gather_dot_rows(start, stop, x_BD, weight_FD, offsets, indices_E, products_E):
    """Write the product of each entry's row of x with its latent's row of the weight, for the entries of some rows."""
    for row in range(start, stop):
        first, last = offsets[row], offsets[row + 1]
        _dots(x_BD[row], weight_FD, indices_E[first:last], products_E[first:last])


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
        a_D, a = weight_FD[latent_N[n]], x_D.dtype.type(0)
        for i in range(x_D.shape[0]):
            a += x_D[i] * a_D[i]
        value_N[n] = a
        n += 1
