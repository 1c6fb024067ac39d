"""What a method has learned: how it encodes and decodes, and what that costs. Here is no training and no measuring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.codec.quantizer import IntegerPrediction, Prediction, prediction
from gossamer.codes import SparseCodes
from gossamer.compare.operations import Work, work

__all__ = ["Fitted", "FittedAutoencoder", "FittedDictionary"]

FLOAT = 4
"""Bytes of a float32."""


class Fitted(Protocol):
    """A method after training. parameters: numbers that it has learned; rows: trained on, repeats counted."""

    parameters: int
    rows: int

    def encode(self, x: np.ndarray) -> SparseCodes:
        """Return the codes of rows `(rows, width)`."""
        ...

    def decode(self, codes: SparseCodes) -> np.ndarray:
        """Return the rows `(rows, width)` that the codes stand for."""
        ...

    def prediction(self, step: float) -> Prediction:
        """Return what decodes codes that are whole numbers of steps."""
        ...

    def work(self, l0: float) -> Work:
        """Return the multiply–adds of a row whose code has so many active entries."""
        ...

    def training_bytes(self, batch: np.ndarray) -> int:
        """Return the bytes that a training step on these rows holds: what is learned, and what the step keeps."""
        ...


class FittedAutoencoder:
    """An autoencoder of any parts."""

    def __init__(self, sae: SparseAutoencoder, rows: int) -> None:
        self.sae, self.rows = sae.eval(), rows
        self.parameters = sum(parameter.numel() for parameter in sae.parameters())

    @torch.no_grad()
    def encode(self, x: np.ndarray) -> SparseCodes:
        """Return the codes of rows."""
        return self.sae.encode(torch.from_numpy(x))

    @torch.no_grad()
    def decode(self, codes: SparseCodes) -> np.ndarray:
        """Return the rows that codes stand for."""
        return self.sae.decode(codes).numpy()

    def prediction(self, step: float) -> Prediction:
        """Return what the codec makes of this decoder."""
        return prediction(self.sae, step=step)

    def work(self, l0: float) -> Work:
        """Return the multiply–adds of its parts."""
        return work(self.sae.spec, l0)

    def training_bytes(self, batch: np.ndarray) -> int:
        """Return the bytes of weights, gradients and Adam's two moments, and what a backward pass needs."""
        kept: dict[int, int] = {parameter.data_ptr(): 0 for parameter in self.sae.parameters()}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept.setdefault(storage.data_ptr(), storage.nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            self.sae.loss(torch.from_numpy(batch))
        return 4 * FLOAT * self.parameters + sum(kept.values())


@dataclass(eq=False)
class FittedDictionary:
    """Directions `(latents, width)` about a mean row, and what finds the codes: `code(rows − mean)` is dense.

    coding: multiply–adds of coding a row. held: bytes that learning held beside a batch.
    """

    directions: np.ndarray
    mean: np.ndarray
    code: Callable[[np.ndarray], np.ndarray]
    coding: float
    held: int
    rows: int

    def __post_init__(self) -> None:
        self.parameters = self.directions.size + self.mean.size

    def encode(self, x: np.ndarray) -> SparseCodes:
        """Return the codes of rows."""
        return SparseCodes.from_dense(torch.from_numpy(np.ascontiguousarray(self.code(x - self.mean))))

    def decode(self, codes: SparseCodes) -> np.ndarray:
        """Return the rows that codes stand for."""
        return codes.to_scipy() @ self.directions + self.mean

    def prediction(self, step: float) -> Prediction:
        """Return the directions in integers."""
        return IntegerPrediction(self.directions, self.mean, step=step)

    def work(self, l0: float) -> Work:
        """Return the multiply–adds of coding, and of adding up the active directions."""
        return Work(self.coding, l0 * self.directions.shape[1])

    def training_bytes(self, batch: np.ndarray) -> int:
        """Return the bytes that learning held, with a batch and its codes."""
        return self.held + batch.size * 8 + len(batch) * len(self.directions) * 8
