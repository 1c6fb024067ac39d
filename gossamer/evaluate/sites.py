"""Which latents of a crosscoder serve all of its sites, and which only one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.tasks import Crosscode

__all__ = ["SiteShares", "site_shares"]

EXCLUSIVE = 0.9
"""A latent is exclusive to a site that has more than this share of its norms."""


@dataclass(frozen=True, eq=False)
class SiteShares:
    """sites: in the order of the columns. shares: `(latents, sites)`, ‖d_i at the site‖ / Σ over sites; rows sum to 1.

    shared: share of the latents that no site has to itself. exclusive: by site, share of those that it has (above 0.9).
    """

    sites: tuple[str, ...]
    shares: np.ndarray
    shared: float
    exclusive: dict[str, float]


@torch.no_grad()
def site_shares(sae: SparseAutoencoder) -> SiteShares:
    """Return how the norm of each direction of a crosscoder is divided among its sites.

    Counted in training units, where all sites weigh the same, if the autoencoder still has them; a saved one is in the
    units of its rows, so the scale of a site's directions is divided out: by their mean norm.
    Lindsey et al. 2024 (https://transformer-circuits.pub/2024/crosscoders) use relative norms like these.

    Raises ValueError if the autoencoder is no crosscoder.
    """
    task = sae.spec.task
    if not isinstance(task, Crosscode):
        raise ValueError(f"{sae.spec.name} reads {len(task.inputs)} site; a crosscoder reads several")
    blocks = sae.decoder.directions().double().split(task.widths, dim=1)
    norms = torch.stack([torch.linalg.vector_norm(block, dim=1) for block in blocks], dim=1)
    norms = norms / norms.mean(dim=0).clamp_min(torch.finfo(norms.dtype).tiny)
    total = norms.sum(dim=1, keepdim=True)
    shares = torch.where(total > 0, norms / total.where(total > 0, 1.0), 1 / len(blocks))
    exclusive = (shares > EXCLUSIVE).double().mean(dim=0).tolist()
    return SiteShares(
        sites=task.sites,
        shares=shares.cpu().numpy(),
        shared=1 - sum(exclusive),
        exclusive=dict(zip(task.sites, exclusive, strict=True)),
    )
