"""The one definition of every quality figure, for every library; needs nothing but numpy.

Each runner hands over a function that reconstructs rows and says which latents it used. Nothing here knows a
library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Reconstruct = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Rows (n, width) in; their reconstruction (n, width) and the active latents, boolean (n, latents), out."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Figures on held-out rows."""

    fvu: float
    """Fraction of variance unexplained: sum |x_hat - x|^2 / sum |x - mean(x)|^2, in float64."""
    l0: float
    """Mean number of active latents per row."""
    dead: float
    """Share of the latents that are active on none of these rows."""


def score(rows: np.ndarray, reconstruct: Reconstruct, *, latents: int, chunk: int = 2048) -> Score:
    """Score reconstructions of held-out rows.

    The mean in the denominator is that of the rows given, so the mean as the only prediction scores 1.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    error = variance = 0.0
    active = 0
    used = np.zeros(latents, dtype=bool)
    for start in range(0, len(rows), chunk):
        given = rows[start : start + chunk]
        reconstruction, on = reconstruct(given)
        if reconstruction.shape != given.shape or on.shape != (len(given), latents):
            expected = f"{given.shape} and {(len(given), latents)}"
            raise ValueError(f"expected shapes {expected}, got {reconstruction.shape} and {on.shape}")
        exact = given.astype(np.float64)
        error += float(np.square(reconstruction.astype(np.float64) - exact).sum())
        variance += float(np.square(exact - mean).sum())
        active += int(np.count_nonzero(on))
        used |= on.any(axis=0)
    return Score(fvu=error / variance, l0=active / len(rows), dead=float(1.0 - used.mean()))
