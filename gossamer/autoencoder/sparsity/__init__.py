"""Sparsities: from pre-activations to codes. One frozen class per rule; it is its own part when it has no tensors."""

from gossamer.autoencoder.sparsity.batch import BatchThreshold, BatchTopK, LatentThresholds, WinnerTakeAll
from gossamer.autoencoder.sparsity.elementwise import Identity, ReLU, Sigmoid
from gossamer.autoencoder.sparsity.gated import Gated, GatedMagnitudes
from gossamer.autoencoder.sparsity.jump import JumpReLU, JumpReLUThresholds
from gossamer.autoencoder.sparsity.largest import AbsTopK, GroupMax, LinearTopK, TopK
from gossamer.autoencoder.sparsity.pursuit import MatchingPursuit, OrthogonalMatchingPursuit
from gossamer.autoencoder.sparsity.rule import Rule, Sparsity
from gossamer.autoencoder.sparsity.threshold import Threshold, Thresholds

__all__ = [
    "AbsTopK",
    "BatchThreshold",
    "BatchTopK",
    "Gated",
    "GatedMagnitudes",
    "GroupMax",
    "Identity",
    "JumpReLU",
    "JumpReLUThresholds",
    "LatentThresholds",
    "LinearTopK",
    "MatchingPursuit",
    "OrthogonalMatchingPursuit",
    "ReLU",
    "Rule",
    "Sigmoid",
    "Sparsity",
    "Threshold",
    "Thresholds",
    "TopK",
    "WinnerTakeAll",
]
