"""Files for the command line: .npy to .gsm and back, with a model that is named by its folder. Rows are streamed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.files import SPEC, load
from gossamer.codec.files import Report, compress, decompress_blocks, inspect
from gossamer.storage import replace_file
from gossamer.training.run import Run

__all__ = ["compress_file", "decompress_file", "open_model"]


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
    """Compress the rows of a .npy file, which is mapped and never read whole; the numbers are those of `compress`.

    Raises ValueError if the file is no .npy file of rows as wide as the autoencoder's.
    """
    if Path(out).resolve() == Path(file).resolve():
        raise ValueError(f"{out} is the input itself; choose another name")
    try:
        rows = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file} is damaged or no .npy file of numbers ({error})") from error
    return compress(
        rows,
        open_model(model),
        out,
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
    """Write the rows of a .gsm file as .npy, a block at a time; return a sentence that says what was written.

    The file is checked from front to back first, so that a damaged one writes nothing. Raises CodecError as
    `decompress` does.
    """
    contents = inspect(file)
    header = contents.header
    blocks = decompress_blocks(file, open_model(model))

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as target:
            shape = {"descr": npy_format.dtype_to_descr(np.dtype(header.dtype)), "fortran_order": False}
            npy_format.write_array_header_1_0(target, {**shape, "shape": (contents.rows, header.width)})
            for block in blocks:
                target.write(np.ascontiguousarray(block).tobytes())

    replace_file(Path(out), write)
    return f"{contents.rows:,} rows × {header.width} of {header.dtype} in {out}"
