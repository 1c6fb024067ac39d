"""The gradient of a weight matrix as the factors that it is made of.

The gradient of `(latents, width)` weights that are used through the sparse primitives is a sum of products
codesᵀ @ rows. As a matrix it is as large as the weights, and is written once and read again by the optimizer. As
factors it is as large as the codes, and the optimizer makes each row when it comes to it (`adam_rows`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["AdamStep", "FactoredGradient", "Outer", "factored_gradients"]


class Outer(NamedTuple):
    """codesᵀ @ rows: for each latent the sum over its entries of value times the entry's row.

    offsets `(B + 1,)`, indices `(E,)` and values `(E,)` are codes of B rows; rows is `(B, width)`.
    """

    offsets: Tensor
    indices: Tensor
    values: Tensor
    rows: Tensor


class AdamStep(NamedTuple):
    """The numbers of one step of Adam: learning rate, decays, and corrections 1 − βᵗ of both moments."""

    rate: float
    beta1: float
    beta2: float
    eps: float
    correction1: float
    correction2: float


class FactoredGradient:
    """Collect the terms of one weight's gradient during a backward pass; `weight.grad` holds what came as a matrix."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.terms: list[Outer] = []

    def write_out(self) -> Tensor:
        """Turn the terms into a matrix in `weight.grad`, and return it."""
        from gossamer import kernels

        matrices = [kernels.scatter_outer(*term, self.weight.shape[0]) for term in self.terms]
        if self.weight.grad is not None:
            matrices.append(self.weight.grad)
        self.weight.grad = torch.stack(matrices).sum(0) if matrices else torch.zeros_like(self.weight)
        self.terms = []
        return self.weight.grad


_collecting: dict[int, FactoredGradient] = {}


@contextmanager
def factored_gradients(weights: Sequence[Tensor]) -> Iterator[list[FactoredGradient]]:
    """Let backward passes in this context keep the gradients of these weights as factors.

    The weights must be contiguous leaves. What reaches them otherwise than through a sparse primitive is in
    `weight.grad`, as always.
    """
    gradients = [FactoredGradient(weight) for weight in weights]
    keys = [weight.data_ptr() for weight in weights]
    _collecting.update(zip(keys, gradients, strict=True))
    try:
        yield gradients
    finally:
        for key in keys:
            _collecting.pop(key, None)


def collector_of(weight: Tensor) -> FactoredGradient | None:
    """Return where the terms of this weight's gradient go; None if it shall be a matrix."""
    gradient = _collecting.get(weight.data_ptr()) if _collecting else None
    return gradient if gradient is not None and gradient.weight.shape == weight.shape else None
