"""Tensors of other libraries' files, checked before anything is made of them.

Reading maps a file instead of copying it: a tensor takes memory when it is used. Formats whose files are not
safetensors bring their own reader, and check with the same functions.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gossamer.spec import nearest

__all__ = ["FLOATS", "LARGEST_SIZE", "Config", "naming", "require_finite", "require_tensors", "same_dtype"]

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What weights may be stored as."""

LARGEST_SIZE = 2**40
"""No width, number of latents or number of active ones is larger."""

LARGEST_CONFIG = 16 * 2**20
"""Bytes of a configuration file beyond which it is not read."""


class Config:
    """A configuration as another library wrote it: a JSON object whose values are looked at one by one.

    Each method raises ValueError naming the file and the entry. Entries that nobody asks for are left alone.
    """

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path, self.values = path, values

    @classmethod
    def read(cls, path: Path) -> Config:
        """Read a JSON file; raises ValueError if there is none, or if it holds no object."""
        if not path.is_file():
            raise ValueError(f"{path} does not exist")
        if path.stat().st_size > LARGEST_CONFIG:
            raise ValueError(f"{path} is no configuration: it has {path.stat().st_size:,} bytes")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged or no JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds no JSON object, but {type(values).__name__}")
        return cls(path, values)

    @classmethod
    def peek(cls, path: Path) -> Mapping[str, Any]:
        """Return what a JSON file holds, or nothing if it cannot be read: for `Format.recognizes`."""
        try:
            return cls.read(path).values
        except (ValueError, OSError):
            return {}

    def has(self, name: str) -> bool:
        """Say whether there is an entry that is not null."""
        return self.values.get(name) is not None

    def size(self, name: str, default: int | None = None) -> int:
        """Return a whole number from 1 to `LARGEST_SIZE`."""
        value = self.values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= LARGEST_SIZE:
            raise ValueError(f"{self.path}: {name} is a whole number from 1 to {LARGEST_SIZE:,}, got {value!r:.40}")
        if value != int(value):
            raise ValueError(f"{self.path}: {name} is a whole number, got {value!r}")
        return int(value)

    def number(self, name: str, default: float | None = None) -> float:
        """Return a finite number."""
        value = self.values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise ValueError(f"{self.path}: {name} is a finite number, got {value!r:.40}")
        return float(value)

    def flag(self, name: str, *, default: bool) -> bool:
        """Return true or false; null counts as the default."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ValueError(f"{self.path}: {name} is true or false, got {value!r}")
        return value

    def text(self, name: str, default: str = "") -> str:
        """Return a text; null counts as the default."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise ValueError(f"{self.path}: {name} is a text, got {value!r}")
        return value

    def table(self, name: str) -> Config:
        """Return an object inside the object; an absent one is empty."""
        value = self.values.get(name)
        if not isinstance(value, dict | None):
            raise ValueError(f"{self.path}: {name} is an object, got {value!r}")
        return Config(self.path, value or {})


def require_tensors(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], path: Path, *, ignored: tuple[str, ...] = ()
) -> None:
    """Raise ValueError unless there are exactly the tensors of these names and shapes, all of a floating dtype.

    ignored: names that may be there, too.
    """
    given = {name: tensor for name, tensor in tensors.items() if name not in ignored}
    for name in given:
        if name not in shapes:
            raise ValueError(f"{path} holds an unexpected tensor {name!r}; {nearest(name, shapes)}")
    for name, shape in shapes.items():
        if name not in given:
            raise ValueError(f"{path} lacks the tensor {name!r}; it holds {', '.join(sorted(map(repr, given)))}")
        if tuple(given[name].shape) != shape:
            raise ValueError(f"{path}: {name} has shape {tuple(given[name].shape)}, expected {shape}")
        if given[name].dtype not in FLOATS:
            raise ValueError(f"{path}: {name} has dtype {given[name].dtype}, expected one of {_names()}")


def same_dtype(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors in one dtype, the widest that occurs; those that have it are not copied."""
    widest = torch.float16 if all(t.dtype == torch.float16 for t in tensors.values()) else None
    for tensor in tensors.values():
        widest = tensor.dtype if widest is None else torch.promote_types(widest, tensor.dtype)
    return {name: tensor.to(widest) for name, tensor in tensors.items()}


def require_finite(tensors: Mapping[str, Tensor], place: str | Path) -> None:
    """Raise ValueError, naming the tensor, if one holds NaN or an infinity; takes no memory of its size."""
    for name, tensor in tensors.items():
        if tensor.numel() and tensor.is_floating_point():
            stored = tensor.T if tensor.dim() == 2 and tensor.T.is_contiguous() else tensor  # as it lies, not copied
            low, high = stored.aminmax()  # NaN passes through both
            if not (torch.isfinite(low) and torch.isfinite(high)):
                raise ValueError(f"{place}: {name} holds NaN or infinite numbers; the file is damaged")


@contextmanager
def naming(place: Path) -> Iterator[None]:
    """Let a ValueError say which file or folder it is about, such as one of parts that cannot work together."""
    try:
        yield
    except ValueError as error:
        if str(place) in str(error):
            raise
        raise ValueError(f"{place}: {error}") from error


def _names() -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATS)
