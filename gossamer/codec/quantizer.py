"""Codes as whole numbers of steps, and what a decoder makes of them, the same to the last bit on every machine.

A linear decoder is turned into integers, D[j] = round(2^shift · step_j · direction_j), and a prediction is the sum of
q_j D[j], in 64-bit integers: no rounding, so neither threads nor the order of a sum matters. What goes into D are
single operations on doubles, which IEEE 754 defines to the last bit.
"""

from __future__ import annotations

import copy
import hashlib
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.codec.reading import LinearMap, Reading
from gossamer.codes import SparseCodes

__all__ = [
    "FloatPrediction",
    "IntegerPrediction",
    "Prediction",
    "QuantizedCodes",
    "linear_decoder",
    "model_hash",
    "prediction",
]

BITS = 28
"""Bits of the largest entry of the integer decoder."""

LARGEST_SUM = 1 << 33
"""Σ |q| of a row stays below this, so that a prediction fits 64 bits."""

PLAIN = Reading()

DEAD_ZONE = 0.65
"""Values below this many steps are not kept: half a step would round up, but an entry costs the bits of its index."""


@dataclass(frozen=True, eq=False)
class QuantizedCodes:
    """Codes of a block: the active latents of row r are entries `offsets[r]` to `offsets[r + 1]`.

    latents, values: `(entries,)` int64; no value is 0.
    """

    offsets: np.ndarray
    latents: np.ndarray
    values: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Active latents of each row."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> np.ndarray:
        """The row of each entry."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.counts)


class Prediction(Protocol):
    """What maps quantized codes to rows. exact: whether it does so to the last bit on every machine."""

    exact: bool
    latents: int
    width: int

    def quantize(self, codes: SparseCodes) -> QuantizedCodes:
        """Return codes in whole steps, without those that came out as 0."""
        ...

    def rows(self, codes: QuantizedCodes) -> np.ndarray:
        """Return `(rows, width)` float64."""
        ...


class IntegerPrediction:
    """A linear decoder in integers. One step of every latent moves the row by the same distance, `step`."""

    exact = True

    def __init__(self, directions: np.ndarray, bias: np.ndarray, *, step: float) -> None:
        self.latents, self.width = directions.shape
        self._steps = step / _norms(directions)
        contributions = directions.astype(np.float64) * self._steps[:, None]
        largest = max(float(np.abs(contributions).max(initial=0.0)), step * 2.0**-20)
        self.shift = BITS - math.frexp(largest)[1]
        if not -900 < self.shift < 900:
            raise ValueError(f"a step of {step:g} is out of range for this autoencoder")
        self._table = np.rint(np.ldexp(contributions, self.shift)).astype(np.int64)
        self._bias = bias.astype(np.float64)

    def quantize(self, codes: SparseCodes) -> QuantizedCodes:
        """Return codes in whole steps, without those that came out as 0."""
        return _quantized(codes, self._steps)

    def rows(self, codes: QuantizedCodes) -> np.ndarray:
        """Return bias + Σ q_j D[j] / 2^shift: one rounding to a double, and one of the sum."""
        counts, starts = codes.counts, codes.offsets[:-1]
        total = np.zeros((len(counts), self.width), np.int64)
        _require_small(codes)
        for rank in range(int(counts.max(initial=0))):
            which = np.flatnonzero(counts > rank)
            entry = starts[which] + rank
            total[which] += codes.values[entry, None] * self._table[codes.latents[entry]]
        return np.ldexp(total.astype(np.float64), -self.shift) + self._bias


class FloatPrediction:
    """Any other decoder, as torch computes it: alike to rounding only, so that no residual can be built on it."""

    exact = False

    def __init__(self, sae: SparseAutoencoder, *, step: float) -> None:
        self._sae = sae
        self.latents, self.width = sae.spec.latents, sae.spec.output_width
        self._step = step

    def quantize(self, codes: SparseCodes) -> QuantizedCodes:
        """Return codes in whole steps, without those that came out as 0."""
        return _quantized(codes, np.full(self.latents, self._step))

    @torch.no_grad()
    def rows(self, codes: QuantizedCodes) -> np.ndarray:
        """Return what the decoder makes of the codes."""
        values = torch.from_numpy(codes.values * self._step).to(self._sae.decoder.bias)
        sparse = SparseCodes(
            offsets=torch.from_numpy(codes.offsets).to(values.device),
            indices=torch.from_numpy(codes.latents).to(values.device),
            values=values,
            latents=self.latents,
        )
        return self._sae.decode(sparse).double().cpu().numpy()


def prediction(sae: SparseAutoencoder, *, step: float, reading: Reading = PLAIN) -> Prediction:
    """Return what predicts rows with this autoencoder, for codes in steps of this size in the units of the rows.

    Raises ValueError for an autoencoder that gives back something else than it reads, or needs it to decode.
    """
    require_codec(sae)
    if sae.spec.decoder.linear:
        directions, bias = reading.extend(linear_decoder(sae))
        return IntegerPrediction(directions, bias, step=step)
    if reading.unit != 1 or reading.extra:
        raise ValueError("rows in other units, or normalized by a layout, need an autoencoder with a linear decoder")
    return FloatPrediction(sae, step=step)


def require_codec(sae: SparseAutoencoder) -> None:
    """Raise ValueError unless codes alone give back the rows."""
    if not sae.spec.task.same_rows or sae.spec.wants_rows:
        raise ValueError(
            f"{sae.spec.name!r} cannot compress: its task is {sae.spec.task.kind!r}, its decoder "
            f"{sae.spec.decoder.kind!r} and its scaling {sae.spec.scaling.kind!r}; a codec needs an autoencoder that "
            "gives its input back from the codes alone"
        )


def model_hash(sae: SparseAutoencoder) -> str:
    """Return 32 hexadecimal digits of all that decoding reads, the scaling folded in.

    For a linear decoder these are its directions and its bias; else all weights of the decoder and its kind. What the
    encoder does is no part of it: a file can be read by every autoencoder with the same decoder.
    """
    digest = hashlib.sha256()
    for name, array in _read_by_decoding(sae).items():
        plain = np.ascontiguousarray(array.astype(np.float32) + np.float32(0))  # + 0: there is one zero, not two
        digest.update(f"{name} {plain.shape} ".encode())
        digest.update(plain.astype("<f4").tobytes())
    return digest.hexdigest()[:32]


def _read_by_decoding(sae: SparseAutoencoder) -> dict[str, np.ndarray]:
    if sae.spec.decoder.linear:
        directions, bias = linear_decoder(sae)
        return {"directions": directions, "bias": bias}
    folded = _folded(sae)
    state = {**folded.decoder.state_dict(), "scaler.mean": folded.scaler.mean, "scaler.scale": folded.scaler.scale}
    return {f"{sae.spec.decoder.kind}.{name}": state[name].detach().cpu().numpy() for name in sorted(state)}


@torch.no_grad()
def linear_decoder(sae: SparseAutoencoder) -> LinearMap:
    """Return directions and bias of x̂ = z W + b in the input's units."""
    folded = _folded(sae)
    bias = folded.decoder.bias
    if not folded.scaler.folds:  # a row's norm is in its codes; what is left is the mean
        bias = bias + folded.scaler.mean
    return LinearMap(folded.decoder.directions().cpu().float().numpy(), bias.cpu().float().numpy())


def _folded(sae: SparseAutoencoder) -> SparseAutoencoder:
    folded = copy.deepcopy(sae).cpu()
    folded.fold()
    return folded


def _norms(directions: np.ndarray) -> np.ndarray:
    """Return the norms of the rows, from sums of integers: no order of summation changes them. 1 where it is 0."""
    largest = np.abs(directions).max(axis=1, initial=0.0).astype(np.float64)
    unit = np.where(largest > 0, largest, 1.0)
    whole = np.rint(directions.astype(np.float64) / unit[:, None] * 2.0**15).astype(np.int64)
    squares = np.square(whole).sum(axis=1)
    return np.where(squares > 0, np.sqrt(squares.astype(np.float64)) * 2.0**-15 * unit, 1.0)


def _quantized(codes: SparseCodes, steps: np.ndarray) -> QuantizedCodes:
    offsets, latents = codes.offsets.cpu().numpy(), codes.indices.cpu().numpy()
    scaled = codes.values.detach().double().cpu().numpy() / steps[latents]
    if len(scaled) and not np.abs(scaled).max() < 2.0**32:
        raise ValueError("the step is too fine: a code would take over 2^32 steps, or is not finite")
    whole = np.where(np.abs(scaled) < DEAD_ZONE, 0, np.sign(scaled) * np.floor(np.abs(scaled) + 0.5)).astype(np.int64)
    kept = whole != 0
    places = np.concatenate(([0], np.cumsum(kept)))
    found = QuantizedCodes(places[offsets], latents[kept], whole[kept])
    _require_small(found)
    return found


def _require_small(codes: QuantizedCodes) -> None:
    total = np.concatenate(([0], np.cumsum(np.abs(codes.values))))
    if len(codes.values) and int(np.diff(total[codes.offsets]).max()) >= LARGEST_SUM:
        raise ValueError("the step is too fine: the codes of a row add up to over 2^33 steps")
