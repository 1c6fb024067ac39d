"""Decoders: from codes back to rows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from gossamer import kernels
from gossamer.autoencoder.constraints import Constraint, UnitRows
from gossamer.autoencoder.layers import ACTIVATIONS, draw, require_activation
from gossamer.autoencoder.scaling import Change, Unscaled
from gossamer.codes import Codes, DenseCodes
from gossamer.spec import Spec

if TYPE_CHECKING:
    from gossamer.autoencoder.autoencoder import AutoencoderSpec

__all__ = [
    "AffineDecoder",
    "Decoder",
    "DecoderModule",
    "Deep",
    "DeepDecoder",
    "Linear",
    "LinearDecoder",
    "Skip",
    "SkipDecoder",
    "product",
]


class DecoderModule(nn.Module):
    """What every decoder is: `forward`, its directions, `bias` `(output_width,)`, and what training asks of it."""

    from_data: ClassVar[bool] = False
    """Whether the directions come from data, so that an encoder that starts like them has to wait for `start`."""

    bias: nn.Parameter

    def forward(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        """Return the rows `(rows, output_width)` of some codes. x: the encoder's rows, if the decoder looks at them."""
        raise NotImplementedError

    def directions(self) -> Tensor:
        """Return the rows that codes are multiplied with, `(latents, output_width)`."""
        raise NotImplementedError

    def norms(self) -> Tensor:
        """Return `(latents,)`: how much one unit of each latent adds to the reconstruction."""
        return torch.linalg.vector_norm(self.directions(), dim=1)

    def residual(self, codes: Codes, target: Tensor, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return target − reconstruction, without a gradient, and the mean of its squares, with one."""
        residual = target - self(codes, x)
        return residual.detach(), residual.square().mean()

    def constraints(self) -> dict[Tensor, Constraint]:
        """Return what constrains which weight."""
        return {}

    @torch.no_grad()
    def before_step(self) -> None:
        """Apply the constraints to the gradients; call between backward and the step of an optimizer of your own."""
        for weight, constraint in self.constraints().items():
            if weight.grad is not None:
                constraint.before_step(weight, weight.grad)

    @torch.no_grad()
    def after_step(self) -> None:
        """Apply the constraints to the weights; call after the step."""
        for weight, constraint in self.constraints().items():
            constraint.after_step(weight)

    def reset(self, directions: Tensor, generator: torch.Generator) -> None:
        """Start as a fresh decoder; directions: `(latents, output_width)` unit rows."""
        raise NotImplementedError

    def start(self, rows: Tensor) -> None:
        """Take what the decoder needs of sample rows `(n, output_width)` in training units: by default the mean."""
        with torch.no_grad():
            self.bias.copy_(rows.mean(dim=0))

    def change_units(self, change: Change, rows: Change) -> None:
        """Give rows in other units, for codes in other units (`Change`); rows: the change of the encoder's rows."""
        raise NotImplementedError

    def matrices(self) -> list[Tensor]:
        """Return the weight matrices, for penalties on weights."""
        return [parameter for parameter in self.parameters() if parameter.dim() == 2]


class Decoder(Spec):
    """The family of decoders: `build(input_width=, output_width=, latents=)` makes the module.

    linear: whether reconstructions are sums of directions, z W + b. wants_rows: whether decoding needs the encoder's
    rows.
    """

    linear: ClassVar[bool] = True
    wants_rows: ClassVar[bool] = False

    @property
    def layered(self) -> bool:
        """Whether there are layers after the first map."""
        return False

    def build(self, *, input_width: int, output_width: int, latents: int) -> DecoderModule:
        """Return a module that maps codes to `(rows, output_width)`."""
        raise NotImplementedError

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError if the decoder cannot serve in this autoencoder."""


@dataclass(frozen=True, kw_only=True)
class Linear(Decoder):
    """One affine map: x̂ = z W + b; row i of W is the direction of latent i.

    blocks: widths of the sites that a row is made of, if `norms` shall be the sum of the norms at each site.
    """

    kind: ClassVar[str] = "linear"
    constraint: Constraint = UnitRows()
    blocks: tuple[int, ...] = ()

    def build(self, *, input_width: int, output_width: int, latents: int) -> LinearDecoder:
        """Return the module; its weights are zero until they are initialised."""
        return LinearDecoder(self, output_width, latents)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless the blocks make up a row."""
        if self.blocks and (sum(self.blocks) != spec.output_width or min(self.blocks) < 1):
            raise ValueError(f"blocks of widths {self.blocks} do not make a row of width {spec.output_width}")


class AffineDecoder(DecoderModule):
    """What decoders of the form x̂ = z W + b share, whatever W is made of."""

    def forward(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        """Return z W + b, `(rows, output_width)`."""
        return product(codes, self.directions()).add_(self.bias)

    def residual(self, codes: Codes, target: Tensor, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return target − reconstruction, without a gradient, and the mean of its squares, with one."""
        if isinstance(codes, DenseCodes):
            residual = target - product(codes, self.directions()) - self.bias
            return residual.detach(), residual.square().mean()
        places = (codes.offsets, codes.indices, codes.values)
        residual, square = kernels.residual(*places, self.directions(), self.bias, target)
        return residual, square / target.numel()


class LinearDecoder(AffineDecoder):
    """Hold weight `(latents, output_width)`, one direction per row, and bias `(output_width,)`."""

    def __init__(self, spec: Linear, output_width: int, latents: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(latents, output_width))
        self.bias = nn.Parameter(torch.zeros(output_width))
        self.constraint = spec.constraint
        self.blocks = spec.blocks

    def directions(self) -> Tensor:
        """Return W."""
        return self.weight

    def norms(self) -> Tensor:
        """Return the norm of each direction, summed over the blocks."""
        blocks = self.weight.split(self.blocks, dim=1) if self.blocks else [self.weight]
        return torch.stack([torch.linalg.vector_norm(block, dim=1) for block in blocks]).sum(dim=0)

    def constraints(self) -> dict[Tensor, Constraint]:
        """Return the constraint on the directions."""
        return {self.weight: self.constraint}

    @torch.no_grad()
    def reset(self, directions: Tensor, generator: torch.Generator) -> None:
        """Start as the unit rows, bias zero."""
        self.weight.copy_(directions)
        self.constraint.after_step(self.weight)
        self.bias.zero_()

    @torch.no_grad()
    def change_units(self, change: Change, rows: Change) -> None:
        """Change weight and bias."""
        change.of_decoder(self.weight, self.bias)


@dataclass(frozen=True, kw_only=True)
class Skip(Linear):
    """One affine map of the code and a linear one of the row: x̂ = z W + x Sᵀ + b.

    Paulo et al. 2025, "Transcoders beat sparse autoencoders" (https://arxiv.org/abs/2501.18823).
    """

    kind: ClassVar[str] = "skip"
    wants_rows: ClassVar[bool] = True

    def build(self, *, input_width: int, output_width: int, latents: int) -> SkipDecoder:
        """Return the module."""
        return SkipDecoder(self, input_width, output_width, latents)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError if the row itself is to be reconstructed: the skip connection would do it alone."""
        super().check(spec)
        if spec.task.same_rows:
            raise ValueError("decoder 'skip' could copy the row past the code; use it with a task 'transcode'")


class SkipDecoder(LinearDecoder):
    """Hold, beside weight and bias, skip `(output_width, input_width)`."""

    def __init__(self, spec: Skip, input_width: int, output_width: int, latents: int) -> None:
        super().__init__(spec, output_width, latents)
        self.skip = nn.Parameter(torch.zeros(output_width, input_width))

    def forward(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        """Return z W + x Sᵀ + b."""
        return super().forward(codes) + self._skipped(x)

    def residual(self, codes: Codes, target: Tensor, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what code and skip connection leave of the target."""
        return super().residual(codes, target - self._skipped(x))

    @torch.no_grad()
    def reset(self, directions: Tensor, generator: torch.Generator) -> None:
        """Start without a skip connection (Paulo et al. 2025)."""
        super().reset(directions, generator)
        self.skip.zero_()

    @torch.no_grad()
    def change_units(self, change: Change, rows: Change) -> None:
        """Change what the skip connection reads and gives, and the rest."""
        rows.of_first(self.skip, self.bias)
        self.skip.copy_(change.scaled_back(self.skip.T).T)
        super().change_units(change, rows)

    def _skipped(self, x: Tensor | None) -> Tensor:
        if x is None:
            raise ValueError("this autoencoder has a skip connection: decoding needs the rows, decode(codes, x)")
        return nn.functional.linear(x, self.skip)


@dataclass(frozen=True, kw_only=True)
class Deep(Decoder):
    """Layers after the first affine map: h = f(z W + b), further layers likewise, x̂ = g(A h + a).

    hidden: their widths, at least one, or none with an output activation. activation: f. output: g. As in the encoder:
    "relu", "sigmoid", "tanh", "gelu", "linear". Hinton & Salakhutdinov 2006 (https://doi.org/10.1126/science.1127647).
    """

    kind: ClassVar[str] = "deep"
    linear: ClassVar[bool] = False
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    output: str = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_activation(self.activation)
        require_activation(self.output)
        if min(self.hidden, default=1) < 1 or (not self.hidden and self.output == "linear"):
            raise ValueError("a deep decoder has hidden layers or an output activation; use the linear one instead")

    @property
    def layered(self) -> bool:
        """Whether there are hidden layers: an output activation alone is none."""
        return bool(self.hidden)

    def build(self, *, input_width: int, output_width: int, latents: int) -> DeepDecoder:
        """Return the module."""
        return DeepDecoder(self, output_width, latents)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError if the output cannot have the range of the target."""
        if self.output != "linear" and not isinstance(spec.scaling, Unscaled):
            raise ValueError(f"an output {self.output!r} has a range of its own; use scaling 'unscaled' with it")


class DeepDecoder(DecoderModule):
    """Hold weight `(latents, first hidden width)`, its bias, and the layers after it."""

    def __init__(self, spec: Deep, output_width: int, latents: int) -> None:
        super().__init__()
        widths = [*spec.hidden, output_width]
        self.weight = nn.Parameter(torch.zeros(latents, widths[0]))
        self.bias = nn.Parameter(torch.zeros(widths[0]))
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        names = [spec.activation] * len(spec.hidden) + [spec.output]
        self.activations = [ACTIVATIONS[name] for name in names]

    def forward(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        """Return g(A f(z W + b) + a), `(rows, output_width)`."""
        hidden = self.activations[0](product(codes, self.weight) + self.bias)
        for layer, activation in zip(self.layers, self.activations[1:], strict=True):
            hidden = activation(layer(hidden))
        return hidden

    def directions(self) -> Tensor:
        """Return W, whose rows are directions of the first hidden layer."""
        return self.weight

    @torch.no_grad()
    def reset(self, directions: Tensor, generator: torch.Generator) -> None:
        """Draw the weights of every layer; biases zero."""
        draw(self.weight, generator)
        self.bias.zero_()
        for layer in self.layers:
            for parameter in layer.parameters():
                draw(parameter, generator)

    def start(self, rows: Tensor) -> None:
        """Set the last bias to the mean, if the output is linear: a sigmoid would have to be inverted."""
        last = self.layers[-1] if len(self.layers) else None
        if isinstance(last, nn.Linear) and self.activations[-1] is ACTIVATIONS["linear"]:
            with torch.no_grad():
                last.bias.copy_(rows.mean(dim=0))

    @torch.no_grad()
    def change_units(self, change: Change, rows: Change) -> None:
        """Change the first map and, if the output is linear, the last."""
        self.weight.div_(change.code)
        last = self.layers[-1] if len(self.layers) else None
        if isinstance(last, nn.Linear) and self.activations[-1] is ACTIVATIONS["linear"]:
            change.of_last(last.weight, last.bias)


def product(codes: Codes, weight: Tensor) -> Tensor:
    """Return z W, `(rows, width)`."""
    if isinstance(codes, DenseCodes):
        return codes.values @ weight
    return kernels.gather_sum(codes.offsets, codes.indices, codes.values, weight)
