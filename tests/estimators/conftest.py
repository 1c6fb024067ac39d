"""The digits, 1797 images of 8 × 8 pixels from 0 to 16, and what most tests do with them."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits


@pytest.fixture(scope="session")
def digits() -> np.ndarray:
    """`(1797, 64)` float32. Not to be changed."""
    return load_digits().data.astype(np.float32)


@pytest.fixture(scope="session")
def labels() -> np.ndarray:
    return load_digits().target


@pytest.fixture(autouse=True)
def _no_threads():
    """One thread, as another process may want the others; results do not depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
