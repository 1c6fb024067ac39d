"""Pairs: which latent stands for which known feature, by the directions alone, and the scores that need no rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FOUND", "RECOVERED", "Pairs", "best", "cosines", "feature_recovery", "matching", "mcc"]

RECOVERED = 0.9
"""Cosine from which a feature counts as recovered."""

FOUND = 0.5
"""Cosine from which a latent counts as that of a feature at all: a half-and-half mixture of two has 0.71 with each."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Latents and the features they stand for; no latent occurs twice.

    latents, features: `(pairs,)` int64. cosines: `(pairs,)` float64, between decoder row and feature direction, signed.
    """

    latents: Tensor
    features: Tensor
    cosines: Tensor

    def __len__(self) -> int:
        return self.latents.shape[0]

    def found(self, threshold: float = FOUND) -> Pairs:
        """Return the pairs whose |cosine| reaches the threshold."""
        kept = self.cosines.abs() >= threshold
        return Pairs(self.latents[kept], self.features[kept], self.cosines[kept])


def cosines(decoder: Tensor, directions: Tensor) -> Tensor:
    """Return `(latents, features)` float64: ⟨w, d⟩ / (‖w‖ ‖d‖), 0 where a row is zero.

    decoder: `(latents, width)`. directions: `(features, width)`.

    Raises ValueError unless both are matrices of the same width with rows.
    """
    if decoder.dim() != 2 or directions.dim() != 2 or decoder.shape[1] != directions.shape[1]:
        raise ValueError(
            f"expected (latents, width) and (features, width), got {tuple(decoder.shape)} and {tuple(directions.shape)}"
        )
    if not len(decoder) or not len(directions):
        raise ValueError("there is no latent or no feature to compare")
    return _unit(decoder) @ _unit(directions).T


def matching(decoder: Tensor, directions: Tensor) -> Pairs:
    """Pair latents with features one to one such that Σ |cosine| is largest: min(latents, features) pairs.

    The assignment problem (Kuhn 1955, https://doi.org/10.1002/nav.3800020109). A direction and its opposite count as
    the same. Pairs are in the order of the features.

    Raises ValueError for shapes that do not fit, or without scipy.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ValueError("matching latents with features needs scipy; install it with: pip install scipy") from error
    found = cosines(decoder, directions)
    latents, features = (torch.as_tensor(side) for side in linear_sum_assignment(found.abs().numpy(), maximize=True))
    order = features.argsort()
    latents, features = latents[order], features[order]
    return Pairs(latents, features, found[latents, features])


def best(decoder: Tensor, directions: Tensor) -> Pairs:
    """Pair every latent with the feature of the largest |cosine|; several latents may share one."""
    found = cosines(decoder, directions)
    features = found.abs().argmax(dim=1)
    latents = torch.arange(len(found))
    return Pairs(latents, features, found[latents, features])


def mcc(pairs: Pairs) -> float:
    """Return the mean correlation coefficient: Σ |cosine| / pairs, over the pairs of `matching`.

    With fewer latents than features the features without a latent do not count, nor superfluous latents otherwise.

    Source: Hyvärinen & Morioka 2016 (https://arxiv.org/abs/1605.06336) for correlations of codes; of directions, as
    here and in SynthSAEBench, O'Neill et al. 2024 (https://arxiv.org/abs/2411.13117).
    """
    return pairs.cosines.abs().mean().item()


def feature_recovery(decoder: Tensor, directions: Tensor, *, threshold: float = RECOVERED) -> float:
    """Return the share of all features to which some latent has a |cosine| of at least the threshold.

    At most latents / features. Source: the largest cosine per feature is Sharkey et al. 2022's
    (https://www.alignmentforum.org/posts/z6QQJbtpkEAX3Aojj); the threshold is a convention.
    """
    largest = cosines(decoder, directions).abs().amax(dim=0)
    return (largest >= threshold).double().mean().item()


def _unit(rows: Tensor) -> Tensor:
    rows = rows.detach().cpu().double()
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
