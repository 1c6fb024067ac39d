"""What every runner is asked to do and what it hands back; needs nothing but numpy.

A runner is a program run by the interpreter of the library that it measures. It reads a `Task` from its
command line, trains, and writes one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from score import Score


@dataclass(frozen=True, kw_only=True)
class Task:
    """One training run."""

    rows: Path
    """`.npy`, (n, width), float32."""
    validation: Path
    """`.npy`, (m, width), float32."""
    latents: int
    k: int
    batch: int
    epochs: int
    learning_rate: float | None
    """None leaves the choice to the library."""
    seed: int
    output: Path

    @classmethod
    def from_arguments(cls) -> Task:
        """Read the command line."""
        parser = argparse.ArgumentParser()
        for name in ("rows", "validation", "output"):
            parser.add_argument(f"--{name}", type=Path, required=True)
        for name in ("latents", "k", "batch", "epochs", "seed"):
            parser.add_argument(f"--{name}", type=int, required=True)
        parser.add_argument("--learning-rate", type=float, default=None)
        return cls(**vars(parser.parse_args()))

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Give the rows to train on and the held-out rows."""
        return np.load(self.rows), np.load(self.validation)

    def steps(self, rows: int) -> int:
        """Count the steps: the last, partial batch of an epoch is dropped."""
        return rows // self.batch * self.epochs

    def order(self, rows: int) -> Iterator[np.ndarray]:
        """Give the row numbers of each batch: a new permutation each epoch, the same for every library."""
        for epoch in range(self.epochs):
            permutation = np.random.default_rng([self.seed, epoch]).permutation(rows)
            for start in range(0, rows // self.batch * self.batch, self.batch):
                yield permutation[start : start + self.batch]


class Clock:
    """Seconds between successive calls of `tick`, and since the clock was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._ticks: list[float] = []

    def tick(self) -> None:
        """Mark the end of a step; runners have torch call it after every step of whatever optimizer."""
        self._ticks.append(time.perf_counter())

    @property
    def per_step(self) -> float:
        """Median seconds from one tick to the next; NaN with fewer than two ticks."""
        return float(np.median(np.diff(self._ticks))) if len(self._ticks) > 1 else float("nan")

    @property
    def total(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self._started


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a runner writes."""

    score: Score
    learning_rate: float | None
    """The one that was used; None where the library does not tell."""
    steps: int
    final_loss: float
    """The library's own loss, in its own units, at the last step."""
    seconds_per_step: float
    seconds: float
    versions: dict[str, str]

    def write(self, path: Path) -> None:
        """Write to a temporary name, then rename, so that a file that is there is whole."""
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(asdict(self), indent=2) + "\n")
        os.replace(unfinished, path)
