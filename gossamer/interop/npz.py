"""Files of `numpy.savez`: what they say they hold is checked before any of it is read.

An `.npz` is a zip archive with one `.npy` file for each array: a short header with dtype, order and shape, then the
numbers. Arrays that are not compressed are mapped from the file; others are unpacked one at a time, when asked for.
Arrays of Python objects, which are pickles, are refused by their header.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

__all__ = ["Arrays"]

LOCAL_HEADER = struct.Struct("<4s5H3I2H")
"""What stands before a member of a zip archive; then name and extra field, whose lengths are its last two numbers."""

MOST_EXPANSION, SLACK = 100, 2**24
"""A compressed archive may unpack to so many times its own size, and so many bytes more: weights hardly shrink."""

LONGEST_HEADER = 4096
"""Bytes of the header of an array; real ones have 128."""


@dataclass(frozen=True)
class _Array:
    """Where an array is: its member of the archive, the bytes before its numbers, and what the header says."""

    member: zipfile.ZipInfo
    lead: int
    dtype: np.dtype[Any]
    order: Literal["C", "F"]
    shape: tuple[int, ...]


class Arrays:
    """The arrays of an `.npz` file; making one reads the headers only.

    Raises ValueError, naming the file, if it is missing, damaged, a bomb, or holds anything else than numbers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise ValueError(f"{path} does not exist")
        try:
            with zipfile.ZipFile(path) as archive:
                self._require_honest(archive)
                self._arrays = {member.filename[:-4]: _header(archive, member) for member in archive.infolist()}
        except Exception as error:  # a damaged archive fails in many ways
            raise ValueError(f"{path} is damaged or no file of numpy.savez: {error}") from error

    def outlines(self) -> dict[str, Tensor]:
        """Return for every array a tensor of its shape and dtype that holds nothing, on the device "meta"."""
        return {name: self._outline(array) for name, array in self._arrays.items()}

    def tensor(self, name: str) -> Tensor:
        """Return an array as a tensor, mapped from the file if it is not compressed."""
        array = self._arrays[name]
        try:
            numbers = self._mapped(array) if array.member.compress_type == zipfile.ZIP_STORED else self._unpacked(array)
        except Exception as error:
            raise ValueError(f"{self.path}: {name} is damaged: {error}") from error
        return torch.from_numpy(numbers)

    def _require_honest(self, archive: zipfile.ZipFile) -> None:
        size = self.path.stat().st_size
        members = archive.infolist()
        stored = [member for member in members if member.compress_type == zipfile.ZIP_STORED]
        if any(member.file_size != member.compress_size for member in stored):
            raise ValueError("an array has two sizes")
        if sum(member.file_size for member in stored) > size:
            raise ValueError(f"it says it holds more than the {size:,} bytes it has")
        if sum(member.file_size for member in members) > MOST_EXPANSION * size + SLACK:
            raise ValueError(f"{size:,} bytes that unpack to {sum(m.file_size for m in members):,} are no weights")
        names = [member.filename for member in members]
        if len(set(names)) < len(names) or not all(name.endswith(".npy") for name in names):
            raise ValueError(f"its members are {', '.join(map(repr, names[:8]))}, not arrays by different names")

    def _outline(self, array: _Array) -> Tensor:
        dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        return torch.empty(array.shape, dtype=dtype, device="meta")

    def _mapped(self, array: _Array) -> np.ndarray:
        with open(self.path, "rb") as file:
            file.seek(array.member.header_offset)
            *_, name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
        start = array.member.header_offset + LOCAL_HEADER.size + name + extra + array.lead
        if start + math.prod(array.shape) * array.dtype.itemsize > self.path.stat().st_size:
            raise ValueError("it ends before its numbers do")
        # Copied on write: a tensor can be written to, a file of somebody else must not be.
        return np.asarray(np.memmap(self.path, array.dtype, "c", start, array.shape, order=array.order))

    def _unpacked(self, array: _Array) -> np.ndarray:
        numbers = np.empty(array.shape, array.dtype, order=array.order)
        into = numbers.reshape(-1, order=array.order).view(np.uint8).data
        with zipfile.ZipFile(self.path) as archive, archive.open(array.member) as stream:
            stream.read(array.lead)
            while len(into):
                got = cast(io.BufferedIOBase, stream).readinto(into)
                if not got:
                    raise ValueError("it ends before its numbers do")
                into = into[got:]
            stream.read(1)  # the checksum is looked at when the end is seen
        return numbers


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Array:
    """Read the header of an array; raises ValueError unless it describes the numbers that are there."""
    name = member.filename
    with archive.open(member) as stream:
        shape, fortran, dtype = _described(stream)
        lead = stream.tell()
    if dtype.kind not in "fiu" or not dtype.isnative:
        raise ValueError(f"{name} holds {dtype}, not numbers of this machine's kind")
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 0 or lead + size != member.file_size:
        raise ValueError(
            f"{name} says it has shape {shape} and dtype {dtype}, which {member.file_size:,} bytes are not"
        )
    return _Array(member, lead, dtype, "F" if fortran else "C", shape)


def _described(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream, max_header_size=LONGEST_HEADER)
