"""Selection on a GPU: candidates from a low-precision product, chosen by exact values (`triton_dots.py`).

The (B, F) pre-activations exist only in bfloat16 and only for a chunk of rows: cuBLAS writes them into one buffer
(2·B·F bytes), `_best_kernel` reads them twice, the second time out of the cache, and `_collect_kernel` once more where
the margin asks for more candidates. So 6·B·F bytes move for 2·B·D·F of arithmetic, and everything else is of the size
of the candidates. A product of our own could take the maxima of parts in its epilogue and save one of those reads, if
it were as fast as cuBLAS otherwise; that has not been tried.

What makes the result that of the full-precision definition (`_margin` has the reasoning): the error of the low
precision is measured on each row's best candidates, whatever could still matter within `SAFETY` times that error is
computed exactly too, and a row in which this cannot be trusted (NaN, an overflow, an error larger than was allowed
for) is done again by the definition. To learn which rows those are, they wait for the device once per call;
those with results of any size wait a few times per chunk, because that size has to be known too.

Selection by magnitude is selection by value with the bit of the sign taken out as the rough values are read. For the
largest of each group, a group of a row takes the place of a row.

Legend: B rows, D input width, F latents, E entries, K per row, C room for a row's candidates, S parts of the latents
whose maxima are compared, G groups that one latent each is chosen of.
"""

# In a kernel, the type of tl.sum and tl.max depends on their arguments in a way that type checkers do not follow.
# pyright: reportOperatorIssue=false

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gossamer.codes import row_of_entry
from gossamer.kernels import reference
from gossamer.kernels.capability import fast_bfloat16
from gossamer.kernels.triton_dots import dots, launch

__all__ = ["select_above", "select_abs_topk", "select_batch_topk", "select_group_max", "select_topk"]

CHUNK_BYTES = 256 * 2**20
"""Memory that selection may take for the pre-activations and candidates of a chunk of rows."""

SAFETY = 1.5
"""How many times the largest error seen among a row's candidates a latent must lie below the cut to be left out."""

SAMPLE = 32
"""A row has at least this many candidates, so that their errors say something about those of the others.

With 300 entries a row above their floor, one row in 75 had a larger error than 16 candidates let expect, and one in
300 than 32 did. With the k largest of a row none had.
"""

PARTS = (1024, 8192)
"""Fewest and most parts of the latents whose maxima bound the k-th largest pre-activation from below."""

VALUE, MAGNITUDE = -1, 0x7FFF
"""Which bits of a bfloat16 number are compared: all, or all but that of the sign."""

DENSE = 0.1
"""Density of candidates from which the definition's dense product is the faster way to exact values."""


def select_topk(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return indices and values `(B, k)` of the k largest pre-activations of each row, in no particular order.

    Candidates are the latents whose rough value reaches that of the k-th largest part's maximum, and then those whose
    rough value reaches the k-th largest exact value less the margin.
    """
    choose = partial(_topk_of_chunk, VALUE) if _low_precision_serves(x_BD, weight_FD.shape[0], k) else None
    return _by_chunks(choose, reference.select_topk, x_BD, weight_FD, bias_F, k, 32 * _room(k))


def select_abs_topk(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return indices and values `(B, k)` of the k pre-activations of each row that are largest in magnitude.

    As in `select_topk`, with magnitudes for values: that of a rough value is off by no more than the value.
    """
    choose = partial(_topk_of_chunk, MAGNITUDE) if _low_precision_serves(x_BD, weight_FD.shape[0], k) else None
    return _by_chunks(choose, reference.select_abs_topk, x_BD, weight_FD, bias_F, k, 32 * _room(k))


def select_group_max(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return indices and values `(B, groups)` of the largest pre-activation of each group of consecutive latents.

    As in `select_topk` for k = 1 in each group, with the margin of the whole row: one group has too few candidates.
    """
    latents = weight_FD.shape[0]
    size, room = reference.group_size(latents, groups), _room_of_group(groups)
    choose = _group_max_of_chunk if size >= 2 * room and _low_precision_serves(x_BD, latents, groups) else None
    return _by_chunks(choose, reference.select_group_max, x_BD, weight_FD, bias_F, groups, 32 * room * groups)


def _by_chunks(
    choose: Callable[..., tuple[Tensor, Tensor, Tensor]] | None,
    define: Callable[..., tuple[Tensor, Tensor]],
    x_BD: Tensor,
    weight_FD: Tensor,
    bias_F: Tensor,
    count: int,
    scratch: int,
) -> tuple[Tensor, Tensor]:
    """Return indices and values `(B, count)`, by the definition in all rows or in those where a choice is in doubt.

    choose(x, weight, bias, count, rough) returns indices, values and doubts of a chunk of rows, and needs `scratch`
    bytes for each.
    """
    x_BD, weight_FD, bias_F = (t.detach().contiguous() for t in (x_BD, weight_FD, bias_F))
    with _full_precision(x_BD.device):
        if choose is None:
            return _by_definition(define, x_BD, weight_FD, bias_F, count)
        chosen = [
            choose(x_BD[chunk], weight_FD, bias_F, count, rough_BF)
            for chunk, rough_BF in _low_precision(x_BD, weight_FD, bias_F, scratch)
        ]
        indices_BK, values_BK, doubtful_B = (torch.cat(each) for each in zip(*chosen, strict=True))
        again = doubtful_B.nonzero()[:, 0]
        if again.numel():
            indices_BK[again], values_BK[again] = _by_definition(define, x_BD[again], weight_FD, bias_F, count)
    return indices_BK, values_BK


def _topk_of_chunk(
    order: int, x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, k: int, rough_BF: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return indices and values `(B, k)`, and which rows `(B,)` have to be done again."""
    sample, room = max(k, SAMPLE), _room(k)
    best = _best(rough_BF, sample, room, order=order)
    exact_BC = _exact(x_BD, weight_FD, bias_F, best.indices)
    size_BC = best.compared(exact_BC, order)
    margin_B = _margin(best.error(size_BC), x_BD, torch.nanmedian)
    cut_B = size_BC.topk(k, sorted=False).values.amin(1) - margin_B
    more = _collect_rows(rough_BF, cut_B, best.threshold, room, order=order)
    more_exact_BC = _exact(x_BD, weight_FD, bias_F, more.indices)
    more_size_BC = more.compared(more_exact_BC, order)
    place_BK = torch.cat([size_BC, more_size_BC], 1).topk(k, sorted=False).indices
    indices_BK = torch.cat([best.indices, more.indices], 1).gather(1, place_BK).long()
    values_BK = torch.cat([exact_BC, more_exact_BC], 1).gather(1, place_BK)
    trusted_B = margin_B.isfinite() & (best.count >= sample) & (best.count <= room) & (more.count <= room)
    return indices_BK, values_BK, ~(trusted_B & (more.error(more_size_BC) <= margin_B))


def _group_max_of_chunk(
    x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, groups: int, rough_BF: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return indices and values `(B, groups)`, and which rows `(B,)` have to be done again."""
    size, sample, room = rough_BF.shape[1] // groups, triton.cdiv(SAMPLE, groups), _room_of_group(groups)
    groups_of_rows = rough_BF.view(-1, size)
    best = _best(groups_of_rows, sample, room)
    candidates = best.of_rows(groups, size)
    exact_BC = _exact(x_BD, weight_FD, bias_F, candidates.indices)
    margin_B = _margin(candidates.error(exact_BC), x_BD, torch.nanmedian)
    cut_BG = exact_BC.view(-1, groups, room).amax(2) - margin_B[:, None]
    more = _collect_rows(groups_of_rows, cut_BG.view(-1), best.threshold, room)
    more_candidates = more.of_rows(groups, size)
    more_exact_BC = _exact(x_BD, weight_FD, bias_F, more_candidates.indices)
    pair = [t.view(-1, groups, room) for t in (exact_BC, more_exact_BC)]
    values_BG, place_BG = torch.cat(pair, 2).max(2)
    pair = [t.indices.view(-1, groups, room) for t in (candidates, more_candidates)]
    indices_BG = torch.cat(pair, 2).gather(2, place_BG[:, :, None])[:, :, 0].long()
    trusted = ((best.count >= sample) & (best.count <= room) & (more.count <= room)).view(-1, groups).all(1)
    trusted &= more_candidates.error(more_exact_BC) <= margin_B  # NaN is not
    return indices_BG, values_BG, ~trusted


def select_above(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, floor_F: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return offsets, indices and values of all pre-activations above their latent's floor, latents in order.

    The low-precision product gives the distance from the floor; what reaches zero less the margin is computed exactly.
    A row with NaN is done by the definition, in which NaN stays, so that it is seen.
    """
    x_BD, weight_FD, bias_F, floor_F = (t.detach().contiguous() for t in (x_BD, weight_FD, bias_F, floor_F))
    with _full_precision(x_BD.device):
        if not _low_precision_serves(x_BD, weight_FD.shape[0], SAMPLE):
            return _above_by_definition(x_BD, weight_FD, bias_F, floor_F).codes(x_BD.shape[0])
        pieces = []
        for chunk, rough_BF in _low_precision(x_BD, weight_FD, bias_F - floor_F, 32 * _room(SAMPLE)):
            entries = _above_in_chunk(x_BD[chunk], weight_FD, bias_F, floor_F, rough_BF)
            pieces.append(entries.shift(chunk.start))
        return _join(pieces).codes(x_BD.shape[0])


def _above_in_chunk(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, floor_F: Tensor, rough_BF: Tensor) -> _Entries:
    best = _best(rough_BF, SAMPLE, _room(SAMPLE))
    error_B = best.error(_exact(x_BD, weight_FD, bias_F - floor_F, best.indices))
    margin_B = _margin(error_B, x_BD, torch.nanmedian)
    found = _collect_entries(rough_BF, -margin_B)
    if found is None:
        return _above_by_definition(x_BD, weight_FD, bias_F, floor_F)
    row_E, indices_E, rough_E = found
    values_E = dots(x_BD, weight_FD, row_E, indices_E) + bias_F[indices_E]
    above_E = values_E - floor_F[indices_E]
    doubtful_B = ~margin_B.isfinite() | best.threshold.isnan()
    doubtful_B[row_E[~((rough_E - above_E).abs() <= margin_B[row_E])]] = True
    kept = (values_E > floor_F[indices_E]) & ~doubtful_B[row_E]
    entries = _Entries(row_E[kept], indices_E[kept], values_E[kept])
    again = doubtful_B.nonzero()[:, 0]
    if not again.numel():
        return entries
    redone = _above_by_definition(x_BD[again], weight_FD, bias_F, floor_F)
    return _join([entries, redone._replace(rows=again[redone.rows])]).in_order()


def select_batch_topk(
    x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, count: int, guess: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return offsets, indices and values of the `count` largest pre-activations of all rows, latents in order.

    The `count`-th largest of all rows' maxima of parts, each lowered by its row's margin, is a lower bound of the
    `count`-th largest exact value. What reaches it less the margin is computed exactly. Where the rows need more than
    one chunk, the low-precision product is done twice, because the bound is known only after all of them.
    """
    x_BD, weight_FD, bias_F = (t.detach().contiguous() for t in (x_BD, weight_FD, bias_F))
    rows = x_BD.shape[0]
    with _full_precision(x_BD.device):
        entries = None
        if _low_precision_serves(x_BD, weight_FD.shape[0], triton.cdiv(count, max(rows, 1))):
            entries = _batch_candidates(x_BD, weight_FD, bias_F, count)
        if entries is None:
            entries = _batch_candidates_by_definition(x_BD, weight_FD, bias_F, count)
    chosen_E = entries.values.topk(count, sorted=False).indices.sort().values
    return _Entries(*(t[chosen_E] for t in entries)).codes(rows)


def _batch_candidates(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, count: int) -> _Entries | None:
    """Return entries among which are the `count` largest; None where that is doubtful."""
    per_row, room = triton.cdiv(count, max(x_BD.shape[0], 1)), _room(SAMPLE)
    parts, scratch = _parts(max(per_row, SAMPLE), weight_FD.shape[0]), 32 * room
    maxima, errors, chunks = [], [], []
    for chunk, rough_BF in _low_precision(x_BD, weight_FD, bias_F, scratch):
        best = _best(rough_BF, SAMPLE, room, parts=parts, keep_maxima=True)
        maxima.append(best.maxima)
        errors.append(best.error(_exact(x_BD[chunk], weight_FD, bias_F, best.indices)))
        chunks = [(chunk, rough_BF)]
    margin_B = _margin(torch.cat(errors), x_BD, torch.max)
    bound = (torch.cat(maxima) - margin_B[:, None]).view(-1).topk(count, sorted=False).values.amin()
    pieces = []
    for chunk, rough_BF in chunks if len(maxima) == 1 else _low_precision(x_BD, weight_FD, bias_F, scratch):
        found = _collect_entries(rough_BF, bound - margin_B[chunk])
        if found is None:
            return None
        row_E, indices_E, rough_E = found
        values_E = dots(x_BD[chunk], weight_FD, row_E, indices_E) + bias_F[indices_E]
        if not ((rough_E - values_E).abs() <= margin_B[chunk][row_E]).all():
            return None
        pieces.append(_Entries(row_E, indices_E, values_E).shift(chunk.start))
    entries = _join(pieces)
    return entries if int((entries.values >= bound).sum()) >= count else None


class _Entries(NamedTuple):
    """Entries of a batch of rows: where they are and their values, in the order of rows and then latents."""

    rows: Tensor
    indices: Tensor
    values: Tensor

    def shift(self, rows: int) -> _Entries:
        """Return the same entries that many rows further down."""
        return self._replace(rows=self.rows + rows)

    def in_order(self) -> _Entries:
        """Return the entries sorted by row; those of one row stay as they are."""
        order = self.rows.argsort(stable=True)
        return _Entries(*(t[order] for t in self))

    def codes(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return offsets, indices and values."""
        bounds = torch.arange(rows + 1, device=self.rows.device)
        return torch.searchsorted(self.rows, bounds), self.indices, self.values


def _join(pieces: list[_Entries]) -> _Entries:
    return _Entries(*(torch.cat(each) for each in zip(*pieces, strict=True)))


class _Candidates(NamedTuple):
    """Latents that were found in low precision, `room` places a row; places that are not used hold latent −1."""

    threshold: Tensor
    count: Tensor
    indices: Tensor
    rough: Tensor
    maxima: Tensor

    def error(self, exact_BC: Tensor) -> Tensor:
        """Return each row's largest distance between rough and exact value; NaN if a value is."""
        return torch.where(self.indices >= 0, (self.rough - exact_BC).abs(), 0.0).amax(1)

    def compared(self, exact_BC: Tensor, order: int) -> Tensor:
        """Return the exact values as they are compared, −∞ in unused places."""
        return exact_BC if order == VALUE else torch.where(self.indices >= 0, exact_BC.abs(), -float("inf"))

    def of_rows(self, groups: int, size: int) -> _Candidates:
        """Return candidates of rows for those of their groups, one group after another."""
        first = size * torch.arange(groups, dtype=torch.int32, device=self.indices.device)[:, None]
        places = self.indices.view(-1, groups, self.indices.shape[1])
        indices = torch.where(places >= 0, places + first, -1)
        rows = [t.reshape(len(places), -1) for t in (self.threshold, self.count, indices, self.rough, self.maxima)]
        return _Candidates(*rows)


def _exact(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, indices_BC: Tensor) -> Tensor:
    """Return the pre-activations of the candidates, −∞ in unused places."""
    row_BC = torch.arange(len(x_BD), device=x_BD.device)[:, None].expand_as(indices_BC)
    dots_E = dots(x_BD, weight_FD, row_BC.reshape(-1), indices_BC.view(-1))
    exact_BC = dots_E.view_as(indices_BC) + bias_F[indices_BC.clamp_min(0)]
    return torch.where(indices_BC >= 0, exact_BC, -float("inf"))


def _margin(error_B: Tensor, x_BD: Tensor, typical: Any) -> Tensor:
    """Return how far below the cut a rough value may lie and its latent still matter, for each row.

    That is `SAFETY` times the largest error among the row's candidates, or, for a row whose few candidates happen to
    be rounded well, times what is typical of rows of its length. Unused candidates would have to be off by more than
    that to be missed, and a row in which one that was looked at is off by more is done again.
    """
    size_B = torch.linalg.vector_norm(x_BD, dim=1)
    size_B = (size_B + size_B.mean()).clamp_min(torch.finfo(x_BD.dtype).tiny)
    return SAFETY * torch.maximum(error_B, size_B * typical(error_B / size_B))


def _room(k: int) -> int:
    """Return the number of places for a row's candidates: about k are expected in low precision, and ties."""
    return triton.next_power_of_2(max(128, 2 * k))


def _room_of_group(groups: int) -> int:
    """Return the number of places for the candidates of a group of a row: one or two are expected, and ties."""
    return triton.next_power_of_2(max(16, 4 * triton.cdiv(SAMPLE, groups)))


def _parts(k: int, latents: int) -> int:
    """Return the number of parts of latents: eight times k, so that few of the k best share one."""
    fewest, most = PARTS
    return min(max(fewest, triton.next_power_of_2(8 * k)), most, triton.next_power_of_2(latents))


def _low_precision_serves(x_BD: Tensor, latents: int, k: int) -> bool:
    fast = x_BD.device.type == "cpu" or fast_bfloat16(x_BD.device)  # "cpu" is Triton's interpreter
    few = 0 < k <= PARTS[1] // 4 and latents >= 2 * _room(k)
    return fast and few and x_BD.dtype == torch.float32 and x_BD.shape[0] > 0


def _low_precision(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, scratch: int) -> Iterator[tuple[slice, Tensor]]:
    """Give x Wᵀ + b chunk by chunk, in a bfloat16 buffer that is used again; a row also needs `scratch` bytes."""
    rows, latents = x_BD.shape[0], weight_FD.shape[0]
    weight_DF, bias_F = weight_FD.bfloat16().T, bias_F.bfloat16()
    step = min(rows, max(1, CHUNK_BYTES // (2 * latents + scratch)))
    buffer = torch.empty(step, latents, dtype=torch.bfloat16, device=x_BD.device)
    for chunk in _slices(rows, step):
        rough_BF = buffer[: chunk.stop - chunk.start]
        torch.addmm(bias_F, x_BD[chunk].bfloat16(), weight_DF, out=rough_BF)
        yield chunk, rough_BF


def _slices(rows: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, rows)) for start in range(0, max(rows, 1), step)]


def _best(
    rough_BF: Tensor, k: int, room: int, *, order: int = VALUE, parts: int | None = None, keep_maxima: bool = False
) -> _Candidates:
    """Return the latents whose rough value is at least the k-th largest part's maximum.

    One program per row: 8 or 16 maxima of parts in each thread's registers, all threads reading neighbouring latents.
    """
    rows, latents = rough_BF.shape
    parts = parts or _parts(k, latents)
    empty = _empty_candidates(rough_BF, room)
    maxima_BS = empty.rough.new_empty(rows, parts if keep_maxima else 0)
    best = empty._replace(maxima=maxima_BS)
    options = {"ORDER": order, "PARTS": parts, "KEEP_MAXIMA": keep_maxima, "num_warps": max(4, min(16, parts // 256))}
    launch(_best_kernel, (rows,), rough_BF.view(torch.int16), *best, latents, k, room, **options)
    return best


def _collect_rows(rough_BF: Tensor, low_B: Tensor, high_B: Tensor, room: int, *, order: int = VALUE) -> _Candidates:
    """Return the latents whose rough value is at least `low` and below `high`."""
    rows, latents = rough_BF.shape
    found = _empty_candidates(rough_BF, room)._replace(threshold=low_B)
    start_B = torch.arange(rows, device=rough_BF.device) * room
    tensors = (low_B, high_B, start_B, found.count, found.indices, found.rough)
    launch(_collect_kernel, (rows,), rough_BF.view(torch.int16), *tensors, latents, room, ORDER=order, BLOCK=1024)
    return found


def _collect_entries(rough_BF: Tensor, low_B: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return row, latent and rough value of everything that is at least `low`; None if those are too many.

    They are counted first, so that there is room for exactly as many.
    """
    rows, latents = rough_BF.shape
    high_B, count_B = torch.full_like(low_B, float("inf")), torch.empty_like(low_B, dtype=torch.int32)
    bits_BF, nothing = rough_BF.view(torch.int16), count_B.new_empty(1)
    unused = (torch.zeros_like(count_B, dtype=torch.int64), count_B, nothing, low_B.new_empty(1))
    launch(_collect_kernel, (rows,), bits_BF, low_B, high_B, *unused, latents, 0, ORDER=VALUE, BLOCK=1024)
    offsets = torch.nn.functional.pad(count_B.cumsum(0), (1, 0))
    total = int(offsets[-1])
    if total > DENSE * rows * latents:
        return None
    indices_E, rough_E = count_B.new_empty(total), low_B.new_empty(total)
    places = (offsets, count_B, indices_E, rough_E)
    launch(_collect_kernel, (rows,), bits_BF, low_B, high_B, *places, latents, latents, ORDER=VALUE, BLOCK=1024)
    return row_of_entry(offsets, indices_E), indices_E.long(), rough_E


def _empty_candidates(rough_BF: Tensor, room: int) -> _Candidates:
    rows = rough_BF.shape[0]
    numbers = rough_BF.new_empty(rows, room, dtype=torch.float32)
    return _Candidates(
        threshold=numbers.new_empty(rows),
        count=numbers.new_empty(rows, dtype=torch.int32),
        indices=numbers.new_full((rows, room), -1, dtype=torch.int32),
        rough=numbers,
        maxima=numbers.new_empty(rows, 0),
    )


@triton.jit
def _best_kernel(
    bits_ptr,
    threshold_ptr,
    count_ptr,
    latent_ptr,
    rough_ptr,
    maxima_ptr,
    latents,
    k,
    room,
    ORDER: tl.constexpr,
    PARTS: tl.constexpr,
    KEEP_MAXIMA: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    bits_ptr += row * latents
    part = tl.arange(0, PARTS)
    maxima = tl.zeros((PARTS,), dtype=tl.int32)
    for start in range(0, latents, PARTS):
        bits = tl.load(bits_ptr + start + part, mask=start + part < latents, other=0).to(tl.int32) & ORDER
        maxima = tl.maximum(maxima, tl.where(start + part < latents, _key(bits), 0))
    threshold = 0  # grows bit by bit to the largest key that at least k maxima reach
    for step in range(16):
        trial = threshold + (32768 >> step)
        threshold = tl.where(tl.sum((maxima >= trial).to(tl.int32), 0) >= k, trial, threshold)
    # Rows that hold NaN or ∞, whose keys are the largest, are done by definition.
    low = tl.where(tl.max(maxima, 0) >= 65408, float("nan"), _number_of_key(threshold))
    tl.store(threshold_ptr + row, low)
    if KEEP_MAXIMA:
        numbers = tl.where(maxima > 0, _number_of_key(maxima), -float("inf"))
        tl.store(maxima_ptr + row * PARTS + part, numbers)
    start = row * room
    latent_ptr, rough_ptr = latent_ptr + start, rough_ptr + start
    found = _collect(bits_ptr, low, float("inf"), latent_ptr, rough_ptr, latents, room, ORDER, PARTS)
    tl.store(count_ptr + row, found)


@triton.jit
def _collect_kernel(
    bits_ptr,
    low_ptr,
    high_ptr,
    start_ptr,
    count_ptr,
    latent_ptr,
    rough_ptr,
    latents,
    room,
    ORDER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    low, high, start = tl.load(low_ptr + row), tl.load(high_ptr + row), tl.load(start_ptr + row)
    end = tl.where(low < high, latents, 0)  # nothing to look for in most rows, or the bounds are NaN
    bits_ptr, latent_ptr, rough_ptr = bits_ptr + row * latents, latent_ptr + start, rough_ptr + start
    found = _collect(bits_ptr, low, high, latent_ptr, rough_ptr, end, room, ORDER, BLOCK)
    tl.store(count_ptr + row, found)


@triton.jit
def _collect(bits_ptr, low, high, latent_ptr, rough_ptr, latents, room, ORDER: tl.constexpr, BLOCK: tl.constexpr):
    """Write latents with low <= rough < high, in order, to the first `room` places; return how many there are."""
    found = 0
    for start in range(0, latents, BLOCK):
        latent = start + tl.arange(0, BLOCK)
        rough = _number(tl.load(bits_ptr + latent, mask=latent < latents, other=0).to(tl.int32) & ORDER)
        wanted = (rough >= low) & (rough < high) & (latent < latents)
        hits = tl.sum(wanted.to(tl.int32), 0)
        if hits > 0:
            place = found + tl.cumsum(wanted.to(tl.int32), 0) - 1
            tl.store(latent_ptr + place, latent, mask=wanted & (place < room))
            tl.store(rough_ptr + place, rough, mask=wanted & (place < room))
        found += hits
    return found


@triton.jit
def _number(bits):
    """Return the float32 number whose upper half the 16 bits are: that is what bfloat16 means."""
    return (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def _key(bits):
    """Return integers from 1 to 65535 in the order of the bfloat16 numbers, NaN last."""
    bits = bits.to(tl.int32)
    ordered = tl.where(bits < 0, bits ^ 0x7FFF, bits) + 32768
    return tl.where((bits & 0x7FFF) > 0x7F80, 65535, ordered)


@triton.jit
def _number_of_key(key):
    ordered = key - 32768
    return _number(tl.where(ordered < 0, ordered ^ 0x7FFF, ordered))


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Let float32 products be float32 products in this context, whatever is set about TF32 and autocast."""
    try:
        before, precision = torch.get_float32_matmul_precision(), ""
    except RuntimeError:  # set through torch.backends: the two ways to say it do not mix
        before, precision = "highest", torch.backends.cuda.matmul.fp32_precision
    with torch.autocast(device.type, enabled=False):
        try:
            if before != "highest":
                torch.set_float32_matmul_precision("highest")
            if precision:
                torch.backends.cuda.matmul.fp32_precision = "ieee"
            yield
        finally:
            if before != "highest":
                torch.set_float32_matmul_precision(before)
            if precision:
                torch.backends.cuda.matmul.fp32_precision = precision


def _by_definition(
    define: Callable[..., tuple[Tensor, Tensor]], x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    found = [define(x_BD[chunk], weight_FD, bias_F, count) for chunk in _full_slices(x_BD, weight_FD)]
    indices_BK, values_BK = (torch.cat(each) for each in zip(*found, strict=True))
    return indices_BK, values_BK


def _above_by_definition(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, floor_F: Tensor) -> _Entries:
    pieces = []
    for chunk in _full_slices(x_BD, weight_FD):
        offsets, indices_E, values_E = reference.select_above(x_BD[chunk], weight_FD, bias_F, floor_F)
        pieces.append(_Entries(row_of_entry(offsets, indices_E) + chunk.start, indices_E, values_E))
    return _join(pieces)


def _batch_candidates_by_definition(x_BD: Tensor, weight_FD: Tensor, bias_F: Tensor, count: int) -> _Entries:
    """Return the `count` largest of each chunk of rows, among which are those of the batch."""
    pieces = []
    for chunk in _full_slices(x_BD, weight_FD):
        most = min(count, (chunk.stop - chunk.start) * weight_FD.shape[0])
        offsets, indices_E, values_E = reference.select_batch_topk(x_BD[chunk], weight_FD, bias_F, most)
        pieces.append(_Entries(row_of_entry(offsets, indices_E) + chunk.start, indices_E, values_E))
    return _join(pieces)


def _full_slices(x_BD: Tensor, weight_FD: Tensor) -> list[slice]:
    bytes_per_row = max(1, weight_FD.shape[0] * x_BD.element_size())
    return _slices(x_BD.shape[0], max(1, CHUNK_BYTES // bytes_per_row))
