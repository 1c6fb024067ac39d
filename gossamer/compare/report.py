"""What a comparison leaves in its folder: compare.md, compare.csv, two pictures, and a page that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gossamer.compare.figures import Figures
from gossamer.compare.pictures import costs, rate_curves
from gossamer.compare.recipe import Comparison
from gossamer.compare.tables import COLUMNS, HEADINGS, Reference, caption, csv_text, markdown, table_of
from gossamer.storage import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["write_report"]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1f24; background: #fff; max-width: 76rem; margin: 2rem auto;
       padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid #d9d5cc; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
div { overflow-x: auto; } p, dl { color: #5c626c; max-width: 60rem; } img { max-width: 100%; } dt { font-weight: 600; }
"""


def write_report(figures: Sequence[Figures], comparison: Comparison, reference: Reference, folder: Path) -> None:
    """Write tables, pictures and page into the folder, each whole or not at all."""
    timed = [one for one in figures if one.at == "seconds"]
    pictures = {"bits": _png(rate_curves(timed, comparison.quality)), "costs": _png(costs(timed))}
    text = f"# {folder.name}\n\n" + markdown(figures, comparison, reference)
    files = {f"{name}.png": picture for name, picture in pictures.items()}
    files |= {
        "compare.md": (text + "\n![bits](bits.png)\n\n![costs](costs.png)\n").encode(),
        "compare.csv": csv_text(figures).encode(),
        "compare.html": _page(figures, comparison, reference, pictures, folder.name).encode(),
    }
    for name, content in files.items():
        _put(folder / name, content)
    print(f"written to {folder}: {', '.join(files)}", file=sys.stderr)


def _page(
    figures: Sequence[Figures], comparison: Comparison, reference: Reference, pictures: dict[str, bytes], name: str
) -> str:
    """Return a page that loads nothing."""
    parts = [f"<h1>{html.escape(name)}</h1>"]
    head = "".join(f"<th title='{html.escape(column.meaning)}'>{html.escape(column.name)}</th>" for column in COLUMNS)
    for at, heading in HEADINGS.items():
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
            for cells in table_of(figures, at)
        )
        parts.append(f"<h2>{heading}</h2><p>{html.escape(caption(at, comparison, reference))}</p>")
        parts.append(f"<div><table><tr>{head}</tr>{rows}</table></div>")
    meanings = "".join(
        f"<dt>{html.escape(column.name)}</dt><dd>{html.escape(column.meaning)}</dd>" for column in COLUMNS[1:]
    )
    drawn = {"bits": "Error over bits per row, at equal training time.", "costs": "Error over costs, likewise."}
    for key, words in drawn.items():
        data = base64.b64encode(pictures[key]).decode()
        parts.append(f"<p>{words}</p><img alt='{words}' src='data:image/png;base64,{data}'>")
    parts.append(f"<h2>Columns</h2><dl>{meanings}</dl><h2>Recipe</h2><pre>{html.escape(comparison.to_toml())}</pre>")
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<meta http-equiv='Content-Security-Policy' content=\"{policy}\">"
        f"<title>{html.escape(name)}</title><style>{STYLE}</style></head>"
    )
    return f"{head}<body>{''.join(parts)}</body></html>\n"


def _png(picture: Figure) -> bytes:
    file = io.BytesIO()
    picture.savefig(file, dpi=130, format="png", facecolor="white", metadata={"Software": None})
    return file.getvalue()


def _put(path: Path, content: bytes) -> None:
    replace_file(path, lambda temporary: temporary.write_bytes(content))
