"""Multiply–adds of encoding and decoding one row, counted by formula; tests hold them against torch's own counter.

Counted are products of matrices; biases, activations and norms are left out, as is usual. A decoder is charged for the
active latents only. What chooses the active ones (a sort, a threshold) multiplies nothing.
"""

from __future__ import annotations

from functools import singledispatch
from itertools import pairwise
from typing import NamedTuple

from gossamer.autoencoder.attention import Patchwise, Transformer, TransformerDecoder
from gossamer.autoencoder.autoencoder import AutoencoderSpec
from gossamer.autoencoder.decoders import Decoder
from gossamer.autoencoder.decoders import Deep as DeepDecoder
from gossamer.autoencoder.decoders import Linear as LinearDecoder
from gossamer.autoencoder.encoders import Deep, Encoder, Linear, Tied

__all__ = ["Work", "attention_layer", "pursuit", "work"]


class Work(NamedTuple):
    """Multiply–adds per row."""

    encode: float
    decode: float


def work(spec: AutoencoderSpec, l0: float) -> Work:
    """Return the multiply–adds of a row whose code has `l0` active latents.

    Raises TypeError for parts that have no formula yet.
    """
    return Work(_encode(spec.encoder, spec), _decode(spec.decoder, spec, l0))


def attention_layer(length: int, width: int, hidden: int) -> int:
    """Return the multiply–adds of a layer of self-attention: length · (4 width² + 2 length width + 2 width hidden).

    Queries, keys, values and output are a product with a `(width, width)` matrix each; scores and mixture are one of
    `(length, width)` with `(width, length)` and back; the feed-forward network goes to `hidden` and back.
    """
    return length * (4 * width**2 + 2 * length * width + 2 * width * hidden)


def pursuit(latents: int, width: int, k: int) -> float:
    """Return the multiply–adds of orthogonal matching pursuit with the Gram matrix at hand.

    F D for the correlations, then in step j: F j to update them, and about j² for the triangular solve:
    F D + F k² / 2 + k³ / 3. Rubinstein et al. 2008 (https://www.cs.technion.ac.il/~ronrubin/Publications/KSVD-OMP-v2.pdf).
    """
    return latents * width + latents * k**2 / 2 + k**3 / 3


def _layers(parts: Patchwise, row: int) -> int:
    return parts.layers * attention_layer(row // parts.patch, parts.width, parts.hidden)


@singledispatch
def _encode(encoder: Encoder, spec: AutoencoderSpec) -> float:
    raise TypeError(f"multiply–adds of the encoder {encoder.kind!r} are not counted")


@_encode.register
def _(encoder: Linear | Tied, spec: AutoencoderSpec) -> float:
    return spec.input_width * spec.latents


@_encode.register
def _(encoder: Deep, spec: AutoencoderSpec) -> float:
    return sum(a * b for a, b in pairwise([spec.input_width, *encoder.hidden, spec.latents]))


@_encode.register
def _(encoder: Transformer, spec: AutoencoderSpec) -> float:
    ends = encoder.width * spec.input_width + encoder.width * (spec.input_width // encoder.patch) * spec.latents
    return ends + _layers(encoder, spec.input_width)


@singledispatch
def _decode(decoder: Decoder, spec: AutoencoderSpec, l0: float) -> float:
    raise TypeError(f"multiply–adds of the decoder {decoder.kind!r} are not counted")


@_decode.register
def _(decoder: LinearDecoder, spec: AutoencoderSpec, l0: float) -> float:
    return l0 * spec.output_width


@_decode.register
def _(decoder: DeepDecoder, spec: AutoencoderSpec, l0: float) -> float:
    widths = [*decoder.hidden, spec.output_width]
    return l0 * widths[0] + sum(a * b for a, b in pairwise(widths))


@_decode.register
def _(decoder: TransformerDecoder, spec: AutoencoderSpec, l0: float) -> float:
    ends = l0 * (spec.output_width // decoder.patch) * decoder.width + decoder.width * spec.output_width
    return ends + _layers(decoder, spec.output_width)
