"""LaidOut: what pictures and signals have in common once they are read: rows, side information, what was skipped.

Here lives going through files, in order, and keeping track. How one file is read and cut is the business of `images`
and `signals`.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, Literal, NamedTuple, TypeVar

import numpy as np

from gossamer.sources.arrays import Arrays
from gossamer.sources.datasets import located
from gossamer.sources.layouts import Layout

__all__ = ["Found", "Items", "LaidOut", "Piece", "Skipped", "counted", "found_files"]

L = TypeVar("L", bound=Layout)

STRETCHES = 20
"""Stretches of rows that stand for documents where there is one alone, so that some can be held out."""


class Skipped(NamedTuple):
    """A file that was left out, and why."""

    name: str
    reason: str


class Found(NamedTuple):
    """Files in order, and how many in folders were passed over because their names say they are something else."""

    files: list[Path]
    passed_over: int


@dataclass(frozen=True, eq=False)
class Piece:
    """What one file, or one array, gives.

    name: for messages; content: what was read; rows: `(documents · n, width)` before normalization, document by
    document; row_shape: what a row is, such as height, width and channels; shapes: of each document, what `join`
    needs; note: what a person should know about it, if anything.
    """

    name: str
    content: np.ndarray
    rows: np.ndarray
    row_shape: tuple[int, ...]
    shapes: Sequence[tuple[int, ...]]
    note: str = ""


class Items(NamedTuple):
    """What is to be read, in order.

    items: name and reader of each file or array; the reader is told how many documents there are before it.
    passed_over: number of files in folders whose names say that they are something else.
    """

    items: list[tuple[str, Callable[[int], Piece]]]
    passed_over: int = 0


class LaidOut(Arrays, Generic[L]):
    """Rows of pictures or signals that were cut by a layout.

    Held out are whole documents: pictures, recordings. If there is one alone, stretches of it are.

    kind: that of the spec; noun: what a document is called; one_shape: how to mend documents whose rows differ in
    shape. layout: how they were cut; row_shape: what a row is, such as height, width and channels; names, shapes: per
    document; side: `(rows, columns)`, what normalization took away; skipped: files that were left out; passed_over:
    number of files in folders that are of another kind.
    """

    kind: ClassVar[str]
    noun: ClassVar[str]
    one_shape: ClassVar[str]

    def __init__(
        self,
        found: Items,
        *,
        layout: L,
        on_error: Literal["raise", "skip"],
        validation: float,
        buffer_rows: int,
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is 'raise' or 'skip', got {on_error!r}")
        self.layout, self.passed_over = layout, found.passed_over
        self.row_shape: tuple[int, ...] = ()
        self.names: list[str] = []
        self.shapes: list[tuple[int, ...]] = []
        self.skipped: list[Skipped] = []
        self.notes: list[str] = []
        digest = hashlib.sha256()
        rows, sides, counts = [], [], []
        for name, read in found.items:
            try:
                piece = read(len(self.shapes))
            except (ValueError, OSError) as error:
                if on_error == "raise":
                    raise
                self.skipped.append(Skipped(name, str(error)))
                continue
            self._require_shape(piece)
            digest.update(f"{piece.content.dtype}{piece.content.shape}".encode())
            digest.update(np.ascontiguousarray(piece.content).data)
            normalized = layout.normalize(np.asarray(piece.rows, dtype=np.float32))
            rows.append(normalized.rows)
            sides.append(normalized.side)
            counts += [len(piece.rows) // len(piece.shapes)] * len(piece.shapes)
            self.names += [piece.name] * len(piece.shapes)
            self.shapes += piece.shapes
            self.notes += [piece.note] if piece.note else []
        if not rows:
            raise ValueError(f"nothing is left to read: {_listed(self.skipped) or 'no array was given'}")
        self.side = np.concatenate(sides)
        self._first = np.concatenate([[0], np.cumsum(counts)])
        self._digest = digest.hexdigest()[:16]
        self._laid = rows[0] if len(rows) == 1 else np.concatenate(rows)
        documents = np.repeat(np.arange(len(counts)), counts)
        if len(counts) == 1:
            documents = np.arange(len(self._laid)) * STRETCHES // len(self._laid)
        super().__init__(self._laid, documents=documents, validation=validation, buffer_rows=buffer_rows)

    def rows_of(self, document: int) -> np.ndarray:
        """Return the rows of one document, `(rows, width)`, as they are trained on."""
        return self._laid[self._first[document] : self._first[document + 1]]

    def restored(self, document: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Return rows of one document, its own or reconstructions of them, with normalization undone."""
        first, end = self._first[document : document + 2]
        return self.layout.restore(self.rows_of(document) if rows is None else rows, self.side[first:end])

    def fingerprint(self) -> dict[str, str]:
        """Return what Arrays says, the layout, and a hash of all that was read."""
        layout = json.dumps(self.layout.to_dict())
        return super().fingerprint() | {"kind": self.kind, "layout": layout, "read": self._digest}

    def describe(self) -> dict[str, str]:
        """Return what pictures and signals share: how many rows, in which units, and what was left out."""
        held, documents = len(np.unique(self._documents[self._held_out])), len(self.shapes)
        share = f"{counted(held, self.noun)} of {documents:,}"
        if documents == 1:
            share = f"{counted(held, 'stretch')} of the only {self.noun}"
        places = list(dict.fromkeys(self.names))
        topics = {"from": f"{places[0]}{_more(places, 1)}"}
        topics["rows"] = f"{self.rows:,} to train on, {self.validation_rows:,} held out for validation ({share})"
        if self.layout.normalization != "none":
            topics["units"] = f"each row is normalized ({self.layout.normalization}); what that takes away is kept"
        if self.notes:
            topics["note"] = f"{self.notes[0]}{_more(self.notes, 1)}"
        if self.passed_over:
            topics["passed"] = f"over {counted(self.passed_over, 'file')} of other kinds in the folders"
        if self.skipped:
            topics["skipped"] = f"{counted(len(self.skipped), 'file')}: {_listed(self.skipped)}"
        return topics

    def _require_shape(self, piece: Piece) -> None:
        self.row_shape = self.row_shape or piece.row_shape
        if piece.row_shape != self.row_shape:
            first, other = ("×".join(map(str, shape)) for shape in (self.row_shape, piece.row_shape))
            raise ValueError(
                f"rows have one shape, but those of {self.names[0]} are {first}, and those of {piece.name} are "
                f"{other}: {self.one_shape}"
            )


def found_files(paths: Sequence[str | Path], wanted: Callable[[Path], bool]) -> Found:
    """Find the files of paths, globs and folders; of folders, with all below them, those that are `wanted` by name.

    `data:NAME` is the folder of a fetched data set, `data:NAME/FILE` a file of it.

    Raises TypeError for a single string that is not in a list; ValueError for a path that does not exist, a glob
    without a match, and a folder with nothing that is wanted.
    """
    files: list[Path] = []
    passed_over = 0
    for name in map(str, paths):
        path = located(name)
        if path.is_dir():
            below = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
            right = [file for file in below if wanted(file)]
            if not right:
                raise ValueError(
                    f"the folder {name} holds no file of a kind that is read here ({counted(len(below), 'other')})"
                )
            files += right
            passed_over += len(below) - len(right)
        elif path.is_file():
            files.append(path)
        elif matches := [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]:
            files += [match for match in matches if match.is_file()]
        else:
            raise ValueError(f"{name} does not exist" if not glob.has_magic(name) else f"no file matches {name}")
    if not files:
        raise ValueError("paths is empty: give at least one file, folder or glob")
    return Found(files, passed_over)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 file", "1,200 files"."""
    ending = "" if number == 1 else "es" if noun.endswith("ch") else "s"
    return f"{number:,} {noun}{ending}"


def _listed(skipped: Sequence[Skipped]) -> str:
    return "; ".join(reason for _, reason in skipped[:3]) + _more(skipped, 3)


def _more(things: Sequence[object], shown: int) -> str:
    return f" … and {len(things) - shown} more" if len(things) > shown else ""
