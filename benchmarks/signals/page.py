"""From measurements to a CSV file and to a page of docs/results: both are written anew by every run."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import sheet

__all__ = ["publish", "table"]

ROOT = Path(__file__).resolve().parents[2]
table = sheet.table


def publish(name: str, *, title: str, parts: Sequence[str], measurements: Sequence[Mapping[str, Any]]) -> None:
    """Write `benchmarks/results/signals_NAME.csv` and `docs/results/NAME.md`, and print the page.

    parts: paragraphs and tables in Markdown. measurements: one line each, all with the same keys.
    """
    where = sheet.machine()
    stored = ROOT / "benchmarks" / "results" / f"signals_{name}.csv"
    with stored.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*where, *measurements[0]], lineterminator="\n")
        writer.writeheader()
        for line in measurements:
            writer.writerow(where | {key: _short(value) for key, value in line.items()})
    source = f"`python -m benchmarks.signals.{name}` makes this page and `benchmarks/results/signals_{name}.csv`."
    machine = f"{where['cores']} cores of an {where['cpu']}, shared with other work, {where['date'][:10]}."
    page = "\n\n".join([f"# {title}", f"{source} {machine}", *parts]) + "\n"
    place = ROOT / "docs" / "results" / f"{name}.md"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(page, encoding="utf-8")
    print(page)


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
