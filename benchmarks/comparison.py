"""The table of `benchmarks.architectures`: ours against each peer, architecture by architecture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import sheet
from benchmarks.matched_runs import Entry
from benchmarks.matching import matches
from benchmarks.processes import OURS

HEADER = (
    *("architecture", "library", "seeds", "L0", "FVU", "spread", "ours/theirs", "recovered", "dead", "s/step"),
    *("learning rate", "coefficient"),
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A library's runs of an architecture, at the learning rate that was chosen; none where all failed."""

    architecture: str
    library: str
    runs: Sequence[Entry]
    failures: int

    def mean(self, name: str) -> float:
        """Mean of a figure over the runs that have it; NaN where none has."""
        values = [value for run in self.runs if (value := getattr(run, name)) is not None]
        return statistics.fmean(values) if values else math.nan

    @property
    def spread(self) -> float:
        """Largest less smallest FVU."""
        values = [run.fvu for run in self.runs if run.fvu is not None]
        return max(values) - min(values) if values else math.nan

    @property
    def matched(self) -> bool:
        """Whether every run has the L0 that is wanted."""
        return bool(self.runs) and all(matches(run.l0, run.l0_wanted) for run in self.runs)


def table(lines: Sequence[Line]) -> str:
    """Write the lines as a Markdown table, ours after its peers, and one sentence for each comparison."""
    cells, verdicts = [], []
    for architecture in dict.fromkeys(line.architecture for line in lines):
        mine = [line for line in lines if line.architecture == architecture]
        ours = next((line for line in mine if line.library == OURS), None)
        peers = [line for line in mine if line.library != OURS]
        cells += [_row(line, ours) for line in peers] + ([_row(ours, ours)] if ours else [])
        verdicts += [verdict(ours, peer) for peer in peers if ours]
    return "\n".join([*sheet.table(HEADER, cells), "", *verdicts])


def verdict(ours: Line, peer: Line) -> str:
    """Say in one sentence how ours compares with a peer."""
    if not ours.runs or not peer.runs:
        return f"{ours.architecture}: no comparison, no run of {peer.library if ours.runs else OURS} has finished."
    ratio = ours.mean("fvu") / peer.mean("fvu")
    said = f"FVU {ours.mean('fvu'):.4f} against {peer.mean('fvu'):.4f} of {peer.library}, ratio {ratio:.3f}"
    words = ["reached" if ratio <= 1 else "missed"]
    recovered = [line.mean("recovered_from_zero") for line in (ours, peer)]
    if not any(map(math.isnan, recovered)):
        said += f"; loss recovered {recovered[0]:.4f} against {recovered[1]:.4f}"
        words.append("reached" if recovered[0] >= recovered[1] else "missed")
    off = [line.library for line in (ours, peer) if not line.matched]
    caution = f" L0 of {' and '.join(off)} is off." if off else ""
    return f"{ours.architecture}: {said}; the bar is {' and '.join(dict.fromkeys(words))}.{caution}"


def _row(line: Line, ours: Line | None) -> list[str]:
    if not line.runs:
        runs = f"0, {line.failures} failed" if line.failures else "0"
        return [line.architecture, line.library, runs, *["–"] * (len(HEADER) - 3)]
    recovered = line.mean("recovered_from_zero")
    rates = " ".join(sorted({f"{run.learning_rate:.2g}" for run in line.runs if run.learning_rate is not None}))
    weights = " ".join(dict.fromkeys(f"{run.coefficient:g}" for run in line.runs if run.coefficient is not None))
    compared = ours is not None and ours.runs and line is not ours
    return [
        line.architecture,
        line.library,
        str(len(line.runs)) + (f", {line.failures} failed" if line.failures else ""),
        f"{line.mean('l0'):.2f}" + ("" if line.matched else " (off)"),
        f"{line.mean('fvu'):.4f}",
        f"{line.spread:.4f}",
        f"{ours.mean('fvu') / line.mean('fvu'):.3f}" if ours and compared else "–",
        "–" if math.isnan(recovered) else f"{recovered:.4f}",
        f"{line.mean('dead'):.1%}",
        f"{line.mean('ms_per_step') / 1000:.3f}",
        rates + (" (derived)" if line.library == OURS else ""),
        weights or "–",
    ]
