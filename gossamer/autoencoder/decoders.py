"""Decoders: from codes back to rows, and the constraints that their directions may obey."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gossamer import kernels
from gossamer.codes import Codes, DenseCodes
from gossamer.spec import Spec

__all__ = ["Constraint", "Decoder", "DecoderModule", "Free", "Linear", "LinearDecoder", "UnitRows"]


class Constraint(Spec):
    """The family of constraints on the decoder rows, applied around each optimizer step, in place."""

    def before_step(self, weight: Tensor, gradient: Tensor) -> None:
        """Change the gradient so that the step does not leave the constraint to first order."""

    def after_step(self, weight: Tensor) -> None:
        """Bring the weight `(latents, input_width)` back to the constraint."""


@dataclass(frozen=True, kw_only=True)
class Free(Constraint):
    """Leave the decoder rows as the optimizer makes them."""

    kind: ClassVar[str] = "free"


@dataclass(frozen=True, kw_only=True)
class UnitRows(Constraint):
    """Keep every decoder row at norm 1: the gradient loses its part along the row, g − (g·w) w, then w / ‖w‖.

    Bricken et al. 2023 (https://transformer-circuits.pub/2023/monosemantic-features).
    """

    kind: ClassVar[str] = "unit-rows"

    def before_step(self, weight: Tensor, gradient: Tensor) -> None:
        """Remove the part of each row's gradient that is parallel to the row."""
        along = torch.linalg.vecdot(weight, gradient)
        gradient.addcmul_(weight, along[:, None], value=-1.0)

    def after_step(self, weight: Tensor) -> None:
        """Divide each row by its norm."""
        norm = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
        weight.div_(norm.clamp_min_(torch.finfo(weight.dtype).tiny))


class DecoderModule(nn.Module):
    """What every decoder is: directions `weight` `(latents, input_width)`, `bias` `(input_width,)`, and `forward`."""

    weight: nn.Parameter
    bias: nn.Parameter

    def forward(self, codes: Codes) -> Tensor:
        """Return the rows `(rows, input_width)` of some codes."""
        raise NotImplementedError

    def residual(self, codes: Codes, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return target − reconstruction, without a gradient, and the mean of its squares, with one."""
        residual = target - self(codes)
        return residual.detach(), residual.square().mean()

    def constraints(self) -> dict[Tensor, Constraint]:
        """Return what constrains which weight."""
        return {}

    def before_step(self) -> None:
        """Apply what constrains the directions to their gradient; call between backward and the optimizer's step."""

    def after_step(self) -> None:
        """Apply what constrains the directions to them; call after the optimizer's step."""


class Decoder(Spec):
    """The family of decoders: `build(input_width=, latents=)` makes the module."""

    def build(self, *, input_width: int, latents: int) -> DecoderModule:
        """Return a module that maps SparseCodes to `(rows, input_width)`."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Linear(Decoder):
    """One affine map: x̂ = z W + b; row i of W is the direction of latent i."""

    kind: ClassVar[str] = "linear"
    constraint: Constraint = UnitRows()

    def build(self, *, input_width: int, latents: int) -> LinearDecoder:
        """Return the module; its weights are zero until they are initialised."""
        return LinearDecoder(input_width, latents, self.constraint)


class LinearDecoder(DecoderModule):
    """Hold weight `(latents, input_width)`, one direction per row, and bias `(input_width,)`."""

    def __init__(self, input_width: int, latents: int, constraint: Constraint) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(latents, input_width))
        self.bias = nn.Parameter(torch.zeros(input_width))
        self.constraint = constraint

    def forward(self, codes: Codes) -> Tensor:
        """Return z W + b, `(rows, input_width)`."""
        if isinstance(codes, DenseCodes):
            return torch.addmm(self.bias, codes.values, self.weight)
        return kernels.gather_sum(codes.offsets, codes.indices, codes.values, self.weight).add_(self.bias)

    def residual(self, codes: Codes, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return target − reconstruction, without a gradient, and the mean of its squares, with one."""
        if isinstance(codes, DenseCodes):
            return super().residual(codes, target)
        places = (codes.offsets, codes.indices, codes.values)
        residual, square = kernels.residual(*places, self.weight, self.bias, target)
        return residual, square / target.numel()

    def constraints(self) -> dict[Tensor, Constraint]:
        """Return the constraint on the directions."""
        return {self.weight: self.constraint}

    @torch.no_grad()
    def before_step(self) -> None:
        """Apply the constraint to the gradient; call between backward and the optimizer's step."""
        if self.weight.grad is not None:
            self.constraint.before_step(self.weight, self.weight.grad)

    @torch.no_grad()
    def after_step(self) -> None:
        """Apply the constraint to the weight; call after the optimizer's step."""
        self.constraint.after_step(self.weight)
