"""Which learner trains which model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gossamer import kernels
from gossamer.sources.source import Source
from gossamer.training.learner import Learner
from gossamer.training.run import Model
from gossamer.training.sequences import SequenceLearner, require_pairs
from gossamer.training.spec import Derived, Muon, TrainSpec
from gossamer.training.trainee import Trainee
from gossamer.transformer.model import Transformer

__all__ = ["learner_of", "precision", "require"]


def require(model: Model, source: Source) -> None:
    """Raise ValueError unless a source hands out what a model reads."""
    if isinstance(model, Transformer):
        require_pairs(model.spec, source)
    else:
        source.require(model.spec)


def learner_of(model: Model, source: Source, train: TrainSpec, derived: Derived) -> Learner:
    """Return what trains a model on a source."""
    if isinstance(model, Transformer):
        return SequenceLearner(model, source, train, derived)
    return Trainee(model, model.spec.task.bind(source), train, derived)


def precision(models: Sequence[Model], train: TrainSpec, device: torch.device) -> dict[str, str]:
    """Return what the bits of a training depend on beside its spec and its rows: which kernels, how precise products.

    Resume is refused where these come out otherwise.
    """
    found = {"kernels": kernels.backend(device), "selection": kernels.selection(device)}
    if any(isinstance(model, Transformer) for model in models):
        found["products"] = kernels.products(device, train.kernels.products)
    if isinstance(train.optimizer, Muon):
        found["muon"] = kernels.products(device)
    return found
