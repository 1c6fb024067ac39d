"""What all tests share: how examples are drawn, seeded numbers, and small autoencoders that have seen data."""

import copy
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from gossamer import kernels
from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.initialise import start_from_data
from gossamer.autoencoder.presets import preset
from gossamer.autoencoder.trace import Moment

WIDTH, LATENTS = 24, 96

# The same examples on every run; how long one takes depends on who else uses the machine.
settings.register_profile("gossamer", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("gossamer")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def rows() -> Tensor:
    """Sparse sums of random directions, far from the origin, with some noise: `(300, WIDTH)`. Not to be changed."""
    generator = torch.Generator().manual_seed(1)
    strength = torch.rand(300, 40, generator=generator) * (torch.rand(300, 40, generator=generator) < 0.1)
    directions = torch.randn(40, WIDTH, generator=generator)
    mean, noise = torch.randn(WIDTH, generator=generator), torch.randn(300, WIDTH, generator=generator)
    return 3 * mean + strength @ directions + 0.05 * noise


@pytest.fixture(scope="session", params=["topk", "vanilla-l1", "jumprelu"])
def _trained(request: pytest.FixtureRequest, rows: Tensor) -> SparseAutoencoder:
    dial: dict[str, float] = {
        "topk": {"l0": 6},
        "vanilla-l1": {"l1": 0.01},
        "jumprelu": {"l0_weight": 0.01},
    }[request.param]
    sae = preset(request.param, input_width=WIDTH, latents=LATENTS, **dial).build(seed=3)
    start_from_data(sae, rows)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        sae.loss(rows, moment=Moment(dead=torch.arange(5))).total.backward()
        sae.decoder.before_step()
        optimizer.step()
        sae.decoder.after_step()
    optimizer.zero_grad()
    return sae


@pytest.fixture
def trained(_trained: SparseAutoencoder) -> SparseAutoencoder:
    """One of each architecture, its biases, scaling and directions far from where they started."""
    return copy.deepcopy(_trained)


@pytest.fixture(params=[False, True], ids=["float32-selection", "bfloat16-selection"])
def low_precision_selection(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Choose candidates in either precision, whatever this machine does fast."""
    with kernels.use(selection="bfloat16" if request.param else "float32"):
        yield request.param
