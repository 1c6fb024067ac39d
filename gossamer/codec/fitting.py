"""The values that fit a row best with the latents that the encoder chose: least squares, on the writing side only.

    v = argmin ‖x − b − Σ_{j in S} v_j d_j‖²        S: the active latents of the row

An encoder of one matrix shrinks its values and counts twice what two directions share; the codec is free to send better
ones, for the decoder does not care where they come from.
"""

from __future__ import annotations

import numpy as np
import torch

from gossamer.codes import SparseCodes

__all__ = ["refitted"]

AT_ONCE = 1 << 22
"""Numbers of the gathered directions, at most."""

RIDGE = 1e-6
"""Share of the mean squared norm added to the diagonal: directions that are nearly alike would else cancel hugely."""


def refitted(codes: SparseCodes, x: np.ndarray, directions: np.ndarray, bias: np.ndarray) -> SparseCodes:
    """Return codes with the same active latents and the values that reconstruct `x` `(rows, width)` best."""
    offsets, latents = codes.offsets.cpu().numpy(), codes.indices.cpu().numpy()
    counts = np.diff(offsets)
    most = int(counts.max(initial=0))
    values = np.zeros(len(latents))
    if not most:
        return codes
    rows_at_once = max(AT_ONCE // (most * directions.shape[1]), 1)
    for start in range(0, len(counts), rows_at_once):
        rows = slice(start, start + rows_at_once)
        there = np.arange(most) < counts[rows, None]
        entries = np.where(there, offsets[:-1][rows, None] + np.arange(most), 0)
        chosen = directions[latents[entries]].astype(np.float64) * there[:, :, None]
        values[entries[there]] = _solved(chosen, x[rows].astype(np.float64) - bias)[there]
    return codes.replace_values(torch.from_numpy(values).to(codes.values.device))


def _solved(chosen: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Solve (rows, k) normal equations; directions of zeros get the value 0."""
    gram = chosen @ chosen.transpose(0, 2, 1)
    diagonal = np.einsum("rkk->rk", gram)
    ridge = RIDGE * diagonal.mean(axis=1, keepdims=True)
    diagonal += np.where(diagonal > 0, ridge, 1.0)
    return np.linalg.solve(gram, chosen @ wanted[:, :, None])[:, :, 0]
