"""Scalings that each row measures for itself, and takes back from its reconstruction.

Codes count in units of their row, so that decoding needs the row: `decode(codes, x)`. ('row-norm', in scaling.py, lets
codes carry the norm instead, and decodes without it.)
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from gossamer.autoencoder.scaling import Scaler, Scaling

if TYPE_CHECKING:
    from gossamer.autoencoder.autoencoder import AutoencoderSpec

__all__ = ["ConstantNorm", "LayerNorm"]


class _OfTheRow(Scaler):
    """Map a row x to (x − mean(x)) / spread(x) and back. The buffers scale nothing."""

    folds: ClassVar[bool] = False

    def __init__(self, spec: _RowScaling, input_width: int) -> None:
        super().__init__(input_width)
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        """Return the row in its own units."""
        return self.spec.apply(x, *self.spec.statistics(x))

    def undo(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return reconstructions in the units of these rows."""
        if rows is None:
            raise ValueError(
                f"scaling {self.spec.kind!r} measures each row for itself: decoding needs the rows, decode(codes, x)"
            )
        return self.spec.take_back(x, *self.spec.statistics(rows))

    def code_scale(self, x: Tensor | None = None) -> Tensor:
        """Return 1: codes count in units of their row."""
        return self.scale.new_ones(())


class _RowScaling(Scaling):
    wants_rows: ClassVar[bool] = True

    def build(self, *, input_width: int) -> _OfTheRow:
        """Return the module."""
        return _OfTheRow(self, input_width)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError if the target is something else, whose units the row does not know."""
        if not spec.task.same_rows:
            raise ValueError(f"scaling {self.kind!r} measures the row, so it needs a target that is the input")

    def measure(self, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean 0 and scale 1: there is nothing to measure on a sample."""
        return sample.new_zeros(sample.shape[1]), sample.new_ones(())

    @abstractmethod
    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is taken from the rows and what they are divided by, `(rows, 1)` each."""

    @abstractmethod
    def apply(self, x: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        """Return rows in their own units."""

    @abstractmethod
    def take_back(self, x: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        """Return rows in the input's units."""


@dataclass(frozen=True, kw_only=True)
class LayerNorm(_RowScaling):
    """Give every row mean 0 and standard deviation 1: x′ = (x − μ) / (σ + ε), and back x̂ = x̂′ σ + μ.

    σ is that of the entries of the row, with width − 1 in the denominator. epsilon: ε. Gao et al. 2024
    (https://arxiv.org/abs/2406.04093, section 2.1 of their code's conventions).
    """

    kind: ClassVar[str] = "layer-norm"
    epsilon: float = 1e-5

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return μ and σ of each row."""
        mean = x.mean(dim=1, keepdim=True)
        return mean, (x - mean).std(dim=1, keepdim=True)

    def apply(self, x: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        """Return (x − μ) / (σ + ε)."""
        return (x - mean) / (spread + self.epsilon)

    def take_back(self, x: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        """Return x σ + μ."""
        return x * spread + mean


@dataclass(frozen=True, kw_only=True)
class ConstantNorm(_RowScaling):
    """Give every row the norm √width: x′ = x √width / ‖x‖, and back x̂ = x̂′ ‖x‖ / √width. A row of zeros stays one."""

    kind: ClassVar[str] = "constant-norm"

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return 0 and √width / ‖x‖ of each row."""
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return torch.zeros_like(norm), x.shape[1] ** 0.5 / norm.clamp_min(torch.finfo(x.dtype).tiny ** 0.5)

    def apply(self, x: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        """Return the rows, longer or shorter."""
        return x * spread

    def take_back(self, x: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        """Return the rows in their own length."""
        return x / spread
