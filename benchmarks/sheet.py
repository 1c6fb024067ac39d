"""CSV files that only grow, one dataclass a line; and how figures are shown as a Markdown table."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

Line = TypeVar("Line")


def append(path: Path, entry: Any) -> None:
    """Add a line for a dataclass instance, its fields the columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [field.name for field in fields(entry)]
    new = not path.exists()
    if not new:
        require_columns(path, names)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow({name: _written(value) for name, value in vars(entry).items()})


def read(path: Path, kind: type[Line]) -> list[Line]:
    """Read every line of the file, oldest first; no file is no lines."""
    if not path.exists():
        return []
    kinds = {field.name: str(field.type) for field in fields(kind)}  # pyright: ignore[reportArgumentType]
    require_columns(path, list(kinds))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [kind(**{name: _parsed(kinds[name], text) for name, text in row.items()}) for row in rows]


def require_columns(path: Path, names: Sequence[str]) -> None:
    """Raise ValueError if the file has other columns."""
    with path.open(newline="") as file:
        found = next(csv.reader(file), [])
    if found != list(names):
        raise ValueError(f"{path} has other columns than this program writes; move it away: {found}")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Give the lines of a Markdown table with aligned columns."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [header, ["-" * width for width in widths], *rows]
    ]


def machine() -> dict[str, Any]:
    """Say when and where: columns `date`, `cpu`, `cores`, `python`."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cpu": cpu(),
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
    }


def cpu() -> str:
    """Name the processor."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _written(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def _parsed(kind: str, text: str) -> Any:
    if kind == "str":
        return text
    if text == "":
        return None
    return int(text) if kind.startswith("int") else float(text)
