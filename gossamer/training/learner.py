"""Learner: one model in training, as the loop sees it. What it is made of is the business of its subclasses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gossamer.autoencoder.tasks import Rows
from gossamer.training.checkpoint import named
from gossamer.training.spec import Derived, TrainSpec

__all__ = ["Learner", "Needs"]


@dataclass(frozen=True)
class Needs:
    """What training a model needs. memory: bytes of a step, about, beside weights and moments. largest_product:
    multiplications of a step's largest product. lines: of a plan, for a person."""

    memory: int
    largest_product: int
    lines: tuple[str, ...]


class Learner(ABC):
    """Train one model on batches that somebody else hands out.

    Sums of figures since the last log line are kept on the device; `log` reads them out.

    end: the step at which the learning rate is zero; a run that is cut short ends before its `steps`.
    """

    def __init__(self, model: nn.Module, name: str, train: TrainSpec, derived: Derived) -> None:
        self.model, self.name, self.derived, self.steps = model, name, derived, train.steps
        self.end = self.steps
        self.sums: dict[str, Tensor] = {}
        self.first_bad_step = torch.full((), -1, dtype=torch.int64, device=self.device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def steered(self) -> bool:
        """Say whether something follows a path that is as long as the run, which can then not be cut short."""
        return False

    def start(self, sample: Rows) -> None:  # noqa: B027 - most models start from random weights alone
        """Take from a sample of rows what the model starts with."""

    @abstractmethod
    def step(self, rows: Rows, step: int) -> None:
        """Train on a batch of rows by site."""

    @abstractmethod
    def backward(self, rows: Rows) -> None:
        """Do the work of a step and change nothing, so that a plan can time it."""

    @abstractmethod
    def needs(self, batch: int) -> Needs:
        """Return what a step on so many rows needs, and what a plan says of the model."""

    def verdict(self) -> str:
        """Return what a person should know at the end, if anything."""
        return ""

    def log(self, *, last: bool = False) -> dict[str, float]:
        """Return the means since the last call. last: whether this is the end of the training."""
        sums = dict(zip(self.sums, torch.stack(list(self.sums.values())).tolist(), strict=True))
        self.sums = {}
        count = sums.pop("count")
        return {name: total / count for name, total in sums.items()}

    def note(self, step: int, loss: Tensor, figures: Mapping[str, Tensor] | None = None) -> None:
        """Add up the figures of a step, and take note of the first loss that is not finite."""
        loss = loss.detach()
        values = {"loss": loss, **(figures or {}), "count": torch.ones_like(loss)}
        self.sums = {name: self.sums.get(name, 0.0) + value.double() for name, value in values.items()}
        bad = ~torch.isfinite(loss) & (self.first_bad_step < 0)
        self.first_bad_step = torch.where(bad, step, self.first_bad_step)

    @abstractmethod
    def finish(self) -> None:
        """Make the model what it is to be used as."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that the next steps depend on, as named tensors; subclasses add theirs."""
        sums = {f"sums.{name}": total for name, total in self.sums.items()}
        return sums | {"first_bad_step": self.first_bad_step}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        self.sums = {name: total.to(self.device) for name, total in named(state, "sums").items()}
        self.first_bad_step = state["first_bad_step"].to(self.device)
