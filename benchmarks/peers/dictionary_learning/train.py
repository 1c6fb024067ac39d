"""Train dictionary-learning's TopK autoencoder with its own `trainSAE` on rows in memory, and score it.

Its loop takes any iterable of batches. Scaling to unit mean square, geometric-median bias, gradient clipping,
schedule and decoder constraint are all its own; after training it scales the biases back, so the model takes
the rows as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

# Imported at the top of modules we need, used only to read activations from a model and to log to an account.
for _name, _attributes in {"nnsight": ("LanguageModel",), "wandb": ()}.items():
    _module = ModuleType(_name)
    for _attribute in _attributes:
        setattr(_module, _attribute, type(_attribute, (), {}))
    sys.modules.setdefault(_name, _module)

from dictionary_learning.trainers.top_k import TopKTrainer  # noqa: E402
from dictionary_learning.training import trainSAE  # noqa: E402

sys.path.append(str(Path(__file__).resolve().parents[1]))
from score import score  # noqa: E402
from task import Clock, Result, Task  # noqa: E402

WARMUP_SHARE = 0.05
"""Its default of 1,000 steps is more than a short run has, and then it refuses to start."""
DECAY_START_SHARE = 0.8
"""Its own published recipe; without it the learning rate stays flat."""


class Batches:
    """Batches in the agreed order; may be read more than once, because its loop first measures a scale."""

    def __init__(self, task: Task, rows: np.ndarray) -> None:
        self._task = task
        self._rows = rows

    def __iter__(self) -> Iterator[torch.Tensor]:
        for numbers in self._task.order(len(self._rows)):
            yield torch.from_numpy(self._rows[numbers])


def train(task: Task, rows: np.ndarray) -> tuple[TopKTrainer, list[float]]:
    """Run its loop; give its trainer, which holds the model, and the loss of every step."""
    made: list[TopKTrainer] = []
    losses: list[float] = []

    class Watched(TopKTrainer):
        def update(self, step: int, x: torch.Tensor) -> float:
            losses.append(super().update(step, x))
            return losses[-1]

    def make(**settings: Any) -> TopKTrainer:
        made.append(Watched(**settings))
        return made[-1]

    steps = task.steps(len(rows))
    settings: dict[str, Any] = {
        "trainer": make,
        "steps": steps,
        "activation_dim": rows.shape[1],
        "dict_size": task.latents,
        "k": task.k,
        "layer": 0,
        "lm_name": "rows",
        "lr": task.learning_rate,
        "warmup_steps": min(1000, round(WARMUP_SHARE * steps)),
        "decay_start": round(DECAY_START_SHARE * steps),
        "seed": task.seed,
        "device": "cpu",
    }
    trainSAE(Batches(task, rows), [settings], steps, normalize_activations=True, device="cpu")
    return made[0], losses


def main() -> None:
    task = Task.from_arguments()
    rows, validation = task.load()
    clock = Clock()
    register_optimizer_step_post_hook(lambda *_: clock.tick())
    trainer, losses = train(task, rows)
    seconds = clock.total

    @torch.no_grad()
    def reconstruct(given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        codes = trainer.ae.encode(torch.from_numpy(given))
        return trainer.ae.decode(codes).numpy(), (codes > 0).numpy()

    Result(
        score=score(validation, reconstruct, latents=task.latents),
        learning_rate=trainer.lr,
        steps=len(losses),
        final_loss=losses[-1],
        seconds_per_step=clock.per_step,
        seconds=seconds,
        versions={"dictionary-learning": version("dictionary-learning"), "torch": torch.__version__},
    ).write(task.output)


if __name__ == "__main__":
    main()
