"""One example of every preset, and what a transcoder is to give back."""

from typing import Any

import pytest
import torch
from torch import Tensor

from gossamer.autoencoder.autoencoder import AutoencoderSpec
from gossamer.autoencoder.presets import PRESETS, preset

WIDTH, LATENTS = 24, 96

SITES: dict[str, dict[str, Any]] = {
    "transcoder": {"site": "in", "target": "out"},
    "skip-transcoder": {"site": "in", "target": "out"},
    "crosscoder": {"sites": ("a", "b"), "widths": (10, 14)},
    "clt": {"sites": ("a", "b"), "targets": ("c", "d")},
    "end-to-end": {"site": "in"},
    "deep-autoencoder": {"hidden": (48,)},
}
"""What presets need beside sizes, or should have for small ones."""


@pytest.fixture(params=sorted(PRESETS))
def name(request: pytest.FixtureRequest) -> str:
    """Every preset in turn."""
    return request.param


@pytest.fixture
def needed(name: str) -> dict[str, Any]:
    """What this preset has to be given."""
    return {"input_width": WIDTH, "latents": LATENTS} | SITES.get(name, {})


@pytest.fixture
def example(name: str, needed: dict[str, Any]) -> AutoencoderSpec:
    """The preset with about six active latents per row."""
    return preset(name, **needed, l0=6)


@pytest.fixture(scope="session")
def targets(rows: Tensor) -> Tensor:
    """What a transcoder is to give for `rows`: `(300, WIDTH)`, far from the origin. Not to be changed."""
    generator = torch.Generator().manual_seed(2)
    mixed = rows @ torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5
    return mixed.tanh() + 0.2 * rows.abs() + 4
