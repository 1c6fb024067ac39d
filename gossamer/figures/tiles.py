"""Rows drawn as what they are: one picture or one wave in a given place, and how its values become gray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

__all__ = ["Limits", "Scale", "draw_picture", "limits", "milliseconds", "require_rate", "require_scale"]

Scale = Literal["symmetric", "range", "shared"]
"""Which values are black and white: of each atom minus and plus its largest magnitude, its least and its largest value,
or minus and plus the largest magnitude of all atoms drawn."""

Limits = tuple[float, float]


def require_scale(scale: str, known: Sequence[str]) -> None:
    """Raise ValueError unless the scale is a known one."""
    if scale not in known:
        raise ValueError(f"scale: expected one of {', '.join(map(repr, known))}, got {scale!r}")


def require_rate(rate: float) -> float:
    """Return a sampling rate in samples per second; raises ValueError unless it is positive."""
    if not (np.isfinite(rate) and rate > 0):
        raise ValueError(f"rate: expected samples per second, more than 0; got {rate}")
    return float(rate)


def limits(values: np.ndarray, scale: Scale) -> Limits:
    """Return the values that are drawn black and white; never equal."""
    if scale == "range":
        low, high = float(values.min()), float(values.max())
        return (low, high) if high > low else (low - 0.5, high + 0.5)
    largest = float(np.abs(values).max()) or 1.0
    return -largest, largest


def draw_picture(
    axes: Axes, row: np.ndarray, shape: tuple[int, ...], span: Limits, *, corner: tuple[float, float] = (0, 0)
) -> AxesImage:
    """Draw a row as gray or color pixels; corner: of its upper left, in pixels, y downward."""
    low, high = span
    picture = row.reshape(shape)
    if len(shape) == 3:
        picture = np.clip((picture - low) / (high - low), 0, 1)
    left, top = corner
    extent = (left, left + shape[1], top + shape[0], top)
    return axes.imshow(picture, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="nearest")


def milliseconds(length: int, rate: float) -> np.ndarray:
    """Return when each sample was taken, in ms from the first."""
    return 1000 * np.arange(length) / rate
