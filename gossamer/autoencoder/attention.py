"""Encoder and decoder that are transformers: a row is cut into patches, and the patches attend to each other.

    row ── patches ──► E x_t + positions ──► layers ──► all patches side by side ── W ──► pre-activations
    code ── D ──► all patches side by side ── positions, layers ──► A h_t ──► patches ──► row

E, A and the layers are the same for every patch, as in a transformer over words. W and D see all patches: a latent may
stand for anything that the row shows. (With latents of their own for each patch, which saves weights, the error was
higher: docs/decisions.md.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from gossamer.autoencoder.decoders import Decoder, DecoderModule, product
from gossamer.autoencoder.encoders import Encoder, EncoderModule
from gossamer.autoencoder.layers import draw
from gossamer.autoencoder.pre_activations import Affine, PreActivations
from gossamer.autoencoder.scaling import Change
from gossamer.codes import Codes
from gossamer.spec import Spec
from gossamer.transformer.layers import Block, Layer
from gossamer.transformer.positions import Order, Positions, Rotary, Sinusoidal

if TYPE_CHECKING:
    from gossamer.autoencoder.autoencoder import AutoencoderSpec

__all__ = [
    "Patchwise",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderModule",
    "TransformerEncoderModule",
]

NO_DROPOUT = Block(dropout=0.0)


@dataclass(frozen=True, kw_only=True)
class Patchwise(Spec):
    """What a transformer over the patches of a row is like.

    patch: entries of a patch; the row is a whole number of them. width: of the residual stream. hidden: of the
    feed-forward networks. heads: of the attention, which divide the width. layers: how many. positions: how patches
    know where they are. A row is always seen whole: there is no dropout.
    """

    patch: int
    width: int = 64
    hidden: int = 128
    heads: int = 4
    layers: int = 2
    positions: Positions = Sinusoidal()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("patch", "width", "hidden", "heads", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ValueError(f"heads must divide the width, got {self.heads} heads and width {self.width}")

    def require(self, row: int, *, uniform: bool, what: str) -> None:
        """Raise ValueError unless a row of so many entries can be cut, and one number scales all of it."""
        if row % self.patch:
            raise ValueError(f"{what} 'transformer' cannot cut a row of {row} entries into patches of {self.patch}")
        if not uniform:
            raise ValueError(f"{what} 'transformer' has one matrix for all patches: it needs a scaling by one number")


class _Attending(nn.Module):
    """Positions and layers over `(rows, patches, width)`. No last norm: how large a patch is has to get through."""

    def __init__(self, spec: Patchwise, patches: int) -> None:
        super().__init__()
        sizes = {"width": spec.width, "hidden": spec.hidden, "heads": spec.heads, "block": NO_DROPOUT}
        turned = isinstance(spec.positions, Rotary)
        self.order = Order(patches) if turned else _order(spec, patches)
        orders = [_order(spec, patches) if turned else None for _ in range(spec.layers)]
        self.layers = nn.ModuleList(Layer(**sizes, order=order) for order in orders)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the patches have become, of the same shape."""
        x = self.order(x)
        for layer in self.layers:
            x = layer(x)
        return x


def _order(spec: Patchwise, patches: int) -> Order:
    """Return positions for so many patches, their tables saved with the weights: a state is all that inference needs.

    A layer that turns queries and keys gets tables of its own, since tensors in two places cannot be saved.
    """
    order = spec.positions.replace(longest=patches).build(width=spec.width, heads=spec.heads)
    for name, table in list(order.named_buffers()):
        order.register_buffer(name, table)
    return order


@torch.no_grad()
def _draw(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of a module: matrices as in `layers.draw`, biases zero, norms as they are without effect."""
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.reset_parameters()
            continue
        for parameter in part.parameters(recurse=False):
            draw(parameter, generator)


@dataclass(frozen=True, kw_only=True)
class Transformer(Patchwise, Encoder):
    """Layers of self-attention over the patches x_t of a row, then one affine map of all of them:

        h_t = E (x_t − c_t) + e, with positions, through the layers          p = W [h_1, h_2, …] + b

    c: the mean row of the data.
    Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762), on patches as in Dosovitskiy et al. 2020
    (https://arxiv.org/abs/2010.11929).
    """

    kind: ClassVar[str] = "transformer"
    layered: ClassVar[bool] = True

    def build(self, *, input_width: int, latents: int) -> TransformerEncoderModule:
        """Return the module."""
        return TransformerEncoderModule(self, input_width, latents)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless the row can be cut, and one number scales all of it."""
        super().check(spec)
        self.require(spec.input_width, uniform=spec.scaling.uniform, what="encoder")


class TransformerEncoderModule(EncoderModule):
    """Hold the map of a patch `(width, patch)`, the layers, `weight` `(latents, patches · width)`, `bias` `(latents,)`.

    origin: `(input_width,)`, c: the row that is taken out before the patches are mapped. It is no weight.
    """

    origin: Tensor

    def __init__(self, spec: Transformer, input_width: int, latents: int) -> None:
        super().__init__()
        patches = input_width // spec.patch
        self.shape = (patches, spec.patch)
        self.register_buffer("origin", torch.zeros(input_width))
        self.read = nn.Linear(spec.patch, spec.width)
        self.attending = _Attending(spec, patches)
        self.weight = nn.Parameter(torch.zeros(latents, patches * spec.width))
        self.bias = nn.Parameter(torch.zeros(latents))

    def forward(self, x: Tensor, decoder: DecoderModule) -> PreActivations:
        """Return W [h_1, h_2, …] + b, not yet multiplied out."""
        hidden = self.attending(self.read((x - self.origin).unflatten(1, self.shape)))
        return Affine(hidden.flatten(1), self.weight, self.bias)

    @torch.no_grad()
    def reset(self, directions: Tensor, generator: torch.Generator) -> None:
        """Draw the weights of every layer; biases zero."""
        _draw(self, generator)
        self.origin.zero_()

    @torch.no_grad()
    def center(self, row: Tensor) -> None:
        """Take this row out of all others."""
        self.origin.copy_(row)

    @torch.no_grad()
    def change_units(self, change: Change) -> None:
        """Change what is taken out, the map of a patch, and the last map."""
        change.of_rows(self.origin)
        self.read.weight.mul_(change.scale)
        change.of_code(self.weight, self.bias)


@dataclass(frozen=True, kw_only=True)
class TransformerDecoder(Patchwise, Decoder):
    """The mirror image of the encoder: a patch starts as an affine map of its own latents z_t.

    h_t = D z_t + d, with positions, through the layers          x̂_t = A h_t + b_t
    """

    kind: ClassVar[str] = "transformer"
    linear: ClassVar[bool] = False

    @property
    def layered(self) -> bool:
        """Whether there are layers after the first map: always."""
        return True

    def build(self, *, input_width: int, output_width: int, latents: int) -> TransformerDecoderModule:
        """Return the module."""
        return TransformerDecoderModule(self, output_width, latents)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless the row can be cut, and one number scales all of it."""
        super().check(spec)
        self.require(spec.output_width, uniform=spec.scaling.uniform, what="decoder")


class TransformerDecoderModule(DecoderModule):
    """Hold `weight` `(latents, patches · width)`, `start_bias`, the layers, the map to a patch `(patch, width)`, and
    the bias `(output_width,)`."""

    def __init__(self, spec: TransformerDecoder, output_width: int, latents: int) -> None:
        super().__init__()
        patches = output_width // spec.patch
        self.shape = (patches, spec.width)
        self.weight = nn.Parameter(torch.zeros(latents, patches * spec.width))
        self.start_bias = nn.Parameter(torch.zeros(patches * spec.width))
        self.attending = _Attending(spec, patches)
        self.write = nn.Parameter(torch.zeros(spec.patch, spec.width))
        self.bias = nn.Parameter(torch.zeros(output_width))

    def forward(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        """Return `(rows, output_width)`."""
        hidden = self.attending((product(codes, self.weight) + self.start_bias).unflatten(1, self.shape))
        return nn.functional.linear(hidden, self.write).flatten(1) + self.bias

    def directions(self) -> Tensor:
        """Return D, `(latents, patches · width)`: directions in the streams of all patches, not in the row."""
        return self.weight

    @torch.no_grad()
    def reset(self, directions: Tensor, generator: torch.Generator) -> None:
        """Draw the weights of every layer; biases zero."""
        _draw(self, generator)

    @torch.no_grad()
    def change_units(self, change: Change, rows: Change) -> None:
        """Change the first and the last map."""
        self.weight.div_(change.code)
        change.of_last(self.write, self.bias)
