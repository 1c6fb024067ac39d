"""A training step's view of an autoencoder: one pass of rows leaves a Trace, and losses look at nothing else."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gossamer.autoencoder.decoders import DecoderModule
from gossamer.autoencoder.encoders import EncoderModule
from gossamer.autoencoder.pre_activations import PreActivations
from gossamer.autoencoder.sparsity.rule import Rule
from gossamer.codes import Codes

if TYPE_CHECKING:
    from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder

__all__ = ["Loss", "Moment", "Trace", "charge", "traced"]


@dataclass(frozen=True, eq=False)
class Loss:
    """What a training step minimises: the total, its weighted terms, and the codes they rest on (training units)."""

    total: Tensor
    terms: dict[str, Tensor]
    codes: Codes


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


def traced(sae: SparseAutoencoder, x: Tensor, target: Tensor, moment: Moment) -> Trace:
    """Encode `(rows, input_width)` rows for training; target: `(rows, output_width)`. Both are in training units."""
    seen = sae.spec.corruption(x)
    pre = sae.encoder(seen, sae.decoder)
    choose = sae.sparsity.dense if moment.dense else sae.sparsity.training_codes
    codes = choose(pre, moment.progress)
    return Trace(seen, target, pre, codes, sae.encoder, sae.sparsity, sae.decoder, moment)


def charge(spec: AutoencoderSpec, trace: Trace, terms: Mapping[str, Tensor], residual: Tensor) -> Loss:
    """Return the loss that consists of some terms and of what the penalties and auxiliaries add.

    residual: `(rows, output_width)`, target minus reconstruction in training units, outside the graph.
    """
    terms, moment = dict(terms), trace.moment
    for penalty in spec.penalties:
        weight = moment.strength if penalty.weight is None else penalty.weight
        terms[penalty.kind] = terms.get(penalty.kind, 0.0) + weight * penalty(trace)
    if moment.dead is not None:
        for auxiliary in spec.auxiliaries:
            cost = auxiliary(trace, residual, moment.dead)
            terms[auxiliary.kind] = terms.get(auxiliary.kind, 0.0) + auxiliary.weight * cost
    total = torch.stack(list(terms.values())).sum()
    return Loss(total, {name: term.detach() for name, term in terms.items()}, trace.codes.detach())
