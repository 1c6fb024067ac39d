"""What weights cost beside the reconstruction error: their size, their directions, how fast codes change with rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from gossamer import kernels
from gossamer.autoencoder.encoders import TiedEncoder
from gossamer.autoencoder.penalties import Penalty, mean_of_rows
from gossamer.autoencoder.pre_activations import rows_of
from gossamer.autoencoder.trace import Trace
from gossamer.codes import spread

if TYPE_CHECKING:
    from gossamer.autoencoder.autoencoder import AutoencoderSpec

__all__ = ["Contractive", "Orthogonality", "WeightL1", "WeightL2"]


@dataclass(frozen=True, kw_only=True)
class Contractive(Penalty):
    """‖∂z/∂x‖² = Σ_i h′(p_i)² ‖w_i‖², with w_i the encoder's rows: codes change little with the row.

    h′ is z (1 − z) for a sigmoid, and 1 where a latent is active otherwise.
    Rifai et al. 2011 (https://icml.cc/2011/papers/455_icmlpaper.pdf).
    """

    kind: ClassVar[str] = "contractive"

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless pre-activations are one affine map of the row."""
        if spec.encoder.kind not in ("linear", "tied"):
            raise ValueError(f"the contractive penalty needs one affine map as encoder, not {spec.encoder.kind!r}")

    def __call__(self, trace: Trace) -> Tensor:
        """Return the cost without its weight."""
        codes = trace.codes
        encoder = trace.encoder
        weight = (
            trace.directions * encoder.gain if isinstance(encoder, TiedEncoder) else encoder.get_parameter("weight")
        )
        squares = torch.linalg.vecdot(weight, weight)
        slopes = (codes.values * (1 - codes.values)).square() if codes.level else (codes.values != 0).to(squares)
        return mean_of_rows(slopes * spread(codes, squares), codes)


@dataclass(frozen=True, kw_only=True)
class Orthogonality(Penalty):
    """The mean over latents of the squared cosine of a direction and the one nearest to it, max(0, max_{j ≠ i} c_ij)²,
    c_ij = cos(d_i, d_j).

    Each step takes a random sample of the latents and looks for the nearest within it.
    sample: how many. Korznikov et al. 2025, "OrtSAE" (https://arxiv.org/abs/2509.22033), who take all, in chunks.
    """

    kind: ClassVar[str] = "orthogonality"
    sample: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample < 2:
            raise ValueError(f"a sample has at least 2 latents, got {self.sample}")

    def __call__(self, trace: Trace) -> Tensor:
        """Return the cost without its weight; 0 for a single latent."""
        directions = trace.directions
        if len(directions) < 2:
            return directions.new_zeros(())
        if self.sample < len(directions):
            directions = rows_of(directions, torch.randperm(len(directions), device=directions.device)[: self.sample])
        unit = torch.nn.functional.normalize(directions, dim=1)
        with torch.no_grad():
            both, _ = kernels.select_topk(unit, unit, unit.new_zeros(len(unit)), 2)
            number = torch.arange(len(unit), device=unit.device)
            nearest = torch.where(both[:, 0] == number, both[:, 1], both[:, 0])
        offsets = torch.arange(len(unit) + 1, device=unit.device)
        return kernels.gather_dot(unit, unit, offsets, nearest).relu().square().mean()


@dataclass(frozen=True, kw_only=True)
class WeightL1(Penalty):
    """Σ |w| over all weight matrices of encoder and decoder."""

    kind: ClassVar[str] = "weight-l1"

    def __call__(self, trace: Trace) -> Tensor:
        """Return the cost without its weight."""
        return torch.stack([matrix.abs().sum() for matrix in _matrices(trace)]).sum()


@dataclass(frozen=True, kw_only=True)
class WeightL2(Penalty):
    """½ Σ w² over all weight matrices of encoder and decoder: weight decay."""

    kind: ClassVar[str] = "weight-l2"

    def __call__(self, trace: Trace) -> Tensor:
        """Return the cost without its weight."""
        return 0.5 * torch.stack([matrix.square().sum() for matrix in _matrices(trace)]).sum()


def _matrices(trace: Trace) -> list[Tensor]:
    return [*trace.encoder.matrices(), *trace.decoder.matrices()]
