"""Where an autoencoder comes from is written down by the run that made it, and goes wherever its weights go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import gossamer as gs
from gossamer.autoencoder.files import note_metrics
from gossamer.autoencoder.provenance import Provenance
from gossamer.interop.format import format_of
from gossamer.storage import replace_folder


@pytest.fixture
def run(rows: Tensor, tmp_path: Path) -> Path:
    saes = [gs.preset("topk", input_width=24, latents=48, l0=4).build(seed=seed) for seed in (0, 1)]
    spec = gs.TrainSpec(rows=2000, batch=100, seed=7)
    gs.train(saes, gs.Arrays(rows), spec, out=tmp_path / "run", quiet=True)
    return tmp_path / "run"


def test_a_run_says_what_it_knows(run: Path):
    with pytest.raises(ValueError, match="choose one of them: 'sae/0-topk', 'sae/1-topk'"):
        gs.load(run)
    found = gs.load(run, "sae/1-topk").provenance
    assert (found.rows, found.seed, found.version) == (2000, 7, f"gossamer {gs.__version__}")
    assert "285 to train on" in found.data
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    assert found.metrics == {"l0": last["l0"], "dead": last["dead"], "loss": last["loss"]}


def test_it_goes_with_the_weights_through_other_libraries_files(run: Path, tmp_path: Path):
    sae = gs.load(run, "sae/0-topk")
    sae.provenance = sae.provenance.replace(model="owner/model", site="layers.3", license="mit")
    for name in ("saelens", "sparsify", "gossamer"):
        format_of(name).write(sae, tmp_path / name)
        assert gs.load(tmp_path / name).provenance == sae.provenance
    config = json.loads((tmp_path / "saelens" / "cfg.json").read_text())
    assert config["metadata"]["model_name"] == "owner/model"
    assert config["metadata"]["hook_name"] == "layers.3"


def test_what_is_measured_is_added_and_a_folder_without_any_is_read(run: Path, tmp_path: Path):
    place = run / "sae" / "0-topk"
    note_metrics(place, {"fvu": 0.25, "l0": 3.5, "cosine": float("inf")})
    metrics = gs.load(place).provenance.metrics
    assert (metrics["fvu"], metrics["l0"]) == (0.25, 3.5)
    assert "loss" in metrics
    assert "cosine" not in metrics  # JSON has no infinity
    (place / "provenance.json").unlink()
    assert gs.load(place).provenance == Provenance()
    (place / "provenance.json").write_text('{"rows": "many"}')
    with pytest.raises(ValueError, match=r"provenance\.json is damaged.*rows"):
        gs.load(place)


def test_a_write_that_is_interrupted_leaves_nothing(tmp_path: Path):
    def interrupted(folder: Path) -> None:
        (folder / "weights").write_bytes(bytes(10))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_folder(tmp_path / "some" / "where", interrupted)
    assert not list(tmp_path.iterdir())


def test_loading_leaves_the_weights_trainable(run: Path):
    sae = gs.load(run, "sae/0-topk").train()
    sae.loss(torch.ones(3, 24)).total.backward()
    assert all(parameter.grad is not None for parameter in sae.decoder.parameters())
