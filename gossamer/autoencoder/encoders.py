"""Encoders: from a row to its pre-activations.

An encoder may look at the decoder (tied weights, iterative encoders), which it is handed on every call: no tensor lives
in two places.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from gossamer import kernels
from gossamer.autoencoder.decoders import DecoderModule
from gossamer.autoencoder.layers import ACTIVATIONS, draw, require_activation
from gossamer.autoencoder.pre_activations import Affine, Corrected, PreActivations
from gossamer.autoencoder.scaling import Change
from gossamer.spec import Spec

if TYPE_CHECKING:
    from gossamer.autoencoder.autoencoder import AutoencoderSpec

__all__ = [
    "Deep",
    "DeepEncoder",
    "Encoder",
    "EncoderModule",
    "Linear",
    "LinearEncoder",
    "Lista",
    "ListaEncoder",
    "Tied",
    "TiedEncoder",
]


class EncoderModule(nn.Module):
    """What every encoder is: `forward`, and what scaling and data ask of it."""

    def forward(self, x: Tensor, decoder: DecoderModule) -> PreActivations:
        """Return the pre-activations of `(rows, input_width)` rows in training units."""
        raise NotImplementedError

    def reset(self, directions: Tensor, generator: torch.Generator) -> None:
        """Start as a fresh encoder; directions: `(latents, input_width)` unit rows that fit its input."""
        raise NotImplementedError

    def center(self, row: Tensor) -> None:
        """Set the biases so that this row, `(input_width,)` in training units, is where pre-activations are zero."""

    def lower(self, by: Tensor) -> None:
        """Subtract `(latents,)` numbers from all pre-activations."""
        with torch.no_grad():
            self.get_parameter("bias").sub_(by)

    def change_units(self, change: Change) -> None:
        """Read rows in other units, and give pre-activations in other units (`Change`)."""
        raise NotImplementedError

    def matrices(self) -> list[Tensor]:
        """Return the weight matrices, for penalties on weights."""
        return [parameter for parameter in self.parameters() if parameter.dim() == 2]


class Encoder(Spec):
    """The family of encoders: `build(input_width=, latents=)` makes the module.

    affine: whether pre-activations are one affine map of the row, with a weight of their own. tied: whether the
    decoder's directions are used. layered: whether other layers come before the last map, which asks for small steps.
    """

    affine: ClassVar[bool] = False
    layered: ClassVar[bool] = False
    tied: ClassVar[bool] = False

    def build(self, *, input_width: int, latents: int) -> EncoderModule:
        """Return a module that maps `(rows, input_width)` to PreActivations of `latents`."""
        raise NotImplementedError

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError if the encoder cannot serve in this autoencoder."""
        if self.tied and not (spec.decoder.linear and spec.task.same_rows and spec.scaling.uniform):
            raise ValueError(
                f"encoder {self.kind!r} uses the decoder's directions; that needs a linear decoder, a target that is "
                "the input, and a scaling by one number"
            )


@dataclass(frozen=True, kw_only=True)
class Linear(Encoder):
    """One affine map: p = x Wᵀ + b."""

    kind: ClassVar[str] = "linear"
    affine: ClassVar[bool] = True

    def build(self, *, input_width: int, latents: int) -> LinearEncoder:
        """Return the module; its weights are zero until they are initialised."""
        return LinearEncoder(input_width, latents)


class LinearEncoder(EncoderModule):
    """Hold weight `(latents, input_width)`, one latent per row, and bias `(latents,)`."""

    def __init__(self, input_width: int, latents: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(latents, input_width))
        self.bias = nn.Parameter(torch.zeros(latents))

    def forward(self, x: Tensor, decoder: DecoderModule) -> PreActivations:
        """Return x Wᵀ + b, not yet multiplied out."""
        return Affine(x, self.weight, self.bias)

    @torch.no_grad()
    def reset(self, directions: Tensor, generator: torch.Generator) -> None:
        """Start as half of the decoder's directions, biases zero (docs/decisions.md says why half)."""
        self.weight.copy_(0.5 * directions)
        self.bias.zero_()

    @torch.no_grad()
    def center(self, row: Tensor) -> None:
        """Set b = −W row."""
        self.bias.copy_(-(self.weight @ row))

    @torch.no_grad()
    def change_units(self, change: Change) -> None:
        """Change weight and bias."""
        change.of_encoder(self.weight, self.bias)


@dataclass(frozen=True, kw_only=True)
class Tied(Encoder):
    """The decoder's own directions: p = (x − b_dec) W_decᵀ + b.

    Makhzani & Frey 2013 (https://arxiv.org/abs/1312.5663).
    """

    kind: ClassVar[str] = "tied"
    tied: ClassVar[bool] = True

    def build(self, *, input_width: int, latents: int) -> TiedEncoder:
        """Return the module."""
        return TiedEncoder(latents)


class TiedEncoder(EncoderModule):
    """Hold the bias `(latents,)`, and a gain `()` that makes up for units: 1 where codes grow with pre-activations.

    The weight is the decoder's. It cannot be multiplied for the encoder and divided for the decoder, as a change of
    units asks for if codes stay what they are (sigmoid); the gain is what then remains.
    """

    gain: Tensor

    def __init__(self, latents: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(latents))
        self.register_buffer("gain", torch.ones(()))

    def forward(self, x: Tensor, decoder: DecoderModule) -> PreActivations:
        """Return gain · (x − b_dec) W_decᵀ + b, not yet multiplied out."""
        return Affine((x - decoder.bias) * self.gain, decoder.directions(), self.bias)

    @torch.no_grad()
    def reset(self, directions: Tensor, generator: torch.Generator) -> None:
        """Set the bias to zero."""
        self.bias.zero_()
        self.gain.fill_(1)

    @torch.no_grad()
    def change_units(self, change: Change) -> None:
        """Change the bias and, where rows and codes are not scaled alike, the gain."""
        change.of_code(self.bias)
        if not change.alike:
            self.gain.mul_(change.code.square() * change.scale / change.inverse)


@dataclass(frozen=True, kw_only=True)
class Deep(Encoder):
    """Layers before the last affine map: h_0 = x, h_j = f(A_j h_{j−1} + a_j), p = W h + b.

    hidden: their widths, at least one. activation: f, "relu", "sigmoid", "tanh", "gelu" or "linear".
    Hinton & Salakhutdinov 2006 (https://doi.org/10.1126/science.1127647).
    """

    kind: ClassVar[str] = "deep"
    layered: ClassVar[bool] = True
    hidden: tuple[int, ...]
    activation: str = "relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_activation(self.activation)
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden lists the widths of one or more layers, got {self.hidden}")

    def build(self, *, input_width: int, latents: int) -> DeepEncoder:
        """Return the module."""
        return DeepEncoder(self, input_width, latents)


class DeepEncoder(EncoderModule):
    """Hold the layers, `weight` `(latents, last hidden width)` and `bias` `(latents,)`."""

    def __init__(self, spec: Deep, input_width: int, latents: int) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[spec.activation]
        widths = [input_width, *spec.hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.weight = nn.Parameter(torch.zeros(latents, widths[-1]))
        self.bias = nn.Parameter(torch.zeros(latents))

    def forward(self, x: Tensor, decoder: DecoderModule) -> PreActivations:
        """Return W h + b, not yet multiplied out."""
        for layer in self.layers:
            x = self.activation(layer(x))
        return Affine(x, self.weight, self.bias)

    @torch.no_grad()
    def reset(self, directions: Tensor, generator: torch.Generator) -> None:
        """Draw the weights of every layer; biases zero."""
        for parameter in self.parameters():
            draw(parameter, generator)

    @torch.no_grad()
    def center(self, row: Tensor) -> None:
        """Set the first bias to −A row."""
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        first.bias.copy_(-(first.weight @ row))

    @torch.no_grad()
    def change_units(self, change: Change) -> None:
        """Change the first layer and the last map."""
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        change.of_first(first.weight, first.bias)
        change.of_code(self.weight, self.bias)


@dataclass(frozen=True, kw_only=True)
class Lista(Encoder):
    """Unrolled iterative thresholding with a learned map W and the decoder's directions D:

        z⁰ = top_k(W (x − b_dec) + b),   zᵗ⁺¹ = top_k(pᵗ),   pᵗ = zᵗ + W (x − b_dec − zᵗ D) + b

    and p after the last step. Codes stay sparse in between. Gregor & LeCun 2010
    (https://icml.cc/Conferences/2010/papers/449.pdf), with the k largest kept instead of a soft threshold, as in Xin et
    al. 2016 (https://arxiv.org/abs/1605.01525).

    steps: how often the residual is looked at again, 1 to 7. k: entries of the codes in between.
    """

    kind: ClassVar[str] = "lista"
    tied: ClassVar[bool] = True
    k: int
    steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.steps <= 7 or self.k < 1:
            raise ValueError(f"steps lie in 1 to 7 and k is at least 1, got {self.steps} and {self.k}")

    def build(self, *, input_width: int, latents: int) -> ListaEncoder:
        """Return the module."""
        return ListaEncoder(self, input_width, latents)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless there are k latents, and directions to use."""
        super().check(spec)
        if self.k > spec.latents:
            raise ValueError(f"encoder 'lista' keeps k = {self.k} of only {spec.latents} latents")


class ListaEncoder(LinearEncoder):
    """Hold weight `(latents, input_width)` and bias `(latents,)`."""

    def __init__(self, spec: Lista, input_width: int, latents: int) -> None:
        super().__init__(input_width, latents)
        self.spec = spec

    def forward(self, x: Tensor, decoder: DecoderModule) -> PreActivations:
        """Return the pre-activations after the last step."""
        x, directions = x - decoder.bias, decoder.directions()
        pre: PreActivations = Affine(x, self.weight, self.bias)
        for _ in range(self.spec.steps):
            code = pre.topk(self.spec.k)
            code = code.replace_values(code.values.relu())
            rest = x - kernels.gather_sum(code.offsets, code.indices, code.values, directions)
            pre = Corrected(Affine(rest, self.weight, self.bias), code)
        return pre

    @torch.no_grad()
    def center(self, row: Tensor) -> None:
        """Leave the bias: the decoder's takes the row out."""

    @torch.no_grad()
    def change_units(self, change: Change) -> None:
        """Change the bias and, where rows and codes are not scaled alike, W, which looks at differences only."""
        change.of_code(self.bias)
        if not change.alike:
            self.weight.mul_(change.scale * change.code)
