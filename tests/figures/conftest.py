"""What the pictures are drawn from here: atoms, codes and reconstructions of real digits, and a real heart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import gossamer as gs

pytest.importorskip("matplotlib")


@dataclass(frozen=True)
class Trained:
    """An autoencoder of the digits with what it makes of them; x, x_hat: `(rows, 64)`."""

    sae: gs.SparseAutoencoder
    x: torch.Tensor
    x_hat: torch.Tensor
    codes: gs.SparseCodes

    @property
    def atoms(self) -> np.ndarray:
        return self.sae.decoder.directions().detach().numpy()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    data = pytest.importorskip("sklearn.datasets").load_digits().data.astype(np.float32)
    sae = gs.preset("topk", input_width=64, latents=96, l0=5).build(seed=0)
    spec = gs.TrainSpec(rows=20_000, batch=256, seed=0)
    gs.train(sae, gs.Arrays(data), spec, out=tmp_path_factory.mktemp("figures") / "run")
    x = torch.tensor(data[:300])
    with torch.no_grad():
        codes = sae.encode(x)
        return Trained(sae, x, sae.decode(codes), codes)


@pytest.fixture(scope="session")
def heartbeats() -> np.ndarray:
    """`(16, 64)`: windows of an electrocardiogram at 360 samples per second, without their means."""
    signal = pytest.importorskip("pywt.data").ecg().astype(float).reshape(16, 64)
    return signal - signal.mean(axis=1, keepdims=True)
