"""gossamer compress, gossamer decompress and gossamer denoise."""

from __future__ import annotations

from typing import Annotated

import tyro

__all__ = ["compress", "decompress", "denoise"]


def compress(
    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")],
    *,
    model: str,
    out: Annotated[str, tyro.conf.arg(aliases=["-o"])],
    ratio: float | None = None,
    bits: float | None = None,
    psnr: float | None = None,
    prd: float | None = None,
    snr: float | None = None,
    step: float | None = None,
    residual: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    max_error: float | None = None,
) -> None:
    """Compress a file with a trained autoencoder; say how much to keep with one of the numbers below.

    Args:
        file: A .npy file of rows, or a picture or .wav file for a run that was trained on such.
        model: The folder of a run or of an autoencoder; decompressing needs the same.
        out: The .gsm file to write.
        ratio: Bytes of the rows per byte of the file.
        bits: Bits of the file per entry of the rows.
        psnr: Peak signal-to-noise ratio, in decibels.
        prd: Percent root-mean-square difference.
        snr: Signal-to-noise ratio, in decibels.
        step: Of the quantized codes, in the units of the rows.
        residual: Code what the codes miss, too. Whole numbers come back exactly unless one of the above says less.
        max_error: With a residual, no entry is further off than this.
    """
    from gossamer.codec.named import compress_file

    report = compress_file(
        file,
        model,
        out,
        ratio=ratio,
        bits=bits,
        psnr=psnr,
        prd=prd,
        snr=snr,
        step=step,
        residual=residual,
        max_error=max_error,
    )
    print(report)


def decompress(
    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.gsm")],
    *,
    model: str,
    out: Annotated[str, tyro.conf.arg(aliases=["-o"])],
) -> None:
    """Give back what a .gsm file holds.

    Args:
        file: What gossamer compress wrote.
        model: The folder of the run or autoencoder that it was written with.
        out: The file to write: .npy for rows, a picture (.png, .bmp, .tif) or .wav for what was one.
    """
    from gossamer.codec.named import decompress_file

    print(decompress_file(file, model, out))


def denoise(
    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")],
    *,
    model: str,
    out: Annotated[str, tyro.conf.arg(aliases=["-o"])],
) -> None:
    """Clean a picture or a sound: overlapping pieces of it are coded by few directions each, and averaged.

    Args:
        file: A picture or .wav file, or one of them as .npy.
        model: The folder of a run that was trained on such.
        out: The file to write, of the same kind.
    """
    from gossamer.codec.named import denoise_file

    print(denoise_file(file, model, out))
