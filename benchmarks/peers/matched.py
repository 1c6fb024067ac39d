"""What a runner of `benchmarks.architectures` is asked to do, and where it leaves the model; needs nothing but numpy.

It goes beyond `task` in three things: which architecture, how hard its sparsity is pushed, and a file for the weights,
so that every model can be spliced into the language model by the same program.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from task import Task


@dataclass(frozen=True, kw_only=True)
class MatchedTask:
    """One training run."""

    rows: Path
    """`.npy`, (n, width), float32."""
    train_rows: int
    """How many of them to train on, from the first."""
    validation: Path
    """`.npy`, (m, width), float32."""
    architecture: str
    latents: int
    l0: int
    """Active latents per row that are wanted."""
    coefficient: float | None
    """Weight of the sparsity penalty in the library's own units; None where the architecture has none."""
    batch: int
    epochs: int
    learning_rate: float | None
    """None leaves the choice to the library."""
    seed: int
    output: Path
    weights: Path
    """A folder for the trained model."""

    @classmethod
    def from_arguments(cls) -> MatchedTask:
        """Read the command line."""
        parser = argparse.ArgumentParser()
        for name in ("rows", "validation", "output", "weights"):
            parser.add_argument(f"--{name}", type=Path, required=True)
        for name in ("train-rows", "latents", "l0", "batch", "epochs", "seed"):
            parser.add_argument(f"--{name}", type=int, required=True)
        parser.add_argument("--architecture", required=True)
        parser.add_argument("--coefficient", type=float, default=None)
        parser.add_argument("--learning-rate", type=float, default=None)
        return cls(**vars(parser.parse_args()))

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Give the rows to train on and the held-out rows."""
        return np.load(self.rows, mmap_mode="r")[: self.train_rows], np.load(self.validation)

    def steps(self, rows: int) -> int:
        """Count the steps: the last, partial batch of an epoch is dropped."""
        return self._task.steps(rows)

    def batches(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Give the batches in the order that all libraries agree on; those of a seed are always the same."""
        for numbers in self._task.order(len(rows)):
            yield rows[numbers]

    def needs_coefficient(self) -> float:
        """Give the weight of the penalty; ValueError where none was given."""
        if self.coefficient is None:
            raise ValueError(f"{self.architecture} needs a coefficient")
        return self.coefficient

    def save(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Write the parameters, under the library's own names of them, to a temporary name, then rename."""
        unfinished = self.weights / "unfinished.npz"
        np.savez(unfinished, allow_pickle=False, **parameters)
        os.replace(unfinished, self.weights / "parameters.npz")

    @property
    def _task(self) -> Task:
        return Task(
            rows=self.rows,
            validation=self.validation,
            latents=self.latents,
            k=self.l0,
            batch=self.batch,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            seed=self.seed,
            output=self.output,
        )
