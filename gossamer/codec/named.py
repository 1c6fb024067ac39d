"""Files for the command line: rows, pictures and sounds to .gsm and back, with a model that is named by its folder.

Rows are streamed; a picture or a sound is in memory whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.files import SPEC, load
from gossamer.codec.files import Report, compress, decompress, decompress_blocks, inspect, reading_of
from gossamer.codec.media import Content, denoised, read_content, require_writable, run_layout, run_rate, write_content
from gossamer.sources.arrays import read_npy
from gossamer.sources.frames import Frames
from gossamer.sources.patches import Patches
from gossamer.storage import replace_file
from gossamer.training.run import Run

__all__ = ["compress_file", "decompress_file", "denoise_file", "open_model"]


def open_model(folder: str | Path) -> SparseAutoencoder:
    """Return the autoencoder of a run, or of a folder that `gs.save` wrote.

    Raises ValueError if there is none, or if the run has several.
    """
    folder = Path(folder)
    return load(folder) if (folder / SPEC).is_file() else Run.open(folder).autoencoder


def compress_file(
    file: str | Path,
    model: str | Path,
    out: str | Path,
    *,
    step: float | None = None,
    bits: float | None = None,
    psnr: float | None = None,
    prd: float | None = None,
    ratio: float | None = None,
    snr: float | None = None,
    residual: bool = False,
    max_error: float | None = None,
) -> Report:
    """Compress a file; the numbers are those of `compress`.

    A .npy file holds rows, and is mapped and never read whole; another one a picture or a sound, which is cut as the
    run cut those it was trained on, but without overlap.

    Raises ValueError if the rows are not as wide as the autoencoder's, or the run was trained on something else.
    """
    if Path(out).resolve() == Path(file).resolve():
        raise ValueError(f"{out} is the input itself; choose another name")
    given = _content(Path(file), model)
    return compress(
        given.array,
        open_model(model),
        out,
        layout=given.layout,
        unit=given.unit,
        rate=given.rate,
        step=step,
        bits=bits,
        psnr=psnr,
        prd=prd,
        ratio=ratio,
        snr=snr,
        residual=residual,
        max_error=max_error,
    )


def decompress_file(file: str | Path, model: str | Path, out: str | Path) -> str:
    """Write what a .gsm file holds, rows as .npy, a block at a time; return a sentence that says what was written.

    The file is checked from front to back first, so that a damaged one writes nothing. Raises CodecError as
    `decompress` does.
    """
    contents = inspect(file)
    header = contents.header
    reading = reading_of(header)
    if Path(out).resolve() == Path(file).resolve():
        raise ValueError(f"{out} is the input itself; choose another name")
    if reading.layout is None and Path(out).suffix.lower() != ".npy":
        raise ValueError(f"{file} holds rows; give a name that ends in .npy, not {out}")
    if reading.layout is not None:
        array = decompress(file, open_model(model))
        write_content(Content(array, rate=reading.rate), out)
        return f"{' × '.join(map(str, array.shape))} of {array.dtype} in {out}"
    blocks = decompress_blocks(file, open_model(model))

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as target:
            shape = {"descr": npy_format.dtype_to_descr(np.dtype(header.dtype)), "fortran_order": False}
            npy_format.write_array_header_1_0(target, {**shape, "shape": (contents.rows, header.width)})
            for block in blocks:
                target.write(np.ascontiguousarray(block).tobytes())

    replace_file(Path(out), write)
    return f"{contents.rows:,} rows × {header.width} of {header.dtype} in {out}"


def denoise_file(file: str | Path, model: str | Path, out: str | Path) -> str:
    """Write what a run's autoencoder makes of a picture or a sound; return a sentence that says what was written.

    Raises ValueError if the run was trained on something else.
    """
    layout, rate = _required_layout(model), run_rate(model)
    content = read_content(file)
    _require_kind(content, layout, file)
    if None not in (content.rate, rate) and content.rate != rate:
        raise ValueError(f"{file} has {content.rate:,} samples per second, and those of the run {rate:,}; resample it")
    require_writable(content, out)
    clean = denoised(content, open_model(model), layout)
    write_content(clean, out)
    change = np.square(clean.array.astype(np.float64) - content.array.astype(np.float64)).mean() ** 0.5
    size = " × ".join(map(str, clean.array.shape))
    return f"{size} in {out}; the root mean square of what was taken away is {change:.4g}"


@dataclass(frozen=True, eq=False)
class _Given:
    array: np.ndarray
    unit: float = 1.0
    rate: int | None = None
    layout: Patches | Frames | None = None


def _content(file: Path, model: str | Path) -> _Given:
    """Return the rows of a .npy file, or a picture or sound and how to cut it."""
    if file.suffix.lower() != ".npy":
        layout = _required_layout(model)
        layout = layout.replace(stride=None) if isinstance(layout, Patches) else layout.replace(hop=None, window="none")
        content = read_content(file)
        _require_kind(content, layout, file)
        return _Given(content.array, content.unit, content.rate, layout)
    return _Given(read_npy(file))


def _require_kind(content: Content, layout: Patches | Frames, file: str | Path) -> None:
    sound, trained_on_sound = content.array.ndim == 1, isinstance(layout, Frames)
    if sound != trained_on_sound:
        kinds = ("a picture", "a sound")
        raise ValueError(f"{file} is {kinds[sound]}, and the run was trained on {kinds[trained_on_sound][2:]}s")


def _required_layout(model: str | Path) -> Patches | Frames:
    layout = run_layout(model)
    if layout is None:
        raise ValueError(f"{model} was trained on rows, not on pictures or sounds; give a .npy file of rows")
    return layout
