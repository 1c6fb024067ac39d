"""Digits, and a cross-validated path over them that was trained once, with the models that are behind it."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from gossamer.autoencoder.presets import preset
from gossamer.selection import path as paths
from gossamer.training.spec import TrainSpec

VALUES = [12, 5, 2, 1]


@pytest.fixture(scope="session")
def data() -> tuple[np.ndarray, np.ndarray]:
    """`(400, 64)` float32 and 400 labels. Not to be changed."""
    rows, labels = load_digits(return_X_y=True)
    return rows[:400].astype(np.float32), labels[:400]


@pytest.fixture(scope="session")
def folds() -> np.ndarray:
    return np.random.default_rng(0).permutation(np.arange(400) % 3)


@pytest.fixture(scope="session")
def trained(data, folds):
    """The path over l0 = 12, 5, 2, 1 with three folds, and its models: those of the common start, then all others."""
    calls, train = [], paths.train

    def spy(models, *arguments, **options):
        calls.append(list(models))
        return train(models, *arguments, **options)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "train", spy)
        path = paths.cross_validate(
            lambda l0: preset("topk", input_width=64, latents=32, l0=int(l0)),
            VALUES,
            data[0],
            folds,
            TrainSpec(rows=400 * 10, batch=100, seed=0, device="cpu"),
            parameter="l0",
            labels=data[1],
        )
    torch.set_num_threads(threads)
    return path, calls
