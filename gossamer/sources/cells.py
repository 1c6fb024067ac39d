"""Cells: a table as it was read, and its columns as numbers, truth values or labels.

Here lives what a cell says, with the errors for what cannot be understood; what is learned of a column is `columns`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from gossamer.spec import nearest

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Cells", "arrow_module", "content_of", "read_labels", "read_numbers", "read_truths"]

_NUMBER: Final = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?(?i:inf|infinity)$"
_DATE: Final = r"^\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?$|^\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})([T ].*)?$"
_LARGEST: Final = float(np.finfo(np.float32).max)
_WHY_NO_DATES: Final = (
    "a date is neither a number with a scale nor a category; turn it into numbers that mean something (days since a "
    "start, the month), or drop it"
)


@dataclass(frozen=True, eq=False)
class Cells:
    """A table as it was read.

    arrow: the table. untyped: it comes from a file without types, where text may stand for numbers.
    """

    arrow: pyarrow.Table
    untyped: bool = False

    def __len__(self) -> int:
        return self.arrow.num_rows

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return self.arrow.column_names

    def require(self, name: str) -> None:
        """Raise ValueError, with the nearest names, unless there is this column."""
        if name not in self.names:
            raise ValueError(f"there is no column {name!r}; {nearest(name, self.names)}")

    def column(self, name: str, missing: Sequence[str]) -> pyarrow.ChunkedArray:
        """Return a column as float64, bool, or text, null where it is missing.

        Raises ValueError for a column that is not there or that holds neither numbers nor text.
        """
        self.require(name)
        return _plain(name, self.arrow.column(name), missing if self.untyped else ())


def content_of(name: str, cells: Any, untyped: bool) -> Literal["number", "truth", "category"]:
    """Tell what a column without missing cells holds; text of a file without types may be numbers."""
    arrow, compute = arrow_module(), arrow_module("compute")

    if not arrow.types.is_string(cells.type):
        return "truth" if arrow.types.is_boolean(cells.type) else "number"
    if compute.all(compute.match_substring_regex(cells, _DATE)).as_py():
        raise ValueError(f"the column {name!r} holds dates (such as {cells[0].as_py()!r}): {_WHY_NO_DATES}")
    if not untyped:
        return "category"
    numeric = compute.match_substring_regex(cells, _NUMBER)
    count = compute.sum(numeric).as_py() or 0
    if count == len(cells):
        return "number"
    if count:
        number, text = (cells.filter(which)[0].as_py() for which in (numeric, compute.invert(numeric)))
        raise ValueError(
            f"the column {name!r} mixes numbers and text: {count} of {len(cells)} cells are numbers ({number!r}), "
            f"the others are not ({text!r}); repair it, add {text!r} to missing if it means that nothing is there, "
            "name the column in categories if all are labels, or drop it"
        )
    lower = compute.utf8_lower(cells)
    return "truth" if compute.all(compute.is_in(lower, arrow.array(["true", "false"]))).as_py() else "category"


def read_numbers(name: str, cells: Any) -> np.ndarray:
    """Return `(rows,)` float64, NaN where a cell is missing; raises ValueError for text and for infinite numbers."""
    arrow, compute = arrow_module(), arrow_module("compute")

    if arrow.types.is_string(cells.type):
        numeric = compute.match_substring_regex(cells, _NUMBER)
        if not compute.all(numeric).as_py():
            text = cells.filter(compute.invert(numeric))[0].as_py()
            raise ValueError(f"the column {name!r} holds numbers, but now also the text {text!r}")
    numbers = compute.cast(cells, arrow.float64()).to_numpy()
    bad = np.flatnonzero(np.abs(numbers) > _LARGEST)
    if len(bad):
        raise ValueError(
            f"the column {name!r} holds {len(bad)} numbers that are infinite or beyond {_LARGEST:.1e}, the first, "
            f"{numbers[bad[0]]}, in row {bad[0]} (the first row is 0); repair or drop it"
        )
    return numbers


def read_truths(name: str, cells: Any) -> Any:
    """Return truth values; raises ValueError for anything else."""
    arrow, compute = arrow_module(), arrow_module("compute")

    if arrow.types.is_boolean(cells.type):
        return cells
    lower = compute.utf8_lower(cells.cast(arrow.string()))
    known = compute.is_in(lower, arrow.array(["true", "false"]))
    if not compute.all(known).as_py():
        raise ValueError(
            f"the column {name!r} holds truth values, but now also {cells.filter(compute.invert(known))[0].as_py()!r}"
        )
    return compute.equal(lower, "true")


def read_labels(cells: Any) -> Any:
    """Return text, whole numbers without the point."""
    arrow = arrow_module()

    if not arrow.types.is_floating(cells.type):
        return cells.cast(arrow.string())
    values = [str(int(x)) if x is not None and x.is_integer() else x for x in cells.to_pylist()]
    return arrow.chunked_array([[None if x is None else str(x) for x in values]], type=arrow.string())


def _plain(name: str, column: Any, missing: Sequence[str]) -> Any:
    """Return float64, bool or text; null where a number is NaN or a text says that nothing is there."""
    arrow, compute = arrow_module(), arrow_module("compute")

    types, kind = arrow.types, column.type
    if types.is_temporal(kind):
        raise ValueError(f"the column {name!r} holds dates or times ({kind}): {_WHY_NO_DATES}")
    if types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if types.is_boolean(kind):
        return column
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        numbers = compute.cast(column, arrow.float64(), safe=False)
        return compute.if_else(compute.is_nan(numbers), None, numbers)
    if types.is_null(kind):
        return column.cast(arrow.string())
    if not (types.is_string(kind) or types.is_large_string(kind) or kind == arrow.string_view()):
        raise ValueError(f"the column {name!r} holds {kind}, expected numbers, truth values or text; drop it")
    text = compute.utf8_trim_whitespace(column.cast(arrow.string()))
    return compute.if_else(compute.is_in(text, value_set=arrow.array(missing, arrow.string())), None, text)


def arrow_module(name: str = "") -> Any:
    """Return pyarrow or a module of it; raises ValueError, with the command, if it is not installed."""
    try:
        return importlib.import_module(f"pyarrow.{name}" if name else "pyarrow")
    except ImportError as error:
        raise ValueError("reading a table needs pyarrow: pip install 'gossamer[data]'") from error
