"""The figures of finished runs of `quality`, and the table that is made of them."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import sheet
from benchmarks.jobs import Data, Job, Settings, code
from benchmarks.processes import OURS

BAR = 1.01
"""Ours is good enough when its FVU is at most this many times that of the best peer."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One run; a line of the file, its fields the columns."""

    date: str
    cpu: str
    cores: int
    python: str
    library: str
    version: str
    code: str
    """What the figures depend on beside data and settings, see `jobs.code`."""
    torch: str
    data: str
    """Digest of the rows."""
    rows: int
    width: int
    validation_rows: int
    latents: int
    k: int
    batch: int
    epochs: int
    asked_learning_rate: float | None
    learning_rate: float | None
    seed: int
    status: str
    """`done` or `failed`."""
    steps: int | None = None
    fvu: float | None = None
    l0: float | None = None
    dead: float | None = None
    final_loss: float | None = None
    ms_per_step: float | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, job: Job, data: Data, settings: Settings, result: dict[str, Any] | None) -> Entry:
        """Make the entry of a run that ended; `result` is None where it failed."""
        figures: dict[str, Any] = {
            "learning_rate": job.learning_rate,
            "version": "",
            "torch": "",
            "status": "failed",
        }
        if result is not None:
            versions = dict(result["versions"])
            figures = {
                "torch": versions.pop("torch"),
                "version": next(iter(versions.values())),
                "status": "done",
                "ms_per_step": 1000 * result["seconds_per_step"],
                **{name: result[name] for name in ("learning_rate", "steps", "final_loss", "seconds")},
                **result["score"],
            }
        return cls(
            **sheet.machine(),
            library=job.library,
            code=code(job.library),
            data=data.digest,
            rows=data.shape[0],
            width=data.shape[1],
            validation_rows=data.validation_rows,
            asked_learning_rate=job.learning_rate,
            seed=job.seed,
            **vars(settings),
            **figures,
        )

    def answers(self, job: Job, data: Data, settings: Settings) -> bool:
        """Tell whether this is a finished run of that job."""
        mine = {name: getattr(self, name) for name in vars(settings)}
        return (
            self.status == "done"
            and Job(library=self.library, learning_rate=self.asked_learning_rate, seed=self.seed) == job
            and (self.data, self.code) == (data.digest, code(job.library))
            and (self.cpu, self.cores) == (sheet.cpu(), os.cpu_count())
            and mine == vars(settings)
        )


@dataclass(frozen=True, kw_only=True)
class Line:
    """A library at one learning rate, over its seeds."""

    library: str
    learning_rate: float | None
    runs: Sequence[Entry]
    failures: int

    def mean(self, name: str) -> float:
        """Mean of a figure; NaN without runs."""
        values = [getattr(run, name) for run in self.runs]
        return statistics.fmean(values) if values else math.nan

    @property
    def spread(self) -> float:
        """Largest less smallest FVU."""
        values = [run.fvu for run in self.runs if run.fvu is not None]
        return max(values) - min(values) if values else math.nan


def lines(entries: Iterable[tuple[Job, Entry | None]]) -> list[Line]:
    """Group runs by library and learning rate; None is a run that failed."""
    groups: dict[tuple[str, float | None], list[Entry | None]] = {}
    for job, entry in entries:
        groups.setdefault((job.library, job.learning_rate), []).append(entry)
    return [
        Line(library=library, learning_rate=rate, runs=[run for run in runs if run], failures=runs.count(None))
        for (library, rate), runs in groups.items()
    ]


def table(found: Sequence[Line]) -> str:
    """Write the lines as a Markdown table, best peer marked, and the comparison under it."""
    best = min((line for line in found if line.library != OURS and line.runs), key=_fvu, default=None)
    header = ["library", "learning rate", "seeds", "FVU", "spread", "ratio", "L0", "dead", "ms/step", "steps"]
    rows = [_row(line, best) for line in sorted(found, key=lambda line: (line.library != OURS, line.library))]
    return "\n".join([*sheet.table(header, rows), "", verdict(found, best)])


def verdict(found: Sequence[Line], best: Line | None) -> str:
    """Say in one sentence how ours compares with the best peer."""
    ours = next((line for line in found if line.library == OURS and line.runs), None)
    if ours is None or best is None:
        return "No comparison: " + ("no run of ours" if ours is None else "no run of a peer") + " has finished."
    ratio = _fvu(ours) / _fvu(best)
    word = "reached" if ratio <= BAR else "missed"
    missing = sum(line.failures for line in found)
    caution = f" {missing} runs failed." if missing else ""
    return (
        f"Ours {_fvu(ours):.4f}, best peer {_fvu(best):.4f} ({best.library} at {best.learning_rate:g}): "
        f"ratio {ratio:.4f}; the bar of {BAR} is {word}.{caution}"
    )


def _fvu(line: Line) -> float:
    return line.mean("fvu")


def _row(line: Line, best: Line | None) -> list[str]:
    asked = "derived" if line.learning_rate is None else f"{line.learning_rate:g}"
    used = {run.learning_rate for run in line.runs}
    if line.learning_rate is None and len(used) == 1 and None not in used:
        asked = f"derived, {used.pop():.2g}"
    seeds = str(len(line.runs)) + (f", {line.failures} failed" if line.failures else "")
    if not line.runs:
        return [line.library, asked, seeds, *["failed"] * 2, *["–"] * 5]
    return [
        line.library + (" (best peer)" if line is best else ""),
        asked,
        seeds,
        f"{_fvu(line):.4f}",
        f"{line.spread:.4f}",
        f"{_fvu(line) / _fvu(best):.3f}" if best else "–",
        f"{line.mean('l0'):.2f}",
        f"{line.mean('dead'):.2%}",
        f"{line.mean('ms_per_step'):.0f}",
        f"{line.mean('steps'):.0f}",
    ]
