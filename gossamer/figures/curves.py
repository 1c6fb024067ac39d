"""Pictures of numbers: the way along strengths of sparsity, rate against distortion, use of latents, loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.figures.inputs import active, series
from gossamer.figures.style import INK, MARK, MUTED, RULE, SERIES, calm, empty_figure, legend_above, line_style, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["loss_curve", "rate_distortion", "sparsity_path", "usage"]

FAMILY = "gossamer family:"
"""Marks the lines of a path, so that the next family knows how many there are; the words of the legend follow."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Curve:
    """A criterion over the strengths; error: its standard error, if it is known."""

    mean: np.ndarray
    error: np.ndarray | None


def sparsity_path(
    values: Any,
    curves: Mapping[str, Any],
    chosen: float | None = None,
    *,
    family: str = "",
    label: str = "strength of the sparsity",
    axes: np.ndarray | None = None,
    figure: Figure | SubFigure | None = None,
) -> np.ndarray:
    """Draw each criterion over the strength of the sparsity, one panel below the other, and mark the choice.

    values: `(strengths,)`, more than 0: their axis is logarithmic. curves: for each criterion `(strengths,)`, or
    `(2, strengths)`, its mean and standard error, drawn as a band of one standard error to either side. chosen: one of
    the values. family: what the strengths belong to, such as "L1"; a second call with `axes=` of the first adds
    another family with the same criteria. label: of the horizontal axis. Returns the axes, `(criteria,)`.

    Raises ValueError for values that are not positive, curves of another length, a negative standard error, NaN, a
    choice that is not among the values, or axes of other criteria.
    """
    strengths = series(values, "values")
    if strengths.min() <= 0:
        raise ValueError(f"values: the axis is logarithmic, leave out what is not positive; got {strengths.min():g}")
    order = np.argsort(strengths, kind="stable")
    found = {name: _curve(name, curve, order) for name, curve in curves.items()}
    strengths = strengths[order]
    place = None if chosen is None else _place_of(chosen, strengths)
    panels = _path_panels(list(found), figure) if axes is None else np.atleast_1d(axes)
    if [panel.get_ylabel() for panel in panels] != list(found):
        raise ValueError(f"axes: of {[panel.get_ylabel() for panel in panels]}, given for criteria {list(found)}")
    number = len(_families(panels[0]))
    _make_room(panels, strengths)
    for panel, curve in zip(panels, found.values(), strict=True):
        _draw_criterion(panel, strengths, curve, place, style=line_style(number), name=family)
    panels[-1].set_xlabel(label)
    _path_legend(panels, banded=any(curve.error is not None for curve in found.values()))
    return panels


def rate_distortion(
    curves: Mapping[str, tuple[Any, Any]],
    *,
    quality: str = "PSNR (dB)",
    bits: str = "bits per entry",
    ax: Axes | None = None,
) -> Axes:
    """Draw quality over bits, one line per method.

    curves: for each name (bits, quality), each `(points,)`. quality, bits: what the axes say, with units.

    Raises ValueError for no curves, bits and quality of different lengths, negative bits, or NaN.
    """
    if not curves:
        raise ValueError("curves: expected at least one name with its bits and quality")
    ax = empty_figure(6.4, 4.2).add_subplot() if ax is None else ax
    lines = []
    for number, (name, pair) in enumerate(curves.items()):
        if len(pair) != 2:
            raise ValueError(f"{name}: expected (bits, quality), got {len(pair)} parts")
        rate, reached = series(pair[0], f"{name}, bits"), series(pair[1], f"{name}, quality")
        if len(rate) != len(reached) or rate.min() < 0:
            raise ValueError(
                f"{name}: expected as many bits as qualities and none negative, got {len(rate)} and {len(reached)}, "
                f"the fewest bits {rate.min():g}"
            )
        order = np.argsort(rate, kind="stable")
        lines += ax.plot(rate[order], reached[order], **line_style(number))
    ax.set_xlabel(bits, parse_math=False)
    ax.set_ylabel(quality, parse_math=False)
    calm(ax)
    legend_above(ax, lines, [str(name) for name in curves])
    return ax


def usage(codes: Any, *, ax: Axes | None = None) -> Axes:
    """Draw on which share of the rows each latent is active, most used first, on a logarithmic axis.

    codes: `(rows, latents)`, SparseCodes, scipy.sparse or an array. Latents that are active on no row of these have no
    place on the axis: they are the hatched part at the right, and the title counts them. It rests on the rows given.

    Raises ValueError for codes without rows or latents, or with NaN.
    """
    found = active(codes)
    shares = np.sort(found.counts())[::-1] / found.rows
    used = int(np.count_nonzero(shares))
    ax = empty_figure(6.4, 3.6).add_subplot() if ax is None else ax
    edges = np.arange(used + 1)
    floor = 0.7 / found.rows
    ax.set_yscale("log")
    ax.stairs(shares[:used], edges, baseline=floor, fill=True, color=SERIES[0], alpha=0.25)
    ax.stairs(shares[:used], edges, baseline=None, color=SERIES[0], linewidth=1.6)
    if used < found.latents:
        ax.axvspan(used, found.latents, facecolor="none", edgecolor=RULE, hatch="////", linewidth=0, zorder=0)
    ax.set(xlim=(0, found.latents), ylim=(floor, min(1.2, 2 * float(shares[0])) if used else 1.2))
    ax.set(xlabel="latents, most used first", ylabel="share of rows on which it is active")
    calm(ax)
    never = f"{found.latents - used:,} never active" if used < found.latents else "all active at least once"
    mean = len(found.row) / found.rows
    title(ax, f"{found.latents:,} latents on {found.rows:,} rows: {never}; {mean:.3g} active per row")
    return ax


def loss_curve(
    values: Any,
    validation: Any = None,
    *,
    steps: Any = None,
    axis: str = "epoch",
    label: str = "loss",
    ax: Axes | None = None,
) -> Axes:
    """Draw the loss over epochs or steps, with that of held-out rows beside it and its lowest point marked.

    values: `(points,)`, at `steps`, by default 1, 2, … validation: `(points,)` likewise, or {step: loss} where it was
    measured more rarely. axis: what the steps are. label: what the values are. The axis of the loss is logarithmic if
    all are positive and the largest is more than 20 times the least.

    Raises ValueError for NaN, or numbers of values, steps and held-out values that do not agree.
    """
    losses = series(values, "values")
    places = np.arange(1, len(losses) + 1) if steps is None else series(steps, "steps")
    if len(places) != len(losses):
        raise ValueError(f"steps: {len(places)} given for {len(losses)} values")
    ax = empty_figure(6.4, 3.6).add_subplot() if ax is None else ax
    lines = ax.plot(places, losses, **_thin(0, len(losses)))
    names, drawn = [f"training {label}"], losses
    if validation is not None:
        where, held_out = _held_out(validation, places)
        lines += ax.plot(where, held_out, **_thin(1, len(held_out)))
        best = int(held_out.argmin())
        lines += ax.plot(where[best], held_out[best], "o", color=MARK, markerfacecolor="none", markersize=10)
        names += [f"held-out {label}", f"lowest: {held_out[best]:.4g} at {axis} {where[best]:g}"]
        drawn = np.concatenate([losses, held_out])
    if drawn.min() > 0 and drawn.max() > 20 * drawn.min():
        ax.set_yscale("log")
    ax.set_xlabel(axis, parse_math=False)
    ax.set_ylabel(label, parse_math=False)
    calm(ax)
    legend_above(ax, lines, names)
    return ax


def _curve(name: str, curve: Any, order: np.ndarray) -> _Curve:
    paired = len(curve) == 2 and np.ndim(curve[0]) == 1
    mean = series(curve[0] if paired else curve, name)
    error = series(curve[1], f"{name}, standard error") if paired else None
    if len(mean) != len(order) or (error is not None and len(error) != len(order)):
        raise ValueError(
            f"{name}: expected {len(order)} values, or (mean, standard error) of as many each; got {len(mean)}"
            + ("" if error is None else f" and {len(error)}")
        )
    if error is not None and error.min() < 0:
        raise ValueError(f"{name}: a standard error is not negative, got {error.min():g}")
    return _Curve(mean=mean[order], error=None if error is None else error[order])


def _place_of(chosen: float, strengths: np.ndarray) -> int:
    place = int(np.abs(strengths - chosen).argmin())
    if not np.isclose(strengths[place], chosen, rtol=1e-6, atol=0):
        raise ValueError(f"chosen: {chosen:g} is not among the values, the nearest is {strengths[place]:g}")
    return place


def _path_panels(names: Sequence[str], figure: Figure | SubFigure | None) -> np.ndarray:
    if not names:
        raise ValueError("curves: expected at least one criterion")
    figure = figure or empty_figure(6.4, 1.7 * len(names) + 1.0)
    panels = figure.subplots(len(names), 1, squeeze=False, sharex=True)[:, 0]
    for name, axes in zip(names, panels, strict=True):
        axes.set_xscale("log")
        axes.set_ylabel(name, parse_math=False)
        calm(axes)
    return panels


def _make_room(panels: np.ndarray, strengths: np.ndarray) -> None:
    """Widen the horizontal axis to what is drawn and will be: a single strength leaves it no width of its own."""
    drawn = [line.get_xdata() for line, _ in _families(panels[0])]
    known = np.concatenate([strengths, *drawn])
    room = max((known.max() / known.min()) ** 0.05, 1.2)
    for axes in panels:
        axes.set_xlim(known.min() / room, known.max() * room)


def _draw_criterion(
    axes: Axes, strengths: np.ndarray, curve: _Curve, place: int | None, *, style: dict[str, Any], name: str
) -> None:
    said = [name] if name else []
    if place is not None:
        said.append(f"chosen {strengths[place]:.3g}")
        axes.axvline(strengths[place], color=style["color"], linewidth=1, linestyle=style["linestyle"], alpha=0.7)
        ring = {"markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.6, "color": INK}
        axes.plot(strengths[place], curve.mean[place], marker=style["marker"], linestyle="none", **ring)
    if curve.error is not None:
        low, high = curve.mean - curve.error, curve.mean + curve.error
        axes.fill_between(strengths, low, high, color=style["color"], alpha=0.22, linewidth=0)
    (line,) = axes.plot(strengths, curve.mean, **style)
    line.set_gid(FAMILY + ", ".join(said))


def _path_legend(panels: np.ndarray, *, banded: bool) -> None:
    """Name the families, and the band if there is one, above the first panel."""
    from matplotlib.patches import Patch

    named = {words: line for line, words in _families(panels[0]) if words}
    labels, handles = list(named), list[Any](named.values())
    if banded or any(panel.collections for panel in panels):
        handles.append(Patch(color=MUTED, alpha=0.22, linewidth=0))
        labels.append("± 1 standard error")
    if handles:
        legend_above(panels[0], handles, labels)


def _families(axes: Axes) -> list[tuple[Any, str]]:
    """Return the line of each family, and what the legend says of it."""
    gids = [(line, line.get_gid() or "") for line in axes.lines]
    return [(line, gid.removeprefix(FAMILY)) for line, gid in gids if gid.startswith(FAMILY)]


def _held_out(validation: Any, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(validation, Mapping):
        steps = sorted(validation)
        return series(steps, "validation"), series([validation[step] for step in steps], "validation")
    found = series(validation, "validation")
    if len(found) != len(places):
        raise ValueError(
            f"validation: {len(found)} given for {len(places)} values; if measured more rarely, give {{step: loss}}"
        )
    return places, found


def _thin(number: int, points: int) -> dict[str, Any]:
    """Return the style of a line, without markers where they would cover it."""
    style = line_style(number)
    return style if points <= 30 else {**style, "marker": None}
