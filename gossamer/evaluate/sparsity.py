"""How sparse the codes are: L0, the density of every latent, the share that is dead."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gossamer.codes import SparseCodes, is_active

__all__ = ["Sparsity", "SparsityScore"]


@dataclass(frozen=True, eq=False)
class SparsityScore:
    """l0: mean number of active latents per row. dead: share of the latents active on none of the rows.

    densities: `(latents,)`, share of the rows on which each latent is active. mean_activation, max_activation:
    `(latents,)`, over the rows on which it is active (0 if there are none).
    """

    l0: float
    dead: float
    densities: np.ndarray
    mean_activation: np.ndarray
    max_activation: np.ndarray
    rows: int


class Sparsity:
    """Accumulate codes batch by batch."""

    def __init__(self, latents: int) -> None:
        self._rows = 0
        self._active = torch.zeros(latents, dtype=torch.float64)
        self._sum = torch.zeros(latents, dtype=torch.float64)
        self._max = torch.full((latents,), -torch.inf, dtype=torch.float64)

    def update(self, codes: SparseCodes) -> None:
        """Add the codes of some rows."""
        active = is_active(codes).cpu()
        indices, values = codes.indices.cpu()[active], codes.values.detach().double().cpu()[active]
        self._rows += codes.rows
        self._active.index_add_(0, indices, torch.ones_like(values))
        self._sum.index_add_(0, indices, values)
        self._max.scatter_reduce_(0, indices, values, "amax")

    def score(self) -> SparsityScore:
        """Return L0, dead share and densities."""
        rows = max(self._rows, 1)
        return SparsityScore(
            l0=self._active.sum().item() / rows,
            dead=self._active.eq(0).double().mean().item(),
            densities=(self._active / rows).numpy(),
            mean_activation=(self._sum / self._active.clamp_min(1)).numpy(),
            max_activation=self._max.where(self._active > 0, 0.0).numpy(),
            rows=self._rows,
        )
