"""One measurement of an estimator, a line of a CSV file; how it is timed; and what tables show of several seeds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from threadpoolctl import threadpool_limits

import gossamer
from benchmarks import sheet

__all__ = [
    "RESULTS",
    "Entry",
    "Recorder",
    "active",
    "explained",
    "median",
    "one_thread",
    "processor_seconds",
    "shown",
    "squared_errors",
]

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One method with one seed; a line of the file, its fields the columns. Figures that a task has not are empty."""

    date: str
    cpu: str
    cores: int
    python: str
    version: str
    sklearn: str
    torch: str
    run: str
    """The same for all that ran in one process."""
    task: str
    method: str
    components: int
    k: int | None
    seed: int
    train_rows: int
    test_rows: int
    r2: float | None = None
    """On test rows, of the reconstruction."""
    train_r2: float | None = None
    l0: float | None = None
    """Active components per test row."""
    accuracy: float | None = None
    """On test rows, of a linear classifier."""
    squared_error: float | None = None
    """Σ (x̂ − x)² of a test row, on the average."""
    bits: float | None = None
    """Of the code of a test row, on the average."""
    fit_seconds: float | None = None
    encode_microseconds: float | None = None
    """Per test row."""
    epochs: float | None = None
    converged: int | None = None


@dataclass(frozen=True)
class Recorder:
    """Append entries to a file and keep them.

    path: the CSV file. run: names this process. entries: what was measured so far.
    """

    path: Path
    run: str
    entries: list[Entry]

    @classmethod
    def to(cls, name: str) -> Recorder:
        """Return a recorder for `benchmarks/results/NAME.csv`."""
        return cls(RESULTS / f"{name}.csv", sheet.machine()["date"], [])

    def add(self, **figures: Any) -> Entry:
        """Keep an entry, write it and print it."""
        versions = {"version": gossamer.__version__, "sklearn": sklearn.__version__, "torch": torch.__version__}
        entry = Entry(**sheet.machine(), **versions, run=self.run, **figures)
        sheet.append(self.path, entry)
        self.entries.append(entry)
        shown = {name: value for name, value in figures.items() if value is not None}
        print("  ".join(f"{n} {v:.4g}" if isinstance(v, float) else f"{n} {v}" for n, v in shown.items()), flush=True)
        return entry

    def of(self, task: str, **which: Any) -> dict[str, list[Entry]]:
        """Return the entries of a task by method, in the order in which they were measured."""
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            if entry.task == task and all(getattr(entry, name) == value for name, value in which.items()):
                found.setdefault(entry.method, []).append(entry)
        return found


def values(entries: Iterable[Entry], name: str) -> list[float]:
    """Return a figure of each entry that has it."""
    return [float(value) for value in (getattr(entry, name) for entry in entries) if value is not None]


def shown(entries: Sequence[Entry], name: str, form: str = ".3f") -> str:
    """Show the median over seeds, and how far it spreads if there are several."""
    found = values(entries, name)
    if not found:
        return "–"
    middle = format(statistics.median(found), form)
    low, high = format(min(found), form), format(max(found), form)
    return middle if low == high else f"{middle} ({low} – {high})"


def median(entries: Iterable[Entry], name: str) -> float:
    """Return the median over seeds; raises ValueError if nothing was measured."""
    found = values(entries, name)
    if not found:
        raise ValueError(f"no entry has {name}")
    return statistics.median(found)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread, so that processor time is the time that an idle machine would take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def processor_seconds(work: Callable[[], Any], *, times: int = 1) -> float:
    """Return the median processor time of some calls: what others do on the machine at the same time adds little."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def explained(x: np.ndarray, back: np.ndarray) -> float:
    """Return R² = 1 − Σ ‖x − x̂‖² / Σ ‖x − x̄‖², x̄ the mean of these rows; the definition of `SAE.score`."""
    x = x.astype(np.float64)
    return float(1 - np.square(x - back).sum() / np.square(x - x.mean(axis=0)).sum())


def active(codes: Any) -> float:
    """Return how many components are active per row, on the average."""
    return float(np.count_nonzero(np.asarray(codes), axis=1).mean())


def squared_errors(x: np.ndarray, back: np.ndarray) -> float:
    """Return Σ (x̂ − x)² of a row, on the average over rows."""
    return float(np.square(x.astype(np.float64) - back).sum(axis=1).mean())
