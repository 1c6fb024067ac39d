"""The plan that is printed before a run: models, rows, memory, time, folder. Time is measured, not guessed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gossamer import kernels
from gossamer.sources.source import Batch, Source
from gossamer.storage import StorageError, free_bytes
from gossamer.training.checkpoint import KEEP
from gossamer.training.learner import Learner
from gossamer.training.spec import TrainSpec

__all__ = ["Plan", "make_plan"]

FLOAT = 4
"""Bytes of a float32."""


@dataclass(frozen=True)
class Plan:
    """What a run will do and need. memory: bytes beside the model that rows come from; disk: bytes in the folder."""

    lines: tuple[str, ...]
    memory: int
    disk: int
    seconds: float

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def check_disk(self, folder: Path) -> None:
        """Raise StorageError if the folder's disk cannot hold the run."""
        free = free_bytes(folder)
        if free < self.disk:
            raise StorageError(
                f"the run needs {gigabytes(self.disk)} in {folder}, and {gigabytes(free)} are free there; "
                "free space or choose another folder"
            )


def make_plan(
    source: Source,
    learners: Sequence[Learner],
    sample: Batch,
    spec: TrainSpec,
    folder: Path | None,
    *,
    done: int,
) -> Plan:
    """Measure a forward pass of the source and of each model, and add up memory, disk and time."""
    parameters = sum(p.numel() for learner in learners for p in learner.model.parameters())
    buffer = source.bytes_per_row * (source.buffer_rows + spec.batch)
    moments = spec.optimizer.moment_bytes
    needs = [learner.needs(spec.batch) for learner in learners]
    memory = (FLOAT + moments) * parameters + max(need.memory for need in needs) + buffer
    disk = (KEEP + 1) * 3 * FLOAT * parameters + FLOAT * parameters
    per_row = _seconds_per_row(source) + sum(_seconds_per_step(one, sample) for one in learners) / len(sample)
    seconds = per_row * (spec.steps - done) * spec.batch
    epochs = spec.steps * spec.batch / source.rows
    lines = [f"{topic:<9}{text}" for topic, text in source.describe().items()]
    lines += [line for need in needs for line in need.lines]
    device = learners[0].device
    lines += [
        f"steps    {spec.steps * spec.batch:,} in {spec.steps:,} steps of {spec.batch:,} ({epochs:.2f} epochs)",
        f"memory   {gigabytes(memory)}, of which {gigabytes(buffer)} to shuffle {source.buffer_rows:,} rows",
        f"time     about {duration(seconds)} on {device} ({kernels.backend(device)} kernels)",
        f"folder   {folder or 'none: nothing is kept on disk'}" + (f", {gigabytes(disk)}" if folder else ""),
    ]
    return Plan(tuple(lines), memory, disk, seconds)


def gigabytes(count: float) -> str:
    """Return bytes as a person reads them."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Return seconds as a person reads them."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _seconds_per_row(source: Source) -> float:
    units = np.arange(min(source.units, max(1, source.units_per_buffer // 32)))
    source.read(units[:1])
    start = time.perf_counter()
    rows = len(source.read(units))
    return (time.perf_counter() - start) / max(rows, 1)


def _seconds_per_step(learner: Learner, sample: Batch) -> float:
    """Time forward and backward on the sample; weights and optimizer stay as they are."""
    parameter = next(learner.model.parameters())
    rows = {
        site: x.to(parameter) if x.is_floating_point() else x.to(parameter.device) for site, x in sample.rows.items()
    }
    seconds = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        learner.backward(rows)
        seconds = min(seconds, time.perf_counter() - start)
    return seconds
