"""compress, decompress, inspect: rows to a `.gsm` file and back, a block at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.codec.blocks import BlockCodec
from gossamer.codec.container import LARGEST_BLOCK, CodecError, Header, Reader, Writer
from gossamer.codec.fitting import refitted
from gossamer.codec.quantizer import linear_decoder, model_hash, prediction, require_codec
from gossamer.codec.rate import TARGETS, Sample, Steps, Target, find_steps
from gossamer.codec.reading import Reading
from gossamer.codec.rows import OpenedRows, Rows
from gossamer.codes import SparseCodes
from gossamer.evaluate.codec import Distortion, bits_per_entry
from gossamer.sources.frames import Frames
from gossamer.sources.patches import Patches
from gossamer.storage import replace_file

__all__ = ["Contents", "Report", "compress", "decompress", "decompress_blocks", "inspect", "reading_of"]

BLOCK = 4096
FRAME = 39
"""Bytes of a file besides the header's text and the blocks."""

CORRECTIONS = 2


@dataclass(frozen=True)
class Report:
    """What compression gave, measured on all rows as decoding gives them back.

    bytes: of the whole file; bits: 8 · bytes / entries; ratio: bytes of the rows in memory / bytes of the file.
    psnr, snr: decibels; prd: percent; max_error: the largest |x − x̂|.
    step, residual: of codes and residual, in the units of the rows. seconds: in all.
    """

    rows: int
    width: int
    bytes: int
    bits: float
    ratio: float
    psnr: float
    snr: float
    prd: float
    max_error: float
    step: float
    residual: float
    seconds: float

    @property
    def lossless(self) -> bool:
        """Whether decoding gives the rows back exactly."""
        return self.max_error == 0 or not self.rows

    def __str__(self) -> str:
        quality = f"PSNR {self.psnr:.2f} dB, PRD {self.prd:.2f} %, SNR {self.snr:.2f} dB"
        quality = "lossless" if self.lossless else f"{quality}, largest error {self.max_error:g}"
        return (
            f"{self.rows:,} rows × {self.width} in {self.bytes:,} bytes: {self.bits:.3f} bits per entry, ratio "
            f"{self.ratio:.2f}; {quality}; step {self.step:.4g}; {self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class Contents:
    """What a file holds: its header, and rows, blocks and bytes as found."""

    header: Header
    rows: int
    blocks: int
    bytes: int


def compress(
    rows: Rows,
    sae: SparseAutoencoder,
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
    peak: float | None = None,
    values: Literal["refitted", "encoded"] = "refitted",
    layout: Patches | Frames | None = None,
    unit: float = 1.0,
    rate: int | None = None,
    block: int = BLOCK,
) -> Report:
    """Write rows as a `.gsm` file and return what that gave.

    rows: `(rows, input_width)` array or tensor of real numbers, mapped from a file or not; or an iterable of such
    arrays of one type, which is read once. sae: the autoencoder that decoding will need.

    One of step (of the quantized codes, in units of the rows), bits (per entry), psnr, snr (decibels), prd (percent) or
    ratio says how much to keep. residual: code what the codes miss, too: without one of them, whole numbers come back
    exactly. max_error: with a residual, no entry is further off than this. peak: of PSNR. values: of the active
    latents, fitted to the row again by least squares, or as the encoder gave them; only linear decoders have the
    choice. layout: that the autoencoder was trained with; rows is then one picture or signal, and decompress gives it
    back. unit: what its numbers were divided by, 255 for pictures of uint8. rate: of a signal, to be kept. block: the
    most rows of a block; memory is needed for one block and for a sample of 4096 rows.

    A target is met on the sample; the report says what all rows gave. Raises ValueError for rows that do not fit, and
    for a target that cannot be reached, with how far away the best is; StorageError if the file cannot be written.
    """
    began = time.perf_counter()
    given = {"step": step, "bits": bits, "psnr": psnr, "prd": prd, "ratio": ratio, "snr": snr}
    target = _target(given)
    if not 1 <= block <= LARGEST_BLOCK:
        raise ValueError(f"a block has 1 to {LARGEST_BLOCK} rows, got {block}")
    if max_error is not None and not 0 <= max_error < math.inf:
        raise ValueError(f"max_error must be 0 or more, got {max_error}")
    require_codec(sae)
    reading, share = Reading(unit=float(unit)), 1.0
    if layout is not None:
        content = np.asarray(rows)
        reading = Reading(layout, content.shape, float(unit), rate)
        rows = reading.split(content)
        share = content.size / rows.size
    opened = OpenedRows(rows, sae.spec.input_width)
    job = _Job(sae, opened, reading=reading, share=share, block=block, peak=peak, values=values)
    job.check(target, residual=residual, max_error=max_error)
    with_residual = residual or max_error is not None
    written = job.write(out, target, residual=with_residual, max_error=max_error)
    return written.report(time.perf_counter() - began)


def decompress(path: str | Path, sae: SparseAutoencoder) -> np.ndarray:
    """Return the rows of a `.gsm` file, `(rows, width)` in the type that they had, or the picture or signal they make.

    Raises CodecError if the file is damaged, or was written with another autoencoder.
    """
    with _opened(path) as reader:
        header = reader.header
        blocks = list(_decoded(reader, sae))
        rows = np.concatenate(blocks) if blocks else np.zeros((0, header.width), header.dtype)
        reading = reading_of(header)
        if reading.layout is not None and math.prod(reading.shape) > rows.size:
            raise CodecError(f"{len(rows):,} rows do not make {' × '.join(map(str, reading.shape))} numbers")
        try:
            return reading.join(rows)
        except ValueError as error:
            raise CodecError(f"its rows do not make what its header says: {error}") from error


def decompress_blocks(path: str | Path, sae: SparseAutoencoder) -> Iterator[np.ndarray]:
    """Iterate over the rows of a `.gsm` file a block at a time, in memory for one block; a layout is not undone.

    Raises CodecError as `decompress` does; for damage near the end only once the blocks before it were given.
    """
    with _opened(path) as reader:
        yield from _decoded(reader, sae)


def inspect(path: str | Path) -> Contents:
    """Check a `.gsm` file from front to back without an autoencoder and say what is in it.

    Raises CodecError if it is damaged.
    """
    with _opened(path) as reader:
        sections = [section.rows for section in reader.sections() if section.is_block]
        return Contents(reader.header, sum(sections), len(sections), reader.bytes)


@contextmanager
def _opened(path: str | Path) -> Iterator[Reader]:
    """Open a file, and let every CodecError name it."""
    with open(path, "rb") as file:
        try:
            yield Reader(file)
        except CodecError as error:
            raise CodecError(f"{path}: {error}") from error


def _decoded(reader: Reader, sae: SparseAutoencoder) -> Iterator[np.ndarray]:
    header = reader.header
    require_codec(sae)
    reading = reading_of(header)
    if header.model != model_hash(sae):
        raise CodecError(
            f"it was written with another autoencoder (of {header.width} → {header.latents}, hash {header.model}) than "
            f"the one given ({sae.spec.input_width} → {sae.spec.latents}, hash {model_hash(sae)})"
        )
    if (header.width, header.latents) != (sae.spec.input_width, sae.spec.latents):
        raise CodecError(f"its header is damaged: {header.width} → {header.latents} is not what its autoencoder has")
    codec = BlockCodec(
        prediction(sae, step=header.step, reading=reading), np.dtype(header.dtype), residual=header.residual
    )
    for number, section in enumerate(reader.sections()):
        if not section.is_block:
            continue
        try:
            yield codec.decode(section.payload, section.rows)
        except (ValueError, AssertionError, IndexError, OverflowError) as error:
            raise CodecError(f"section {number} cannot be decoded: {error}") from error


def reading_of(header: Header) -> Reading:
    """Return how the rows of a file belong together; raises CodecError if its header does not say it."""
    try:
        return Reading.from_dict(header.layout)
    except (ValueError, TypeError) as error:
        raise CodecError(str(error)) from error


@dataclass(frozen=True)
class _Written:
    """A file that was written."""

    header: Header
    bytes: int
    distortion: Distortion
    raw: int

    def report(self, seconds: float) -> Report:
        score = self.distortion.score()
        return Report(
            rows=score.rows,
            width=self.header.width,
            bytes=self.bytes,
            bits=bits_per_entry(self.bytes, self.raw // np.dtype(self.header.dtype).itemsize),
            ratio=self.raw / self.bytes,
            psnr=score.psnr,
            snr=score.snr,
            prd=score.prd,
            max_error=score.max_error,
            step=self.header.step,
            residual=self.header.residual,
            seconds=seconds,
        )


class _Job:
    """Rows on their way into a file."""

    def __init__(
        self,
        sae: SparseAutoencoder,
        rows: OpenedRows,
        *,
        reading: Reading,
        share: float,
        block: int,
        peak: float | None,
        values: str,
    ) -> None:
        if values not in ("refitted", "encoded"):
            raise ValueError(f"values are 'refitted' or 'encoded', got {values!r}")
        self._sae, self._rows, self._block, self._peak = sae, rows, block, peak
        self._reading, self._share = reading, share
        fitted = values == "refitted" and sae.spec.decoder.linear
        self._linear = reading.extend(linear_decoder(sae)) if fitted else None
        self._model = model_hash(sae)

    def check(self, target: Target | None, *, residual: bool, max_error: float | None) -> None:
        """Raise ValueError for knobs that contradict each other or the type of the rows."""
        whole = np.issubdtype(self._rows.dtype, np.integer)
        if max_error == 0 and not whole:
            raise ValueError("max_error = 0 keeps numbers exactly, which is for whole ones; floats need one above 0")
        seeks = target is not None and target.name != "step"
        if not residual and max_error is None:
            if target is None:
                raise ValueError(f"say how much to keep: one of {', '.join(TARGETS)}, or residual=True")
            return
        if max_error is not None and seeks:
            raise ValueError(f"max_error already says how much to keep; leave out {target}")
        if not whole and max_error is None and not seeks:
            raise ValueError("floats come back with an error: give max_error or a target with residual=True")

    def write(self, out: str | Path, target: Target | None, *, residual: bool, max_error: float | None) -> _Written:
        """Find the steps on a sample and write all rows; where they can be read again, correct what the sample got
        wrong.
        """
        found = self._rows.sample()
        if not len(found):
            return self._written(Path(out), Steps(1.0), max_error)
        count = self._rows.rows
        overhead = (len(self._header(Steps(1 / 3)).to_json()) + FRAME) * (len(found) / (count or len(found)))
        sample = Sample(
            self._sae,
            found,
            self._encode,
            block=self._block,
            overhead=overhead,
            share=self._share,
            reading=self._reading,
            peak=self._peak,
        )
        written = self._written(
            Path(out), find_steps(sample, target, residual=residual, max_error=max_error), max_error
        )
        wanted = target
        for _ in range(CORRECTIONS if count is not None and count > len(found) else 0):
            if target is None or wanted is None or target.name == "step":
                break
            value = target.reached(written.bytes, written.raw, self._rows.dtype.itemsize, written.distortion.score())
            if target.is_met_by(value):
                break
            wanted = wanted.corrected(target, value)
            steps = find_steps(sample, wanted, residual=residual, max_error=max_error)
            written = self._written(Path(out), steps, max_error)
        return written

    def _header(self, steps: Steps) -> Header:
        return Header(
            rows=self._rows.rows,
            width=self._rows.width,
            dtype=self._rows.dtype.name,
            model=self._model,
            latents=self._sae.spec.latents,
            step=steps.step,
            residual=steps.residual,
            block=self._block,
            layout=self._reading.to_dict(),
        )

    def _encode(self, x: np.ndarray) -> SparseCodes:
        codes = self._reading.encode(self._sae, x)
        return codes if self._linear is None else refitted(codes, x, *self._linear)

    def _written(self, out: Path, steps: Steps, max_error: float | None) -> _Written:
        header = self._header(steps)
        distortion = Distortion(peak=self._peak)
        predicted = prediction(self._sae, step=steps.step, reading=self._reading)
        size = 0

        def write(temporary: Path) -> None:
            nonlocal size
            with open(temporary, "wb") as file:
                writer = Writer(file, header)
                codec = BlockCodec(predicted, self._rows.dtype, residual=steps.residual)
                for x in self._rows.blocks(self._block):
                    encoded = codec.encode(x, self._encode(x))
                    distortion.update(x, encoded.rows)
                    _require_bound(distortion, max_error)
                    writer.block(encoded.payload, rows=len(x))
                writer.end()
                size = writer.bytes

        replace_file(out, write)
        return _Written(
            header, size, distortion, round(distortion.score().entries * self._share) * self._rows.dtype.itemsize
        )


def _target(given: dict[str, float | None]) -> Target | None:
    found = [Target(name, float(value)) for name, value in given.items() if value is not None]
    if len(found) > 1:
        raise ValueError(f"give one of {', '.join(TARGETS)}; got {' and '.join(map(str, found))}")
    for target in found:
        if not math.isfinite(target.value) or (target.value <= 0 and target.name not in ("psnr", "snr")):
            raise ValueError(f"{target} is not a number above 0")
    return found[0] if found else None


def _require_bound(distortion: Distortion, max_error: float | None) -> None:
    found = distortion.score().max_error
    if max_error is not None and found > max_error:
        raise ValueError(
            f"max_error = {max_error:g} cannot be kept: an entry would be off by {found:g}, because numbers of this "
            "type and size are that far apart"
        )
