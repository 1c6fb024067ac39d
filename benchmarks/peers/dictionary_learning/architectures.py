"""Train dictionary-learning's `PAnnealTrainer` with its own `trainSAE` on rows in memory, and score it.

Loss, annealing of p, adaption of the penalty, initialization, optimizer, scaling of the rows and decoder constraint are
all its own. What is set here is its authors' published configuration, Lp^p from p = 1 to 0.2, with its times, which
count steps of a run of about a quarter of a million, taken as shares of this run.
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

from dictionary_learning.trainers.p_anneal import PAnnealTrainer  # noqa: E402
from dictionary_learning.training import trainSAE  # noqa: E402

sys.path.append(str(Path(__file__).resolve().parents[1]))
from matched import MatchedTask  # noqa: E402
from score import score  # noqa: E402
from task import Clock, Result  # noqa: E402

ARCHITECTURE = "p-anneal"
WARMUP_SHARE = 0.05
"""Of learning rate and penalty. Its defaults of 1,000 and 2,000 steps are more than a short run has."""
ANNEAL_START_SHARE = 0.05
"""10,000 steps in the published configuration."""
DECAY_START_SHARE = 0.8


class Batches:
    """Batches in the agreed order; may be read more than once, because its loop first measures a scale."""

    def __init__(self, task: MatchedTask, rows: np.ndarray) -> None:
        self._task = task
        self._rows = rows

    def __iter__(self) -> Iterator[torch.Tensor]:
        return map(torch.from_numpy, self._task.batches(self._rows))


def train(task: MatchedTask, rows: np.ndarray) -> tuple[PAnnealTrainer, list[float]]:
    """Run its loop; give its trainer, which holds the model, and the loss of every step."""
    made: list[PAnnealTrainer] = []
    losses: list[float] = []

    class Watched(PAnnealTrainer):
        def loss(self, x: torch.Tensor, step: int, logging: bool = False) -> Any:
            found = super().loss(x, step, logging)
            losses.append(found.item())
            return found

    def make(**settings: Any) -> PAnnealTrainer:
        made.append(Watched(**settings))
        return made[-1]

    steps = task.steps(len(rows))
    settings: dict[str, Any] = {
        "trainer": make,
        "steps": steps,
        "activation_dim": rows.shape[1],
        "dict_size": task.latents,
        "layer": 0,
        "lm_name": "rows",
        "lr": task.learning_rate,
        "warmup_steps": round(WARMUP_SHARE * steps),
        "decay_start": round(DECAY_START_SHARE * steps),
        "sparsity_warmup_steps": round(WARMUP_SHARE * steps),
        "sparsity_function": "Lp^p",
        "initial_sparsity_penalty": task.needs_coefficient(),
        "anneal_start": round(ANNEAL_START_SHARE * steps),
        "p_end": 0.2,
        "seed": task.seed,
        "device": "cpu",
    }
    trainSAE(Batches(task, rows), [settings], steps, normalize_activations=True, device="cpu")
    return made[0], losses


def main() -> None:
    task = MatchedTask.from_arguments()
    if task.architecture != ARCHITECTURE:
        raise ValueError(f"this runner trains {ARCHITECTURE}, not {task.architecture}")
    rows, validation = task.load()
    clock = Clock()
    register_optimizer_step_post_hook(lambda *_: clock.tick())
    trainer, losses = train(task, rows)
    seconds = clock.total

    @torch.no_grad()
    def reconstruct(given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        codes = trainer.ae.encode(torch.from_numpy(given))
        return trainer.ae.decode(codes).numpy(), (codes > 0).numpy()

    task.save({name: tensor.numpy() for name, tensor in trainer.ae.state_dict().items()})
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
