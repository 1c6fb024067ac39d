"""Pre-activations: what an encoder gives a sparsity, before anything is computed that nobody asks for.

The last affine map of an encoder is returned *not yet multiplied out*, so that the sparsity can choose the active
latents in low precision and compute only those in full. Encoders whose last step is no affine map hand over a matrix,
several maps side by side, or an affine map plus a sparse code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gossamer import kernels
from gossamer.codes import SparseCodes, keep_entries, rank_in_row, spread

__all__ = ["Affine", "Computed", "Corrected", "Joined", "PreActivations", "rows_of"]


class PreActivations:
    """Stand for `(rows, latents)` pre-activations p. Whatever is chosen of them is differentiable.

    The base class computes all of them (`dense`) and chooses afterwards; the others know better ways.
    """

    @property
    def rows(self) -> int:
        """Number of rows."""
        raise NotImplementedError

    @property
    def latents(self) -> int:
        """Number of latents."""
        raise NotImplementedError

    def offset(self) -> Tensor:
        """Return the part of them that is the same for all rows and learned, `(latents,)`."""
        raise NotImplementedError

    def dense(self) -> Tensor:
        """Return all of them, `(rows, latents)`."""
        raise NotImplementedError

    def topk(self, k: int) -> SparseCodes:
        """Return the k largest of each row."""
        return self._chosen(lambda p: p.topk(k, dim=1).indices)

    def abs_topk(self, k: int) -> SparseCodes:
        """Return the k of each row with the largest magnitude, with their signs."""
        return self._chosen(lambda p: p.abs().topk(k, dim=1).indices)

    def group_max(self, groups: int) -> SparseCodes:
        """Return the largest of each of `groups` equal runs of latents, for each row."""
        starts = torch.arange(0, self.latents, self.latents // groups)
        return self._chosen(lambda p: p.unflatten(1, (groups, -1)).argmax(dim=2) + starts.to(p.device))

    def above(self, floor: Tensor) -> SparseCodes:
        """Return those above their latent's floor `(latents,)`."""
        p = self.dense()
        return _where(p, p > floor)

    def batch_topk(self, count: int, guess: float = 0.0) -> SparseCodes:
        """Return the `count` largest of all rows together; guess: about what they exceed, 0 if nobody knows."""
        p = self.dense()
        chosen = torch.zeros(p.numel(), dtype=torch.bool, device=p.device)
        chosen[p.detach().flatten().topk(count).indices] = True
        return _where(p, chosen.view(p.shape))

    def column_topk(self, count: int) -> SparseCodes:
        """Return the `count` largest rows of each latent."""
        p = self.dense()
        chosen = torch.zeros_like(p, dtype=torch.bool).scatter_(0, p.detach().topk(count, dim=0).indices, True)
        return _where(p, chosen)

    def of(self, latents: Tensor) -> PreActivations:
        """Return the pre-activations of some latents only, `(rows, len(latents))`."""
        return Computed(self.dense().index_select(1, latents))

    def _chosen(self, choose: Callable[[Tensor], Tensor]) -> SparseCodes:
        p = self.dense()
        indices = choose(p.detach())
        return SparseCodes.from_topk(indices, p.gather(1, indices), latents=self.latents)


@dataclass(frozen=True, eq=False)
class Computed(PreActivations):
    """Hold the pre-activations as a matrix, `values` `(rows, latents)`."""

    values: Tensor

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.values.shape[0]

    @property
    def latents(self) -> int:
        """Number of latents."""
        return self.values.shape[1]

    def offset(self) -> Tensor:
        """Return the bias."""
        return self.values.new_zeros(self.latents)

    def dense(self) -> Tensor:
        """Return the matrix."""
        return self.values


@dataclass(frozen=True, eq=False)
class Affine(PreActivations):
    """Stand for x Wᵀ + b without computing it.

    x: `(rows, width)`; weight: `(latents, width)`; bias: `(latents,)`.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.x.shape[0]

    @property
    def latents(self) -> int:
        """Number of latents."""
        return self.weight.shape[0]

    def offset(self) -> Tensor:
        """Return the bias."""
        return self.bias

    def dense(self) -> Tensor:
        """Multiply it out."""
        return nn.functional.linear(self.x, self.weight, self.bias)

    def topk(self, k: int) -> SparseCodes:
        """Return the k largest of each row."""
        return SparseCodes.from_topk(*kernels.select_topk(self.x, self.weight, self.bias, k), latents=self.latents)

    def abs_topk(self, k: int) -> SparseCodes:
        """Return the k of each row with the largest magnitude, with their signs."""
        return SparseCodes.from_topk(*kernels.select_abs_topk(self.x, self.weight, self.bias, k), latents=self.latents)

    def group_max(self, groups: int) -> SparseCodes:
        """Return the largest of each of `groups` equal runs of latents, for each row."""
        chosen = kernels.select_group_max(self.x, self.weight, self.bias, groups)
        return SparseCodes.from_topk(*chosen, latents=self.latents)

    def above(self, floor: Tensor) -> SparseCodes:
        """Return those above their latent's floor `(latents,)`."""
        offsets, indices, values = kernels.select_above(self.x, self.weight, self.bias, floor)
        return SparseCodes(offsets=offsets, indices=indices, values=values, latents=self.latents)

    def batch_topk(self, count: int, guess: float = 0.0) -> SparseCodes:
        """Return the `count` largest of all rows together; guess: about what they exceed, 0 if nobody knows."""
        offsets, indices, values = kernels.select_batch_topk(self.x, self.weight, self.bias, count, guess)
        return SparseCodes(offsets=offsets, indices=indices, values=values, latents=self.latents)

    def column_topk(self, count: int) -> SparseCodes:
        """Return the `count` largest rows of each latent: rows and weights are selected in each other's place."""
        with torch.no_grad():
            row, _ = kernels.select_topk(self.weight, self.x, self.x.new_zeros(self.rows), count)
        order = torch.argsort(row.flatten(), stable=True)
        indices = torch.arange(self.latents, device=row.device).repeat_interleave(count)[order]
        offsets = nn.functional.pad(torch.bincount(row.flatten(), minlength=self.rows).cumsum(0), (1, 0))
        places = SparseCodes(offsets=offsets, indices=indices, values=indices.to(self.x), latents=self.latents)
        return places.replace_values(self.at(places))

    def of(self, latents: Tensor) -> PreActivations:
        """Return the pre-activations of some latents only, `(rows, len(latents))`."""
        return Affine(self.x, rows_of(self.weight, latents), self.bias.index_select(0, latents))

    def at(self, codes: SparseCodes) -> Tensor:
        """Return `(entries,)`: the pre-activations where some codes have entries."""
        products = kernels.gather_dot(self.x, self.weight, codes.offsets, codes.indices)
        return products + self.bias.index_select(0, codes.indices)


@dataclass(frozen=True, eq=False)
class Joined(PreActivations):
    """Stand for several pre-activations side by side: the latents of the first come first."""

    parts: Sequence[PreActivations]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.parts[0].rows

    @property
    def latents(self) -> int:
        """Number of latents of all parts."""
        return sum(part.latents for part in self.parts)

    def offset(self) -> Tensor:
        """Return the bias."""
        return torch.cat([part.offset() for part in self.parts])

    def dense(self) -> Tensor:
        """Return all of them, `(rows, latents)`."""
        return torch.cat([part.dense() for part in self.parts], dim=1)

    def topk(self, k: int) -> SparseCodes:
        """Take the k largest of each row of each part, and the k largest of those."""
        found = [part.topk(min(k, part.latents)) for part in self.parts]
        values = torch.cat([codes.values.view(codes.rows, -1) for codes in found], dim=1)
        numbered = zip(self._starts(), found, strict=True)
        indices = torch.cat([codes.indices.view(codes.rows, -1) + start for start, codes in numbered], dim=1)
        best = values.detach().topk(k, dim=1).indices
        return SparseCodes.from_topk(indices.gather(1, best), values.gather(1, best), latents=self.latents)

    def above(self, floor: Tensor) -> SparseCodes:
        """Return those above their latent's floor `(latents,)`."""
        floors = floor.split([part.latents for part in self.parts])
        return self._side_by_side([part.above(low) for part, low in zip(self.parts, floors, strict=True)])

    def batch_topk(self, count: int, guess: float = 0.0) -> SparseCodes:
        """Take the `count` largest of each part, and the `count` largest of those."""
        found = [part.batch_topk(min(count, self.rows * part.latents), guess) for part in self.parts]
        return _largest(self._side_by_side(found), count)

    def of(self, latents: Tensor) -> PreActivations:
        """Return the pre-activations of some latents only; `latents` rises."""
        ends = [*self._starts()[1:], self.latents]
        mine = [(latents >= start) & (latents < end) for start, end in zip(self._starts(), ends, strict=True)]
        numbered = zip(self.parts, self._starts(), mine, strict=True)
        return Joined([part.of(latents[which] - start) for part, start, which in numbered if which.any()])

    def _starts(self) -> list[int]:
        starts = [0]
        for part in self.parts:
            starts.append(starts[-1] + part.latents)
        return starts[:-1]

    def _side_by_side(self, found: Sequence[SparseCodes]) -> SparseCodes:
        numbered = zip(self._starts(), found, strict=True)
        return _merged(
            [
                SparseCodes(
                    offsets=codes.offsets, indices=codes.indices + start, values=codes.values, latents=self.latents
                )
                for start, codes in numbered
            ]
        )


@dataclass(frozen=True, eq=False)
class Corrected(PreActivations):
    """Stand for an affine map plus a code, x Wᵀ + b + z: what an iterative encoder ends with.

    A latent without an entry in z competes with its affine value alone. So if z has m entries, the k largest of the
    sum are among the entries of z and the k + m largest of the affine map: no other candidates are needed.
    """

    affine: Affine
    code: SparseCodes

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.affine.rows

    @property
    def latents(self) -> int:
        """Number of latents."""
        return self.affine.latents

    def offset(self) -> Tensor:
        """Return the bias."""
        return self.affine.bias

    def dense(self) -> Tensor:
        """Return all of them, `(rows, latents)`."""
        return self.affine.dense() + self.code.to_dense()

    def topk(self, k: int) -> SparseCodes:
        """Return the k largest of each row."""
        most = int(self.code.offsets.diff().max()) if self.code.rows else 0
        candidates = self._with_code(self.affine.topk(min(k + most, self.latents)))
        return keep_entries(candidates, rank_in_row(candidates) < k)

    def above(self, floor: Tensor) -> SparseCodes:
        """Return those above their latent's floor `(latents,)`."""
        candidates = self._with_code(self.affine.above(floor))
        return keep_entries(candidates, candidates.values > spread(candidates, floor))

    def batch_topk(self, count: int, guess: float = 0.0) -> SparseCodes:
        """Return the `count` largest of all rows together; guess: about what they exceed, 0 if nobody knows."""
        enough = min(count + self.code.indices.shape[0], self.code.rows * self.latents)
        return _largest(self._with_code(self.affine.batch_topk(enough)), count)

    def _with_code(self, found: SparseCodes) -> SparseCodes:
        """Return what was found of the affine map and the entries of z, with their sums, row by row."""
        inside = [codes.row_of_entry() * self.latents + codes.indices for codes in (found, self.code)]
        new = keep_entries(found, ~torch.isin(*inside))
        return _merged([new, self.code.replace_values(self.affine.at(self.code) + self.code.values)])


def rows_of(weight: Tensor, latents: Tensor) -> Tensor:
    """Return `weight[latents]`, as codes of one entry each: their gradient is no matrix of the size of the weight."""
    offsets = torch.arange(latents.shape[0] + 1, device=latents.device)
    return kernels.gather_sum(offsets, latents, weight.new_ones(latents.shape[0]), weight)


def _where(p: Tensor, chosen: Tensor) -> SparseCodes:
    row, indices = chosen.nonzero(as_tuple=True)
    offsets = nn.functional.pad(chosen.sum(dim=1).cumsum(0), (1, 0))
    return SparseCodes(offsets=offsets, indices=indices, values=p[row, indices], latents=p.shape[1])


def _merged(parts: Sequence[SparseCodes]) -> SparseCodes:
    """Return the entries of all codes of the same rows, those of the first come first in each row."""
    order = torch.argsort(torch.cat([codes.row_of_entry() for codes in parts]), stable=True)
    return SparseCodes(
        offsets=torch.stack([codes.offsets for codes in parts]).sum(dim=0),
        indices=torch.cat([codes.indices for codes in parts])[order],
        values=torch.cat([codes.values for codes in parts])[order],
        latents=parts[0].latents,
    )


def _largest(codes: SparseCodes, count: int) -> SparseCodes:
    chosen = torch.zeros_like(codes.values, dtype=torch.bool)
    chosen[codes.values.detach().topk(count).indices] = True
    return keep_entries(codes, chosen)
