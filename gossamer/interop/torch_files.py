"""Files of `torch.save`, read as tensors and plain values, and nothing else.

Such a file is a zip archive that holds a pickle and the tensors' bytes. A pickle can name any function to be called;
torch's reader for weights knows tensors and containers only, and stops at the first other name. What it gives is
checked once more here: numbers that overlap, or that no file holds, would pass as tensors of any size.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["is_torch_file", "read_torch_file"]


def is_torch_file(path: Path) -> bool:
    """Say whether this looks like a file of `torch.save`: an archive that holds a `data.pkl`; never an error."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except Exception:  # a damaged archive fails in many ways
        return False


def read_torch_file(path: Path) -> dict[str, Any]:
    """Read a table that `torch.save` wrote: its tensors, mapped from the file, its numbers, texts and tables.

    Raises ValueError, naming the file, if it is missing, damaged, in the form from before 2020, holds anything that
    would have to be executed, or is no table of tensors.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    _require_plain_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a strange file makes torch warn; here that is the end of it
            values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # an interpreter of bytes fails in as many ways as there are bytes
        raise ValueError(
            f"{path} is damaged, or holds something else than tensors and plain values, which is not executed here: "
            f"{_first_line(error)}"
        ) from error
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} holds no table of tensors, but {type(values).__name__}")
    return _checked(values, path)


def _require_plain_archive(path: Path) -> None:
    """Raise ValueError unless the file is an archive that holds what it says, as it is: not compressed, no bomb."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:
        raise ValueError(
            f"{path} is damaged or no file of torch.save ({_first_line(error)}); if it is older than torch 1.6, load "
            "and save it there once"
        ) from error
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError(f"{path} is compressed, which torch.save never does; it is not unpacked")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError(f"{path} says it holds more than the {path.stat().st_size:,} bytes it has; it is damaged")


def _checked(values: Mapping[Any, Any], path: Path, place: str = "") -> dict[str, Any]:
    """Return a table with texts as names, its tensors detached from any gradient."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise ValueError(f"{path}: {place or 'it'} has an entry named {name!r}, which is no text")
        where = f"{place}.{name}" if place else name
        if isinstance(value, Mapping):
            found[name] = _checked(value, path, where)
        elif isinstance(value, Tensor):
            found[name] = _plain(value, path, where)
        else:
            found[name] = value
    return found


def _plain(tensor: Tensor, path: Path, name: str) -> Tensor:
    """Return a tensor that holds every number it shows."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise ValueError(f"{path}: {name} is no ordinary tensor of numbers in memory")
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise ValueError(f"{path}: {name} has shape {tuple(tensor.shape)}, but not so many numbers; it is damaged")
    return tensor.detach()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
