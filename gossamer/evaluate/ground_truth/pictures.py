"""The pictures of the ground-truth benchmark, drawn by matplotlib."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from gossamer.evaluate.ground_truth.pairs import Pairs, cosines
from gossamer.sources.synthetic import Synthetic
from gossamer.storage import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gossamer.evaluate.ground_truth.bench import Result

__all__ = ["draw"]

COLUMNS = 4
"""Panels in a row."""

SHOWN = 40
"""Features that a matrix of cosines shows, at least, if so many of trees were found: whole trees at a time."""

BINS = 6
"""Groups of features of similar firing probability."""

MARKERS = "osD^vP*X<>ph"
COLORS = 20


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """Draw all pictures into a folder and return their paths."""
    pictures: dict[str, Callable[[], Figure]] = {
        "f1-fvu.png": lambda: _f1_against_fvu(results),
        "f1-probability.png": lambda: _f1_against_probability(results[0]),
        "cosines.png": lambda: _cosine_matrices(results[0]),
    }
    return [_save(picture(), folder / name) for name, picture in pictures.items()]


def _save(figure: Figure, path: Path) -> Path:
    replace_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight"))
    return path


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _f1_against_fvu(results: Sequence[Result]) -> Figure:
    """One mark per preset and control at its mean, with bars of one standard deviation over the seeds.

    The presets alone on the left, everything on the right.
    """
    figure = _figure(9.6, 5.0)
    near, far = figure.subplots(1, 2)
    groups: list[tuple[str, str | None, list[Axes]]] = [("presets", None, [near, far]), ("controls", "0.55", [far])]
    for group, color, panels in groups:
        for number, scores in enumerate(zip(*(getattr(result, group) for result in results), strict=True)):
            fvu, f1 = [found.fvu for found in scores], [found.f1 for found in scores]
            for axes in panels:
                axes.errorbar(
                    statistics.mean(fvu),
                    statistics.mean(f1),
                    xerr=_spread(fvu),
                    yerr=_spread(f1),
                    fmt=MARKERS[number % len(MARKERS)],
                    color=color or _color(number),
                    markerfacecolor="none" if color else None,
                    label=scores[0].name,
                )
    near.set(ylabel="F1 of the firing pattern (1 is perfect)")
    far.set(ylim=(-0.03, 1.05))
    for axes in (near, far):
        axes.set(xlabel="FVU (0 is perfect)")
        axes.grid(alpha=0.3)
    _legend(figure, far)
    return figure


def _color(number: int) -> tuple[float, float, float]:
    from matplotlib import colormaps

    shade = number % COLORS
    red, green, blue, _ = colormaps["tab20"]((2 * shade) % COLORS + (2 * shade) // COLORS)
    return red, green, blue


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _f1_against_probability(result: Result) -> Figure:
    """A line per preset: mean F1 of the matched features, in groups of as many each, by how often they fire."""
    figure = _figure(7.8, 5.0)
    axes = figure.add_subplot()
    for number, found in enumerate(result.presets):
        scored = ~found.firing.f1.isnan()
        probability = result.source.probabilities[found.pairs.features][scored].numpy()
        groups = np.array_split(np.argsort(probability), min(BINS, len(probability)))
        f1 = found.firing.f1[scored].numpy()
        axes.plot(
            [np.exp(np.log(probability[group]).mean()) for group in groups],
            [f1[group].mean() for group in groups],
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            color=_color(number),
            label=found.name,
        )
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="share of the rows on which the feature fires", ylabel="F1")
    axes.grid(alpha=0.3)
    _legend(figure, axes)
    return figure


def _cosine_matrices(result: Result) -> Figure:
    """A matrix per preset: cosine of every matched latent (a row) with every matched feature (a column) of some trees.

    Features are in depth-first order, each parent before its children, so that a child's latent that contains its
    parent is a mark to the left of the diagonal.
    """
    panels = list(zip(result.presets, result.decoders, strict=True))
    rows = -(-len(panels) // COLUMNS)
    columns = min(COLUMNS, len(panels))
    figure = _figure(2.6 * columns + 0.8, 2.8 * rows + 0.3)
    image = None
    for number, (found, decoder) in enumerate(panels, start=1):
        drawn = figure.add_subplot(rows, columns, number)
        pairs = _in_trees(found.pairs, result.source)
        matrix = cosines(decoder[pairs.latents], result.source.directions[pairs.features])
        image = drawn.imshow((matrix * pairs.cosines.sign()[:, None]).numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
        drawn.set_title(found.name, fontsize=9)
        drawn.set(xticks=[], yticks=[], xlabel="feature", ylabel="latent")
    if image is not None:
        figure.colorbar(image, ax=figure.axes, label="cosine", shrink=0.8 / rows)
    return figure


def _in_trees(pairs: Pairs, source: Synthetic) -> Pairs:
    """Return the pairs of the trees of which most features are matched, depth first; without trees all pairs."""
    parents = source.parents.tolist()
    paths = [_path(feature, parents) for feature in pairs.features.tolist()]
    size: dict[int, int] = {}
    for path in paths:
        if len(path) > 1:
            size[path[0]] = size.get(path[0], 0) + 1
    chosen: list[int] = []
    for root in sorted(size, key=lambda root: -size[root]):
        if sum(size[root] for root in chosen) < SHOWN:
            chosen.append(root)
    kept = [place for place, path in enumerate(paths) if path[0] in chosen] or list(range(len(paths)))
    order = torch.tensor(sorted(kept, key=lambda place: paths[place]))
    return Pairs(pairs.latents[order], pairs.features[order], pairs.cosines[order])


def _path(feature: int, parents: Sequence[int]) -> tuple[int, ...]:
    """Return the feature's ancestors from the root down, and itself."""
    path = [feature]
    while parents[path[-1]] >= 0:
        path.append(parents[path[-1]])
    return tuple(reversed(path))
