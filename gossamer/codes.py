"""SparseCodes: the sparse vectors of a batch of rows, in compressed sparse row form.

Row r has the entries `offsets[r]` to `offsets[r + 1]`, each a latent index and a value. An entry may hold zero (a
TopK row with fewer than k positive pre-activations): it is stored, but not active, and does not count in L0.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    import scipy.sparse

__all__ = [
    "Codes",
    "DenseCodes",
    "SparseCodes",
    "active_rows",
    "concatenate_codes",
    "density",
    "is_active",
    "keep_entries",
    "rank_in_row",
    "require_valid",
    "row_of_entry",
    "spread",
    "with_value",
]

with warnings.catch_warnings():  # torch says once per process that sparse CSR tensors are in beta
    warnings.simplefilter("ignore")
    torch.zeros(1, 1).to_sparse_csr()


def row_of_entry(offsets: Tensor, indices: Tensor) -> Tensor:
    """Return `(entries,)` int64: the row that each entry belongs to."""
    return torch.repeat_interleave(offsets.diff(), output_size=indices.shape[0])


@dataclass(frozen=True, eq=False, kw_only=True)
class SparseCodes:
    """Hold the codes of a batch: `(rows, latents)` with few entries per row.

    offsets: `(rows + 1,)` int64, non-decreasing from 0 to the number of entries.
    indices: `(entries,)` int64, the latent of each entry; within a row each latent occurs at most once.
    values: `(entries,)` floating point; gradients flow through it.
    latents: the width of a dense code.
    gates: `(entries,)`, 1 where a latent is active and 0 elsewhere, if that has a gradient of its own (JumpReLU).
    charged: `(entries,)`, what penalties on magnitudes see instead of the values, if that is something else (Gated).
    level: an entry is active if its magnitude is above this; 0 but for units that are never quite off (sigmoid).
    """

    offsets: Tensor
    indices: Tensor
    values: Tensor
    latents: int
    gates: Tensor | None = None
    charged: Tensor | None = None
    level: float = 0.0

    def __post_init__(self) -> None:
        if self.offsets.dim() != 1 or self.indices.dim() != 1 or self.indices.shape != self.values.shape:
            shapes = [tuple(t.shape) for t in (self.offsets, self.indices, self.values)]
            raise ValueError(f"offsets (rows + 1,), indices and values (entries,) expected, got shapes {shapes}")

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.offsets.shape[0] - 1

    @property
    def shape(self) -> tuple[int, int]:
        """`(rows, latents)`, the shape of the dense form."""
        return self.rows, self.latents

    @property
    def l0(self) -> float:
        """Mean number of active latents per row (0 for no rows)."""
        return is_active(self).count_nonzero().item() / max(self.rows, 1)

    def row_of_entry(self) -> Tensor:
        """Return `(entries,)` int64: the row that each entry belongs to."""
        return row_of_entry(self.offsets, self.indices)

    def to_dense(self) -> Tensor:
        """Return the `(rows, latents)` tensor; differentiable in the values."""
        dense = self.values.new_zeros(self.shape)
        return dense.index_put((self.row_of_entry(), self.indices), self.values)

    def to_csr(self) -> Tensor:
        """Return a torch sparse CSR tensor, the latents of a row in rising order."""
        order = (self.row_of_entry() * self.latents + self.indices).argsort()
        entries = self.indices[order], self.values[order]
        return torch.sparse_csr_tensor(self.offsets, *entries, size=self.shape, check_invariants=False)

    def to_scipy(self) -> scipy.sparse.csr_array:
        """Return a scipy.sparse.csr_array without the entries that hold zero; bfloat16 becomes float32."""
        import scipy.sparse

        values = self.values.float() if self.values.dtype == torch.bfloat16 else self.values
        parts = [t.detach().cpu().numpy().copy() for t in (values, self.indices, self.offsets)]
        matrix = scipy.sparse.csr_array(tuple(parts), shape=self.shape)
        matrix.eliminate_zeros()
        matrix.sort_indices()
        return matrix

    @classmethod
    def from_dense(cls, dense: Tensor) -> Self:
        """Keep the entries of a `(rows, latents)` tensor that are not zero; differentiable."""
        if dense.dim() != 2:
            raise ValueError(f"expected a (rows, latents) tensor, got shape {tuple(dense.shape)}")
        active = dense != 0
        row, indices = active.nonzero(as_tuple=True)
        counts = torch.bincount(row, minlength=dense.shape[0])
        offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        return cls(offsets=offsets, indices=indices, values=dense[row, indices], latents=dense.shape[1])

    @classmethod
    def from_topk(cls, indices: Tensor, values: Tensor, *, latents: int) -> Self:
        """Make codes from `(rows, k)` indices and values: every row has the same number of entries."""
        rows, k = indices.shape
        offsets = torch.arange(0, rows * k + 1, k, device=indices.device) if k else indices.new_zeros(rows + 1)
        return cls(offsets=offsets, indices=indices.reshape(-1), values=values.reshape(-1), latents=latents)

    def replace_values(self, values: Tensor) -> Self:
        """Return codes with entries in the same places and other values."""
        places = {"offsets": self.offsets, "indices": self.indices, "latents": self.latents}
        return type(self)(**places, values=values, level=self.level)

    def detach(self) -> Self:
        """Return the same codes outside the autograd graph."""
        return self.replace_values(self.values.detach())

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device, or convert the values to a dtype, as `Tensor.to` does."""
        values = self.values.to(*args, **kwargs)
        places = {"offsets": self.offsets.to(values.device), "indices": self.indices.to(values.device)}
        return type(self)(**places, values=values, latents=self.latents, level=self.level)

    def __len__(self) -> int:
        return self.rows

    def __repr__(self) -> str:
        return f"SparseCodes(rows={self.rows}, latents={self.latents}, entries={self.indices.shape[0]})"


@dataclass(frozen=True, eq=False, kw_only=True)
class DenseCodes:
    """Hold the codes of a batch as a matrix: what training uses while most latents are still active.

    values: `(rows, latents)`, zero where a latent is not active. gates, charged, level: as in `SparseCodes`, the
    tensors `(rows, latents)`.
    entries: `()`, how many entries the same codes have in sparse form, if that is more than are not zero.
    """

    values: Tensor
    gates: Tensor | None = None
    charged: Tensor | None = None
    level: float = 0.0
    entries: Tensor | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.values.shape[0]

    def detach(self) -> Self:
        """Return the same codes outside the autograd graph."""
        return type(self)(values=self.values.detach(), level=self.level, entries=self.entries)


Codes = SparseCodes | DenseCodes


def concatenate_codes(parts: Iterable[SparseCodes]) -> SparseCodes:
    """Return the codes of all rows of all parts, in their order.

    Raises ValueError if there is no part, or if they have different numbers of latents.
    """
    found = list(parts)
    widths = {codes.latents for codes in found}
    if len(widths) != 1 or len({codes.level for codes in found}) != 1:
        raise ValueError(f"expected codes of one number of latents, got {sorted(widths) or 'no codes at all'}")
    counts = torch.cat([codes.offsets.diff() for codes in found])
    return SparseCodes(
        offsets=torch.nn.functional.pad(counts.cumsum(0), (1, 0)),
        indices=torch.cat([codes.indices for codes in found]),
        values=torch.cat([codes.values for codes in found]),
        latents=widths.pop(),
        level=found[0].level,
    )


def require_valid(codes: SparseCodes) -> None:
    """Raise ValueError if offsets or indices point outside: compiled loops follow them without a look.

    Only on the CPU: on another device it would be a question that the device has to answer at once.
    """
    if codes.indices.device.type != "cpu":
        return
    entries = codes.indices.shape[0]
    low, high = (int(n) for n in codes.indices.aminmax()) if entries else (0, 0)
    fit = codes.offsets[[0, -1]].tolist() == [0, entries] and bool((codes.offsets.diff() >= 0).all())
    if not fit or (entries and not 0 <= low <= high < codes.latents):
        raise ValueError(
            f"offsets must rise from 0 to the number of entries, {entries}, and indices lie in 0 to "
            f"{codes.latents - 1}; they lie in {low} to {high}"
        )


def is_active(codes: Codes) -> Tensor:
    """Return, for each entry of `codes.values`, whether its latent is active."""
    return codes.values.abs() > codes.level if codes.level else codes.values != 0


def keep_entries(codes: SparseCodes, kept: Tensor) -> SparseCodes:
    """Return codes with some of the entries only; kept: `(entries,)` booleans. Differentiable in the values."""
    places = kept.nonzero()[:, 0]
    return SparseCodes(
        offsets=torch.nn.functional.pad(kept.cumsum(0), (1, 0))[codes.offsets],
        indices=codes.indices.index_select(0, places),
        values=codes.values.index_select(0, places),
        latents=codes.latents,
        level=codes.level,
    )


def with_value(codes: SparseCodes, latents: Tensor, value: float) -> SparseCodes:
    """Return codes with some latents `(count,)`, each named once, at a value in every row, whatever they were."""
    kept = keep_entries(codes, ~torch.isin(codes.indices, latents))
    every_row = torch.arange(codes.rows, device=latents.device).repeat_interleave(len(latents))
    order = torch.cat([kept.row_of_entry(), every_row]).argsort(stable=True)
    return SparseCodes(
        offsets=kept.offsets + len(latents) * torch.arange(codes.rows + 1, device=latents.device),
        indices=torch.cat([kept.indices, latents.repeat(codes.rows)])[order],
        values=torch.cat([kept.values, kept.values.new_full((len(every_row),), value)])[order],
        latents=codes.latents,
        level=codes.level,
    )


def rank_in_row(codes: SparseCodes) -> Tensor:
    """Return `(entries,)` int64: 0 for the largest value of each row, 1 for the next, and so on."""
    row = codes.row_of_entry()
    order = torch.argsort(codes.values.detach(), descending=True, stable=True)
    order = order[torch.argsort(row[order], stable=True)]
    places = torch.arange(order.shape[0], device=order.device) - codes.offsets[:-1][row]
    return torch.empty_like(order).scatter_(0, order, places)


def density(codes: Codes) -> float:
    """Return the share of the dense form that has an entry in sparse form."""
    if isinstance(codes, DenseCodes):
        entries = codes.values.count_nonzero() if codes.entries is None else codes.entries
        return int(entries) / max(codes.values.numel(), 1)
    return codes.indices.shape[0] / max(codes.rows * codes.latents, 1)


def spread(codes: Codes, per_latent: Tensor) -> Tensor:
    """Return, for each entry of `codes.values`, what `per_latent (latents,)` holds for its latent; differentiable."""
    if isinstance(codes, DenseCodes):
        return per_latent.expand_as(codes.values)
    return per_latent.index_select(0, codes.indices)


def active_rows(codes: Codes) -> Tensor:
    """Return `(latents,)`: on how many rows each latent is active."""
    if isinstance(codes, DenseCodes):
        return is_active(codes).count_nonzero(dim=0)
    active = is_active(codes).float()  # bincount would ask the device for the largest index
    return active.new_zeros(codes.latents).index_add_(0, codes.indices, active)
