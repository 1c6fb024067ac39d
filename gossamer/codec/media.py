"""Pictures and sounds: files to arrays and back, and what a run's layout makes of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.sources.arrays import read_npy
from gossamer.sources.frames import Frames
from gossamer.sources.images import ImagesSpec, read_images, scaled_pictures, white
from gossamer.sources.patches import Patches
from gossamer.sources.signal_files import AUDIO, TABLES, read_signal
from gossamer.sources.signals import SignalsSpec, audio_range, float_samples
from gossamer.storage import replace_file
from gossamer.training.run import RunSpec

__all__ = ["Content", "denoised", "read_content", "require_writable", "run_layout", "run_rate", "write_content"]

PICTURES = (".png", ".bmp", ".tif", ".tiff")
"""Kinds of files that keep every pixel."""
SOUNDS = (".wav",)
CHUNK = 8192
HALF = 0.5
"""From here on a pixel of a picture of two colors is white."""


@dataclass(frozen=True, eq=False)
class Content:
    """One picture, `(height, width[, channels])`, or one signal, `(samples,)`, in the numbers of its file.

    zero, unit: of these numbers, as the sources have it: an autoencoder sees (number − zero) / unit; unit is 255 for
    pictures of uint8. rate: samples per second.
    """

    array: np.ndarray
    zero: float = 0.0
    unit: float = 1.0
    rate: int | None = None


def read_content(path: str | Path) -> Content:
    """Read one picture or signal; raises ValueError, naming the file, for what is damaged, not finite, or of another
    kind."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in SOUNDS:
        recording = read_signal(path)
        if recording.samples.shape[1] != 1:
            raise ValueError(f"{path} has {recording.samples.shape[1]} channels; give a file with one")
        samples = recording.samples[:, 0]
        float_samples(samples, str(path), scaled=True)
        return Content(samples, *audio_range(samples.dtype), recording.rate)
    if suffix in (*AUDIO, *TABLES):
        raise ValueError(f"{path}: sounds are read from {', '.join(SOUNDS)} and .npy files here; convert it")
    array = np.array(read_npy(path)) if suffix == ".npy" else read_images(path)[0]
    if array.ndim == 1:
        float_samples(array, str(path), scaled=False)
        return Content(array)
    scaled_pictures(array, str(path))
    return Content(array[..., 0] if array.shape[-1] == 1 else array, unit=white(array.dtype))


def require_writable(content: Content, path: str | Path) -> None:
    """Raise ValueError unless `write_content` could write numbers of this type and shape."""
    _writing(content, Path(path))


def write_content(content: Content, path: str | Path) -> None:
    """Write a picture or signal as .npy, .wav, or a picture format that keeps every pixel, by the name's ending.

    Raises ValueError for another ending, for a .wav without a rate, and for numbers that a picture cannot hold.
    """
    replace_file(Path(path), _writing(content, Path(path)))


def _writing(content: Content, path: Path) -> Callable[[Path], object]:
    """Return what writes content into a file of the kind that a name ends in."""
    array, suffix = content.array, path.suffix.lower()
    if suffix == ".npy":
        return lambda place: _save(place, array)
    if suffix in SOUNDS and array.ndim == 1:
        if content.rate is None:
            raise ValueError(f"{path}: the sampling rate is not known; write a .npy file instead")
        from scipy.io import wavfile

        rate = content.rate
        return lambda place: wavfile.write(place, rate, array)
    if suffix in PICTURES and array.ndim > 1:
        from PIL import Image

        Image.init()
        kind = Image.EXTENSION[suffix]
        encoded = io.BytesIO()
        try:
            Image.fromarray(array).save(encoded, format=kind)
        except (TypeError, OSError) as error:
            raise ValueError(f"{path} cannot hold {array.dtype} numbers ({error}); write a .npy file") from error
        return lambda place: place.write_bytes(encoded.getvalue())
    kinds = SOUNDS if array.ndim == 1 else PICTURES
    raise ValueError(f"{path}: expected a name that ends in {', '.join((*kinds, '.npy'))}")


def run_layout(folder: str | Path) -> Patches | Frames | None:
    """Return how a run cut its pictures or signals into rows; None if it read something else.

    Raises ValueError if the folder holds no run.
    """
    source = RunSpec.read(folder).source
    if isinstance(source, ImagesSpec):
        return source.patches
    return source.frames if isinstance(source, SignalsSpec) else None


def run_rate(folder: str | Path) -> int | None:
    """Return the sampling rate of the signals that a run was trained on, if it was asked for or said."""
    source = RunSpec.read(folder).source
    return (source.rate or source.file_rate) if isinstance(source, SignalsSpec) else None


@torch.no_grad()
def denoised(content: Content, sae: SparseAutoencoder, layout: Patches | Frames) -> Content:
    """Return a picture or signal made of the reconstructions of its pieces, a quarter of a piece apart, averaged.

    What few directions can say of a piece is structure; noise is spread over all of them and is mostly left out.
    Elad & Aharon 2006 (https://doi.org/10.1109/TIP.2006.881969). The numbers keep their type and range.
    """
    if isinstance(layout, Patches):
        layout = layout.replace(stride=max(1, (layout.size or 4) // 4))
    else:
        layout = layout.replace(hop=max(1, layout.length // 4))
    array = content.array
    numbers = (array.astype(np.float32) - np.float32(content.zero)) / np.float32(content.unit)
    rows, side = layout.normalize(layout.split(numbers))
    back = [
        sae(torch.from_numpy(rows[start : start + CHUNK]).to(sae.device)).reconstruction.cpu().numpy()
        for start in range(0, len(rows), CHUNK)
    ]
    pieces = layout.restore(np.concatenate(back), side)
    clean = layout.join(pieces, len(array)) if isinstance(layout, Frames) else layout.join(pieces, array.shape)
    clean = clean * content.unit + content.zero
    if array.dtype.kind == "b":
        clean = clean > HALF
    elif array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        clean = np.clip(np.rint(clean), limits.min, limits.max)
    return replace(content, array=clean.astype(array.dtype))


def _save(place: Path, array: np.ndarray) -> None:
    with open(place, "wb") as file:
        np.save(file, array, allow_pickle=False)
