"""Train eai-sparsify's SparseCoder with its own `Trainer` on rows in memory, and score it.

`Trainer` wants a language model and tokens. It gets a model that is one frozen embedding table, which holds
the rows, and sequences of row numbers as the tokens: what its hook then sees is exactly the batch. Loss,
initialization, optimizer, schedule and decoder constraint are all its own. Its default optimizer is Signum
without a schedule; this uses its Adam, which has a linear warm-up and a linear decay to zero.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from sparsify import SparseCoder, SparseCoderConfig, TrainConfig, Trainer
from torch.optim.optimizer import register_optimizer_step_post_hook

sys.path.append(str(Path(__file__).resolve().parents[1]))
from score import score
from task import Clock, Result, Task

WARMUP_SHARE = 0.05
"""Its default of 1,000 steps is more than a short run has."""


class RowTable(torch.nn.Module):
    """The part of a Hugging Face model that `Trainer` touches; its one layer looks rows up by number."""

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__()
        self.table = torch.nn.Embedding.from_pretrained(rows, freeze=True)
        self.device = rows.device
        self.dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.long)}

    @property
    def base_model(self) -> RowTable:
        return self

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.table(input_ids)


def train(task: Task, rows: np.ndarray, folder: str) -> tuple[SparseCoder, list[torch.Tensor]]:
    """Run its trainer; give the trained model and the loss of every step."""
    batches = [{"input_ids": torch.from_numpy(numbers)} for numbers in task.order(len(rows))]
    config = TrainConfig(
        SparseCoderConfig(num_latents=task.latents, k=task.k),
        batch_size=1,
        optimizer="adam",
        lr=task.learning_rate,
        lr_warmup_steps=min(1000, round(WARMUP_SHARE * len(batches))),
        hookpoints=["table"],
        init_seeds=[task.seed],
        save_every=len(batches) + 1,
        save_dir=folder,
        log_to_wandb=False,
    )
    trainer = Trainer(config, batches, RowTable(torch.from_numpy(rows)))  # pyright: ignore[reportArgumentType]
    (model,) = trainer.saes.values()
    losses: list[torch.Tensor] = []
    model.register_forward_hook(lambda _module, _inputs, output: losses.append(output.fvu.detach()))
    trainer.fit()
    return model, losses


def main() -> None:
    task = Task.from_arguments()
    rows, validation = task.load()
    clock = Clock()
    register_optimizer_step_post_hook(lambda *_: clock.tick())
    with tempfile.TemporaryDirectory() as folder:
        model, losses = train(task, rows, folder)
    seconds = clock.total

    @torch.no_grad()
    def reconstruct(given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        codes = model.encode(torch.from_numpy(given))
        on = torch.zeros(len(given), task.latents, dtype=torch.bool)
        on.scatter_(1, codes.top_indices, codes.top_acts > 0)
        return model.decode(codes.top_acts, codes.top_indices).numpy(), on.numpy()

    Result(
        score=score(validation, reconstruct, latents=task.latents),
        learning_rate=task.learning_rate,
        steps=len(losses),
        final_loss=float(losses[-1]),
        seconds_per_step=clock.per_step,
        seconds=seconds,
        versions={"eai-sparsify": version("eai-sparsify"), "torch": torch.__version__},
    ).write(task.output)


if __name__ == "__main__":
    main()
