"""Cross-layer transcoders: latents of a layer read that layer, and write to it and all later ones.

Encoder and decoder are cut into runs of latents, one per layer, so that nothing is multiplied with the zeros between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from gossamer.autoencoder.constraints import Constraint, UnitRows
from gossamer.autoencoder.decoders import Decoder, DecoderModule, product
from gossamer.autoencoder.encoders import Encoder, EncoderModule, LinearEncoder
from gossamer.autoencoder.pre_activations import Joined, PreActivations
from gossamer.autoencoder.scaling import Change
from gossamer.codes import Codes, DenseCodes, SparseCodes, keep_entries

if TYPE_CHECKING:
    from gossamer.autoencoder.autoencoder import AutoencoderSpec

__all__ = ["LaterLayers", "LaterLayersDecoder", "PerLayer", "PerLayerEncoder"]


@dataclass(frozen=True, kw_only=True)
class PerLayer(Encoder):
    """One affine map per layer of a model: of L equal runs of latents, run l reads only site l of the row.

    Lindsey et al. 2025 (https://transformer-circuits.pub/2025/attribution-graphs/methods.html).
    """

    kind: ClassVar[str] = "per-layer"
    layers: int

    def build(self, *, input_width: int, latents: int) -> PerLayerEncoder:
        """Return the module."""
        return PerLayerEncoder(self.layers, input_width, latents)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless the row and the latents can be cut into so many equal parts."""
        if self.layers < 1 or spec.input_width % self.layers or spec.latents % self.layers:
            raise ValueError(
                f"rows of width {spec.input_width} and {spec.latents} latents cannot both be cut into "
                f"{self.layers} equal parts, one per layer"
            )


class PerLayerEncoder(EncoderModule):
    """Hold, for each layer, a LinearEncoder `(latents / layers, input_width / layers)`."""

    def __init__(self, layers: int, input_width: int, latents: int) -> None:
        super().__init__()
        self.width = input_width // layers
        self.layers = nn.ModuleList(LinearEncoder(self.width, latents // layers) for _ in range(layers))

    def forward(self, x: Tensor, decoder: DecoderModule) -> PreActivations:
        """Return the pre-activations of all layers side by side."""
        pieces = [piece.contiguous() for piece in x.split(self.width, dim=1)]
        return Joined([layer(piece, decoder) for layer, piece in zip(self.layers, pieces, strict=True)])

    @torch.no_grad()
    def reset(self, directions: Tensor, generator: torch.Generator) -> None:
        """Start each layer as half of unit rows."""
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, LinearEncoder)
            mine = directions.chunk(len(self.layers))[number][:, number * self.width : (number + 1) * self.width]
            layer.reset(nn.functional.normalize(mine, dim=1), generator)

    @torch.no_grad()
    def center(self, row: Tensor) -> None:
        """Center each layer on its part of the row."""
        for layer, piece in zip(self.layers, row.split(self.width), strict=True):
            assert isinstance(layer, LinearEncoder)
            layer.center(piece)

    @torch.no_grad()
    def change_units(self, change: Change) -> None:
        """Change each layer by its part of the row."""
        for layer, piece in zip(self.layers, change.cut(self.width), strict=True):
            assert isinstance(layer, LinearEncoder)
            layer.change_units(piece)


@dataclass(frozen=True, kw_only=True)
class LaterLayers(Decoder):
    """Directions that reach their own layer and all later ones: of L equal runs of latents, run l writes to the sites
    l, …, L of the reconstruction. Lindsey et al. 2025
    (https://transformer-circuits.pub/2025/attribution-graphs/methods.html).
    """

    kind: ClassVar[str] = "later-layers"
    layers: int
    constraint: Constraint = UnitRows()

    def build(self, *, input_width: int, output_width: int, latents: int) -> LaterLayersDecoder:
        """Return the module."""
        return LaterLayersDecoder(self, output_width, latents)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless the row and the latents can be cut into so many equal parts."""
        if self.layers < 1 or spec.output_width % self.layers or spec.latents % self.layers:
            raise ValueError(
                f"rows of width {spec.output_width} and {spec.latents} latents cannot both be cut into "
                f"{self.layers} equal parts, one per layer"
            )


class LaterLayersDecoder(DecoderModule):
    """Hold, for each layer l, weight `(latents / layers, (layers − l) · width)`, and bias `(layers · width,)`."""

    def __init__(self, spec: LaterLayers, output_width: int, latents: int) -> None:
        super().__init__()
        self.width, self.run = output_width // spec.layers, latents // spec.layers
        reached = range(output_width, 0, -self.width)
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(self.run, width)) for width in reached)
        self.bias = nn.Parameter(torch.zeros(output_width))
        self.constraint = spec.constraint

    def forward(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        """Return what all layers write, `(rows, output_width)`."""
        out = self.bias.expand(codes.rows, -1).clone()
        for number, weight in enumerate(self.weights):
            first = number * self.run
            out[:, number * self.width :] += product(_run_of(codes, first, first + self.run), weight)
        return out

    def directions(self) -> Tensor:
        """Return the directions with zeros where a latent does not reach, `(latents, output_width)`."""
        lead = [weight.new_zeros(self.run, self.bias.shape[0] - weight.shape[1]) for weight in self.weights]
        return torch.cat([torch.cat(pair, dim=1) for pair in zip(lead, self.weights, strict=True)])

    def norms(self) -> Tensor:
        """Return the norm of each direction, summed over the layers that it reaches."""
        sites = self.directions().split(self.width, dim=1)
        return torch.stack([torch.linalg.vector_norm(site, dim=1) for site in sites]).sum(dim=0)

    def constraints(self) -> dict[Tensor, Constraint]:
        """Return the constraint on the directions."""
        return dict.fromkeys(self.weights, self.constraint)

    @torch.no_grad()
    def reset(self, directions: Tensor, generator: torch.Generator) -> None:
        """Start as the unit rows, as far as they reach."""
        for number, (weight, run) in enumerate(zip(self.weights, directions.split(self.run), strict=True)):
            weight.copy_(nn.functional.normalize(run[:, number * self.width :], dim=1))
        self.bias.zero_()

    @torch.no_grad()
    def change_units(self, change: Change, rows: Change) -> None:
        """Change weights and bias."""
        for number, weight in enumerate(self.weights):
            reached = change.from_column(number * self.width)
            reached.of_decoder(weight, weight.new_zeros(weight.shape[1]))
        change.of_rows(self.bias)


def _run_of(codes: Codes, first: int, end: int) -> Codes:
    """Return the codes of the latents `first` to `end` alone, counted from `first`."""
    if isinstance(codes, DenseCodes):
        return DenseCodes(values=codes.values[:, first:end])
    mine = keep_entries(codes, (codes.indices >= first) & (codes.indices < end))
    return SparseCodes(offsets=mine.offsets, indices=mine.indices - first, values=mine.values, latents=end - first)
