"""Writing so that nothing is ever half-written: to a temporary name beside the target, flushed, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["StorageError", "free_bytes", "read_tensors", "replace_file", "replace_folder", "write_tensors"]

PIECE = 2**24
"""Bytes of a tensor that are written at once."""

DTYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
"""How a safetensors file calls what its tensors are made of."""

TEMPORARY = ".writing"
"""Suffix of what is being written; a leftover with it is never read and is overwritten."""

REPLACED = ".replaced"
"""Suffix of the folder that is being replaced, for the moment between two renames."""


class StorageError(OSError):
    """Something could not be written; what was there before is intact."""


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write(temporary)` make a file and put it at `path` in one step.

    Raises StorageError, naming the remedy, if the disk is full or the place cannot be written; the old file stays.
    """
    path = path.resolve()
    temporary = path.with_name(f"{path.name}{TEMPORARY}")
    with _explained(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        _flush(temporary)
        os.replace(temporary, path)


def replace_folder(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write(temporary)` fill a folder and put it at `path`, in place of the one that may be there.

    Raises StorageError as `replace_file` does.
    """
    path = path.resolve()
    temporary, old = (path.with_name(f"{path.name}{suffix}") for suffix in (TEMPORARY, REPLACED))
    with _explained(path, temporary):
        if old.exists() and not path.exists():  # a process died between the two renames below
            os.replace(old, path)
        for leftover in (temporary, old):
            _remove(leftover)
        temporary.mkdir(parents=True)
        write(temporary)
        for file in temporary.rglob("*"):
            if file.is_file():
                _flush(file)
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(temporary, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
        _remove(old)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file: 8 bytes for the length of the header, the header as JSON, then the numbers.

    A piece of a tensor is written at a time. What is a view of something else (a transposed matrix, a file that is
    mapped) is so never in memory as a whole, however large it is. Tensors with large entries come first, so that all
    are aligned. Raises TypeError for a dtype that the format does not know.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name in order:
        tensor = tensors[name]
        size = tensor.numel() * tensor.element_size()
        entry = {"dtype": _dtype_name(tensor), "shape": list(tensor.shape), "data_offsets": [place, place + size]}
        entries[name] = entry
        place += size
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    header += b" " * (-len(header) % 8)
    path.unlink(missing_ok=True)  # never into a file that somebody may have mapped, the tensors given here among them
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for name in order:
            for piece in _pieces(tensors[name].detach()):
                file.write(piece)


def _pieces(tensor: Tensor) -> Iterator[memoryview]:
    """Iterate over the bytes of a tensor, in row-major order."""
    import torch

    rows = tensor.reshape(1) if tensor.dim() == 0 else tensor
    if not rows.numel():
        return
    step = min(max(1, PIECE // (rows[:1].numel() * rows.element_size())), len(rows))
    lies_so = rows.is_contiguous() and rows.device.type == "cpu"
    buffer = rows if lies_so else torch.empty(step, *rows.shape[1:], dtype=rows.dtype)
    for piece in rows.split(step):
        if not lies_so:
            piece = buffer[: len(piece)].copy_(piece)
        yield piece.reshape(-1).view(torch.uint8).numpy().data


def _dtype_name(tensor: Tensor) -> str:
    name = DTYPES.get(str(tensor.dtype))
    if name is None:
        raise TypeError(f"a safetensors file of ours holds {', '.join(DTYPES)}, not {tensor.dtype}")
    return name


def read_tensors(path: Path, *, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors, mapped from it, and its metadata.

    Raises ValueError, naming the file, if it is missing, truncated or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error})") from error


@contextmanager
def _explained(path: Path, temporary: Path) -> Iterator[None]:
    absent = [parent for parent in path.parents if not parent.exists()]
    try:
        yield
    except BaseException as error:
        _remove(temporary)
        for parent in absent:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, StorageError) or not isinstance(error, OSError):
            raise
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StorageError(
            error.errno or errno.EIO,
            f"cannot write {path}: {reason}. What was there before is intact. "
            f"Free space or choose another folder; {free_bytes(path) / 1e9:.2f} GB are free there",
        ) from error


def _remove(path: Path) -> None:
    """Remove a file or folder if it is there; what cannot be removed stays."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink()


def free_bytes(path: Path) -> int:
    """Return how many bytes are free on the disk that a path is on, or would be on once it is made."""
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    return shutil.disk_usage(existing).free


def _flush(file: Path) -> None:
    with open(file, "rb+") as handle:
        os.fsync(handle.fileno())
