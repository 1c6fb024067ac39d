"""Sparsities that look at the whole batch in training, and at a threshold learned from it afterwards.

A row's code must not depend on its neighbours once the model is in use, so what the batch decided is remembered as
thresholds: what a pre-activation had to exceed to be kept, on average over recent batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from gossamer.autoencoder.pre_activations import PreActivations
from gossamer.autoencoder.sparsity.rule import Rule, Sparsity, require_k
from gossamer.codes import Codes, SparseCodes

if TYPE_CHECKING:
    from gossamer.autoencoder.autoencoder import AutoencoderSpec

__all__ = ["BatchThreshold", "BatchTopK", "LatentThresholds", "WinnerTakeAll"]


class _Remembered(nn.Module, Rule):
    """Hold `threshold`, an average over batches: t ← t + (1 − memory)(m − t), from the first m on."""

    threshold: Tensor

    def __init__(self, memory: float, *shape: int) -> None:
        super().__init__()
        self.memory = memory
        self.register_buffer("threshold", torch.zeros(shape))

    def forward(self, pre: PreActivations) -> SparseCodes:
        """Return what is above the threshold."""
        return pre.above(self.threshold.expand(pre.latents).contiguous())

    def floor(self, latents: Tensor) -> Tensor:
        """Return the thresholds of these latents."""
        return self.threshold.expand(latents.shape) if self.threshold.dim() == 0 else self.threshold[latents]

    @torch.no_grad()
    def reset(self) -> None:
        """Forget the threshold; until one is learned, everything positive is kept."""
        self.threshold.zero_()

    @torch.no_grad()
    def rescale(self, factor: Tensor) -> None:
        """Follow a change of units."""
        self.threshold.mul_(factor)

    def _remember(self, smallest: Tensor) -> None:
        """Average in the smallest values that were kept; where nothing positive was, they are infinite."""
        known = torch.where(self.threshold > 0, torch.lerp(smallest, self.threshold, self.memory), smallest)
        self.threshold.copy_(torch.where(smallest.isfinite(), known, self.threshold))


@dataclass(frozen=True, kw_only=True)
class BatchTopK(Sparsity):
    """Keep the k · rows largest positive pre-activations of a batch, so that rows may have more or fewer than k.

    After training, what exceeds a threshold: the mean over recent batches of the smallest value that was kept.
    k: mean number of active latents per row. memory: share of the old mean that a batch leaves.

    Bussmann et al. 2024 (https://arxiv.org/abs/2412.06410).
    """

    kind: ClassVar[str] = "batch-topk"
    k: int
    memory: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_memory(self.memory)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless 1 <= k <= latents."""
        require_k(self.k, spec.latents)

    def build(self, *, latents: int) -> BatchThreshold:
        """Return the module that holds the threshold."""
        return BatchThreshold(self)


class BatchThreshold(_Remembered):
    """Hold the threshold `()`."""

    def __init__(self, spec: BatchTopK) -> None:
        super().__init__(spec.memory)
        self.k = spec.k

    def training_codes(self, pre: PreActivations, progress: float = 1.0) -> SparseCodes:
        """Return the largest of the batch."""
        on_cpu = self.threshold.device.type == "cpu"  # elsewhere it would be a question that the device has to answer
        codes = pre.batch_topk(self.k * pre.rows, float(self.threshold) if on_cpu else 0.0)
        return codes.replace_values(codes.values.relu())

    @torch.no_grad()
    def note(self, codes: Codes) -> None:
        """Remember the smallest value that was kept."""
        if codes.values.numel():
            self._remember(codes.values.masked_fill(codes.values <= 0, torch.inf).amin())


@dataclass(frozen=True, kw_only=True)
class WinnerTakeAll(Sparsity):
    """Keep, for each latent, the rows of the batch on which it is largest: lifetime sparsity, no latent can die.

    After training, each latent has a threshold, as in BatchTopK; Makhzani & Frey keep everything positive instead.
    k: mean number of active latents per row; each latent keeps the share k / latents of the rows, one at least.

    Makhzani & Frey 2015 (https://arxiv.org/abs/1409.2752).
    """

    kind: ClassVar[str] = "winner-take-all"
    k: int
    memory: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_memory(self.memory)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless 1 <= k <= latents."""
        require_k(self.k, spec.latents)

    def build(self, *, latents: int) -> LatentThresholds:
        """Return the module that holds the thresholds."""
        return LatentThresholds(self, latents)


class LatentThresholds(_Remembered):
    """Hold a threshold for each latent, `(latents,)`."""

    def __init__(self, spec: WinnerTakeAll, latents: int) -> None:
        super().__init__(spec.memory, latents)
        self.share = spec.k / latents

    def training_codes(self, pre: PreActivations, progress: float = 1.0) -> SparseCodes:
        """Return each latent's best rows."""
        codes = pre.column_topk(max(1, round(self.share * pre.rows)))
        return codes.replace_values(codes.values.relu())

    @torch.no_grad()
    def note(self, codes: Codes) -> None:
        """Remember the smallest value that each latent kept."""
        assert isinstance(codes, SparseCodes)
        kept = codes.values.masked_fill(codes.values <= 0, torch.inf)
        smallest = torch.full_like(self.threshold, torch.inf)
        self._remember(smallest.scatter_reduce_(0, codes.indices, kept, "amin"))


def _require_memory(memory: float) -> None:
    if not 0 <= memory < 1:
        raise ValueError(f"memory is the share of the old threshold that a batch leaves, in [0, 1); got {memory}")
