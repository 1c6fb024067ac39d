"""The charts of the report, as inline SVG that follows the theme of the page.

matplotlib draws; this module then makes the drawing part of an HTML page: colors become CSS variables,
fonts become the page's, ids are unique in the page, and nothing depends on the clock or on the machine, so
that equal data give equal bytes. The small histograms of the feature cards are not drawn here but by the
template.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from gossamer.report.data import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["SERIES_COLORS", "compact", "curve_svg", "density_svg", "share"]

# Stand-ins that matplotlib can draw with, and the CSS variables that replace them in the finished drawing.
INK, GRID, MARK = "#010203", "#010204", "#010205"
SERIES_COLORS = ("#010210", "#010211", "#010212", "#010213")
VARIABLES = {INK: "var(--chart-ink)", GRID: "var(--rule)", MARK: "var(--mark)"} | {
    color: f"var(--series-{index})" for index, color in enumerate(SERIES_COLORS)
}
LINE_STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
MOST_POINTS = 400
DENSITY_BINS = 36
INSTALL = 'the report needs matplotlib and jinja2; install them with: pip install "gossamer[report]"'


def compact(value: float) -> str:
    """Write a number for an axis: short, in plain characters.

    Examples
    --------
    >>> compact(2_500_000), compact(0.05), compact(0), compact(1e-7)
    ('2.5M', '0.05', '0', '1e-7')
    """
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scale = 1e3 if suffix == "k" else limit
            return f"{value / scale:.4g}{suffix}"
    return re.sub(r"e([+-])0*(\d)", lambda found: f"e{found[1].strip('+')}{found[2]}", f"{value:.4g}")


def share(value: float) -> str:
    """Write a share of rows as a percentage with two significant digits.

    Examples
    --------
    >>> share(0.0123), share(0.5), share(0.009), share(1.0), share(0)
    ('1.2%', '50%', '0.90%', '100%', '0%')
    """
    if value == 0:
        return "0%"
    percent = 100 * value
    digits = max(0, 1 - int(np.floor(np.log10(percent))))
    return f"{percent:.{digits}f}%"


def curve_svg(curves: Sequence[Curve], *, key: str) -> str:
    """Draw the curves of one chart as inline SVG.

    Parameters
    ----------
    curves : sequence of Curve
        Curves that share a name; the first one's axis and scale hold for all.
    key : str
        Prefix of every id in the drawing, unique in the page.

    Raises
    ------
    ValueError
        Where matplotlib is missing.
    """
    first = curves[0]
    with _canvas(width=340, height=196) as (figure, axes):
        if first.scale == "log":
            axes.set_yscale("log")
        for index, curve in enumerate(curves):
            steps, values = _thin(*_drawable(curve))
            axes.plot(
                steps,
                values,
                color=SERIES_COLORS[index % len(SERIES_COLORS)],
                linestyle=LINE_STYLES[index % len(LINE_STYLES)],
                linewidth=1.6,
                marker="o" if len(steps) <= 24 else None,
                markersize=3,
            )
            if curve.target is not None:
                axes.axhline(curve.target, color=MARK, linewidth=1.1, linestyle=(0, (2, 2)))
        _style(axes, first)
        svg = _svg(figure)
    return _inline(svg, key=key, title=first.name, description="; ".join(map(_describe, curves)))


def density_svg(densities: np.ndarray, *, rows: int, shown: Sequence[float] = (), key: str = "density") -> str:
    """Draw how many latents are active on which share of rows, on a logarithmic axis, as inline SVG.

    Latents that were never active stand apart on the left: a logarithm has no place for them.

    Parameters
    ----------
    densities : array of shape (latents,)
        Share of rows on which each latent is active.
    rows : int
        Number of rows that they rest on; 1/rows is the smallest share that can be seen.
    shown : sequence of float
        Densities to mark under the axis, such as those of the features that the report shows.
    key : str
        Prefix of every id in the drawing.

    Raises
    ------
    ValueError
        Where matplotlib is missing.
    """
    active = densities[densities > 0]
    never = int(len(densities) - len(active))
    floor = _floor(active, rows)
    edges = np.linspace(floor, 0.0, DENSITY_BINS + 1)
    counts, _ = np.histogram(np.clip(np.log10(active), floor, 0.0), bins=edges)
    width = edges[1] - edges[0]
    never_at = floor - 3 * width
    with _canvas(width=372, height=224) as (figure, axes):
        axes.bar(edges[:-1], counts, width=0.88 * width, align="edge", color=SERIES_COLORS[0], linewidth=0)
        axes.bar([never_at], [never], width=1.6 * width, color=MARK, linewidth=0)
        positions = [np.clip(np.log10(value), floor, 0.0) if value > 0 else never_at for value in shown]
        depth = 0.045 * max(counts.max(initial=0), never, 1)
        axes.vlines(positions, -1.5 * depth, -0.4 * depth, color=MARK, linewidth=1.2)
        axes.set_ylim(bottom=-1.9 * depth)
        axes.set_xlim(never_at - 1.5 * width, width / 2)
        decades = list(range(int(np.ceil(floor)), 1))
        axes.set_xticks([never_at, *decades], ["never", *(_power(decade + 2) for decade in decades)])
        _style(axes, None)
        axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= axes.get_ylim()[1]])
        axes.set_xlabel("share of rows on which a latent is active", parse_math=False)
        axes.set_ylabel("latents", parse_math=False)
        svg = _svg(figure)
    median = share(float(np.median(active))) if len(active) else "none"
    description = (
        f"Histogram of {len(densities)} latents over the share of rows on which they are active; "
        f"median of the active ones {median}; {never} were never active."
    )
    return _inline(svg, key=key, title="Density of the latents", description=description)


def _power(exponent: int) -> str:
    """Write a power of ten in percent, without digits that say nothing."""
    return f"{10**exponent}%" if exponent >= 0 else f"0.{'0' * (-exponent - 1)}1%"


def _floor(active: np.ndarray, rows: int) -> float:
    """Return the left end of the density axis, as a power of ten: one row in all, or the rarest latent."""
    smallest = 1 / rows if rows else float(active.min(initial=1.0))
    return min(float(np.log10(min(smallest, float(active.min(initial=1.0))))), -1.0)


def _drawable(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values as arrays, with NaN where the scale has no place for a value."""
    steps = np.asarray(curve.steps, dtype=np.float64)
    values = np.asarray(curve.values, dtype=np.float64).copy()
    values[~np.isfinite(values)] = np.nan
    if curve.scale == "log":
        values[values <= 0] = np.nan
    return steps, values


def _thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep the lowest and the highest point of every stretch, so that a spike of one step stays visible."""
    if len(steps) <= MOST_POINTS:
        return steps, values
    keep = {0, len(steps) - 1}
    for stretch in np.array_split(np.arange(len(steps)), MOST_POINTS // 2):
        inside = values[stretch]
        if np.isnan(inside).all():
            keep.add(int(stretch[0]))
            continue
        keep |= {int(stretch[np.nanargmin(inside)]), int(stretch[np.nanargmax(inside)])}
    kept = sorted(keep)
    return steps[kept], values[kept]


def _describe(curve: Curve) -> str:
    """Say in words what a curve shows, for readers who cannot see it."""
    steps, values = _drawable(curve)
    finite = np.flatnonzero(np.isfinite(values))
    name = f"{curve.name}, {curve.series}" if curve.series else curve.name
    if not len(finite):
        return f"{name}: no value"
    first, last = finite[0], finite[-1]
    start, end = (f"{compact(float(values[at]))} at {compact(float(steps[at]))}" for at in (first, last))
    return f"{name}: from {start} {curve.axis} to {end}"


@contextmanager
def _canvas(*, width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """Yield an empty figure of so many CSS pixels, with drawing settings that touch nobody else's."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(INSTALL) from error
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gossamer", "font.size": 9.5}):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        yield figure, axes


def _style(axes: Axes, curve: Curve | None) -> None:
    """Give the axes the calm look of the page."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    label: Callable[[float, int], str] = lambda value, _: compact(value)  # noqa: E731
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(which="both", length=0, colors=INK, labelcolor=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    if curve is not None and curve.scale == "log":
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 1e3 else (1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(label))
    if curve is not None:
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(label))
        axes.set_xlabel(curve.axis, parse_math=False)
        axes.margins(x=0.01)
        if curve.scale == "linear":
            _ground(axes)


def _ground(axes: Axes) -> None:
    """Start the axis of values that cannot be negative at 0, unless they vary little far above it."""
    drawn = [values for line in axes.get_lines() for values in np.asarray(line.get_ydata(), dtype=np.float64)]
    finite = [value for value in drawn if np.isfinite(value)]
    if not finite or min(finite) < 0 or 0 < max(finite) < 2 * min(finite):
        return
    axes.set_ylim(bottom=0, top=None if max(finite) > 0 else 1)


def _svg(figure: Figure) -> str:
    """Return the figure as an SVG document without date or creator."""
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with warnings.catch_warnings():
        # The name of an axis may use letters that matplotlib's own font lacks; the page's font draws them.
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    return buffer.getvalue()


def _inline(svg: str, *, key: str, title: str, description: str) -> str:
    """Turn an SVG document of matplotlib into an element of an HTML page."""
    box = re.search(r'viewBox="([^"]+)"', svg)
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r" font-family: [^;\"]*;?", "", body)
    body = re.sub(r' (?:d|x|y|width|height|transform)="[^"]*"', _shorten, body)
    body = body.replace("xlink:href", "href")
    used = set(re.findall(r"#([\w-]+)", body))
    body = re.sub(r' id="([^"]+)"', lambda found: f' id="{key}-{found[1]}"' if found[1] in used else "", body)
    body = re.sub(r'(href="|url\()#', rf"\1#{key}-", body)
    for color, variable in VARIABLES.items():
        body = body.replace(color, variable)
    body = re.sub(r">\s+<", "><", body)
    body = re.sub(r"<g/>|<g></g>|<defs></defs>", "", body).strip()
    return (
        f'<svg viewBox="{box[1] if box else ""}" role="img" aria-labelledby="{key}-title {key}-description">'
        f'<title id="{key}-title">{html.escape(title)}</title>'
        f'<desc id="{key}-description">{html.escape(description)}</desc>{body}</svg>'
    )


def _shorten(attribute: re.Match[str]) -> str:
    """Round the coordinates of one attribute to hundredths of a pixel and put them on one line."""
    rounded = re.sub(r"-?\d+\.\d{2,}", lambda found: f"{round(float(found[0]), 2):g}", attribute[0])
    return re.sub(r" transform=\"rotate\(-?0 [^\"]*\"", "", " " + " ".join(rounded.split()))
