"""The figures of finished runs: a CSV file that only grows, and the table that is read from it."""

from __future__ import annotations

import csv
import math
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.jobs import OURS, Data, Job, Settings, code

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
            date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            cpu=_cpu(),
            cores=os.cpu_count() or 0,
            python=platform.python_version(),
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
            and (self.cpu, self.cores) == (_cpu(), os.cpu_count())
            and mine == vars(settings)
        )


def append(path: Path, entry: Entry) -> None:
    """Add one run to the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [field.name for field in fields(Entry)]
    new = not path.exists()
    if not new:
        _require_columns(path, names)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow({name: _written(value) for name, value in vars(entry).items()})


def read(path: Path) -> list[Entry]:
    """Read every run of the file, oldest first; no file is no runs."""
    if not path.exists():
        return []
    _require_columns(path, [field.name for field in fields(Entry)])
    with path.open(newline="") as file:
        return [Entry(**{name: _parsed(name, text) for name, text in row.items()}) for row in csv.DictReader(file)]


def _require_columns(path: Path, names: Sequence[str]) -> None:
    with path.open(newline="") as file:
        found = next(csv.reader(file), [])
    if found != list(names):
        raise ValueError(f"{path} has other columns than this program writes; move it away: {found}")


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
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [header, ["-" * width for width in widths], *rows]
    ]
    return "\n".join([*text, "", verdict(found, best)])


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


def _written(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def _parsed(name: str, text: str) -> Any:
    kind = str(Entry.__annotations__[name])
    if kind == "str":
        return text
    if text == "":
        return None
    return int(text) if kind.startswith("int") else float(text)


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
