"""The encoder that reads the distance from the decoder's bias: the convention of most published sparse autoencoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from gossamer.autoencoder.decoders import DecoderModule
from gossamer.autoencoder.encoders import Linear, LinearEncoder
from gossamer.autoencoder.pre_activations import Affine, PreActivations
from gossamer.autoencoder.scaling import Change

if TYPE_CHECKING:
    from gossamer.autoencoder.autoencoder import AutoencoderSpec

__all__ = ["Centered", "CenteredEncoder"]


@dataclass(frozen=True, kw_only=True)
class Centered(Linear):
    """One affine map of the row less the decoder's bias: p = (x − b_dec) Wᵀ + b.

    It computes what 'linear' does with the bias b − W b_dec; the two learn differently, since b_dec has two jobs here.
    Bricken et al. 2023 (https://transformer-circuits.pub/2023/monosemantic-features).
    """

    kind: ClassVar[str] = "centered"

    def build(self, *, input_width: int, latents: int) -> CenteredEncoder:
        """Return the module; its weights are zero until they are initialised."""
        return CenteredEncoder(input_width, latents)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless the decoder's bias is a row of the input."""
        if not (spec.decoder.linear and spec.task.same_rows):
            raise ValueError(
                "encoder 'centered' takes the decoder's bias from the row; that needs a linear decoder and a target "
                "that is the input"
            )


class CenteredEncoder(LinearEncoder):
    """Hold weight `(latents, input_width)` and bias `(latents,)`."""

    def forward(self, x: Tensor, decoder: DecoderModule) -> PreActivations:
        """Return (x − b_dec) Wᵀ + b, not yet multiplied out."""
        return Affine(x - decoder.bias, self.weight, self.bias)

    @torch.no_grad()
    def center(self, row: Tensor) -> None:
        """Leave the bias: the decoder's takes the row out."""

    @torch.no_grad()
    def change_units(self, change: Change) -> None:
        """Change the bias and, where rows and codes are not scaled alike, W, which looks at differences only."""
        change.of_difference(self.weight, self.bias)
