"""Stream: an autoencoder that learns from rows as they come, without an end that is known."""

from __future__ import annotations

from typing import Any

import torch

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.initialise import start_from_data
from gossamer.estimators.rows import chunks, on_device
from gossamer.training.devices import resolve_device
from gossamer.training.sparsity_control import SparsityControl
from gossamer.training.spec import TrainSpec, derive
from gossamer.training.trainee import Trainee

__all__ = ["Stream"]

ENDLESS = 2**40
"""Rows after which a stream would end."""
WARMUP_STEPS = 20
STEPS = 1000
DEAD_AFTER = 64
"""Batches without activity after which a latent counts as dead."""


class Stream:
    """Hold the optimizer's state from one call to the next, and a constant learning rate.

    What changes in the course of a training (an L0 that is steered to, a k that falls) does so as in a run of
    `STEPS` steps, and stays from there on.
    """

    def __init__(self, sae: SparseAutoencoder, X: Any, spec: TrainSpec) -> None:
        self.spec = spec.replace(rows=ENDLESS, warmup_steps=WARMUP_STEPS, dead_after=DEAD_AFTER * spec.batch)
        self.step, self.l0 = 0, float("nan")
        device = resolve_device(spec.device)
        sae.to(device).train()
        _, sample = next(chunks(X))
        start_from_data(sae, on_device(sae, sample))
        self.trainee = Trainee(sae, sae.spec.task.bind(None), self.spec, derive(self.spec, sae.spec))
        self.trainee.steps = STEPS
        if self.trainee.control is not None:
            self.trainee.control = SparsityControl(self.trainee.control.target, steps=STEPS, device=device)

    def take(self, learning_rate: float | None) -> None:
        """Learn at another rate from now on."""
        self.spec = self.spec.replace(learning_rate=learning_rate)
        self.trainee.derived = derive(self.spec, self.trainee.sae.spec)

    def learn(self, X: Any) -> float:
        """Take a step for each batch of rows, batches of one size as near as possible; return the mean loss."""
        sae = self.trainee.sae.train()
        with torch.random.fork_rng(devices=[sae.device] if sae.device.type == "cuda" else []):
            torch.manual_seed(self.spec.seed + self.step)
            for _, rows in chunks(X, batch=self.spec.batch):
                for batch in on_device(sae, rows).tensor_split(-(-len(rows) // self.spec.batch)):
                    self.trainee.step({"": batch}, self.step)
                    self.step += 1
        sae.eval()
        if int(self.trainee.first_bad_step) >= 0:
            raise FloatingPointError("the loss stopped being finite; lower learning_rate_init")
        figures = self.trainee.log()
        self.l0 = figures["l0"]
        return figures["loss"]
