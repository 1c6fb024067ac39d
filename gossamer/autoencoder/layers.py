"""What deep encoders and decoders have in common: activations, and how weights are drawn."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gossamer.spec import nearest

__all__ = ["ACTIVATIONS", "draw", "require_activation"]


def linear(x: Tensor) -> Tensor:
    """Return x. A function, so that copies of a module hold the same one, and can tell it from others."""
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": nn.functional.gelu,
    "linear": linear,
}
"""What stands between layers, by name."""


def require_activation(name: str) -> None:
    """Raise ValueError for an unknown activation."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; {nearest(name, ACTIVATIONS)}")


@torch.no_grad()
def draw(tensor: Tensor, generator: torch.Generator) -> None:
    """Draw a matrix `(out, in)` from a normal distribution with variance 2 / (in + out); set a vector to zero.

    Glorot & Bengio 2010 (https://proceedings.mlr.press/v9/glorot10a.html).
    """
    if tensor.dim() < 2:
        tensor.zero_()
    else:
        values = torch.randn(tensor.shape, generator=generator)
        tensor.copy_(values * (2 / sum(tensor.shape)) ** 0.5)
