"""Patches: a picture as rows of square pieces, and back. Arrays in, arrays out; files are the business of `images`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from gossamer.sources.layouts import Layout, starts

__all__ = ["Patches"]

LUMINANCE = (0.299, 0.587, 0.114)
"""Share of red, green and blue in gray. ITU-R BT.601, what image libraries use."""


@dataclass(frozen=True, kw_only=True)
class Patches(Layout):
    """Cut pictures `(height, width)` or `(height, width, channels)` into rows of `size · size · channels` numbers.

    size: side of a square patch in pixels; None takes each picture as one row. stride: pixels from one patch to the
    next, `size` by default; smaller ones overlap. A last patch lies flush with the border, so that all pixels are
    covered. channels: "keep" those of the picture, or make it "gray" or "rgb". Pixels of a row are in the order
    (row, column, channel). normalization, epsilon: see `Layout`.
    """

    kind: ClassVar[str] = "patches"
    size: int | None = None
    stride: int | None = None
    channels: Literal["keep", "gray", "rgb"] = "keep"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is None and self.stride is not None:
            raise ValueError("stride needs a size: without one, each picture is one row")
        for name, value in (("size", self.size), ("stride", self.stride)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 pixel, got {value}")
        if self.size and self.stride and self.stride > self.size:
            raise ValueError(f"stride {self.stride} is larger than size {self.size}: pixels between would be lost")

    def split(self, image: np.ndarray) -> np.ndarray:
        """Return `(patches, size · size · channels)`, row by row over the picture, with the picture's type.

        A picture smaller than a patch is continued with its border. Raises ValueError for a picture without pixels,
        or with other than 1 or 3 channels where gray or rgb is wanted.
        """
        return self.split_stack(np.asarray(image)[None])

    def split_stack(self, images: np.ndarray) -> np.ndarray:
        """Return the patches of pictures of one size, `(pictures, height, width[, channels])`, picture by picture."""
        views = self._views(images)
        ys, xs = self._corners((images.shape[1], images.shape[2]))
        return _rows(views[:, ys[:, None], xs])

    def random(self, image: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return `count` patches at places drawn evenly from all, `(count, size · size · channels)`."""
        views = self._views(np.asarray(image)[None])[0]
        ys, xs = (rng.integers(0, extent, count) for extent in views.shape[:2])
        return _rows(views[ys, xs])

    def join(self, rows: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Return the picture of a shape `(height, width[, channels])`; where patches overlap, their mean.

        rows: what `split` gave, or as many others; whole numbers are rounded to whole numbers. `join(split(x))`
        is x, exactly, for whole numbers and float32. Raises ValueError if the rows do not make this shape.
        """
        height, width = shape[:2]
        ys, xs = self._corners((height, width))
        tall, wide = self._extents((height, width))
        high, broad = (self.size, self.size) if self.size else (height, width)
        depth = shape[2] if len(shape) == 3 else 1
        if rows.shape != (len(ys) * len(xs), high * broad * depth):
            raise ValueError(
                f"rows of shape {rows.shape} do not make a picture of shape {tuple(shape)}: expected "
                f"{len(ys) * len(xs)} patches of {high}×{broad}×{depth} numbers"
            )
        pieces = rows.reshape(len(ys), len(xs), high, broad, depth)
        total = np.zeros((tall, wide, depth))
        cover = np.zeros((tall, wide, 1))
        for y in range(high):
            for x in range(broad):
                where = np.ix_(ys + y, xs + x)
                total[where] += pieces[:, :, y, x]
                cover[where] += 1
        total /= cover
        image = (np.rint(total) if rows.dtype.kind in "iub" else total)[:height, :width].astype(rows.dtype)
        return image if len(shape) == 3 else image[..., 0]

    def count(self, shape: Sequence[int]) -> int:
        """Return how many patches cover a picture of a shape `(height, width[, channels])`."""
        ys, xs = self._corners((shape[0], shape[1]))
        return len(ys) * len(xs)

    def _views(self, images: np.ndarray) -> np.ndarray:
        """Return every possible patch without a copy: `(pictures, rows, columns, channels, size, size)`."""
        images = _converted(images, self.channels)
        pads = [
            extent - given for extent, given in zip(self._extents(images.shape[1:3]), images.shape[1:3], strict=True)
        ]
        if any(pads):
            images = np.pad(images, ((0, 0), (0, pads[0]), (0, pads[1]), (0, 0)), mode="edge")
        size = (self.size, self.size) if self.size else images.shape[1:3]
        return sliding_window_view(images, size, axis=(1, 2))

    def _extents(self, shape: Sequence[int]) -> tuple[int, int]:
        return max(shape[0], self.size or 0), max(shape[1], self.size or 0)

    def _corners(self, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        if self.size is None:
            return np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
        step = self.stride or self.size
        tall, wide = self._extents(shape)
        return starts(tall, self.size, step), starts(wide, self.size, step)


def _rows(views: np.ndarray) -> np.ndarray:
    """Order `(…, channels, size, size)` as rows of (row, column, channel)."""
    pieces = np.moveaxis(views, -3, -1)
    return np.ascontiguousarray(pieces).reshape(-1, int(np.prod(pieces.shape[-3:])))


def _converted(images: np.ndarray, channels: str) -> np.ndarray:
    """Return `(pictures, height, width, channels)` with the channels that are wanted, in the type of the pictures."""
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise ValueError(f"expected a picture (height, width[, channels]) with pixels, got shape {images.shape[1:]}")
    images = images if images.ndim == 4 else images[..., None]
    given, wanted = images.shape[3], {"gray": 1, "rgb": 3}.get(channels, images.shape[3])
    if given == wanted:
        return images
    if {given, wanted} != {1, 3}:
        raise ValueError(f"a picture with {given} channels cannot be made {channels}: expected 1 (gray) or 3 (rgb)")
    if wanted == 3:
        return np.repeat(images, 3, axis=3)
    gray = images @ np.array(LUMINANCE)
    return (np.rint(gray) if images.dtype.kind in "iub" else gray).astype(images.dtype)[..., None]
