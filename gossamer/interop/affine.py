"""What nearly every format holds: one affine map from rows to pre-activations, and one from codes to rows.

    p = x Wᵀ + b        x̂ = z D + c (+ x S)

`AffineParts` are these matrices and biases, one latent per row. `assembled` makes an autoencoder of them, `parts_of`
takes one apart, with whatever is tied, centered or made of mixtures folded in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder
from gossamer.autoencoder.constraints import Free, UnitRows
from gossamer.autoencoder.decoders import Linear as LinearDecoder
from gossamer.autoencoder.decoders import Skip
from gossamer.autoencoder.encoders import Encoder
from gossamer.autoencoder.encoders import Linear as LinearEncoder
from gossamer.autoencoder.files import assemble
from gossamer.autoencoder.penalties import GateReconstruction
from gossamer.autoencoder.scaling import Scaling, Unscaled
from gossamer.autoencoder.sparsity import Sparsity
from gossamer.autoencoder.tasks import Reconstruct, Task
from gossamer.interop.tensors import same_dtype

__all__ = ["AffineParts", "assembled", "less_center"]

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
    encoder: `Linear()`, or `Centered()` if the decoder's bias is taken from the row first. scaling: `Unscaled()`, or
    one that each row measures for itself. task: what is read and given. Losses are not known: the spec has none but
    what the architecture cannot do without.
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
    tensors = same_dtype(tensors)
    constraint = UnitRows() if _unit(parts.decoder) else Free()
    latents, width = parts.encoder.shape
    spec = AutoencoderSpec(
        name=name,
        input_width=width,
        latents=latents,
        sparsity=sparsity,
        encoder=encoder or LinearEncoder(),
        decoder=(LinearDecoder if parts.skip is None else Skip)(constraint=constraint),
        scaling=scaling or Unscaled(),
        penalties=(GateReconstruction(),) if sparsity.kind == "gated" else (),
        task=task or Reconstruct(),
    )
    return assemble(spec, tensors)


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
