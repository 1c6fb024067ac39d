"""Pictures of a dictionary: its atoms as image patches, as waves with their spectra, or as words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.figures.inputs import Chosen, choose, dictionary, pixel_shape
from gossamer.figures.style import INK, MARK, MUTED, SERIES, calm, empty_figure, heading, title
from gossamer.figures.tiles import Scale, draw_picture, limits, milliseconds, require_rate, require_scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["atoms", "waveforms", "words"]

LONGEST_NAME = 22
"""Characters of a word or table column that fit beside its bar."""

SCALES = {
    "symmetric": "darkest to brightest: ± its largest magnitude",
    "range": "darkest to brightest: its least to largest value",
    "shared": "darkest to brightest: ± {:.3g} in each",
}


def atoms(
    directions: Any,
    shape: Sequence[int],
    *,
    order: Any = None,
    limit: int = 100,
    columns: int | None = None,
    scale: Scale = "symmetric",
    numbers: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw the atoms of a dictionary as a grid of pictures.

    directions: `(latents, pixels)`, an autoencoder, or an estimator with `components_`. shape: (height, width), or
    (height, width, 3) for red, green, blue. order: latents in the order wanted, or codes `(rows, latents)`: then those
    that are active on most rows come first. limit: atoms drawn at most. columns: in a line, by default as in a square.
    scale: "symmetric" draws 0 as middle gray and each atom to its own largest magnitude, "range" each from its least to
    its largest value, "shared" all on one symmetric scale. numbers: write the latent under each atom.

    Raises ValueError for a shape that does not make up a row, NaN, no atoms, or an order of other latents.
    """
    rows = dictionary(directions)
    sizes = pixel_shape(shape, rows.shape[1])
    require_scale(scale, tuple(SCALES))
    chosen = choose(order, latents=len(rows), limit=limit)
    shown = rows[chosen.latents]
    if columns is not None and columns < 1:
        raise ValueError(f"columns: expected at least 1, got {columns}")
    columns = min(columns or int(np.ceil(np.sqrt(len(shown)))), len(shown))
    lines = -(-len(shown) // columns)
    tile = float(np.clip(7.5 / columns, 0.62, 1.4))  # inches
    gap = 0.06 * sizes[1] / tile
    across, down = sizes[1] + gap, sizes[0] + (3 * gap if numbers else gap)
    if ax is None:
        ax = empty_figure(max(tile * columns, 4.2), tile * lines * down / across + 0.5).add_subplot()
        ax.set_anchor("NW")
    spans = [limits(shown if scale == "shared" else row, scale) for row in shown]
    for place, (latent, row, span) in enumerate(zip(chosen.latents.tolist(), shown, spans, strict=True)):
        corner = (place % columns * across, place // columns * down)
        draw_picture(ax, row, sizes, span, corner=corner)
        if numbers:
            below = (corner[0] + sizes[1] / 2, corner[1] + sizes[0] + 0.2 * gap)
            ax.text(*below, chosen.name(latent), ha="center", va="top", fontsize=6, color=MUTED)
    ax.set(xlim=(0, columns * across - gap), ylim=(lines * down - gap, 0))
    ax.set_axis_off()
    title(ax, _counted(chosen, len(rows)), SCALES[scale].format(spans[0][1]))
    return ax


def waveforms(
    directions: Any,
    rate: float,
    *,
    order: Any = None,
    spectra: bool = True,
    limit: int = 12,
    figure: Figure | SubFigure | None = None,
) -> np.ndarray:
    """Draw the atoms of a dictionary as waves, each beside its amplitude spectrum.

        amplitude(f) = 2 / n · |Σ_t d_t exp(−2πi f t / rate)|, without the 2 at 0 Hz and at half the rate

    directions: `(latents, samples)`, an autoencoder, or an estimator with `components_`. rate: samples per second.
    order: as in `atoms`. Time is in ms, frequency in Hz; all waves have one scale, and all spectra another.
    Returns the axes, `(atoms drawn, 2)` or, without spectra, `(atoms drawn, 1)`.

    Raises ValueError for a rate that is not positive, atoms of one sample, NaN, or an order of other latents.
    """
    rows, rate = dictionary(directions), require_rate(rate)
    if rows.shape[1] < 2:
        raise ValueError("directions: a wave has at least 2 samples, got 1")
    chosen = choose(order, latents=len(rows), limit=limit)
    shown = rows[chosen.latents]
    amplitudes = _amplitudes(shown)
    frequencies = np.fft.rfftfreq(rows.shape[1], 1 / rate)
    panels = _wave_panels(len(shown), 2 if spectra else 1, figure)
    for latent, row, amplitude, line in zip(chosen.latents.tolist(), shown, amplitudes, panels, strict=True):
        line[0].plot(milliseconds(len(row), rate), row, color=SERIES[0], linewidth=1.2)
        line[0].set_ylim(*(1.08 * limit for limit in limits(shown, "shared")))
        heading(line[0], f"atom {chosen.name(latent)}", size=8.5)
        if spectra:
            line[1].fill_between(frequencies, amplitude, color=SERIES[3], linewidth=0, alpha=0.5)
            line[1].plot(frequencies, amplitude, color=SERIES[0], linewidth=1)
            line[1].set_ylim(0, 1.08 * amplitudes.max() or 1.0)
            peak = f"strongest at {frequencies[amplitude.argmax()]:.4g} Hz" if amplitude.any() else "all 0"
            heading(line[1], peak, size=8.5)
    names = ["time (ms)", f"frequency (Hz, in steps of {frequencies[1]:.4g})"]
    _label_lowest(panels, names[: panels.shape[1]])
    kind = "waves and amplitude spectra" if spectra else "waves"
    _title_above(panels[0, 0], _counted(chosen, len(rows)), kind)
    return panels


def words(
    directions: Any,
    names: Sequence[str],
    *,
    order: Any = None,
    limit: int = 12,
    top: int = 8,
    figure: Figure | SubFigure | None = None,
) -> np.ndarray:
    """Draw, for each atom, its entries of largest magnitude as named bars, positive ones first.

    directions: `(latents, width)`, an autoencoder, or an estimator with `components_`. names: of the entries, such as
    words or table columns, `width` of them. order: as in `atoms`. top: entries of an atom; those that are 0 are left
    out. All bars have one scale. Returns the axes, `(atoms drawn,)`.

    Raises ValueError for another number of names, top below 1, NaN, or an order of other latents.
    """
    rows = dictionary(directions)
    if len(names) != rows.shape[1]:
        raise ValueError(f"names: {len(names)} given for atoms of {rows.shape[1]} entries")
    if top < 1:
        raise ValueError(f"top: expected at least 1 entry, got {top}")
    chosen = choose(order, latents=len(rows), limit=limit)
    columns = min(3, len(chosen.latents))
    lines = -(-len(chosen.latents) // columns)
    bars = min(top, rows.shape[1])
    if figure is None:
        figure = empty_figure(max(2.9 * columns, 4.2), lines * (0.17 * bars + 0.42) + 0.6)
    grid = figure.subplots(lines, columns, squeeze=False)
    panels = _used(grid.ravel(), len(chosen.latents))
    reach = 1.08 * float(np.abs(rows[chosen.latents]).max()) or 1.0
    for latent, axes in zip(chosen.latents.tolist(), panels, strict=True):
        _bars(axes, rows[latent], names, bars)
        axes.set_xlim(-reach if rows[chosen.latents].min() < 0 else 0, reach)
        heading(axes, f"atom {chosen.name(latent)}", size=8.5)
    for column in range(columns):
        panels[column::columns][-1].set_xlabel("weight in the atom")
    _title_above(panels[0], _counted(chosen, len(rows)), f"the {bars} strongest entries of each")
    return panels


def _bars(axes: Axes, row: np.ndarray, names: Sequence[str], bars: int) -> None:
    strongest = np.argsort(-np.abs(row), kind="stable")[:bars]
    strongest = strongest[row[strongest] != 0]
    strongest = strongest[np.argsort(-row[strongest], kind="stable")]
    heights = row[strongest]
    drawn = axes.barh(np.arange(len(strongest)), heights, height=0.72, color=SERIES[0], linewidth=0)
    for bar, height in zip(drawn, heights, strict=True):
        if height < 0:
            bar.set(facecolor="white", edgecolor=MARK, hatch="/////", linewidth=0.8)
    calm(axes, grid=False)
    axes.axvline(0, color=MUTED, linewidth=0.6)
    labels = [_shortened(str(names[entry])) for entry in strongest]
    axes.set_yticks(np.arange(len(strongest)), labels, parse_math=False)
    axes.set_ylim(bars - 0.4, -0.6)
    if not len(strongest):
        axes.text(
            0.5, 0.5, "all entries are 0", ha="center", va="center", transform=axes.transAxes, color=MUTED, fontsize=8
        )


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _amplitudes(rows: np.ndarray) -> np.ndarray:
    """Return `(rows, frequencies)`: the amplitude of the sine of each frequency."""
    samples = rows.shape[1]
    amplitudes = 2 / samples * np.abs(np.fft.rfft(rows, axis=1))
    amplitudes[:, 0] /= 2
    if samples % 2 == 0:
        amplitudes[:, -1] /= 2
    return amplitudes


def _wave_panels(shown: int, width: int, figure: Figure | SubFigure | None) -> np.ndarray:
    """Return axes `(shown, width)`; beyond six atoms two of them share a line, or more where waves are drawn alone."""
    beside = 1 if shown <= 6 else 4 // width
    lines = -(-shown // beside)
    if figure is None:
        figure = empty_figure(max(3.2 * width, 4.2) if beside == 1 else 10, 0.95 * lines + 1.0)
    grid = figure.subplots(lines, beside * width, squeeze=False)
    panels = _used(grid.ravel(), shown * width)
    for axes in panels:
        calm(axes)
        axes.margins(x=0)
    return panels.reshape(shown, width)


def _used(panels: np.ndarray, shown: int) -> np.ndarray:
    """Return the first panels and take the others off the figure."""
    for axes in panels[shown:]:
        axes.remove()
    return panels[:shown]


def _label_lowest(panels: np.ndarray, names: Sequence[str]) -> None:
    """Name the horizontal axis under the lowest panel of each column; the others lose the numbers of theirs."""
    columns = panels[0, 0].get_subplotspec().get_gridspec().ncols
    flat = panels.ravel()
    for place, axes in enumerate(flat):
        if place + columns < len(flat):
            axes.tick_params(labelbottom=False)
        else:
            axes.set_xlabel(names[place % len(names)])


def _title_above(axes: Axes, *lines: str) -> None:
    axes.figure.suptitle("\n".join(lines), fontsize=9.5, color=INK)


def _counted(chosen: Chosen, latents: int) -> str:
    shown, atoms = len(chosen.latents), "atom" if latents == 1 else "atoms"
    return f"{shown:,} of {latents:,} {atoms}{chosen.order}"
