"""Sparsity paths of several kinds of sparsity on the same rows: a table, a file, a picture, and a choice for each."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.estimators.sae_cv import SAECV
from gossamer.selection.criteria import Choice
from gossamer.selection.path import Path as SparsityPath
from gossamer.sources.arrays import Arrays
from gossamer.sources.source import Source
from gossamer.storage import replace_file

__all__ = ["Compared", "compare_paths", "draw_paths", "rows_of", "select_from", "write_paths"]


@dataclass(frozen=True, eq=False)
class Compared:
    """The path of one kind of sparsity, and what was chosen from it."""

    sparsity: str
    path: SparsityPath
    choice: Choice


def select_from(file: str, *, sparsities: Sequence[str], out: str | None, rows: int, **settings: Any) -> list[Compared]:
    """Do what `gossamer select` does: read rows, cross-validate, print table and reasons, write path.csv and path.png.

    file: a .npy file of rows, or a recipe. Raises ValueError for what cannot be read or chosen, and for a folder that
    is a file.
    """
    from gossamer.training.recipe import Recipe

    folder = None if out is None else Path(out)
    if folder is not None:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; a folder is needed")
        folder.mkdir(parents=True, exist_ok=True)
    source = Arrays(file, validation=0.0) if file.endswith(".npy") else Recipe.read(file).source.build()
    x = rows_of(source, rows)
    print(f"{x.shape[0]:,} rows of width {x.shape[1]}", file=sys.stderr, flush=True)
    compared = compare_paths(x, sparsities, **settings)
    print_paths(compared)
    if folder is not None:
        write_paths(compared, folder / "path.csv")
        draw_paths(compared, folder / "path.png")
        print(f"written to {folder / 'path.csv'} and {folder / 'path.png'}")
    return compared


def compare_paths(
    x: Any, sparsities: Sequence[str], *, labels: np.ndarray | None = None, **settings: Any
) -> list[Compared]:
    """Cross-validate each kind of sparsity; settings: those of SAECV."""
    found = []
    for sparsity in sparsities:
        search = SAECV(sparsity=sparsity, **settings).search(x, labels)
        found.append(Compared(sparsity, search.path_, search.choice_))
    return found


def rows_of(source: Source, rows: int) -> np.ndarray:
    """Return up to so many rows of a source, `(rows, width)`, picked at random; it must have one site."""
    site = source.site("")
    units = np.random.default_rng(0).permutation(source.units)
    parts, count = [], 0
    for start in range(0, len(units), 64):
        part = source.read(units[start : start + 64]).rows[site].float().numpy()
        parts.append(part)
        count += len(part)
        if count >= rows:
            break
    return np.concatenate(parts)[:rows]


WIDTH = 110
"""Of the table, at least: a figure that is cut off says nothing."""
COLUMNS: tuple[str, ...] = (
    "sparsity",
    "parameter",
    "value",
    "error",
    "error_se",
    "l0",
    "dead",
    "bits",
    "stability",
    "probe",
    "chosen",
)


def lines(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """Return a line for each value: means over folds, and the standard error of the held-out error."""
    found = []
    for one in compared:
        path = one.path
        for place, value in enumerate(path.values):
            named = {"sparsity": one.sparsity, "parameter": path.parameter, "value": value}
            for name in ("error", "l0", "dead", "bits", "stability", "probe"):
                curve = getattr(path, name)
                named[name] = None if curve is None else curve[place].mean()
            spread = path.error[place].std(ddof=1) / np.sqrt(path.error.shape[1])
            found.append(named | {"error_se": spread, "chosen": place == one.choice.index})
    return found


def print_paths(compared: Sequence[Compared]) -> None:
    """Print the paths as one table, what was chosen marked, and the reasons below."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Sparsity paths, held out")
    for name in ("sparsity", "value", "error", "±", "L0", "dead", "bits", "stability", "choice"):
        table.add_column(name, justify="left" if name in ("sparsity", "choice") else "right", no_wrap=True)
    for line in lines(compared):
        table.add_row(
            line["sparsity"],
            f"{line['parameter']} {line['value']:.2g}",
            *(f"{line['error']:.4f}", f"{line['error_se']:.4f}", f"{line['l0']:.2f}", f"{line['dead']:.0%}"),
            *(
                f"{line['bits']:.1f}",
                "–" if line["stability"] is None else f"{line['stability']:.3f}",
                "chosen" if line["chosen"] else "",
            ),
        )
    Console(width=max(Console().width, WIDTH)).print(table)
    for one in compared:
        print(f"{one.sparsity}: {one.choice.reason}")


def write_paths(compared: Sequence[Compared], place: Path) -> None:
    """Write the lines as a .csv file."""

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(lines(compared))

    replace_file(place, write)


def draw_paths(compared: Sequence[Compared], place: Path) -> None:
    """Draw all paths over their L0, so that they can be compared, and write the picture."""
    from gossamer.figures import sparsity_path

    axes = None
    for one in compared:
        path = one.path
        count = np.sqrt(path.error.shape[1])
        curves = {
            "held-out error": (path.error.mean(axis=1), path.error.std(axis=1, ddof=1) / count),
            f"criterion {one.choice.criterion}": (one.choice.curve, one.choice.spread),
            "dead share": path.dead.mean(axis=1),
        }
        l0 = np.maximum(path.l0.mean(axis=1), 1e-2)
        axes = sparsity_path(
            l0, curves, l0[one.choice.index], family=one.sparsity, label="active components per row", axes=axes
        )
    if axes is not None:
        figure = np.atleast_1d(axes)[0].get_figure(root=True)
        replace_file(place, lambda temporary: figure.savefig(temporary, dpi=150, format="png"))
