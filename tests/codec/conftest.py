"""A small autoencoder trained on real digits for a second, and those digits."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

import gossamer as gs


@pytest.fixture(scope="session")
def digits() -> np.ndarray:
    """1,797 pictures of 8 × 8 pixels, `(1797, 64)` uint8 from 0 to 16. Not to be changed."""
    return load_digits().data.astype(np.uint8)


@pytest.fixture(scope="session")
def digits_sae(digits) -> gs.SparseAutoencoder:
    """A TopK autoencoder, 8 of 256 latents, of these digits. Not to be changed."""
    sae = gs.preset("topk", input_width=64, latents=256, l0=8).build(seed=0)
    source = gs.Arrays(digits.astype(np.float32))
    return gs.train(sae, source, gs.TrainSpec(rows=30_000, batch=512)).autoencoder
