"""The pictures of a comparison: error over bits, and error over what a method costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gossamer.compare.figures import Figures
from gossamer.figures.style import INK, MUTED, calm, empty_figure, legend_above, line_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["costs", "rate_curves"]


def rate_curves(figures: Sequence[Figures], quality: float) -> Figure:
    """Draw FVU over bits per row, a line for each method; both axes are logarithmic, lower left is better."""
    picture = empty_figure(7.2, 4.6)
    axes = picture.add_subplot()
    lines = []
    for number, one in enumerate(figures):
        points = [(bits, error) for bits, error in one.curve if bits >= 1 and error < 1]
        lines += axes.plot(*zip(*points, strict=True) if points else ((), ()), **line_style(number))
    axes.axhline(quality, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.text(
        0.995,
        quality,
        "bits of the table ",
        transform=axes.get_yaxis_transform(),
        ha="right",
        va="bottom",
        fontsize=8,
        color=MUTED,
    )
    axes.set(xscale="log", yscale="log", xlabel="bits per row", ylabel="FVU of what is decoded")
    calm(axes)
    legend_above(axes, lines, [one.title for one in figures])
    return picture


def costs(figures: Sequence[Figures]) -> Figure:
    """Draw FVU over multiply–adds of encoding, over its time, and beside the probe's accuracy, a point a method."""
    panels = [
        ("multiply–adds to encode a row", "log", [one.encode for one in figures]),
        ("encoding, µs of processor time a row", "log", [one.encode_microseconds for one in figures]),
    ]
    if all(one.probe is not None for one in figures):
        panels.append(("accuracy of the probe", "linear", [one.probe or 0.0 for one in figures]))
    picture = empty_figure(3.4 * len(panels), 4.2)
    handles = []
    for place, (label, scale, values) in enumerate(panels):
        axes = picture.add_subplot(1, len(panels), place + 1)
        handles = []
        for number, (one, value) in enumerate(zip(figures, values, strict=True)):
            style = line_style(number) | {"linestyle": "none", "markersize": 8}
            handles += axes.plot([value], [one.fvu], **style, markeredgecolor=INK, markeredgewidth=0.4)
        axes.set(xscale=scale, yscale="log", xlabel=label, ylabel="FVU, held out" if not place else "")
        axes.margins(0.15)
        calm(axes)
    picture.legend(
        handles, [one.title for one in figures], loc="outside lower center", ncols=3, frameon=False, fontsize=8.5
    )
    return picture
