"""What the pictures are drawn from: checked arrays made of whatever a caller has.

Directions come from an autoencoder, an estimator or an array; codes from SparseCodes, a scipy matrix or an array.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gossamer.codes import DenseCodes, SparseCodes, is_active, require_valid

__all__ = ["Active", "Chosen", "active", "choose", "dictionary", "matrix", "pixel_shape", "series"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Active:
    """The active entries of codes, row by row: `row`, `latent`, `value`, each `(entries,)`; rows is not 0."""

    row: np.ndarray
    latent: np.ndarray
    value: np.ndarray
    rows: int
    latents: int

    def counts(self) -> np.ndarray:
        """Return `(latents,)`: on how many rows each latent is active."""
        return np.bincount(self.latent, minlength=self.latents)


@dataclass(frozen=True, eq=False, kw_only=True)
class Chosen:
    """Latents in the order in which they are drawn, what that order is, and which of them were never active."""

    latents: np.ndarray
    order: str
    unused: frozenset[int] = frozenset()

    def name(self, latent: int) -> str:
        """Return what is written at an atom."""
        return f"{latent} unused" if latent in self.unused else str(latent)


def matrix(values: Any, name: str) -> np.ndarray:
    """Return `(rows, width)` float64; raises ValueError unless it is one, not empty, of finite numbers."""
    array = _numbers(values, name)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name}: expected a matrix (rows, width) that is not empty, got shape {array.shape}")
    return array


def series(values: Any, name: str) -> np.ndarray:
    """Return `(points,)` float64; raises ValueError unless it is one, not empty, of finite numbers."""
    array = _numbers(values, name)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name}: expected a sequence of numbers that is not empty, got shape {array.shape}")
    return array


def dictionary(directions: Any) -> np.ndarray:
    """Return directions `(latents, width)` of an autoencoder, an estimator with `components_`, or an array.

    Raises ValueError if the latents have no direction in the output, since layers follow.
    """
    decoder = getattr(directions, "decoder", None)
    if decoder is not None and hasattr(decoder, "directions"):
        hidden = getattr(directions.spec.decoder, "hidden", ())
        if hidden:
            raise ValueError(
                f"the latents of this autoencoder have no direction in a row: layers of {tuple(hidden)} units follow"
            )
        directions = decoder.directions()
    return matrix(getattr(directions, "components_", directions), "directions")


def active(codes: Any) -> Active:
    """Return the active entries of SparseCodes, DenseCodes, a scipy.sparse matrix or an array `(rows, latents)`.

    Raises ValueError for codes without rows or latents, or with NaN or infinite values.
    """
    if isinstance(codes, SparseCodes):
        require_valid(codes)
        kept = is_active(codes)
        parts = codes.row_of_entry()[kept], codes.indices[kept], codes.values[kept]
        shape = codes.shape
    elif isinstance(codes, DenseCodes):
        kept = is_active(codes)
        parts = (*kept.nonzero(as_tuple=True), codes.values[kept])
        shape = tuple(codes.values.shape)
    elif hasattr(codes, "tocsr"):
        csr = codes.tocsr(copy=True)
        csr.sum_duplicates()
        csr.eliminate_zeros()
        parts = np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr)), csr.indices, csr.data
        shape = csr.shape
    else:
        dense = matrix(codes, "codes")
        row, latent = dense.nonzero()
        parts, shape = (row, latent, dense[row, latent]), dense.shape
    if not (shape[0] and shape[1]):
        raise ValueError(f"codes: expected at least one row and one latent, got shape {tuple(shape)}")
    row, latent, value = (_numbers(part, "codes") for part in parts)
    return Active(row=row.astype(int), latent=latent.astype(int), value=value, rows=shape[0], latents=shape[1])


def choose(order: Any, *, latents: int, limit: int) -> Chosen:
    """Return at most `limit` latents, in their own order, in a given one, or by how often codes use them.

    order: None, latents `(shown,)` integers, or codes `(rows, latents)`.
    Raises ValueError for an order of other latents than there are.
    """
    if limit < 1:
        raise ValueError(f"limit: expected at least 1 atom, got {limit}")
    if order is None:
        return Chosen(latents=np.arange(min(limit, latents)), order="")
    listed = None if hasattr(order, "tocsr") or isinstance(order, SparseCodes | DenseCodes) else _array(order)
    if listed is not None and listed.ndim == 1:
        _require_latents(listed, latents)
        return Chosen(latents=listed[:limit], order=", in the order given")
    found = active(order)
    if found.latents != latents:
        raise ValueError(f"order: codes of {found.latents} latents given for {latents} directions")
    counts = found.counts()
    shown = np.argsort(-counts, kind="stable")[:limit]
    return Chosen(latents=shown, order=", most used first", unused=frozenset(shown[counts[shown] == 0].tolist()))


def pixel_shape(shape: Sequence[int], width: int) -> tuple[int, ...]:
    """Return (height, width) of a gray or (height, width, 3) of a color picture of that many entries."""
    sizes = tuple(int(size) for size in shape)
    if len(sizes) not in (2, 3) or min(sizes) < 1 or (len(sizes) == 3 and sizes[2] not in (1, 3)):
        raise ValueError(f"shape: expected (height, width) or (height, width, channels), 1 or 3 of them; got {sizes}")
    pixels = int(np.prod(sizes))
    if pixels != width:
        raise ValueError(f"shape: {' × '.join(map(str, sizes))} = {pixels} entries do not fit rows of width {width}")
    return sizes[:2] if sizes[2:] == (1,) else sizes


def _require_latents(listed: np.ndarray, latents: int) -> None:
    if not np.issubdtype(listed.dtype, np.integer):
        raise ValueError(
            "order: expected latents (integers) or codes (rows, latents), got numbers with a fraction; "
            "for shares of use give numpy.argsort(-shares)"
        )
    if not len(listed) or listed.min() < 0 or listed.max() >= latents:
        raise ValueError(f"order: expected latents from 0 to {latents - 1}, got {listed.tolist()[:8]}")


def _array(values: Any) -> np.ndarray:
    """Return a numpy array of numbers, whatever holds them and wherever they are."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def _numbers(values: Any, name: str) -> np.ndarray:
    array = _array(values)
    if np.iscomplexobj(array):
        raise ValueError(f"{name}: expected real numbers, got complex ones")
    try:
        array = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected numbers, got {array.dtype} entries") from error
    broken = int(array.size - np.isfinite(array).sum())
    if broken:
        raise ValueError(f"{name}: {broken} of {array.size} entries are NaN or infinite")
    return array
