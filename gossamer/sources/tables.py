"""Tables: rows of .csv, .tsv and Parquet files, columns of numbers and categories side by side.

Here lives reading a table and the source made of it; what its columns become is `columns`.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from gossamer.sources.arrays import Arrays
from gossamer.sources.cells import Cells, arrow_module
from gossamer.sources.columns import ColumnChoices, Columns
from gossamer.sources.source import SourceSpec, held_out

__all__ = ["Table", "TableSpec", "matching_files", "open_table"]

_COMPRESSIONS: Final = {".gz": "gzip", ".zst": "zstd"}
_LARGEST_BLOCK: Final = 2**31 - 1
"""What a reader of text may take at a time; a row must fit in it."""


class Table(Arrays):
    """One row per row of a table.

    data: files (.csv, .tsv, .jsonl, .parquet), or a table in memory: a mapping from names to columns, a pyarrow
    Table, or whatever pyarrow makes one of. choices: which columns, and what they become; that is learned from the
    rows that are not held out. columns: what was learned before, instead. header: names of the columns of a text file
    whose first line is not names. validation: share of the rows held out.

    names: one per entry of a row, such as `width` and `color=red`.

    Raises ValueError for files that cannot be read, and for columns that cannot become numbers (`Columns.learn`);
    TypeError if both `choices` and `columns` are given.
    """

    def __init__(
        self,
        data: Any,
        choices: ColumnChoices | None = None,
        *,
        columns: Columns | None = None,
        header: Sequence[str] = (),
        validation: float = 0.05,
        buffer_rows: int = 65_536,
    ) -> None:
        cells = open_table(data, header=header)
        if not len(cells):
            raise ValueError("the table has no rows")
        if columns is None:
            columns = Columns.learn(cells, choices or ColumnChoices(), train=~held_out(len(cells), validation))
        elif choices is not None:
            raise TypeError("give either choices, to learn the columns, or columns that were learned, not both")
        self.columns = columns
        self._left_out = [name for name in cells.names if name not in {column.name for column in columns.columns}]
        super().__init__(columns.rows(cells), validation=validation, buffer_rows=buffer_rows)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each entry of a row."""
        return self.columns.names

    def keep(self, folder: Path) -> None:
        """Write what was learned of the columns: means, scales, categories."""
        self.columns.save(folder / "columns.json")

    def fingerprint(self) -> dict[str, str]:
        """Return shape and content of the rows, and that they are those of a table."""
        return super().fingerprint() | {"kind": "table"}

    def describe(self) -> dict[str, str]:
        """Return how many rows there are, what the columns are, which are left out and which never vary."""
        kinds = [column.kind for column in self.columns.columns]
        counts = [f"{kinds.count(kind)} {name}" for kind, name in _KIND_NAMES.items() if kind in kinds]
        topics = {
            "rows": f"{self.rows:,} rows of a table to train on, {self.validation_rows:,} held out for validation",
            "columns": f"{', '.join(counts)}: {len(self.names)} entries in a row",
        }
        if self._left_out:
            topics["left out"] = ", ".join(self._left_out)
        if self.columns.constant:
            topics["constant"] = f"{', '.join(self.columns.constant)}: the same in every row that was learned from"
        return topics


@dataclass(frozen=True, kw_only=True)
class TableSpec(SourceSpec):
    """Describe a table on disk.

    paths: files or globs of one kind, .csv, .tsv (also .gz, .zst), .jsonl or .parquet, with the same columns. columns:
    which are read and what they become; learned: the file of what was learned before, instead. header: names of the
    columns of a text file whose first line is not names. validation: share of the rows held out.
    """

    kind: ClassVar[str] = "table"
    paths: tuple[str, ...]
    columns: ColumnChoices = ColumnChoices()
    learned: str | None = None
    header: tuple[str, ...] = ()
    validation: float = 0.05

    def build(self, *, device: str = "cpu") -> Table:
        """Read the table."""
        columns = Columns.load(self.learned) if self.learned else None
        choices = self.columns if columns is None else None
        return Table(self.paths, choices, columns=columns, header=self.header, validation=self.validation)


def open_table(data: Any, *, header: Sequence[str] = ()) -> Cells:
    """Read files, or take a table from memory.

    data: a path or several (.csv, .tsv, .jsonl, .parquet; globs too), whose rows follow each other; or a mapping from
    names to columns, a pyarrow Table, or whatever pyarrow makes one of.

    Raises ValueError for a file that is not there, is not UTF-8, has rows of several lengths or a column twice, for
    files of several kinds or with other columns, for columns of unequal length or of mixed types, and if pyarrow is
    not installed.
    """
    arrow = arrow_module()
    if isinstance(data, Cells):
        return data
    if isinstance(data, str | Path):
        data = (str(data),)
    if not isinstance(data, Mapping) and isinstance(data, Sequence) and all(isinstance(p, str | Path) for p in data):
        return _read_files([file for path in data for file in matching_files(str(path))], header)
    try:
        table = data if isinstance(data, arrow.Table) else arrow.table(data)
    except (ValueError, TypeError, arrow.ArrowException) as error:
        columns = data if isinstance(data, Mapping) else {}
        wrong = [f"the column {name!r}: " for name, values in columns.items() if not _is_column(values)]
        raise ValueError(f"cannot make a table of {type(data).__name__}: {''.join(wrong[:1])}{error}") from error
    return _checked(Cells(table), "the table")


def matching_files(name: str) -> list[Path]:
    """Return the files of a path or a glob, sorted by name; raises ValueError if there is none."""
    path = Path(name).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        raise ValueError(f"{name} is a folder: name the files in it, such as {name.rstrip('/')}/*.csv")
    files = [Path(match) for match in sorted(glob.glob(str(path), recursive=True)) if Path(match).is_file()]
    if not files:
        raise ValueError(f"no file matches {name}" if glob.has_magic(name) else f"there is no file {name}")
    return files


def _read_files(files: Sequence[Path], header: Sequence[str]) -> Cells:
    if not files:
        raise ValueError("there are no files: give at least one path")
    arrow = arrow_module()
    parts = [_checked(_read_file(file, header), str(file)) for file in files]
    first = parts[0]
    for file, part in zip(files, parts, strict=True):
        if part.untyped != first.untyped:
            raise ValueError(f"{files[0]} and {file} are of different kinds: read text files or typed ones, not both")
        if part.names != first.names:
            other = next(iter(set(part.names) ^ set(first.names)), "their order")
            raise ValueError(f"{files[0]} and {file} have different columns: {other}")
    try:
        return Cells(arrow.concat_tables([part.arrow for part in parts], promote_options="permissive"), first.untyped)
    except arrow.ArrowException as error:
        raise ValueError(f"the columns of {files[0]} and the other files are of different types ({error})") from error


def _read_file(path: Path, header: Sequence[str]) -> Cells:
    plain = path.name.lower()
    compression = next((name for suffix, name in _COMPRESSIONS.items() if plain.endswith(suffix)), None)
    suffix = Path(plain).stem if compression else plain
    suffix = Path(suffix).suffix
    if suffix not in _READERS:
        raise ValueError(f"{path}: cannot read files of this kind as a table, only {', '.join(_READERS)}")
    arrow = arrow_module()
    try:
        with arrow.input_stream(str(path), compression=compression) as stream:
            data = stream.read_buffer()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({_first_line(error)})") from error
    try:
        return _READERS[suffix](data, header)
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}{_explained(error, data, header)}") from error


def _read_csv(data: Any, header: Sequence[str]) -> Cells:
    return _read_separated(data, header, ",")


def _read_tsv(data: Any, header: Sequence[str]) -> Cells:
    return _read_separated(data, header, "\t")


def _read_separated(data: Any, header: Sequence[str], delimiter: str) -> Cells:
    """Read every cell as text: types guessed by the reader would rest on the first block and could not be explained."""
    arrow, csv = arrow_module(), arrow_module("csv")
    block = min(max(len(data) + 1, 1 << 20), _LARGEST_BLOCK)
    reading = csv.ReadOptions(use_threads=False, block_size=block, column_names=list(header) or None)
    parsing = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with csv.open_csv(arrow.BufferReader(data), read_options=reading, parse_options=parsing) as opened:
        names = opened.schema.names
    converting = csv.ConvertOptions(column_types={name: arrow.string() for name in names}, strings_can_be_null=False)
    table = csv.read_csv(
        arrow.BufferReader(data), read_options=reading, parse_options=parsing, convert_options=converting
    )
    return Cells(table, untyped=True)


def _read_jsonl(data: Any, header: Sequence[str]) -> Cells:
    arrow, json = arrow_module(), arrow_module("json")
    block = min(max(len(data) + 1, 1 << 20), _LARGEST_BLOCK)
    return Cells(json.read_json(arrow.BufferReader(data), read_options=json.ReadOptions(block_size=block)))


def _read_parquet(data: Any, header: Sequence[str]) -> Cells:
    return Cells(arrow_module("parquet").read_table(arrow_module().BufferReader(data)))


_READERS: Final[dict[str, Callable[[Any, Sequence[str]], Cells]]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}

_KIND_NAMES: Final = {"number": "of numbers", "truth": "of truth values", "category": "of categories"}


def _explained(error: Exception, data: Any, header: Sequence[str]) -> str:
    """Say what is wrong with a file, and in which line or row, as far as can be told."""
    text = _first_line(error)
    ragged = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text)
    if ragged:
        row, expected, found = ragged.groups()
        names = "" if header else " (the names are row 1)"
        return f", row {row}{names}: {found} cells where there are {expected} columns"
    if "UTF8" in text or "UTF-8" in text:
        for number, line in enumerate(bytes(data).splitlines(), start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as fault:
                return f", line {number}: not valid UTF-8 ({fault.reason})"
    return f": {text}"


def _checked(cells: Cells, where: str) -> Cells:
    twice = sorted({name for name in cells.names if cells.names.count(name) > 1})
    if twice:
        raise ValueError(f"{where} has the column {twice[0]!r} more than once")
    if not cells.names:
        raise ValueError(f"{where} has no columns")
    return cells


def _is_column(values: Any) -> bool:
    arrow = arrow_module()
    try:
        arrow.array(values)
    except (ValueError, TypeError, arrow.ArrowException):
        return False
    return True


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
