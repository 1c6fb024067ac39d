"""dictionary-learning's training step, encoding and memory; run by `benchmarks.speed`, see `worker`.

The step is `TopKTrainer.update`, which its `trainSAE` calls for each batch. Its recommended scaling of the rows to a
mean squared norm of 1 is done beforehand, in its favor, and not timed.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from absent import stand_in_for
from worker import STEPS, Library, Setup, claim_output, main

ANSWERS = claim_output()

from torch import Tensor  # noqa: E402

stand_in_for("nnsight", "wandb")  # to read activations from a model, and to log to an account

from dictionary_learning.trainers.top_k import TopKTrainer  # noqa: E402


class DictionaryLearning(Library):
    """`TopKTrainer`."""

    def __init__(self, setup: Setup, rows: Tensor) -> None:
        setup.require("topk")
        self.versions = {"dictionary-learning": version("dictionary-learning")}
        self.trainer = TopKTrainer(
            steps=STEPS,
            activation_dim=setup.width,
            dict_size=setup.latents,
            k=setup.k,
            layer=0,
            lm_name="rows",
            lr=setup.rate,
            warmup_steps=0,
            seed=setup.seed,
            device=setup.device,
        )
        self.optimizer = self.trainer.optimizer
        self.scale = float(rows.square().sum(1).mean().sqrt())
        rows /= self.scale
        self.done = 0

    def step(self, x: Tensor) -> float:
        loss = self.trainer.update(self.done, x)
        self.done += 1
        return loss

    def encode(self, x: Tensor) -> object:
        return self.trainer.ae.encode(x)

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.trainer.ae.encode(x / self.scale)
        return self.trainer.ae.decode(codes) * self.scale, codes > 0


if __name__ == "__main__":
    main(ANSWERS, DictionaryLearning)
