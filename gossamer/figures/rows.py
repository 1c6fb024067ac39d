"""Pictures of single rows: what went in, what came back, and the few atoms that it was put together from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.figures.inputs import Active, active, dictionary, matrix, pixel_shape
from gossamer.figures.style import INK, MUTED, RULE, SERIES, calm, empty_figure, heading
from gossamer.figures.tiles import Limits, draw_picture, limits, milliseconds, require_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["reconstructions"]

Draw = Callable[["Axes", np.ndarray, Limits], None]
"""Draws a row on axes, with these values at the ends of the scale."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Row:
    """One line of the picture; atoms: (latent, coefficient), those that contribute most first."""

    original: np.ndarray
    reconstruction: np.ndarray
    atoms: list[tuple[int, float]]
    active: int


def reconstructions(
    x: Any,
    x_hat: Any,
    codes: Any,
    directions: Any,
    *,
    shape: Sequence[int] | None = None,
    rate: float | None = None,
    limit: int = 6,
    top: int = 5,
    figure: Figure | SubFigure | None = None,
) -> np.ndarray:
    """Draw rows beside their reconstructions and their strongest active atoms, with the coefficient of each.

    x, x_hat: `(rows, width)`. codes: `(rows, latents)`, SparseCodes, scipy.sparse or an array. directions:
    `(latents, width)`, an autoencoder, or an estimator with `components_`. shape: of rows that are pictures, as in
    `atoms`; rate: of rows that are signals, in samples per second; one of them. limit: rows drawn at most, the first
    ones. top: atoms of a row, those with the largest |coefficient| · ‖atom‖; how many are active is written above.
    The error is sqrt(mean((x̂ − x)²)), in the units of x. Original and reconstruction have one scale, each atom its own.
    Returns the axes, `(rows drawn, 2 + top)`; where a row has fewer active atoms, they are empty and not visible.

    Raises ValueError for parts that do not fit together, both or none of shape and rate, NaN, or no rows.
    """
    rows, back, atoms, found = matrix(x, "x"), matrix(x_hat, "x_hat"), dictionary(directions), active(codes)
    _require_fit(rows, back, atoms, found)
    if (shape is None) == (rate is None):
        raise ValueError("give either the shape of pictures, shape=(height, width), or the rate of signals, rate=")
    if limit < 1 or top < 1:
        raise ValueError(f"limit and top: expected at least 1 row and 1 atom, got {limit} and {top}")
    if shape is not None:
        draw, cell = _picture(pixel_shape(shape, rows.shape[1])), (1.15, 1.4)
    else:
        draw, cell = _signal(require_rate(rate or 0.0), rows.shape[1]), (2.0, 1.15)
    norms = np.linalg.norm(atoms, axis=1)
    lines = [_row(number, rows, back, found, norms) for number in range(min(limit, len(rows)))]
    columns = 2 + min(top, max(len(line.atoms) for line in lines))
    if figure is None:
        figure = empty_figure(max(cell[0] * columns, 4.6), cell[1] * len(lines) + 0.5)
    panels = figure.subplots(len(lines), columns, squeeze=False)
    for number, (line, cells) in enumerate(zip(lines, panels, strict=True)):
        _draw_line(cells, line, atoms, draw)
        if number == 0:
            heading(cells[0], "original", size=7.5)
            heading(cells[1], "reconstruction", cells[1].get_title(loc="left"), size=7.5)
        cells[0].set_ylabel(f"row {number}", fontsize=8, color=MUTED)
    if rate is not None:
        for axes in panels[-1]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("time (ms)")
    figure.suptitle("Rows, reconstructions, and the atoms that contribute most", fontsize=10, color=INK)
    return panels


def _require_fit(rows: np.ndarray, back: np.ndarray, atoms: np.ndarray, found: Active) -> None:
    if back.shape != rows.shape:
        raise ValueError(f"x and x_hat: expected one shape, got {rows.shape} and {back.shape}")
    if found.rows != len(rows):
        raise ValueError(f"codes: of {found.rows} rows, given for {len(rows)} rows")
    if atoms.shape != (found.latents, rows.shape[1]):
        raise ValueError(f"directions: expected shape {(found.latents, rows.shape[1])}, got {atoms.shape}")


def _row(number: int, rows: np.ndarray, back: np.ndarray, found: Active, norms: np.ndarray) -> _Row:
    mine = found.row == number
    latents, values = found.latent[mine], found.value[mine]
    order = np.argsort(-np.abs(values) * norms[latents], kind="stable")
    pairs = [(int(latents[place]), float(values[place])) for place in order]
    return _Row(original=rows[number], reconstruction=back[number], atoms=pairs, active=len(pairs))


def _picture(sizes: tuple[int, ...]) -> Draw:
    def draw(axes: Axes, row: np.ndarray, span: Limits) -> None:
        draw_picture(axes, row, sizes, span)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(RULE)

    return draw


def _signal(rate: float, samples: int) -> Draw:
    times = milliseconds(samples, rate)

    def draw(axes: Axes, row: np.ndarray, span: Limits) -> None:
        room = 0.06 * (span[1] - span[0])
        axes.plot(times, row, color=SERIES[0], linewidth=1.1)
        axes.set_ylim(span[0] - room, span[1] + room)
        axes.margins(x=0)
        calm(axes)
        axes.tick_params(labelbottom=False)

    return draw


def _draw_line(cells: np.ndarray, line: _Row, atoms: np.ndarray, draw: Draw) -> None:
    """Draw original, reconstruction and atoms of one row, and hide the cells that are left."""
    span = limits(np.stack([line.original, line.reconstruction]), "range")
    error = float(np.sqrt(np.mean((line.reconstruction - line.original) ** 2)))
    draw(cells[0], line.original, span)
    draw(cells[1], line.reconstruction, span)
    heading(cells[1], f"{line.active} active", f"error {error:.3g}", size=7.5)
    for axes, (latent, coefficient) in zip(cells[2:], line.atoms, strict=False):
        draw(axes, atoms[latent], limits(atoms[latent], "symmetric"))
        axes.tick_params(labelleft=False)
        heading(axes, f"{coefficient:+.3g} ·".replace("-", "−", 1), f"atom {latent}", size=7.5)
    for axes in cells[2 + len(line.atoms) :]:
        axes.set_visible(False)
