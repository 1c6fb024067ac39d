"""Columns: what is learned about a table so that any row of it becomes the same numbers.

A number is standardized, a truth value is 0 or 1, a category is one entry per value that it may have. What was
learned (means, values, what stands in for a missing cell) is plain JSON. Reading files is `tables`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from gossamer.sources.cells import Cells, arrow_module, content_of, read_labels, read_numbers, read_truths
from gossamer.sources.learned import Learned
from gossamer.spec import Spec, nearest

if TYPE_CHECKING:
    import pyarrow

__all__ = ["CategoryColumn", "Column", "ColumnChoices", "Columns", "NumberColumn", "TruthColumn"]


@dataclass(frozen=True, kw_only=True)
class ColumnChoices(Spec):
    """Choose which columns of a table become entries of a row, and how.

    keep: the columns that are read, by default all; drop: columns that are not. categories: columns that hold
    categories although their cells look like numbers. standardize: bring numbers to mean 0 and deviation 1 (truth
    values and categories stay 0 and 1). impute: what stands in for a missing cell; by default it is an error; "mean"
    and "median" go for numbers, and the most frequent value for the others. max_categories: distinct values that a
    category may have. unknown: a category that is met for the first time in new rows is an error, or all its entries
    are zero. missing: what stands for nothing in a text file.
    """

    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    standardize: bool = True
    impute: Literal["refuse", "mean", "median", "most-frequent"] = "refuse"
    max_categories: int = 64
    unknown: Literal["error", "zero"] = "error"
    missing: tuple[str, ...] = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_categories < 1:
            raise ValueError(f"max_categories must be at least 1, got {self.max_categories}")
        both = [name for name in self.keep if name in self.drop]
        if both:
            raise ValueError(f"the column {both[0]!r} is in keep and in drop")


@dataclass(frozen=True, kw_only=True)
class Column(Spec):
    """The family of columns: what one column of a table becomes."""

    name: str

    @property
    def names(self) -> tuple[str, ...]:
        """One name per entry."""
        return (self.name,)

    def entries(self, cells: pyarrow.ChunkedArray, *, unknown: str) -> np.ndarray:
        """Return `(rows, entries)` float64; raises ValueError for a cell that does not fit."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class NumberColumn(Column):
    """A number, as (x − mean) / scale. fill: what stands in for a missing one; constant: it never varied."""

    kind: ClassVar[str] = "number"
    mean: float = 0.0
    scale: float = 1.0
    fill: float | None = None
    constant: bool = False

    def entries(self, cells: pyarrow.ChunkedArray, *, unknown: str) -> np.ndarray:
        """Return `(rows, 1)` float64."""
        return (read_numbers(self.name, _filled(self.name, cells, self.fill)) - self.mean)[:, None] / self.scale


@dataclass(frozen=True, kw_only=True)
class TruthColumn(Column):
    """A truth value, as 0 or 1. fill: what stands in for a missing one; constant: it never varied."""

    kind: ClassVar[str] = "truth"
    fill: bool | None = None
    constant: bool = False

    def entries(self, cells: pyarrow.ChunkedArray, *, unknown: str) -> np.ndarray:
        """Return `(rows, 1)` float64."""
        return read_truths(self.name, _filled(self.name, cells, self.fill)).to_numpy().astype(np.float64)[:, None]


@dataclass(frozen=True, kw_only=True)
class CategoryColumn(Column):
    """A category, as one entry per value: 1 for the value that it has. values: sorted; fill: for a missing one."""

    kind: ClassVar[str] = "category"
    values: tuple[str, ...]
    fill: str | None = None

    @property
    def constant(self) -> bool:
        """Whether there is one value only."""
        return len(self.values) == 1

    @property
    def names(self) -> tuple[str, ...]:
        """One name per value, such as `color=red`."""
        return tuple(f"{self.name}={value}" for value in self.values)

    def entries(self, cells: pyarrow.ChunkedArray, *, unknown: str) -> np.ndarray:
        """Return `(rows, values)` float64; a value never seen is all zero if unknown is "zero"."""
        arrow, compute = arrow_module(), arrow_module("compute")

        labels = _filled(self.name, read_labels(cells), self.fill)
        codes = compute.index_in(labels, value_set=arrow.array(self.values))
        if codes.null_count and unknown == "error":
            strange = labels.filter(compute.is_null(codes)).unique().to_pylist()
            raise ValueError(
                f"the column {self.name!r} holds {strange[0]!r}, which was not there when its values were learned "
                f"({codes.null_count} rows, {len(strange)} new values); {nearest(strange[0], self.values)} "
                'With unknown = "zero" such rows get zeros'
            )
        codes = compute.fill_null(codes, len(self.values)).to_numpy()
        return np.eye(len(self.values) + 1)[codes][:, : len(self.values)]


@dataclass(frozen=True, kw_only=True)
class Columns(Learned):
    """Turn the rows of a table into rows of numbers, always in the same columns.

    columns: in the order of the table. unknown, missing: as in `ColumnChoices`. rows: how many it was learned from.
    """

    noun: ClassVar[str] = "the columns of a table"
    columns: tuple[Column, ...]
    unknown: Literal["error", "zero"] = "error"
    missing: tuple[str, ...] = ()
    learned_from: int = 0

    @classmethod
    def learn(cls, cells: Cells, choices: ColumnChoices = ColumnChoices(), *, train: np.ndarray | None = None) -> Self:
        """Find out what every column holds.

        train: `(rows,)` booleans, the rows that means, deviations and stand-ins are learned from; by default all. The
        values of categories are learned from all.

        Raises ValueError, naming the column, for one that is asked for and is not there, one that mixes numbers and
        text, dates, too many categories, missing cells (unless imputed) and infinite ones.
        """
        train = np.ones(len(cells), dtype=bool) if train is None else train
        if not train.any():
            raise ValueError("the table has no rows")
        for name in (*choices.keep, *choices.drop, *choices.categories):
            cells.require(name)
        names = [
            name for name in cells.names if name not in choices.drop and (not choices.keep or name in choices.keep)
        ]
        if not names:
            raise ValueError(f"no column is left: all of {', '.join(cells.names)} are dropped")
        read = {name: cells.column(name, choices.missing) for name in names}
        if choices.impute == "refuse":
            _refuse_missing(read)
        columns = tuple(_learned(name, column, cells.untyped, choices, train) for name, column in read.items())
        return cls(columns=columns, unknown=choices.unknown, missing=choices.missing, learned_from=int(train.sum()))

    @property
    def names(self) -> tuple[str, ...]:
        """One name per entry of a row."""
        return tuple(name for column in self.columns for name in column.names)

    @property
    def constant(self) -> tuple[str, ...]:
        """The names of columns that never varied."""
        return tuple(column.name for column in self.columns if getattr(column, "constant", False))

    def rows(self, cells: Cells) -> np.ndarray:
        """Return `(rows, entries)` float32; other columns that the table may have are passed over.

        Raises ValueError, naming the column, for one that is not there, cells of another type, missing cells if
        nothing was learned to stand in for them, infinite ones, and unknown categories if they are an error.
        """
        rows = np.empty((len(cells), len(self.names)), dtype=np.float32)
        start = 0
        for column in self.columns:
            stop = start + len(column.names)
            rows[:, start:stop] = column.entries(cells.column(column.name, self.missing), unknown=self.unknown)
            start = stop
        return rows


def _learned(name: str, column: Any, untyped: bool, choices: ColumnChoices, train: np.ndarray) -> Column:
    arrow = arrow_module()

    if column.null_count == len(column):
        raise ValueError(f"the column {name!r} holds nothing but missing cells; drop it")
    seen = column.filter(arrow.array(train)).drop_null()
    if not len(seen):
        raise ValueError(f"the column {name!r} is missing in every row that is not held out; drop it")
    imputes = choices.impute != "refuse"
    content = "category" if name in choices.categories else content_of(name, column.drop_null(), untyped)
    if content == "category":
        values = sorted(read_labels(column.drop_null()).unique().to_pylist())
        if len(values) > choices.max_categories:
            raise ValueError(
                f"the column {name!r} holds {len(values)} different texts (such as {values[0]!r}), more than "
                f"max_categories = {choices.max_categories}; drop it, or raise the limit"
            )
        return CategoryColumn(name=name, values=tuple(values), fill=_mode(read_labels(seen)) if imputes else None)
    if content == "truth":
        values = read_truths(name, seen)
        fill = _mode(values) if imputes else None
        return TruthColumn(name=name, fill=fill, constant=len(values.unique()) == 1)
    numbers = read_numbers(name, column)
    return _learned_number(name, numbers[train & ~np.isnan(numbers)], choices)


def _learned_number(name: str, numbers: np.ndarray, choices: ColumnChoices) -> NumberColumn:
    constant = bool(numbers.min() == numbers.max())
    fill = None
    if choices.impute == "mean":
        fill = float(numbers.mean())
    elif choices.impute == "median":
        fill = float(np.median(numbers))
    elif choices.impute == "most-frequent":
        values, counts = np.unique(numbers, return_counts=True)
        fill = float(values[counts.argmax()])
    if not choices.standardize:
        return NumberColumn(name=name, fill=fill, constant=constant)
    # The mean of equal numbers can differ from them in the last bit, which dividing by their deviation would blow up.
    mean, scale = (float(numbers[0]), 1.0) if constant else (float(numbers.mean()), float(numbers.std()) or 1.0)
    return NumberColumn(name=name, mean=mean, scale=scale, fill=fill, constant=constant)


def _refuse_missing(columns: dict[str, Any]) -> None:
    gaps = {name: column.null_count for name, column in columns.items() if column.null_count}
    if gaps:
        rows = len(next(iter(columns.values())))
        some = ", ".join(f"{name!r} {count}" for name, count in list(gaps.items())[:5])
        more = f" and {len(gaps) - 5} more columns" if len(gaps) > 5 else ""
        raise ValueError(
            f"cells are missing, of {rows} rows in each column: {some}{more}; "
            'drop these columns, or choose impute = "mean", "median" or "most-frequent"'
        )


def _filled(name: str, cells: Any, fill: Any) -> Any:
    arrow, compute = arrow_module(), arrow_module("compute")

    if not cells.null_count:
        return cells
    if fill is None:
        raise ValueError(
            f"the column {name!r} is missing in {cells.null_count} of {len(cells)} rows, and no impute was chosen"
        )
    text = arrow.types.is_string(cells.type) and not isinstance(fill, str)
    return compute.fill_null(cells, str(fill) if text else fill)


def _mode(cells: Any) -> Any:
    """Return the most frequent value, the least one of several."""
    counts = {entry["values"]: entry["counts"] for entry in cells.value_counts().to_pylist()}
    return min(counts, key=lambda value: (-counts[value], value))
