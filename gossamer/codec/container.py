"""The bytes of a `.gsm` file: a header, sections with a length and a checksum each, and an end that counts them.

docs/compression.md is normative; a difference is a bug here. What is not as it says raises CodecError before anything
of that size is allocated.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, BinaryIO

__all__ = ["MAGIC", "VERSION", "CodecError", "Header", "Reader", "Section", "Writer"]

MAGIC = b"\x89GSM\r\n\x1a\n"
VERSION = 1
START = struct.Struct("<HI")
SECTION = struct.Struct("<BIII")
END = struct.Struct("<BQI")
BLOCK, SIDE, LAST = b"BSE"
LONGEST_HEADER = 1 << 20
LARGEST_BLOCK = 1 << 16
WIDEST = 1 << 24
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64")


class CodecError(ValueError):
    """A `.gsm` file is damaged, cut short, of another version, or belongs to another autoencoder."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says about itself.

    rows: how many there are, or None if that was not known when writing began. width: entries of a row. dtype: numpy's
    name. model: `model_hash` of the autoencoder. latents: entries of a code. step: of the quantized codes, in the units
    of the rows. residual: δ, 0 for none. block: the most rows of a block. layout: what the rows are parts of.
    """

    rows: int | None
    width: int
    dtype: str
    model: str
    latents: int
    step: float
    residual: float
    block: int
    layout: dict[str, Any]

    def to_json(self) -> bytes:
        """Return UTF-8 bytes."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Header:
        """Read and check; raises CodecError with what is wrong."""
        try:
            found = json.loads(data.decode())
        except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
            raise CodecError(f"the header is no JSON ({error})") from error
        names = {field.name for field in fields(cls)}
        if not isinstance(found, dict) or set(found) != names:
            raise CodecError(f"the header should have the fields {', '.join(sorted(names))}")
        header = cls(**found)
        wrong = [name for name, fine in header._checks().items() if not fine]
        if wrong:
            raise CodecError(f"the header has an impossible {wrong[0]}: {found[wrong[0]]!r}")
        return header

    def _checks(self) -> dict[str, bool]:
        return {
            "rows": self.rows is None or _within(self.rows, 0, 1 << 62),
            "width": _within(self.width, 1, WIDEST),
            "dtype": self.dtype in DTYPES,
            "model": isinstance(self.model, str),
            "latents": _within(self.latents, 1, WIDEST),
            "step": _finite(self.step) and self.step > 0,
            "residual": _finite(self.residual) and self.residual >= 0,
            "block": _within(self.block, 1, LARGEST_BLOCK),
            "layout": isinstance(self.layout, dict),
        }


@dataclass(frozen=True, eq=False)
class Section:
    """A block of rows, or a piece of side information (rows is 0 then)."""

    rows: int
    payload: bytes
    is_block: bool


class Writer:
    """Write a file front to back."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = file
        self._digest = hashlib.blake2b(digest_size=8)
        self._rows = self._sections = self.bytes = 0
        text = header.to_json()
        start = MAGIC + START.pack(VERSION, len(text)) + text
        self._put(start + struct.pack("<I", zlib.crc32(start)))

    def block(self, payload: bytes, *, rows: int) -> None:
        """Add a block of rows."""
        self._section(BLOCK, payload, rows)
        self._rows += rows

    def side(self, payload: bytes) -> None:
        """Add side information of the layout."""
        self._section(SIDE, payload, 0)

    def end(self) -> None:
        """Finish the file."""
        self._put(END.pack(LAST, self._rows, self._sections))
        digest = self._digest.digest()
        self._file.write(digest)
        self.bytes += len(digest)

    def _section(self, kind: int, payload: bytes, rows: int) -> None:
        start = SECTION.pack(kind, rows, len(payload), 0)[:-4]
        self._put(start + struct.pack("<I", zlib.crc32(payload, zlib.crc32(start))))
        self._put(payload)
        self._sections += 1

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.bytes += len(data)


class Reader:
    """Read a file front to back, checking every part before it is used."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = self.bytes = os.fstat(file.fileno()).st_size
        self._digest = hashlib.blake2b(digest_size=8)
        self.header = self._read_header()

    def sections(self) -> Iterator[Section]:
        """Iterate over blocks and side information, to the end; raises CodecError where the file is damaged."""
        rows = sections = 0
        while (section := self._section(sections)) is not None:
            rows, sections = rows + section.rows, sections + 1
            yield section
        self._check_end(rows, sections)

    def _read_header(self) -> Header:
        magic = self._take(len(MAGIC), "the first bytes") if self.bytes else b""
        if magic != MAGIC:
            raise CodecError("this is no .gsm file: it does not begin like one")
        start = self._take(START.size, "the header")
        version, length = START.unpack(start)
        if version != VERSION:
            raise CodecError(f"this is a .gsm file of version {version}; this version of gossamer reads {VERSION}")
        if length > LONGEST_HEADER:
            raise CodecError("the header is damaged: its length is impossible")
        text = self._take(length, "the header")
        if self._take(4, "the header") != struct.pack("<I", zlib.crc32(magic + start + text)):
            raise CodecError("the header is damaged: its checksum is wrong")
        return Header.from_json(text)

    def _section(self, number: int) -> Section | None:
        name = f"section {number}"
        kind = self._take(1, name)
        if kind[0] == LAST:
            return None
        start = kind + self._take(SECTION.size - 1, name)
        kind, rows, length, checksum = SECTION.unpack(start)
        if kind not in (BLOCK, SIDE) or not (rows <= self.header.block if kind == BLOCK else rows == 0):
            raise CodecError(f"{name} is damaged: it does not begin like one")
        payload = self._take(length, name)
        if zlib.crc32(payload, zlib.crc32(start[:-4])) != checksum:
            raise CodecError(f"{name} is damaged: its checksum is wrong")
        return Section(rows, payload, kind == BLOCK)

    def _check_end(self, rows: int, sections: int) -> None:
        found = self._take(END.size - 1, "the end")
        expected = self._digest.digest()
        counted = struct.unpack("<QI", found)
        if counted != (rows, sections) or self.header.rows not in (None, rows):
            raise CodecError(
                f"the file should have {counted[0]} rows in {counted[1]} sections: found {rows}, {sections}"
            )
        if self._take(8, "the end") != expected:
            raise CodecError("the file is damaged: its checksum is wrong")
        if self._left:
            raise CodecError(f"{self._left} bytes follow the end of the file")

    def _take(self, count: int, where: str) -> bytes:
        if count > self._left:
            raise CodecError(f"the file is cut short or damaged: {where} needs {count} bytes, {self._left} are left")
        data = self._file.read(count)
        if len(data) != count:
            raise CodecError(f"the file is cut short: {where} ends after {len(data)} of {count} bytes")
        self._left -= count
        self._digest.update(data)
        return data


def _within(number: Any, low: int, high: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and low <= number <= high


def _finite(number: Any) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and abs(number) <= sys.float_info.max
