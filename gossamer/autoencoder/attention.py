"""Encoder and decoder that are transformers: a row is cut into patches, and the patches attend to each other.

    row ── patches ──► E x_t + positions ──► layers ──► each patch's own pre-activations
    code ── each patch's own latents ──► positions, layers ──► patches ──► row

Latents come in runs, one for each patch: latent t · (latents / patches) + j is the j-th of patch t. All weights are the
same for every patch, as in a transformer over words; what tells the patches apart are the positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from gossamer.autoencoder.decoders import Decoder, DecoderModule
from gossamer.autoencoder.encoders import Encoder, EncoderModule
from gossamer.autoencoder.layers import draw
from gossamer.autoencoder.pre_activations import Computed, PreActivations
from gossamer.autoencoder.scaling import Change
from gossamer.codes import Codes, DenseCodes
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

    def require(self, row: int, latents: int, *, what: str) -> None:
        """Raise ValueError unless a row and the latents can be cut into the same number of equal parts."""
        patches = row // self.patch
        if row % self.patch or not patches or latents % patches:
            raise ValueError(
                f"{what} 'transformer' cuts the row into patches of {self.patch}, and gives each as many latents: "
                f"{row} entries must be a multiple of {self.patch}, and {latents} latents one of the number of patches"
            )


class _Attending(nn.Module):
    """Positions, layers and a last norm over `(rows, patches, width)`."""

    def __init__(self, spec: Patchwise, patches: int) -> None:
        super().__init__()
        sizes = {"width": spec.width, "hidden": spec.hidden, "heads": spec.heads, "block": NO_DROPOUT}
        turned = isinstance(spec.positions, Rotary)
        self.order = Order(patches) if turned else _order(spec, patches)
        orders = [_order(spec, patches) if turned else None for _ in range(spec.layers)]
        self.layers = nn.ModuleList(Layer(**sizes, order=order) for order in orders)
        self.norm = nn.LayerNorm(spec.width)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the patches have become, of the same shape."""
        x = self.order(x)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


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
    """Layers of self-attention over the patches x_t of a row, then one affine map of each patch:

        h_t = E (x_t − c_t) + e, with positions, through the layers          p_t = W h_t + b_t

    c: the mean row of the data. W is the same for all patches, b is not.
    Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762), on patches as in Dosovitskiy et al. 2020
    (https://arxiv.org/abs/2010.11929).
    """

    kind: ClassVar[str] = "transformer"
    layered: ClassVar[bool] = True

    def build(self, *, input_width: int, latents: int) -> TransformerEncoderModule:
        """Return the module."""
        return TransformerEncoderModule(self, input_width, latents)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless row and latents can be cut, and one number scales the whole row."""
        super().check(spec)
        self.require(spec.input_width, spec.latents, what="encoder")
        if not spec.scaling.uniform:
            raise ValueError(
                "encoder 'transformer' reads all patches with one matrix: it needs a scaling by one number"
            )


class TransformerEncoderModule(EncoderModule):
    """Hold the map of a patch `(width, patch)`, the layers, `weight` `(latents / patches, width)`, `bias` `(latents,)`.

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
        self.weight = nn.Parameter(torch.zeros(latents // patches, spec.width))
        self.bias = nn.Parameter(torch.zeros(latents))

    def forward(self, x: Tensor, decoder: DecoderModule) -> PreActivations:
        """Return the pre-activations, a run of latents for each patch."""
        hidden = self.attending(self.read((x - self.origin).unflatten(1, self.shape)))
        return Computed(nn.functional.linear(hidden, self.weight).flatten(1) + self.bias)

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
        """Raise ValueError unless row and latents can be cut, and one number scales the whole row."""
        super().check(spec)
        self.require(spec.output_width, spec.latents, what="decoder")
        if not spec.scaling.uniform:
            raise ValueError(
                "decoder 'transformer' writes all patches with one matrix: it needs a scaling by one number"
            )


class TransformerDecoderModule(DecoderModule):
    """Hold the map of a patch's latents `(latents / patches, width)`, the layers, the map to a patch, and the bias
    `(output_width,)`."""

    def __init__(self, spec: TransformerDecoder, output_width: int, latents: int) -> None:
        super().__init__()
        patches = output_width // spec.patch
        self.shape = (patches, latents // patches)
        self.weight = nn.Parameter(torch.zeros(latents // patches, spec.width))
        self.weight_bias = nn.Parameter(torch.zeros(spec.width))
        self.attending = _Attending(spec, patches)
        self.write = nn.Parameter(torch.zeros(spec.patch, spec.width))
        self.bias = nn.Parameter(torch.zeros(output_width))

    def forward(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        """Return `(rows, output_width)`."""
        dense = codes.values if isinstance(codes, DenseCodes) else codes.to_dense()
        hidden = self.attending(dense.unflatten(1, self.shape) @ self.weight + self.weight_bias)
        return nn.functional.linear(hidden, self.write).flatten(1) + self.bias

    def directions(self) -> Tensor:
        """Return D for every patch, `(latents, width)`: directions of the residual stream, not of the row."""
        return self.weight.repeat(self.shape[0], 1)

    @torch.no_grad()
    def reset(self, directions: Tensor, generator: torch.Generator) -> None:
        """Draw the weights of every layer; biases zero."""
        _draw(self, generator)

    @torch.no_grad()
    def change_units(self, change: Change, rows: Change) -> None:
        """Change the first and the last map."""
        self.weight.div_(change.code)
        change.of_last(self.write, self.bias)
