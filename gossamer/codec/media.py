"""Pictures and sounds: files to arrays and back, and what a run's layout makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.sources.frames import Frames
from gossamer.sources.images import ImagesSpec, read_images
from gossamer.sources.patches import Patches
from gossamer.sources.signal_files import read_signal
from gossamer.sources.signals import SignalsSpec
from gossamer.storage import replace_file
from gossamer.training.run import RunSpec

__all__ = ["Content", "denoised", "read_content", "run_layout", "write_content"]

PICTURES = (".png", ".bmp", ".tif", ".tiff")
"""Kinds of files that keep every pixel."""
SOUNDS = (".wav",)
CHUNK = 8192


@dataclass(frozen=True, eq=False)
class Content:
    """One picture, `(height, width[, channels])`, or one signal, `(samples,)`, in the numbers of its file.

    unit: what the numbers are divided by before they are coded, 255 for pictures of uint8. rate: samples per second.
    """

    array: np.ndarray
    unit: float = 1.0
    rate: int | None = None


def read_content(path: str | Path) -> Content:
    """Read one picture or signal; raises ValueError, naming the file, for what is damaged or of another kind."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in SOUNDS:
        recording = read_signal(path)
        if recording.samples.shape[1] != 1:
            raise ValueError(f"{path} has {recording.samples.shape[1]} channels; give a file with one")
        return Content(recording.samples[:, 0], _unit(recording.samples.dtype, signed=True), recording.rate)
    if suffix == ".npy":
        array = np.load(path, allow_pickle=False)
        return Content(array, _unit(array.dtype, signed=array.ndim == 1))
    picture = read_images(path)[0]
    return Content(picture[..., 0] if picture.shape[-1] == 1 else picture, _unit(picture.dtype, signed=False))


def write_content(content: Content, path: str | Path) -> None:
    """Write a picture or signal as .npy, .wav, or a picture format that keeps every pixel, by the name's ending.

    Raises ValueError for another ending, or for a .wav without a rate.
    """
    path, array = Path(path), content.array
    suffix = path.suffix.lower()
    if suffix == ".npy":
        replace_file(path, lambda place: _save(place, array))
    elif suffix in SOUNDS and array.ndim == 1:
        if content.rate is None:
            raise ValueError(f"{path}: the sampling rate is not known; write a .npy file instead")
        from scipy.io import wavfile

        rate = content.rate
        replace_file(path, lambda place: wavfile.write(place, rate, array))
    elif suffix in PICTURES and array.ndim > 1:
        from PIL import Image

        picture = Image.fromarray(array)
        replace_file(path, lambda place: picture.save(place, format=Image.registered_extensions()[suffix]))
    else:
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
    rows, side = layout.normalize(layout.split(array.astype(np.float32) / np.float32(content.unit)))
    back = [
        sae(torch.from_numpy(rows[start : start + CHUNK]).to(sae.device)).reconstruction.cpu().numpy()
        for start in range(0, len(rows), CHUNK)
    ]
    pieces = layout.restore(np.concatenate(back), side)
    clean = layout.join(pieces, len(array)) if isinstance(layout, Frames) else layout.join(pieces, array.shape)
    clean = clean * content.unit
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        clean = np.clip(np.rint(clean), limits.min, limits.max)
    return Content(clean.astype(array.dtype), content.unit, content.rate)


def _unit(dtype: np.dtype, *, signed: bool) -> float:
    """Return what sources divide whole numbers by: 255, 65535 for pictures, 32768 for 16-bit sound."""
    if dtype.kind not in "iu":
        return 1.0
    return float(2 ** (8 * dtype.itemsize - 1)) if signed else float(np.iinfo(dtype).max)


def _save(place: Path, array: np.ndarray) -> None:
    with open(place, "wb") as file:
        np.save(file, array, allow_pickle=False)
