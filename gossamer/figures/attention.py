"""Attention as a picture: which tokens of the source each token of the target looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from gossamer.figures.style import INK, MUTED, RULE, empty_figure, heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["AttentionMap", "attention_map"]

AttentionMap: TypeAlias = tuple[str, np.ndarray, Sequence[str], Sequence[str]]
"""What is written above it, weights `(target length, source length)`, the source's tokens, the target's tokens."""

CELL = 0.34
"""Inches of a token."""


def attention_map(maps: Sequence[AttentionMap]) -> Figure:
    """Return a picture of some maps beside each other: rows are the target's tokens, columns the source's.

    The darker, the more of its attention a token gave; every row sums to 1. Raises ValueError for no maps, or weights
    whose shape is not that of the tokens.
    """
    if not maps:
        raise ValueError("there is no attention to draw")
    for _, weights, source, target in maps:
        if weights.shape != (len(target), len(source)):
            raise ValueError(
                f"weights of shape {weights.shape} do not fit {len(target)} target and {len(source)} source tokens"
            )
    widths = [CELL * len(source) + 1.0 for *_, source, _ in maps]
    height = CELL * max(len(target) for *_, target in maps) + 1.1
    figure = empty_figure(sum(widths), height)
    axes = figure.subplots(1, len(maps), width_ratios=widths, squeeze=False)[0]
    for place, (title, weights, source, target) in zip(axes, maps, strict=True):
        _draw(place, weights, source, target)
        heading(place, title, size=10)
    return figure


def _draw(axes: Axes, weights: np.ndarray, source: Sequence[str], target: Sequence[str]) -> None:
    axes.imshow(weights, cmap="GnBu", vmin=0, vmax=1, aspect="equal")
    for ticks, labels, tokens in (
        (axes.set_xticks, axes.set_xticklabels, source),
        (axes.set_yticks, axes.set_yticklabels, target),
    ):
        ticks(range(len(tokens)))
        labels([_shown(token) for token in tokens], color=INK, fontsize=9, parse_math=False)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(-0.5, len(source)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(target)), minor=True)
    axes.grid(which="minor", color=RULE, linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    axes.xaxis.label.set(color=MUTED)


def _shown(token: str) -> str:
    return {" ": "␣", "<end>": "■", "<start>": "▶"}.get(token, token)
