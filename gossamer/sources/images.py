"""Images: rows of pictures, whole or in patches, from image files, .npy and IDX files, or arrays.

How a picture is cut and put together again is `patches`. Pillow is needed for image files alone.
"""

from __future__ import annotations

import gzip
import importlib.util
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Final, Literal, TypeAlias

import numpy as np

from gossamer.sources.arrays import read_npy
from gossamer.sources.laid_out import Items, LaidOut, Piece, counted, found_files
from gossamer.sources.patches import Patches
from gossamer.sources.source import SourceSpec

__all__ = ["Images", "ImagesSpec", "read_idx", "read_images", "scaled_pictures", "white"]

Pictures: TypeAlias = "np.ndarray | str | Path | Sequence[np.ndarray] | Sequence[str | Path]"

PICTURES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm")
IDX: Final = re.compile(r"(?:[-.]idx(?P<dimensions>\d)?(?:-ubyte)?)(?:\.gz)?$")
"""How names of IDX files end, such as train-images-idx3-ubyte.gz; labels have one dimension and say so."""

GRAY: Final = {mode: mode for mode in ("1", "L", "I", "F", "I;16", "I;16L", "I;16B")} | {"LA": "L", "La": "L"}
"""Pillow's modes of one channel, and what each is read as; all others are read as RGB."""

IDX_TYPES: Final = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class Images(LaidOut[Patches]):
    """Rows of pictures: each picture whole, if all have one size, or patches of it.

    images: files, folders and globs (image files, .npy, IDX; the first picture of a file with several pages), or an
    array `(pictures, height, width[, channels])`, or a list of arrays `(height, width[, channels])`. A lone array
    of two dimensions, or of three of which the last is 3 or 4, is one picture. patches: how they are cut.
    random: if given, this many patches at random places of each picture, from `seed`, in place of the grid.
    on_error: "skip" leaves out what cannot be read and names it. validation: share of pictures held out.

    Numbers of type uint8 and uint16 are divided by 255 and 65535, others stay as they are.

    To whiten rows (ZCA), train with scaling = "whitening": it measures C^(−½) and the autoencoder keeps it.

    Raises ValueError, naming the file, for what does not exist, is damaged, has the wrong channels or holds NaN; for
    whole pictures of several sizes; where nothing is left; and if Pillow is missing.
    """

    kind = "images"
    noun = "picture"
    one_shape = (
        "give patches a size, or make all pictures one size first; channels = 'gray' or 'rgb' makes channels the same"
    )

    def __init__(
        self,
        images: Pictures,
        *,
        patches: Patches | None = None,
        random: int | None = None,
        seed: int = 0,
        on_error: Literal["raise", "skip"] = "raise",
        validation: float = 0.05,
        buffer_rows: int = 65_536,
    ) -> None:
        patches = patches or Patches()
        if random is not None and (random < 1 or patches.size is None):
            raise ValueError(f"random = {random} patches per picture: it is at least 1, and patches need a size")
        self.random = random
        cut = partial(_cut, patches=patches, random=random, seed=seed)
        super().__init__(
            _items(images, cut), layout=patches, on_error=on_error, validation=validation, buffer_rows=buffer_rows
        )

    def rebuilt(self, document: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Return one picture, `(height, width, channels)`, from its rows or from reconstructions of them.

        Raises ValueError if its patches are random.
        """
        if self.random is not None:
            raise ValueError("patches at random places do not cover the picture: read it without `random`")
        return self.layout.join(self.restored(document, rows), (*self.shapes[document][:2], self.row_shape[2]))

    def describe(self) -> dict[str, str]:
        """Return which pictures are read and how they are cut, how many rows that gives, and what was left out."""
        size, stride = self.layout.size, self.layout.stride or self.layout.size
        shape = "×".join(map(str, self.row_shape))
        place = f"{self.random} at random places of each" if self.random else f"every {stride} pixels"
        cut = f"whole, {shape}" if size is None else f"patches of {shape}, {place}"
        read = f"{counted(len(self.shapes), 'picture')}, {cut}"
        return {"images": read} | super().describe()


@dataclass(frozen=True, kw_only=True)
class ImagesSpec(SourceSpec):
    """Rows of pictures in files; the fields are those of `Images`, with paths in place of images."""

    kind: ClassVar[str] = "images"
    paths: tuple[str, ...]
    patches: Patches = Patches()
    random: int | None = None
    seed: int = 0
    on_error: Literal["raise", "skip"] = "raise"
    validation: float = 0.05
    buffer_rows: int = 65_536

    def build(self, *, device: str = "cpu") -> Images:
        """Read the pictures; rows stay on the CPU until they are used."""
        return Images(
            list(self.paths),
            patches=self.patches,
            random=self.random,
            seed=self.seed,
            on_error=self.on_error,
            validation=self.validation,
            buffer_rows=self.buffer_rows,
        )


def read_images(path: Path) -> np.ndarray:
    """Read the pictures of one file: `(pictures, height, width, channels)` in the file's own numbers.

    Pictures of a palette become rgb, transparency is dropped, and a camera's turn is undone. Raises ValueError, naming
    the file, if it is damaged or holds no pictures.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        return _stacked(read_npy(path), str(path))
    if not _needs_pillow(path):
        return _stacked(read_idx(path), str(path))
    return _with_channels(_picture(path)[None], str(path))


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file, gzipped or not, of pictures or of labels: an array of the shape that it states.

    Source: LeCun, Cortes & Burges 1998, the format of MNIST. Raises ValueError, naming the file, if it is no such
    file, or holds more or fewer bytes than it states.
    """
    data = Path(path).read_bytes()
    try:
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip data ({error})") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in IDX_TYPES or not data[3]:
        raise ValueError(f"{path}: no IDX file: it does not begin with 0, 0, a known type and a number of dimensions")
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise ValueError(f"{path}: cut off within its header")
    shape = struct.unpack(f">{data[3]}I", data[4:start])
    kind = np.dtype(IDX_TYPES[data[2]])
    stated = int(np.prod([int(n) for n in shape], dtype=object)) * kind.itemsize
    if len(data) - start != stated:
        raise ValueError(f"{path}: states {stated:,} bytes of numbers and holds {len(data) - start:,}")
    return np.frombuffer(data, kind, offset=start).reshape(shape).astype(kind.newbyteorder("="))


def _items(images: Pictures, cut: Callable[[str, Callable[[], np.ndarray], int], Piece]) -> Items:
    """List the files or arrays to read."""
    if isinstance(images, np.ndarray):
        return Items([("the array", partial(cut, "the array", partial(_stacked, images, "the array")))])
    given = [images] if isinstance(images, str | Path) else list(images)
    if given and not any(isinstance(image, str | Path) for image in given):
        arrays = [(f"picture {number}", np.asarray(image)) for number, image in enumerate(given)]
        return Items([(name, partial(cut, name, partial(_with_channels, x[None], name))) for name, x in arrays])
    found = found_files([str(path) for path in given], _is_images)
    if any(_needs_pillow(path) for path in found.files) and importlib.util.find_spec("PIL") is None:
        raise ValueError("reading image files needs pillow: pip install 'gossamer[data]'")
    return Items([(str(p), partial(cut, str(p), partial(read_images, p))) for p in found.files], found.passed_over)


def _cut(
    name: str, read: Callable[[], np.ndarray], first: int, *, patches: Patches, random: int | None, seed: int
) -> Piece:
    """Read and cut pictures of one size `(pictures, height, width, channels)`; `first` is the number of the first."""
    images = read()
    size, shape = patches.size, images.shape[1:]
    if size is not None and min(shape[:2]) < size:
        raise ValueError(f"{name}: {shape[0]}×{shape[1]} pixels, smaller than a patch of {size}×{size}")
    numbers = scaled_pictures(images, name)
    try:
        if random is None:
            rows = patches.split_stack(numbers)
        else:
            drawn = (np.random.default_rng([seed, first + i]) for i in range(len(images)))
            rows = np.concatenate([patches.random(x, random, rng) for x, rng in zip(numbers, drawn, strict=True)])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    high, broad = (size, size) if size else shape[:2]
    row_shape = (high, broad, rows.shape[1] // (high * broad))
    return Piece(name, images, rows, row_shape, [shape] * len(images))


def scaled_pictures(images: np.ndarray, name: str) -> np.ndarray:
    """Return float32 pictures, from 0 to 1 where the type says what white is."""
    if images.dtype.kind not in "fiub":
        raise ValueError(f"{name}: expected real numbers, got {images.dtype}")
    with np.errstate(over="ignore"):  # what is too large becomes infinity, which is refused
        numbers = images.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name}: holds NaN, infinity or numbers too large for float32")
    return numbers / np.float32(white(images.dtype))


def white(dtype: np.dtype) -> float:
    """Return the number that stands for white: 255 or 65535 for unsigned types that small, else 1."""
    return float(np.iinfo(dtype).max) if dtype.kind == "u" and dtype.itemsize <= 2 else 1.0


def _stacked(images: np.ndarray, name: str) -> np.ndarray:
    """Return `(pictures, height, width, channels)` for a lone array or file, which may hold one picture or many."""
    alone = images.ndim == 2 or (images.ndim == 3 and images.shape[2] in (3, 4))
    return _with_channels(images[None] if alone else images, name)


def _with_channels(images: np.ndarray, name: str) -> np.ndarray:
    """Return `(pictures, height, width, channels)` for pictures with or without channels."""
    if images.ndim not in (3, 4) or 0 in images.shape:
        shape = f"{images.shape}, expected (pictures, height, width[, channels]) with pixels"
        raise ValueError(f"{name}: no pictures, but an array of shape {shape}")
    return images if images.ndim == 4 else images[..., None]


def _picture(path: Path) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            # Warnings about large pictures or odd metadata would reach nobody in a folder of many.
            warnings.simplefilter("ignore")
            with Image.open(path) as file:
                image = ImageOps.exif_transpose(file)
                mode = GRAY.get(image.mode, "RGB")
                return np.asarray(image if mode == image.mode else image.convert(mode))
    except Exception as error:  # whatever it is that a damaged file makes a decoder raise
        raise ValueError(f"{path}: cannot be read as a picture ({str(error) or type(error).__name__})") from error


def _needs_pillow(path: Path) -> bool:
    return path.suffix.lower() != ".npy" and not IDX.search(path.name.lower())


def _is_images(path: Path) -> bool:
    """Say whether the name is that of pictures; IDX files that state one dimension hold labels."""
    idx = IDX.search(path.name.lower())
    return idx["dimensions"] != "1" if idx else path.suffix.lower() in (*PICTURES, ".npy")
