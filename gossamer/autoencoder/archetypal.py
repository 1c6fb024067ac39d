"""Archetypal decoders: directions that cannot leave the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gossamer import kernels
from gossamer.autoencoder.decoders import AffineDecoder, Decoder
from gossamer.autoencoder.scaling import Change

__all__ = ["Archetypal", "ArchetypalDecoder"]

SHARPNESS = 30.0
"""What logits are multiplied by, so that optimizer steps fit for weights move shares from point to point."""


@dataclass(frozen=True, kw_only=True)
class Archetypal(Decoder):
    """Directions that are mixtures of data points: W = A C, rows of A non-negative with sum 1, C fixed points.

    Each direction mixes the few points nearest to a row of the data, so that W costs no product of matrices. Points are
    counted from the mean row and brought to norm 1, lest the few of great norm rule. Fel et al. 2025, "Archetypal SAE"
    (https://arxiv.org/abs/2502.12892), without its relaxation.

    points: rows of C, drawn from the sample that training starts with. mixture: points that a direction mixes.
    """

    kind: ClassVar[str] = "archetypal"
    points: int = 2048
    mixture: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.mixture <= self.points:
            raise ValueError(f"a direction mixes 2 to points = {self.points} points, got mixture = {self.mixture}")

    def build(self, *, input_width: int, output_width: int, latents: int) -> ArchetypalDecoder:
        """Return the module."""
        return ArchetypalDecoder(self, output_width, latents)


class ArchetypalDecoder(AffineDecoder):
    """Hold logits `(latents, mixture)`, which points they belong to, the points `(points, output_width)`, and bias."""

    from_data: ClassVar[bool] = True
    points: Tensor
    mixed: Tensor

    def __init__(self, spec: Archetypal, output_width: int, latents: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(latents, spec.mixture))
        self.bias = nn.Parameter(torch.zeros(output_width))
        self.register_buffer("points", torch.zeros(spec.points, output_width))
        self.register_buffer("mixed", torch.zeros(latents, spec.mixture, dtype=torch.int64))

    def directions(self) -> Tensor:
        """Return A C."""
        latents, mixture = self.mixed.shape
        offsets = torch.arange(0, latents * mixture + 1, mixture, device=self.mixed.device)
        shares = (SHARPNESS * self.logits).softmax(dim=1)
        return kernels.gather_sum(offsets, self.mixed.flatten(), shares.flatten(), self.points)

    @torch.no_grad()
    def reset(self, directions: Tensor, generator: torch.Generator) -> None:
        """Start with random points, until there are data."""
        self._mix(torch.randn(self.points.shape, generator=generator), directions)
        self.bias.zero_()

    @torch.no_grad()
    def start(self, rows: Tensor) -> None:
        """Draw the points from the rows, and let each direction mix those around one of them."""
        super().start(rows)
        centered = rows - self.bias
        chosen = torch.randint(len(rows), (len(self.points) + len(self.mixed),), device=rows.device)
        points, anchors = centered[chosen].split([len(self.points), len(self.mixed)])
        self._mix(points, anchors)

    @torch.no_grad()
    def change_units(self, change: Change, rows: Change) -> None:
        """Change points and bias."""
        if not change.alike:
            self.points.copy_(change.scaled_back(self.points) / change.code)
        change.of_rows(self.bias)

    def _mix(self, points: Tensor, anchors: Tensor) -> None:
        self.points.copy_(nn.functional.normalize(points, dim=1))
        cosines = nn.functional.normalize(anchors.to(self.points), dim=1) @ self.points.T
        best = cosines.topk(self.mixed.shape[1], dim=1)
        self.mixed.copy_(best.indices)
        self.logits.copy_(best.values)
