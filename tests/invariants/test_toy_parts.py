"""A variant from outside the package is one class: it goes from a file through training and back without a registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

import gossamer as gs
from gossamer.autoencoder.autoencoder import AutoencoderSpec
from gossamer.autoencoder.penalties import Penalty, mean_of_rows
from gossamer.autoencoder.pre_activations import PreActivations
from gossamer.autoencoder.sparsity import Sparsity
from gossamer.autoencoder.trace import Trace
from gossamer.codes import SparseCodes
from gossamer.training.metrics import read_metrics
from gossamer.training.spec import TrainSpec


@dataclass(frozen=True, kw_only=True)
class Shifted(Sparsity):
    """Keep what exceeds a margin: z = max(p − margin, 0)."""

    kind: ClassVar[str] = "toy-shifted"
    margin: float

    def __call__(self, pre: PreActivations) -> SparseCodes:
        codes = pre.above(torch.full((pre.latents,), self.margin))
        return codes.replace_values(codes.values - self.margin)


@dataclass(frozen=True, kw_only=True)
class Cubes(Penalty):
    """Σ z³."""

    kind: ClassVar[str] = "toy-cubes"

    def __call__(self, trace: Trace) -> Tensor:
        return mean_of_rows(trace.codes.values**3, trace.codes)


def test_a_toy_sparsity_and_a_toy_penalty_go_the_whole_way(rows: Tensor, tmp_path: Path):
    parts = {"sparsity": Shifted(margin=0.2), "penalties": (Cubes(weight=1e-3),)}
    spec = AutoencoderSpec(name="toy", input_width=24, latents=96, **parts)
    assert AutoencoderSpec.from_toml(spec.to_toml()) == spec
    train = TrainSpec(rows=3000, batch=100, log_every=1)
    run = gs.train(spec.build(), gs.Arrays(rows), train, out=tmp_path / "run", quiet=True)
    log = read_metrics(tmp_path / "run")
    assert log[-1]["loss"] < log[0]["loss"] / 2
    assert log[-1]["toy-cubes"] > 0
    loaded = gs.load(tmp_path / "run")
    assert loaded.spec == spec
    assert torch.equal(loaded(rows).reconstruction, run.autoencoder(rows).reconstruction)
    assert 0 < loaded.encode(rows).l0 < 96
