"""The step that meets a target: bisection on a sample, with the real coder.

A target is one number: `step` itself, bits per entry, ratio to the input's bytes, or PSNR, SNR, PRD. Without a residual
the step of the codes is sought; with one the step δ of the residual, which bounds the error, and the codes get the
step that makes the sample smallest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.codec.blocks import BlockCodec, next_block
from gossamer.codec.quantizer import prediction
from gossamer.codec.reading import Reading
from gossamer.codes import SparseCodes
from gossamer.evaluate.codec import Distortion, DistortionScore

__all__ = ["TARGETS", "Sample", "Steps", "Target", "Trial", "find_steps"]

TARGETS = ("step", "bits", "psnr", "prd", "ratio", "snr")
HALVINGS = 18
TOLERANCE = 0.003
"""A trial this near to the target ends the search: a share of bits and ratio, a twentieth of that in decibels."""

BLOCK_HEAD = 13
"""Bytes before the payload of a block."""

CODE_STEPS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 128.0, 1024.0)
USUAL = 3
"""Steps of the codes that are tried for a residual, in steps of the residual for an error of one entry."""


@dataclass(frozen=True)
class Target:
    """What is wanted: name, one of TARGETS, and its value."""

    name: str
    value: float

    @property
    def of_size(self) -> bool:
        """Whether it is about bytes rather than about errors."""
        return self.name in ("bits", "ratio")

    def reached(self, stored: float, raw: float, itemsize: int, score: DistortionScore) -> float:
        """Return the measure that the target is about; raw: bytes of what is stored, itemsize: of an entry."""
        if self.name == "bits":
            return 8 * stored * itemsize / raw
        if self.name == "ratio":
            return raw / stored
        return getattr(score, self.name)

    def is_finer_than(self, value: float) -> bool:
        """Whether the target asks for finer steps than those that gave this value."""
        return self.value > value if self.name in ("bits", "psnr", "snr") else self.value < value

    def is_met_by(self, value: float) -> bool:
        """Whether a value is near enough to stop."""
        if self.name in ("psnr", "snr"):
            return abs(value - self.value) <= 20 * TOLERANCE
        return abs(value - self.value) <= TOLERANCE * self.value

    def corrected(self, wanted: Target, value: float) -> Target:
        """Return what to ask of the sample, if asking this of it gave a value for all rows."""
        if self.name in ("psnr", "snr"):
            return Target(self.name, self.value + wanted.value - value)
        return Target(self.name, self.value * wanted.value / value)

    def __str__(self) -> str:
        return f"{self.name} = {self.value:g}"


@dataclass(frozen=True)
class Steps:
    """step: of the codes. residual: δ, 0 for none."""

    step: float
    residual: float = 0.0


@dataclass(frozen=True)
class Trial:
    """What steps gave on the sample: bytes of the blocks, and the distortion."""

    steps: Steps
    bytes: int
    score: DistortionScore


class Sample:
    """Some of the rows with their codes: they are encoded once and quantized many times.

    overhead: bytes beside the blocks that these rows have to carry. share: entries of what is stored per entry of the
    rows, below 1 where rows overlap.
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        x: np.ndarray,
        encode: Callable[[np.ndarray], SparseCodes],
        *,
        block: int,
        overhead: float,
        share: float,
        reading: Reading,
        peak: float | None,
    ) -> None:
        self._sae, self.x, self._peak = sae, x, peak
        self._overhead, self._reading, self._raw = overhead, reading, x.nbytes * share
        self._blocks: list[tuple[np.ndarray, SparseCodes]] = []
        start = 0
        while start < len(x):
            part = x[start : start + next_block(start, block)]
            self._blocks.append((part, encode(part)))
            start += len(part)

    def trial(self, steps: Steps) -> Trial:
        """Encode the sample with these steps."""
        codec = BlockCodec(
            prediction(self._sae, step=steps.step, reading=self._reading), self.x.dtype, residual=steps.residual
        )
        distortion, stored = Distortion(peak=self._peak), self._overhead
        for part, codes in self._blocks:
            encoded = codec.encode(part, codes)
            stored += len(encoded.payload) + BLOCK_HEAD
            distortion.update(part, encoded.rows)
        return Trial(steps, round(stored), distortion.score())

    def value(self, target: Target, trial: Trial) -> float:
        """Return what a target is about."""
        return target.reached(trial.bytes, self._raw, self.x.itemsize, trial.score)

    @property
    def spread(self) -> float:
        """The root mean square of the rows' entries about the mean row: where a search begins."""
        wide = self.x.astype(np.float64)
        deviation = float(np.sqrt(np.square(wide - wide.mean(axis=0)).mean()))
        return deviation or max(float(np.abs(wide).max()), 1.0)


def find_steps(sample: Sample, target: Target | None, *, residual: bool, max_error: float | None) -> Steps:
    """Return the steps that meet a target on the sample.

    Raises ValueError if none does, with how far away the nearest is.
    """
    whole = np.issubdtype(sample.x.dtype, np.integer)
    if not residual:
        assert target is not None
        return Steps(target.value) if target.name == "step" else _search(sample, target, Steps, sample.spread)
    if max_error is None and whole and (target is None or target.name == "step"):
        delta = 1.0
    elif max_error is not None:
        delta = 2.0 * math.floor(max_error) + 1 if whole else 2 * max_error * (1 - 2.0**-20)
    else:
        assert target is not None
        return _search_residual(sample, target, whole=whole)
    if target is not None:
        return Steps(target.value, delta)
    return _best_code_step(sample, delta)


def _best_code_step(sample: Sample, delta: float) -> Steps:
    """Go from a usual step to finer and then to coarser ones for as long as that saves bytes."""
    best = sample.trial(Steps(delta * CODE_STEPS[USUAL], delta))
    for factors in (CODE_STEPS[:USUAL][::-1], CODE_STEPS[USUAL + 1 :]):
        before = best
        for factor in factors:
            trial = sample.trial(Steps(delta * factor, delta))
            if trial.bytes >= best.bytes:
                break
            best = trial
        if best is not before:
            break
    return best.steps


def _search_residual(sample: Sample, target: Target, *, whole: bool) -> Steps:
    factor = _best_code_step(sample, 1.0 if whole else sample.spread / 16)
    ratio = factor.step / factor.residual

    def make(delta: float) -> Steps:
        fitting = max(1.0, round(delta)) if whole else delta
        return Steps(fitting * ratio, fitting)

    return _search(sample, target, make, sample.spread / 4)


def _search(sample: Sample, target: Target, make: Callable[[float], Steps], start: float) -> Steps:
    """Bisect the logarithm of a step."""
    low, high = start * 2.0**-14, start * 2.0**10
    trials: list[Trial] = []
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        trials.append(sample.trial(make(middle)))
        value = sample.value(target, trials[-1])
        if target.is_met_by(value):
            break
        low, high = (low, middle) if target.is_finer_than(value) else (middle, high)
    if np.issubdtype(sample.x.dtype, np.integer) and trials[0].steps.residual:  # δ is a whole number: take the next
        fine = [trial for trial in trials if not target.is_finer_than(sample.value(target, trial))]
        if fine and not target.of_size:
            return max(fine, key=lambda trial: trial.steps.residual).steps
    best = min(trials, key=lambda trial: _distance(target, sample.value(target, trial)))
    _require_reached(sample, target, best, trials)
    return best.steps


def _require_reached(sample: Sample, target: Target, best: Trial, trials: Sequence[Trial]) -> None:
    value = sample.value(target, best)
    if target.is_met_by(value) or not _is_far(target, value):
        return
    if not target.of_size and target.is_finer_than(value) and not best.steps.residual:
        unit = "%" if target.name == "prd" else " dB"
        raise ValueError(
            f"{target} cannot be reached: however fine the step, the codes alone give {target.name} = {value:.4g}, "
            f"{abs(target.value - value):.3g}{unit} short. residual=True codes what they miss; or train an "
            "autoencoder with more active latents (l0) or more latents"
        )
    values = [sample.value(target, trial) for trial in trials]
    raise ValueError(
        f"{target} cannot be reached with these rows and this autoencoder: the nearest is {target.name} = {value:.4g}, "
        f"and steps from fine to coarse gave {min(values):.4g} to {max(values):.4g}"
    )


def _is_far(target: Target, value: float) -> bool:
    if target.name in ("psnr", "snr"):
        return abs(value - target.value) > 0.2
    return abs(value - target.value) > 0.03 * target.value


def _distance(target: Target, value: float) -> float:
    if target.name in ("psnr", "snr"):
        return abs(value - target.value) if math.isfinite(value) else math.inf
    return abs(math.log(max(value, 1e-300) / target.value))
