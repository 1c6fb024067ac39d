"""The tables of a comparison: for a terminal, as Markdown, and as a CSV file. What they say is decided in `Figures`."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gossamer.compare.figures import Figures
from gossamer.compare.recipe import Comparison

__all__ = ["COLUMNS", "Column", "Reference", "caption", "csv_text", "line", "markdown", "print_tables", "table_of"]

NOTHING = "–"


class Reference(NamedTuple):
    """What all methods share: rows measured on, the number of parameters; accuracy of the probe on the rows themselves
    and of the most common class."""

    rows: int
    parameters: int
    probe: tuple[float, float] | None


class Column(NamedTuple):
    """One column: its name, how a line shows it, and what it means."""

    name: str
    show: Callable[[Figures], str]
    meaning: str


def _bits(figures: Figures) -> str:
    return NOTHING if figures.bits is None else f"{figures.bits:.1f}"


def _accuracy(figures: Figures) -> str:
    return NOTHING if figures.probe is None else f"{figures.probe:.1%}"


def _short(number: float) -> str:
    """Return a count as a person reads it."""
    return f"{number / 1000:,.1f}k" if number >= 1000 else f"{number:.0f}"


COLUMNS = (
    Column("method", lambda f: f.title, ""),
    Column("parameters", lambda f: f"{f.parameters:,}", "numbers that were learned"),
    Column("rows", lambda f: _short(f.rows), "trained on, repeats counted"),
    Column("train s", lambda f: f"{f.seconds:.1f}", "seconds of processor time, one thread"),
    Column("FVU", lambda f: f"{f.fvu:.4f}", "fraction of the variance of held-out rows unexplained; 0 is perfect"),
    Column("L0", lambda f: f"{f.l0:.1f}", "active entries of a code, held out"),
    Column("bits", _bits, "per row, entropy-coded whole steps, where the FVU is the quality asked for; – not reached"),
    Column("probe", _accuracy, "held-out accuracy of a linear classifier of the codes"),
    Column("encode µs", lambda f: f"{f.encode_microseconds:.1f}", "processor time per row, in batches of 256"),
    Column("mult–adds", lambda f: f"{_short(f.encode)} + {_short(f.decode)}", "per row, to encode and to decode"),
    Column("memory", lambda f: f"{f.memory / 2**20:.1f} MiB", "weights, optimizer and what a training step keeps"),
)

HEADINGS = {
    "rows": "Equal parameters, equal rows",
    "seconds": "Equal parameters, equal training time",
}


def line(figures: Figures) -> str:
    """Return one line for a log."""
    return (
        f"{figures.title}: FVU {figures.fvu:.4f}, L0 {figures.l0:.1f}, {_bits(figures)} bits, probe "
        f"{_accuracy(figures)}, {figures.seconds:.1f} s"
    )


def table_of(figures: Sequence[Figures], at: str) -> list[list[str]]:
    """Return the lines of one of the two tables."""
    return [[column.show(one) for column in COLUMNS] for one in figures if one.at == at]


def caption(at: str, comparison: Comparison, reference: Reference) -> str:
    """Say what was made equal, and what the figures rest on."""
    length = (
        f"every method saw {comparison.rows:,} rows"
        if at == "rows"
        else f"every method trained for {comparison.seconds:g} s of one thread's processor time"
    )
    closed = ", but PCA, which takes the rows once" if any(m.kind == "pca" for m in comparison.method) else ""
    probed = ""
    if reference.probe is not None and comparison.labels is not None:
        probed = (
            f" The probe tells {comparison.labels.describe()}: {reference.probe[0]:.1%} on the rows themselves, "
            f"{reference.probe[1]:.1%} by always naming the most common."
        )
    return (
        f"Parameters within 3 % of {reference.parameters:,}; {length}{closed}. Measured on {reference.rows:,} held-out "
        f"rows; bits at an FVU of {comparison.quality:g}; seed {comparison.seed}.{probed}"
    )


def print_tables(figures: Sequence[Figures], comparison: Comparison, reference: Reference) -> None:
    """Print both tables, and what they say."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console = Console(width=max(console.width, 128))
    for at, heading in HEADINGS.items():
        table = Table(title=heading, caption=caption(at, comparison, reference), caption_justify="left")
        for number, column in enumerate(COLUMNS):
            table.add_column(column.name, justify="right" if number else "left", no_wrap=number > 0)
        for cells in table_of(figures, at):
            table.add_row(*cells)
        console.print(table)


def markdown(figures: Sequence[Figures], comparison: Comparison, reference: Reference) -> str:
    """Return both tables, and what each column means."""
    parts = []
    for at, heading in HEADINGS.items():
        header = [column.name for column in COLUMNS]
        parts += [f"## {heading}", "", caption(at, comparison, reference), ""]
        parts += [*_aligned([header, *table_of(figures, at)]), ""]
    meanings = [f"- **{column.name}**: {column.meaning}." for column in COLUMNS if column.meaning]
    return "\n".join([*parts, *meanings]) + "\n"


def csv_text(figures: Sequence[Figures]) -> str:
    """Return a line for each training, its numbers as measured; the curves are in the files of the methods."""
    names = [name for name in Figures.__dataclass_fields__ if name != "curve"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for one in figures:
        writer.writerow({name: _written(getattr(one, name)) for name in names})
    return text.getvalue()


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = [f"{'-' * (width - 1)}{':' if number else '-'}" for number, width in enumerate(widths)]
    rows = [lines[0], rule, *lines[1:]]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]


def _written(value: object) -> object:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
