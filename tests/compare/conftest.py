"""Digits as files, and a comparison of every method on them that takes seconds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossamer.compare.recipe import Comparison

pytest.importorskip("sklearn")

METHODS = ["pca", "plain", "l1", "l2", "kl", "topk", "dictionary-learning", "transformer"]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `rows.npy` `(1797, 64)`, pixels from 0 to 1, and `classes.npy`."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("digits")
    pixels, classes = load_digits(return_X_y=True)
    np.save(folder / "rows.npy", (pixels / 16).astype(np.float32))
    np.save(folder / "classes.npy", classes)
    return folder


@pytest.fixture(scope="session")
def settings(digits: Path) -> dict[str, Any]:
    """What a recipe for digits says."""
    return {
        "source": {"kind": "arrays", "path": str(digits / "rows.npy"), "validation": 0.3},
        "labels": {"kind": "classes", "path": str(digits / "classes.npy")},
        "method": [{"kind": kind} for kind in METHODS],
        "latents": 64,
        "l0": 6,
        "rows": 2560,
        "seconds": 0.6,
        "batch": 128,
        "quality": 0.5,
        "held_out": 400,
    }


@pytest.fixture
def comparison(settings: dict[str, Any], tmp_path: Path) -> Comparison:
    """The recipe, its folder a fresh one."""
    return Comparison.from_dict(settings | {"out": str(tmp_path / "out")})
