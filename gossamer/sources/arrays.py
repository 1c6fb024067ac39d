"""Arrays: rows that already lie in memory, dense or in scipy's CSR format, or in a .npy file."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor

from gossamer.sources.source import Batch, Source, SourceSpec, held_out

__all__ = ["Arrays", "ArraysSpec", "is_sparse", "read_npy", "release"]

Rows: TypeAlias = Any  # a numpy array, a torch tensor, or a scipy.sparse matrix, which has no type without scipy
BLOCK = 256
"""Rows of a file that are read together; single rows would make a disk seek each."""
DENSE_ENTRIES = 2**25
"""Most entries of a CSR matrix that are dense in the shuffle buffer at a time."""


class Arrays(Source):
    """Rows of a numpy array, a torch tensor, a scipy.sparse matrix, or a .npy file.

    A file is memory-mapped and never read whole; of a sparse matrix only the rows in the shuffle buffer are dense.

    x: `(rows, input_width)` numbers, or the path of a .npy file that holds such an array. documents: `(rows,)`
    integers, the document of each row; by default every row is its own. validation: share of the documents held out.
    buffer_rows: rows shuffled at a time; what is in memory is picked from all rows, a file in blocks that lie together.

    Raises ValueError for an empty array, one that is not two-dimensional, or a file that cannot be read; TypeError
    for entries that are no real numbers.
    """

    def __init__(
        self,
        x: Rows | str | Path,
        *,
        documents: np.ndarray | None = None,
        validation: float = 0.05,
        buffer_rows: int = 65_536,
    ) -> None:
        self._x = _opened(x)
        rows, width = self._x.shape
        self._documents = np.arange(rows) if documents is None else np.asarray(documents)
        if self._documents.shape != (rows,):
            raise ValueError(f"documents has shape {self._documents.shape}, expected ({rows},)")
        names, document = np.unique(self._documents, return_inverse=True)
        self._held_out = held_out(len(names), validation)[document]
        self._block = BLOCK if isinstance(self._x, np.memmap) else 1
        if is_sparse(self._x):
            buffer_rows = min(buffer_rows, max(BLOCK, DENSE_ENTRIES // width))
        self.widths = {"": width}
        self.validation_rows = int(self._held_out.sum())
        self.rows = rows - self.validation_rows
        self.buffer_rows = buffer_rows

    @property
    def units(self) -> int:
        """Number of blocks of a file, or of rows in memory."""
        return -(-self._x.shape[0] // self._block)

    @property
    def units_per_buffer(self) -> int:
        """Blocks or rows that are read at a time."""
        return max(1, self.buffer_rows // self._block)

    def read(self, units: np.ndarray) -> Batch:
        """Return the rows of these blocks that are not held out."""
        rows = (units[:, None] * self._block + np.arange(self._block)).reshape(-1)
        rows = rows[rows < self._x.shape[0]]
        return self._rows(rows[~self._held_out[rows]])

    def validation(self, *, batch: int) -> Iterator[Batch]:
        """Iterate over the held-out rows, in a random order that is always the same."""
        rows = np.random.default_rng(0).permutation(np.flatnonzero(self._held_out))
        for start in range(0, len(rows), batch):
            yield self._rows(rows[start : start + batch])

    def fingerprint(self) -> dict[str, str]:
        """Return shape, type, and a hash of up to 4096 rows spread over the array and of the documents."""
        rows = np.unique(np.linspace(0, self._x.shape[0] - 1, 4096).astype(np.int64))
        digest = hashlib.sha256()
        for some in np.array_split(rows, 64):
            for part in _parts(self._x[some]):
                digest.update(part)
            release(self._x)
        digest.update(self._documents.tobytes())
        digest.update(self._held_out.tobytes())
        shape = "×".join(map(str, self._x.shape))
        return {
            "kind": "arrays",
            "shape": shape,
            "dtype": str(self._x.dtype),
            "content": digest.hexdigest()[:16],
        }

    def describe(self) -> dict[str, str]:
        """Return where the rows are, how many there are and how many are held out."""
        place = "memory-mapped file" if self._block > 1 else "array in memory"
        if is_sparse(self._x):
            place = f"sparse matrix, {self._x.nnz / self._x.shape[0]:.1f} entries per row"
        return {
            "rows": f"{place}, {self.rows:,} to train on, {self.validation_rows:,} held out for validation",
        }

    def _rows(self, rows: np.ndarray) -> Batch:
        if isinstance(self._x, Tensor):
            picked = self._x[torch.from_numpy(rows)]
        else:
            picked = torch.from_numpy(self._x[rows].toarray() if is_sparse(self._x) else self._x[rows])
            release(self._x)
        if not picked.is_floating_point():
            picked = picked.float()
        origins = np.stack([self._documents[rows], rows], axis=1).astype(np.int64)
        return Batch({"": picked}, torch.from_numpy(origins))


@dataclass(frozen=True, kw_only=True)
class ArraysSpec(SourceSpec):
    """Rows of a .npy file. path: the file; validation: share of rows held out; buffer_rows: rows shuffled at a time."""

    kind: ClassVar[str] = "arrays"
    path: str
    validation: float = 0.05
    buffer_rows: int = 65_536

    def build(self, *, device: str = "cpu") -> Arrays:
        """Open the file; rows stay on the CPU until they are used."""
        return Arrays(Path(self.path), validation=self.validation, buffer_rows=self.buffer_rows)


def release(x: object) -> None:
    """Let go of the pages of a memory-mapped file that were read; else a large file would fill the memory by and by."""
    mapped = getattr(x, "_mmap", None) if isinstance(x, np.memmap) else None
    if mapped is not None and x.mode == "r" and hasattr(mmap, "MADV_DONTNEED"):  # pyright: ignore
        mapped.madvise(mmap.MADV_DONTNEED)


def is_sparse(x: object) -> bool:
    """Tell a scipy.sparse matrix or array, without importing scipy."""
    return hasattr(x, "tocsr")


def _opened(x: Any) -> Rows:
    if isinstance(x, str | Path):
        x = read_npy(x)
    elif isinstance(x, Tensor):
        x = x.detach()
    elif is_sparse(x):
        x = x.tocsr()
    else:
        x = np.asarray(x) if not isinstance(x, np.memmap) else x
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"expected an array of shape (rows, width) with rows, got shape {tuple(x.shape)}")
    if not isinstance(x, Tensor) and x.dtype.kind not in "fiub":
        raise TypeError(f"expected real numbers, got an array of {x.dtype}")
    if isinstance(x, np.ndarray) and not x.dtype.isnative:
        x = x.astype(x.dtype.newbyteorder("="))
    return x


def read_npy(path: str | Path) -> np.ndarray:
    """Open a .npy file of real numbers, memory-mapped; raises ValueError, naming it, if it is anything else."""
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist; expected a .npy file")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header makes it raise almost anything
        raise ValueError(f"{path} is damaged or no .npy array ({error})") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} holds several arrays (.npz); expected a .npy array")
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{path}: expected real numbers, got an array of {array.dtype}")
    return array


def _parts(x: Any) -> list[bytes]:
    """Return what rows consist of, as bytes."""
    if is_sparse(x):
        return [x.indptr.tobytes(), x.indices.tobytes(), x.data.tobytes()]
    return [x.cpu().float().numpy().tobytes() if isinstance(x, Tensor) else np.ascontiguousarray(x).tobytes()]
