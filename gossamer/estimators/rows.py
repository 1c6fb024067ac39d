"""Rows in, codes and figures out: what estimators ask of a trained autoencoder, a chunk of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.codes import SparseCodes
from gossamer.sources.arrays import is_sparse, release

__all__ = [
    "chunks",
    "components",
    "csr_codes",
    "decoded",
    "dense_codes",
    "explained",
    "on_device",
    "require_probabilities",
    "require_usable",
]

CHUNK, ENTRIES = 4096, 2**21
"""Most rows and, where rows are wide, most entries that are dense at a time."""
EPS = 4 * float(np.finfo(np.float32).eps)
"""Relative size of what float32 cannot tell apart after a few operations."""
LARGEST = 1e15
"""Largest entry whose squares, summed over a chunk, are finite in float32."""


def chunks(X: Any, *, batch: int = 1) -> Iterator[tuple[slice, np.ndarray]]:
    """Iterate over rows as dense arrays, with the place of each.

    X: an array or a scipy.sparse matrix. batch: rows that stay together.
    """
    size = batch * max(1, min(CHUNK, ENTRIES // X.shape[1]) // batch)
    for start in range(0, X.shape[0], size):
        place = slice(start, min(start + size, X.shape[0]))
        rows = X[place]
        yield place, rows.toarray() if hasattr(rows, "toarray") else np.asarray(rows, _precision(X))
        release(X)


@torch.no_grad()
def dense_codes(model: SparseAutoencoder, X: Any) -> np.ndarray:
    """Return the codes of rows, `(rows, latents)`, in float64 if X is, else in float32."""
    out = np.empty((X.shape[0], model.spec.latents), _precision(X))
    for place, rows in chunks(X):
        out[place] = model.encode(on_device(model, rows)).to_dense().cpu().numpy()
    return out


@torch.no_grad()
def csr_codes(model: SparseAutoencoder, X: Any) -> Any:
    """Return the codes of rows as a scipy.sparse.csr_array, in float64 if X is, else in float32."""
    from scipy.sparse import vstack

    parts = [model.encode(on_device(model, rows)).to_scipy().astype(_precision(X)) for _, rows in chunks(X)]
    return vstack(parts, format="csr")


@torch.no_grad()
def decoded(model: SparseAutoencoder, Z: Any) -> np.ndarray:
    """Return the rows that codes stand for, in the type of Z; Z: an array or a scipy.sparse matrix."""
    out = np.empty((Z.shape[0], model.spec.output_width), Z.dtype)
    for place, codes in chunks(Z):
        out[place] = model.decode(SparseCodes.from_dense(on_device(model, codes))).cpu().numpy()
    return out


@torch.no_grad()
def explained(model: SparseAutoencoder, X: Any, weight: np.ndarray | None) -> float:
    """Return 1 − Σ w ‖x − x̂‖² / Σ w ‖x − x̄‖²; for rows that do not differ, whether they are reconstructed exactly."""
    weight = np.ones(X.shape[0]) if weight is None else weight
    mean = sum((weight[place] @ rows.astype(np.float64) for place, rows in chunks(X)), np.zeros(X.shape[1]))
    mean = mean / weight.sum()
    error = variance = rounding = 0.0
    for place, rows in chunks(X):
        back = model(on_device(model, rows)).reconstruction.cpu().numpy()
        error += float(weight[place] @ np.square(rows - back, dtype=np.float64).sum(axis=1))
        variance += float(weight[place] @ np.square(rows - mean).sum(axis=1))
        rounding += float(weight[place] @ np.square(EPS * rows, dtype=np.float64).sum(axis=1))
    if variance <= rounding:
        return float(error <= rounding)
    return 1 - error / variance


@torch.no_grad()
def components(model: SparseAutoencoder) -> np.ndarray:
    """Return `(latents, width)`: what one unit of each latent adds to a row; AttributeError for deep decoders."""
    if not model.spec.decoder.linear:
        raise AttributeError("components_: the decoder has hidden layers, so that a component adds no fixed direction")
    latents = model.spec.latents
    units = torch.eye(latents, device=model.device)
    nothing = model.decode(SparseCodes.from_dense(torch.zeros_like(units[:1])))
    return (model.decode(SparseCodes.from_dense(units)) - nothing).cpu().numpy()


def require_usable(X: Any) -> None:
    """Raise ValueError if a row holds NaN, infinity, or what is too large to be squared in float32."""
    for place, rows in chunks(_stored(X)):
        smallest, largest = float(rows.min()), float(rows.max())
        if not (np.isfinite(smallest) and np.isfinite(largest)):
            raise ValueError(f"X holds NaN or infinity in rows {place.start} to {place.stop - 1}")
        if max(-smallest, largest) > LARGEST:
            worst = largest if largest > -smallest else smallest
            raise ValueError(f"X holds {worst:.3g}, more than float32 can square and sum; divide X by a constant")


def require_probabilities(X: Any) -> None:
    """Raise ValueError unless all entries lie between 0 and 1, up to rounding."""
    for _, rows in chunks(_stored(X)):
        if rows.min() < -EPS or rows.max() > 1 + EPS:
            raise ValueError(
                f"loss 'binary_cross_entropy' needs entries from 0 to 1, and X has some from {rows.min():.4g} to "
                f"{rows.max():.4g}; scale them (MinMaxScaler)"
            )


def on_device(model: SparseAutoencoder, rows: np.ndarray) -> torch.Tensor:
    """Return a float32 copy of rows beside the model's weights; rows may be read-only."""
    return torch.from_numpy(np.array(rows, dtype=np.float32, order="C")).to(model.device)


def _stored(X: Any) -> Any:
    """Return what a sparse matrix stores, as a column; the rest is zero."""
    return X.data[:, None] if is_sparse(X) else X


def _precision(X: Any) -> type[np.floating]:
    return np.float64 if X.dtype.kind == "f" and X.dtype.itemsize >= 8 else np.float32
