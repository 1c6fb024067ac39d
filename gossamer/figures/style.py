"""How the pictures look: figures, colors, line styles, axes. What they show is not decided here.

No color stands alone: a line has a style and a marker too, a negative bar is hatched, so that a picture printed in gray
says the same. Nothing changes matplotlib's settings.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "INK",
    "MARK",
    "MUTED",
    "RULE",
    "SERIES",
    "calm",
    "empty_figure",
    "heading",
    "legend_above",
    "line_style",
    "title",
]

INK, MUTED, RULE, MARK = "#1c1f24", "#5c626c", "#d9d5cc", "#b4461f"
SERIES = ("#0f6b66", "#d98a1f", "#7448ad", "#4b9cd3", "#8a1f4b")
"""Colors of lines, dark and light in turn."""

LINE_STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def require_matplotlib() -> None:
    """Raise ValueError, with the command that helps, if there is no matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ValueError('the pictures need matplotlib; install it with: pip install "gossamer[report]"') from error


def empty_figure(width: float, height: float) -> Figure:
    """Return a figure of so many inches that no window manager holds on to.

    Raises ValueError, with the command that helps, if there is no matplotlib.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def line_style(number: int) -> dict[str, Any]:
    """Return color, line style and marker of the line with that number; the first 140 differ."""
    return {
        "color": SERIES[number % len(SERIES)],
        "linestyle": LINE_STYLES[number % len(LINE_STYLES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 4,
        "linewidth": 1.6,
    }


def calm(axes: Axes, *, grid: bool = True) -> None:
    """Give axes thin spines left and below, small tick labels and, if wanted, a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(which="both", length=2, color=RULE, labelcolor=MUTED, labelsize=8)
    axes.xaxis.label.set(color=MUTED, fontsize=8.5)
    axes.yaxis.label.set(color=MUTED, fontsize=8.5)
    if grid:
        axes.grid(color=RULE, linewidth=0.6, alpha=0.7)
        axes.set_axisbelow(True)


def heading(axes: Axes, *lines: str, size: float = 9.5) -> None:
    """Write lines above the left edge of axes, as they are: a dollar sign is no formula."""
    axes.set_title("\n".join(lines), loc="left", fontsize=size, color=INK, parse_math=False)


def title(axes: Axes, *lines: str, size: float = 9.5) -> None:
    """Write lines above axes, broken where they would reach far beyond the right edge."""
    inches = axes.bbox.width / axes.figure.dpi
    letters = max(12, int(72 * inches / (0.51 * size)))  # a letter is about half as wide as high
    heading(axes, *(part for line in lines for part in textwrap.wrap(line, letters)), size=size)


def legend_above(axes: Axes, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Write a legend above axes, where it hides no line, as many entries beside each other as fit."""
    columns = max(1, min(len(labels), 72 // (max(map(len, labels), default=0) + 8)))
    legend = axes.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        fontsize=8.5,
        borderaxespad=0.2,
        handlelength=3,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
