"""Corruptions: what is done to the encoder's rows in training, while the target stays clean (denoising)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gossamer.spec import Spec

__all__ = ["Clean", "Corruption", "Gaussian", "KeepLargest", "Mask"]


class Corruption(Spec):
    """The family of corruptions of `(rows, input_width)` rows in training units. Random numbers are torch's own."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the corrupted rows; the rows that are given stay as they are."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Clean(Corruption):
    """Corrupt nothing."""

    kind: ClassVar[str] = "clean"

    def __call__(self, x: Tensor) -> Tensor:
        """Return the rows."""
        return x


@dataclass(frozen=True, kw_only=True)
class Mask(Corruption):
    """Set a random share of the entries to zero. Vincent et al. 2008 (https://doi.org/10.1145/1390156.1390294)."""

    kind: ClassVar[str] = "mask"
    share: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share < 1:
            raise ValueError(f"share is the share of entries set to zero, between 0 and 1; got {self.share}")

    def __call__(self, x: Tensor) -> Tensor:
        """Return rows with holes."""
        return x * (torch.rand_like(x) >= self.share)


@dataclass(frozen=True, kw_only=True)
class Gaussian(Corruption):
    """Add normal noise. deviation: its standard deviation, in training units. Vincent et al. 2010
    (https://jmlr.org/papers/v11/vincent10a.html)."""

    kind: ClassVar[str] = "gaussian"
    deviation: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.deviation <= 0:
            raise ValueError(f"deviation must be above 0, got {self.deviation}")

    def __call__(self, x: Tensor) -> Tensor:
        """Return noisy rows."""
        return x + self.deviation * torch.randn_like(x)


@dataclass(frozen=True, kw_only=True)
class KeepLargest(Corruption):
    """Keep only the k entries of each row with the largest magnitude: the encoder sees a sparsified row."""

    kind: ClassVar[str] = "keep-largest"
    k: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1:
            raise ValueError(f"k is the number of entries kept, at least 1; got {self.k}")

    def __call__(self, x: Tensor) -> Tensor:
        """Return sparse rows."""
        kept = x.abs().topk(min(self.k, x.shape[1]), dim=1).indices
        return torch.zeros_like(x).scatter(1, kept, x.gather(1, kept))
