"""Bits of a row: codes in whole steps through the range coder of the codec, coarser and finer, and the error of each.

    bits = 8 · bytes of the blocks / rows        error = FVU of the rows that the decoder makes of the whole steps

The method itself is no part of the bits, as it is none of a compressed file: both sides hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from gossamer.codec.blocks import BlockCodec, next_block
from gossamer.codec.quantizer import Prediction
from gossamer.codes import SparseCodes
from gossamer.evaluate.reconstruction import fvu

__all__ = ["RatePoint", "bits_at", "coded", "rate_curve"]

BLOCK = 1024
FACTORS = 2.0 ** np.arange(5.0, -5.5, -0.5)
"""Steps that are tried, from coarse to fine, in root mean squares of the rows' entries about the mean row."""


class RatePoint(NamedTuple):
    """bits: per row. fvu: of what was decoded from them."""

    bits: float
    fvu: float


def coded(codes: SparseCodes, prediction: Prediction) -> tuple[np.ndarray, int]:
    """Return the rows that decoding gives, and the bytes that the codes take."""
    codec, decoded, stored, start = BlockCodec(prediction, np.dtype(np.float32)), [], 0, 0
    while start < codes.rows:
        end = min(start + next_block(start, BLOCK), codes.rows)
        block = codec.encode(np.zeros((end - start, prediction.width), np.float32), _some(codes, start, end))
        decoded.append(block.rows)
        stored += len(block.payload)
        start = end
    return np.concatenate(decoded), stored


def rate_curve(
    x: np.ndarray, codes: SparseCodes, prediction: Callable[[float], Prediction], *, floor: float
) -> list[RatePoint]:
    """Return bits and error from coarse to fine steps, until the error is hardly above `floor`, that of the codes as
    they are."""
    spread = float(np.sqrt(np.square(x - x.mean(axis=0)).mean()))
    points = []
    for factor in FACTORS:
        decoded, stored = coded(codes, prediction(spread * float(factor)))
        points.append(RatePoint(8 * stored / len(x), fvu(torch.from_numpy(x), torch.from_numpy(decoded))))
        if points[-1].fvu < 1.02 * floor:
            break
    return points


def bits_at(points: Sequence[RatePoint], wanted: float) -> float:
    """Return the bits at which the error is `wanted`, log error interpolated over bits; NaN where it is not reached."""
    for before, after in pairwise(points):
        if after.fvu <= wanted < before.fvu:
            share = np.log(before.fvu / wanted) / np.log(before.fvu / after.fvu)
            return float(before.bits + share * (after.bits - before.bits))
    return float("nan")


def _some(codes: SparseCodes, start: int, end: int) -> SparseCodes:
    first, last = int(codes.offsets[start]), int(codes.offsets[end])
    return SparseCodes(
        offsets=codes.offsets[start : end + 1] - first,
        indices=codes.indices[first:last],
        values=codes.values[first:last],
        latents=codes.latents,
    )
