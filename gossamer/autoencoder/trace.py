"""Trace: what one pass of rows through an autoencoder leaves behind, which is all that losses look at."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from torch import Tensor

from gossamer.autoencoder.decoders import DecoderModule
from gossamer.autoencoder.encoders import EncoderModule
from gossamer.autoencoder.pre_activations import PreActivations
from gossamer.autoencoder.sparsity.rule import Rule
from gossamer.codes import Codes

__all__ = ["Moment", "Trace"]


@dataclass(frozen=True, eq=False)
class Moment:
    """Where training stands when a batch comes.

    dead: indices of the latents that the auxiliaries shall revive, if somebody counts them. dense: hold the codes as a
    matrix, which is faster while many latents are active; loss and gradients are the same. progress: how much of the
    training is done, from 0 to 1. strength: what multiplies a penalty that has a target_l0 instead of a weight.
    """

    dead: Tensor | None = None
    dense: bool = False
    progress: float = 1.0
    strength: Tensor | float = 1.0


@dataclass(frozen=True, eq=False)
class Trace:
    """One pass, in training units.

    x: `(rows, input_width)`, the encoder's rows; target: `(rows, output_width)`; pre, codes: what became of them;
    encoder, rule, decoder: the parts themselves; moment: where training stands.
    """

    x: Tensor
    target: Tensor
    pre: PreActivations
    codes: Codes
    encoder: EncoderModule
    rule: Rule
    decoder: DecoderModule
    moment: Moment

    @functools.cached_property
    def directions(self) -> Tensor:
        """The decoder's directions, `(latents, output_width)`."""
        return self.decoder.directions()

    @functools.cached_property
    def norms(self) -> Tensor:
        """`(latents,)`: how much one unit of each latent adds to the reconstruction."""
        return self.decoder.norms()
