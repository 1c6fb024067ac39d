"""What nearly every format holds: one affine map from rows to pre-activations, and one from codes to rows.

    p = x Wᵀ + b        x̂ = z D + c (+ x S)

`AffineParts` are these matrices and biases, one latent per row. `assembled` makes an autoencoder of them, `taken_apart`
gives them back, with whatever is scaled, tied or made of mixtures folded in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder
from gossamer.autoencoder.centered import CenteredEncoder
from gossamer.autoencoder.constraints import Free, UnitRows
from gossamer.autoencoder.decoders import AffineDecoder, LinearDecoder, Skip, SkipDecoder
from gossamer.autoencoder.decoders import Linear as LinearDecoderSpec
from gossamer.autoencoder.encoders import Encoder, LinearEncoder, ListaEncoder, TiedEncoder
from gossamer.autoencoder.encoders import Linear as LinearEncoderSpec
from gossamer.autoencoder.files import as_folded, assemble
from gossamer.autoencoder.penalties import GateReconstruction
from gossamer.autoencoder.scaling import Scaling, Unscaled
from gossamer.autoencoder.sparsity import Sparsity
from gossamer.autoencoder.tasks import Reconstruct, Task
from gossamer.interop.tensors import same_dtype

__all__ = ["AffineParts", "TakenApart", "assembled", "less_center", "taken_apart"]

CHUNK = 2**22
"""Entries of a matrix that are multiplied in double precision at once."""


@dataclass(frozen=True, eq=False)
class AffineParts:
    """Matrices and biases, one latent per row.

    encoder: `(latents, input_width)`; encoder_bias: `(latents,)`; decoder: `(latents, output_width)`; decoder_bias:
    `(output_width,)`; skip: `(output_width, input_width)`, if there is a linear map beside the code. A tensor may be a
    transposed view of a mapped file: nothing is copied before it has to be.
    """

    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    skip: Tensor | None = None


def assembled(
    parts: AffineParts,
    *,
    name: str,
    sparsity: Sparsity,
    thresholds: Mapping[str, Tensor] | None = None,
    encoder: Encoder | None = None,
    scaling: Scaling | None = None,
    task: Task | None = None,
) -> SparseAutoencoder:
    """Return the autoencoder of some parts, which it holds as they are.

    sparsity: what stands between the two maps; thresholds: its own tensors, by the names that its module gives them.
    encoder: `Linear()`, `Centered()` if the decoder's bias is taken from the row first, or `Tied()`, which has no
    matrix of its own. scaling: `Unscaled()`, or one that each row measures for itself. task: what is read and given.
    Losses are not known: the spec has none but what the architecture cannot do without.
    """
    tensors = {
        "encoder.weight": parts.encoder,
        "encoder.bias": parts.encoder_bias,
        "decoder.weight": parts.decoder,
        "decoder.bias": parts.decoder_bias,
        **{f"sparsity.{own}": tensor for own, tensor in (thresholds or {}).items()},
    }
    if parts.skip is not None:
        tensors["decoder.skip"] = parts.skip
    if encoder is not None and encoder.tied:
        tensors["encoder.gain"] = torch.ones((), dtype=tensors.pop("encoder.weight").dtype)
    tensors = same_dtype(tensors)
    constraint = UnitRows() if _unit(parts.decoder) else Free()
    latents, width = parts.encoder.shape
    spec = AutoencoderSpec(
        name=name,
        input_width=width,
        latents=latents,
        sparsity=sparsity,
        encoder=encoder or LinearEncoderSpec(),
        decoder=(LinearDecoderSpec if parts.skip is None else Skip)(constraint=constraint),
        scaling=scaling or Unscaled(),
        penalties=(GateReconstruction(weight=1.0),) if sparsity.kind == "gated" else (),
        task=task or Reconstruct(),
    )
    return assemble(spec, tensors)


@dataclass(frozen=True, eq=False)
class TakenApart:
    """What an autoencoder comes down to.

    folded: itself, its scaling folded in. centered: whether the encoder's bias is for rows less the decoder's bias.
    """

    folded: SparseAutoencoder
    parts: AffineParts
    centered: bool
    notes: tuple[str, ...]

    def read_plainly(self) -> AffineParts:
        """Return the parts with the encoder's bias for rows as they are."""
        bias = self.parts.encoder_bias
        if self.centered:
            bias = less_center(bias, self.parts.encoder, self.parts.decoder_bias)
        return replace(self.parts, encoder_bias=bias)

    def read_centered(self) -> AffineParts:
        """Return the parts with the encoder's bias for rows less the decoder's bias."""
        bias = self.parts.encoder_bias
        if not self.centered:
            bias = less_center(bias, self.parts.encoder, -self.parts.decoder_bias)
        return replace(self.parts, encoder_bias=bias)


@torch.no_grad()
def taken_apart(sae: SparseAutoencoder) -> TakenApart:
    """Return the two affine maps of an autoencoder, in units of the row as it is (or, with a scaling that the row
    measures for itself, as it is then).

    Raises ValueError, with the reason, if it is made of anything else.
    """
    folded = as_folded(sae)
    encoder, decoder, notes = folded.encoder, folded.decoder, []
    if folded is not sae:
        notes.append(f"the scaling {sae.spec.scaling.kind!r} is folded into weights and biases")
    if sae.spec.scaling.kind == "row-norm":
        raise ValueError(
            "scaling 'row-norm' lets codes carry the norm of their row, which other libraries' codes do not; train "
            "with 'constant-norm' or 'mean-scale' to write it"
        )
    if not isinstance(decoder, AffineDecoder):
        raise ValueError(f"the decoder {sae.spec.decoder.kind!r} is no single matrix of directions")
    directions, skip = decoder.directions(), None
    if not isinstance(decoder, LinearDecoder):
        notes.append(f"the directions of the decoder {sae.spec.decoder.kind!r} are multiplied out")
    if isinstance(decoder, SkipDecoder):
        skip = decoder.skip
    if isinstance(encoder, TiedEncoder):
        weight = directions * encoder.gain if encoder.gain != 1 else directions
    elif isinstance(encoder, LinearEncoder) and not isinstance(encoder, ListaEncoder):
        weight = encoder.weight
    else:
        raise ValueError(f"the encoder {sae.spec.encoder.kind!r} is no single affine map")
    parts = AffineParts(weight, encoder.get_parameter("bias"), directions, decoder.bias, skip)
    return TakenApart(folded, parts, isinstance(encoder, TiedEncoder | CenteredEncoder), tuple(notes))


def less_center(bias: Tensor, weight: Tensor, center: Tensor) -> Tensor:
    """Return b − W c, `(latents,)`: the bias of a map that reads x, if (x − c) Wᵀ + b is what it shall give.

    Summed in double precision and rounded once; a chunk of W is converted at a time.
    """
    rows = max(1, CHUNK // max(weight.shape[1], 1))
    center = center.double()
    products = [part.double() @ center for part in weight.split(rows)]
    return (bias.double() - torch.cat(products)).to(bias.dtype)


def _unit(directions: Tensor) -> bool:
    """Say whether all rows have norm 1, as far as their precision tells."""
    norms = torch.linalg.vector_norm(directions, dim=1, dtype=torch.float32)
    tolerance = 16 * torch.finfo(directions.dtype).eps
    return bool(((norms - 1).abs() < max(tolerance, 1e-5)).all())
