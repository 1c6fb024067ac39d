"""Synthetic: rows made of known features, so that what an autoencoder finds can be compared with what there is.

A row is a sparse sum of feature directions. Which features fire follows Zipf's law, correlation between the features
and trees in which a child fires only where its parent does. Rows are made when they are read, from the seed and the
number of their block alone: memory does not grow with their number, and every row can be made again. How well the
features were found is measured elsewhere (`gossamer.evaluate.ground_truth`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from gossamer.codes import SparseCodes, concatenate_codes
from gossamer.sources.source import Batch, Source, SourceSpec
from gossamer.sources.world import Correlation, FoldedNormal, Forest, Hierarchy, Magnitudes, directions

__all__ = ["Synthetic", "SyntheticSpec"]

BLOCK = 1024
"""Rows that are made together."""

BUFFER = 16_384
"""Rows that a feed takes at a time; they are independent of each other, so that shuffling more changes nothing."""

WORLD, TRAINING, VALIDATION = range(3)
"""Which random stream of the seed: what is the same for all rows, and the two kinds of blocks."""


@dataclass(frozen=True, kw_only=True)
class SyntheticSpec(SourceSpec):
    """Say what the world is made of. The defaults are SynthSAEBench-16k's, made smaller (docs/ground-truth.md).

        x = Σ_i a_i d_i + noise · ε        ‖d_i‖ = 1,  ε ~ N(0, 1) per entry

    features: how many there are; more than input_width is superposition. l0: mean number that fire per row.
    exponent: the firing probability of feature i falls as (i + 1)^−exponent, at most 0.4 and at most what its parent
    leaves. separation: steps that move the directions apart; 0 leaves them random. rows: in an epoch; all are made
    anew when they are read. validation_rows: held out, made from other random numbers.

    Source: Chanin & Garriga-Alonso 2026, SynthSAEBench (https://arxiv.org/abs/2602.14687).
    """

    kind: ClassVar[str] = "synthetic"
    features: int = 512
    input_width: int = 64
    l0: float = 4.0
    exponent: float = 0.5
    correlation: Correlation = Correlation()
    hierarchy: Hierarchy = Hierarchy()
    magnitudes: Magnitudes = FoldedNormal()
    noise: float = 0.0
    separation: int = 100
    rows: int = 10_000_000
    validation_rows: int = 50_000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("features", "input_width", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("exponent", "noise", "separation", "validation_rows", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        needed = sum(self.hierarchy.sizes)
        if needed > self.features:
            raise ValueError(
                f"{self.hierarchy.roots} trees need {needed} features, but there are {self.features}; "
                "lower hierarchy.roots, branching or depth"
            )
        if self.l0 <= 0:
            raise ValueError(f"l0 is the mean number of features that fire per row, above 0; got {self.l0}")

    def build(self, *, device: str = "cpu") -> Synthetic:
        """Make the world; rows are made on the CPU."""
        return Synthetic(self)


class Synthetic(Source):
    """Rows of a world of known features.

    directions: `(features, input_width)` float32, unit rows. parents: `(features,)` int64, −1 for none.
    probabilities: `(features,)` float64, how often each fires; they add up to the l0 asked for. Feature 0 fires most.
    The document of a row is its block, −1 − its block if it is held out.

    Raises ValueError if no scaling of the firing probabilities reaches the l0 asked for.
    """

    def __init__(self, spec: SyntheticSpec) -> None:
        rng = np.random.default_rng([spec.seed, WORLD])
        self.spec = spec
        self.widths = {"": spec.input_width}
        self.rows, self.validation_rows, self.buffer_rows = spec.rows, spec.validation_rows, BUFFER
        self.directions = directions(rng, features=spec.features, width=spec.input_width, separation=spec.separation)
        self._forest = Forest.grow(spec.hierarchy, rng, features=spec.features, l0=spec.l0, exponent=spec.exponent)
        self.parents = torch.from_numpy(self._forest.parents)
        self.probabilities = torch.from_numpy(self._forest.probabilities)
        tops = self._forest.tops
        shared = rng.standard_normal((len(tops), spec.correlation.rank))
        shared *= math.sqrt(spec.correlation.strength) / np.linalg.norm(shared, axis=1, keepdims=True)
        self._shared = shared.astype(np.float32)
        self._thresholds = torch.special.ndtri(1 - self.probabilities[tops]).float().numpy()

    @property
    def units(self) -> int:
        """Number of blocks."""
        return -(-self.rows // BLOCK)

    @property
    def units_per_buffer(self) -> int:
        """Blocks that are read at a time."""
        return BUFFER // BLOCK

    def read(self, units: np.ndarray) -> Batch:
        """Make the rows of these blocks."""
        return Batch.concatenate([self._batch(int(unit)) for unit in units])

    def validation(self, *, batch: int) -> Iterator[Batch]:
        """Iterate over the held-out rows, in an order that is always the same."""
        blocks = range(-(-self.validation_rows // BLOCK))
        together = max(1, batch // BLOCK)
        for first in range(0, len(blocks), together):
            part = Batch.concatenate([self._batch(-1 - block) for block in blocks[first : first + together]])
            for start in range(0, len(part), batch):
                yield part[start : start + batch]

    def codes(self, origins: Tensor) -> SparseCodes:
        """Return the true codes of some rows, `(rows, features)`: which features fire, and how strongly.

        origins: `(rows, 2)` int64, as in the `Batch` of the rows.
        """
        documents, place = origins[:, 0].unique(return_inverse=True)
        parts = [self._codes(int(document), _stream(self.spec.seed, int(document))) for document in documents]
        starts = torch.tensor([0, *(part.rows for part in parts)]).cumsum(0)
        return _picked(concatenate_codes(parts), starts[place] + origins[:, 1])

    def fingerprint(self) -> dict[str, str]:
        """Return the spec, and a hash of the directions and of some rows."""
        digest = hashlib.sha256(self.directions.numpy().tobytes())
        digest.update(self._batch(0).rows[""][:64].numpy().tobytes())
        spec = hashlib.sha256(self.spec.to_json().encode())
        return {"kind": "synthetic", "spec": spec.hexdigest()[:16], "content": digest.hexdigest()[:16]}

    def describe(self) -> dict[str, str]:
        """Return how many features there are and how many fire, and how many rows are made."""
        spec = self.spec
        return {
            "rows": f"made when read, {self.rows:,} to train on, {self.validation_rows:,} held out for validation",
            "features": f"{spec.features:,} in {spec.input_width} dimensions, {spec.l0:g} of them per row",
        }

    def _batch(self, document: int) -> Batch:
        rng = _stream(self.spec.seed, document)
        codes = self._codes(document, rng)
        x = torch.nn.functional.embedding_bag(
            codes.indices, self.directions, codes.offsets[:-1], mode="sum", per_sample_weights=codes.values
        )
        if self.spec.noise:
            x += torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32)) * self.spec.noise
        origins = torch.stack([torch.full((len(x),), document), torch.arange(len(x))], dim=1)
        return Batch({"": x}, origins)

    def _codes(self, document: int, rng: np.random.Generator) -> SparseCodes:
        """Make the codes of a block, level by level: children are drawn for the parents that fire."""
        total, block = (self.rows, document) if document >= 0 else (self.validation_rows, -1 - document)
        rows = min(BLOCK, total - block * BLOCK)
        forest, magnitudes = self._forest, self.spec.magnitudes
        row, top = np.nonzero(self._latent_normals(rng, rows) > self._thresholds)
        feature = forest.tops[top]
        value = magnitudes.draw(rng, len(row))
        levels = [(row, feature, value)]
        for _ in forest.levels[1:]:
            fired = forest.fire(rng, feature)
            strength = (value[fired.parents] / magnitudes.expectation) ** self.spec.hierarchy.coupling
            row, feature = row[fired.parents], fired.features
            value = strength * magnitudes.draw(rng, len(feature))
            levels.append((row, feature, value))
        row, feature, value = (np.concatenate(parts) for parts in zip(*levels, strict=True))
        order = np.argsort(row * self.spec.features + feature)
        return SparseCodes(
            offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))])),
            indices=torch.from_numpy(feature[order]),
            values=torch.from_numpy(value[order].astype(np.float32)),
            latents=self.spec.features,
        )

    def _latent_normals(self, rng: np.random.Generator, rows: int) -> np.ndarray:
        """Return `(rows, tops)` standard normal numbers with the correlation of the copula."""
        strength = self.spec.correlation.strength
        own = rng.standard_normal((rows, len(self._shared)), dtype=np.float32)
        if not strength:
            return own
        common = rng.standard_normal((rows, self._shared.shape[1]), dtype=np.float32)
        return common @ self._shared.T + own * np.float32(math.sqrt(1 - strength))


def _stream(seed: int, document: int) -> np.random.Generator:
    kind, block = (TRAINING, document) if document >= 0 else (VALIDATION, -1 - document)
    return np.random.default_rng([seed, kind, block])


def _picked(codes: SparseCodes, rows: Tensor) -> SparseCodes:
    """Return the codes of some rows, in the order given."""
    counts = codes.offsets.diff()[rows]
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    first = torch.repeat_interleave(codes.offsets[rows] - offsets[:-1], counts)
    entries = first + torch.arange(int(offsets[-1]))
    return SparseCodes(
        offsets=offsets, indices=codes.indices[entries], values=codes.values[entries], latents=codes.latents
    )
