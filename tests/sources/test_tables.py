"""Tables become the same columns of numbers every time, and cells that cannot are named with their column."""

from __future__ import annotations

import datetime
import glob
import gzip
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gossamer.sources.assets import locate
from gossamer.sources.columns import ColumnChoices, Columns
from gossamer.sources.source import Feed, SourceSpec
from gossamer.sources.tables import Table, TableSpec, open_table

arrow: Any = pytest.importorskip("pyarrow", reason="pip install 'gossamer[data]'")

IRIS = ("sepal_length", "sepal_width", "petal_length", "petal_width", "species")


@pytest.fixture
def iris(tmp_path: Path) -> Path:
    """The iris table with column names, its species as words."""
    pytest.importorskip("sklearn", reason="pip install 'gossamer[sklearn]'")
    lines = locate("sklearn", "datasets/data/iris.csv").read_text().splitlines()[1:]
    species = ("setosa", "versicolor", "virginica")
    rows = [line.rpartition(",") for line in lines]
    path = tmp_path / "iris.csv"
    path.write_text("\n".join([",".join(IRIS), *(f"{row[0]},{species[int(row[2])]}" for row in rows)]) + "\n")
    return path


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def learned(data: Any, **choices: Any) -> Columns:
    return Columns.learn(open_table(data), ColumnChoices(**choices))


def rows_of(data: Any, **choices: Any) -> list[list[float]]:
    return learned(data, **choices).rows(open_table(data)).tolist()


class TestRows:
    def test_iris_is_four_standardized_numbers_and_three_species(self, iris: Path):
        from sklearn.datasets import load_iris

        source = Table(iris, validation=0)
        assert source.names == (*IRIS[:4], "species=setosa", "species=versicolor", "species=virginica")
        x, y = load_iris(return_X_y=True)
        rows = Feed(source, batch=150, seed=0).next()
        order = rows.origins[:, 1].numpy()
        expected = np.hstack([(x - x.mean(0)) / x.std(0), np.eye(3)[y]])[order]
        assert np.allclose(rows.rows[""].numpy(), expected, atol=1e-6)
        assert source.describe()["columns"] == "4 of numbers, 1 of categories: 7 entries in a row"

    def test_without_standardizing_numbers_stay_as_they_are(self, iris: Path):
        from sklearn.datasets import load_iris

        rows = learned(iris, standardize=False, keep=IRIS[:4]).rows(open_table(iris))
        assert np.array_equal(rows, load_iris().data.astype(np.float32))

    def test_means_are_learned_from_the_training_rows_alone(self, iris: Path):
        from sklearn.datasets import load_iris

        source = Table(iris, ColumnChoices(drop=("species",)), validation=0.2)
        (held,) = source.validation(batch=100)
        train = np.delete(load_iris().data, held.origins[:, 1].numpy(), axis=0)
        assert source.columns.learned_from == 120
        assert np.allclose([column.mean for column in source.columns.columns], train.mean(0))  # type: ignore[attr-defined]
        assert source.describe()["left out"] == "species"

    def test_kinds_of_cells_in_a_text_file(self, tmp_path: Path):
        text = 'n,truth,word,code\n 1,TRUE," red, dark",1\n+2.5e0,false,blue ,2\n.5,True,blue,10\n'
        path = write(tmp_path / "a.csv", text)
        columns = learned(path, standardize=False, categories=("code",))
        assert columns.names == ("n", "truth", "word=blue", "word=red, dark", "code=1", "code=10", "code=2")
        assert columns.rows(open_table(path)).tolist() == [
            [1, 1, 0, 1, 1, 0, 0],
            [2.5, 0, 1, 0, 0, 0, 1],
            [0.5, 1, 1, 0, 0, 1, 0],
        ]

    @pytest.mark.parametrize("suffix", ["tsv", "csv.gz", "tsv.zst", "jsonl", "parquet", "mapping", "arrow"])
    def test_the_same_table_in_any_file_gives_the_same_rows(self, iris: Path, suffix: str):
        from pyarrow import csv, parquet

        table = csv.read_csv(iris)
        path = iris.with_name(f"other.{suffix}")
        data: Any = str(path)
        if suffix == "parquet":
            parquet.write_table(table.set_column(4, "species", table["species"].dictionary_encode()), path)
        elif suffix == "jsonl":
            path.write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
        elif suffix in ("mapping", "arrow"):
            data = table if suffix == "arrow" else table.to_pydict()
        else:
            text = iris.read_text().replace(",", "\t") if "tsv" in suffix else iris.read_text()
            with arrow.output_stream(str(path), compression={"gz": "gzip", "zst": "zstd"}.get(suffix[4:])) as stream:
                stream.write(text.encode())
        columns = learned(iris)
        assert learned(data) == columns
        assert np.array_equal(columns.rows(open_table(data)), columns.rows(open_table(iris)))

    def test_text_of_a_typed_file_stays_text(self):
        columns = learned({"zip": ["01234", "7", "NA"], "big": [2**40, 3, 4]}, standardize=False)
        assert columns.names == ("zip=01234", "zip=7", "zip=NA", "big")
        assert columns.rows(open_table({"zip": ["7"], "big": [5]})).tolist() == [[0, 1, 0, 5]]

    def test_numbers_that_are_labels_read_the_same_from_memory_and_from_text(self, tmp_path: Path):
        columns = learned({"code": [1, 10, 2.5]}, categories=("code",))
        assert columns.names == ("code=1", "code=10", "code=2.5")
        assert columns.rows(open_table(write(tmp_path / "a.csv", "code\n10\n2.5\n"))).tolist() == [[0, 1, 0], [0, 0, 1]]

    def test_numbers_are_read_however_they_are_written(self, tmp_path: Path):
        path = write(tmp_path / "a.csv", "n\n+1\n5.\n.5\n-2E+3\n 7 \n1e-3\n007\n")
        assert np.allclose(rows_of(path, standardize=False), [[1], [5], [0.5], [-2000], [7], [1e-3], [7]])

    def test_files_follow_each_other_by_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        found = glob.glob
        monkeypatch.setattr(glob, "glob", lambda *args, **more: sorted(found(*args, **more), reverse=True))
        write(tmp_path / "b1.csv", "a,b\n1,x\n")
        write(tmp_path / "b0.csv", "a,b\n3,y\n")
        assert rows_of(str(tmp_path / "b*.csv"), standardize=False) == [[3, 0, 1], [1, 1, 0]]
        write(tmp_path / "b2.csv", "a,c\n3,y\n")
        with pytest.raises(ValueError, match=r"b0\.csv and .*b2\.csv have different columns: [bc]"):
            open_table(str(tmp_path / "b*.csv"))

    def test_a_file_without_names_gets_them(self):
        path = locate("sklearn", "datasets/data/iris.csv")
        with pytest.raises(ValueError, match=r"iris\.csv, row 1: 5 cells where there are 3 columns"):
            open_table(path, header=("a", "b", "c"))
        assert len(open_table(path, header=(*IRIS[:4], "class"))) == 151

    def test_a_row_does_not_depend_on_the_others_nor_on_the_order_of_columns(self, iris: Path):
        columns = learned(iris)
        whole = columns.rows(open_table(iris))
        names = (*reversed(IRIS), "extra")
        one = {name: [value] for name, value in zip(names, ("virginica", 0.2, 1.4, 3.5, 5.1, 1), strict=True)}
        row = columns.rows(open_table(one))
        assert np.array_equal(row[0, :4], whole[0, :4]) and row[0, 4:].tolist() == [0, 0, 1]


class TestMissing:
    TEXT = "n,w,t\n1,red,true\n,blue,false\n3,NA,true\n8,blue,\n8,red,true\n"

    def test_missing_cells_are_refused_with_their_number(self, tmp_path: Path):
        with pytest.raises(ValueError, match=r"of 5 rows in each column: 'n' 1, 'w' 1, 't' 1; drop .* choose impute"):
            learned(write(tmp_path / "a.csv", self.TEXT))

    @pytest.mark.parametrize(("impute", "number"), [("mean", 5.0), ("median", 5.5), ("most-frequent", 8.0)])
    def test_what_stands_in_for_them(self, tmp_path: Path, impute: str, number: float):
        path = write(tmp_path / "a.csv", self.TEXT)
        rows = rows_of(path, impute=impute, standardize=False)
        assert rows[1] == [number, 1, 0, 0]
        assert rows[2] == [3, 1, 0, 1]  # blue, the first of the two most frequent
        assert rows[3] == [8, 1, 0, 1]
        new = open_table({"n": [math.nan, None], "w": [None, "red"], "t": [None, None]})
        assert learned(path, impute=impute, standardize=False).rows(new).tolist() == [
            [number, 1, 0, 1],
            [number, 0, 1, 1],
        ]

    def test_the_same_gaps_in_memory(self):
        data = {"n": [1.0, math.nan, 3.0, 8.0, 8.0], "t": [True, False, None, True, True]}
        assert rows_of(data, impute="mean", standardize=False)[1:3] == [[5, 0], [3, 1]]
        with pytest.raises(ValueError, match="'n' 1, 't' 1"):
            learned(data)

    def test_standardizing_leaves_gaps_out(self):
        rows = rows_of({"n": [1.0, None, 3.0]}, impute="mean")
        assert rows == [[-1], [0], [1]]

    def test_a_sign_for_nothing_can_be_named(self, tmp_path: Path):
        path = write(tmp_path / "a.csv", "n\n1\n?\n3\n")
        with pytest.raises(ValueError, match=r"'n' mixes numbers and text: 2 of 3 .*\('\?'\)"):
            learned(path, impute="mean")
        assert rows_of(path, impute="mean", missing=("?",), standardize=False) == [[1], [2], [3]]

    def test_gaps_in_new_rows_need_a_choice_before(self):
        columns = learned({"n": [1.0, 2.0], "t": [True, False], "w": ["x", "y"]})
        for gap in columns.columns:
            new: dict[str, list[Any]] = {"n": [1.0, 1.0], "t": [True, True], "w": ["x", "x"]}
            new[gap.name][0] = None
            with pytest.raises(ValueError, match=f"'{gap.name}' is missing in 1 of 2 rows, and no impute was chosen"):
                columns.rows(open_table(new))

    def test_a_column_of_nothing_is_refused(self, tmp_path: Path):
        with pytest.raises(ValueError, match="the column 'b' holds nothing but missing cells"):
            learned(write(tmp_path / "a.csv", "a,b\n1,\n2,\n"), impute="mean")


class TestStoring:
    def test_saved_columns_give_the_same_rows(self, iris: Path):
        columns = learned(iris, impute="median", unknown="zero")
        columns.save(iris.with_name("columns.json"))
        again = Columns.load(iris.with_name("columns.json"))
        assert again == columns
        assert np.array_equal(again.rows(open_table(iris)), columns.rows(open_table(iris)))
        source = Table(iris, columns=again, validation=0.1)
        assert source.columns == columns
        with pytest.raises(TypeError, match="not both"):
            Table(iris, ColumnChoices(), columns=again)

    @pytest.mark.parametrize(
        "text", ["", "[]", '{"columns": [{"kind": "numbr", "name": "a"}]}', '{"columns": [{"kind": "number"}]}']
    )
    def test_a_damaged_file_is_refused_by_name(self, tmp_path: Path, text: str):
        with pytest.raises(ValueError, match=r"c\.json is damaged, or not the columns"):
            Columns.load(write(tmp_path / "c.json", text))
        with pytest.raises(ValueError, match=r"d\.json does not exist"):
            Columns.load(tmp_path / "d.json")

    def test_new_categories_are_an_error_or_zero_by_choice(self):
        data, new = {"c": ["red", "blue"]}, open_table({"c": ["red", "blu", "blu"]})
        with pytest.raises(ValueError, match=r"'c' holds 'blu', .*\(2 rows, 1 new values\); did you mean 'blue'"):
            learned(data).rows(new)
        assert learned(data, unknown="zero").rows(new).tolist() == [[0, 1], [0, 0], [0, 0]]

    @pytest.mark.parametrize(
        ("data", "new", "said"),
        [
            ({"a": [1, 2]}, {"b": [1]}, "there is no column 'a'; known: b"),
            ({"a": [1, 2]}, {"a": ["x"]}, "the column 'a' holds numbers, but now also the text 'x'"),
            ({"a": [True, False]}, {"a": ["yes"]}, "the column 'a' holds truth values, but now also 'yes'"),
            ({"a": [1, 2]}, {"a": [1, math.inf]}, "the column 'a' holds 1 numbers that are infinite .* in row 1"),
        ],
    )
    def test_new_rows_of_another_type_are_refused(self, data: Any, new: Any, said: str):
        with pytest.raises(ValueError, match=said):
            learned(data).rows(open_table(new))


class TestSource:
    def test_a_spec_survives_toml_and_builds(self, iris: Path):
        choices = ColumnChoices(drop=("species",), impute="mean")
        spec = TableSpec(paths=(str(iris),), columns=choices, validation=0.1)
        assert SourceSpec.from_toml(spec.to_toml()) == spec
        source = spec.build()
        assert (source.rows, source.validation_rows, source.widths) == (135, 15, {"": 4})
        source.columns.save(iris.with_name("c.json"))
        again = spec.replace(learned=str(iris.with_name("c.json")), columns=ColumnChoices(standardize=False)).build()
        same = [next(one.validation(batch=15)).rows[""] for one in (source, again)]
        assert torch.equal(*same)

    def test_constant_columns_are_named_and_harmless(self):
        data = {"k": [0.1, 0.1, 0.1], "n": [1, 2, 4], "w": ["x", "x", "x"], "t": [True, True, True]}
        source = Table(data, validation=0)
        assert source.columns.constant == ("k", "w", "t")
        assert source.describe()["constant"].startswith("k, w, t: the same in every row")
        assert source.columns.rows(open_table(data))[:, 0].tolist() == [0, 0, 0]
        assert "constant" not in Table({"n": [1, 2, 4]}, validation=0).describe()

    def test_the_fingerprint_changes_with_the_cells(self):
        one, same, other = (Table({"n": [1, 2, value]}, validation=0).fingerprint() for value in (4, 4, 5))
        assert one == same != other
        assert one["kind"] == "table"


class TestMistakes:
    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("a.csv", b"a,b\n1,2\n3\n", r"a\.csv, row 3 \(the names are row 1\): 1 cells where there are 2 columns"),
            ("a.csv", b"a,b\n1,2\n3,\xff\n", r"a\.csv, line 3: not valid UTF-8"),
            ("a.csv", b"", r"a\.csv: Empty CSV file"),
            ("a.csv", b"a,a\n1,2\n", r"a\.csv has the column 'a' more than once"),
            ("a.csv", b"a,b\n", "the table has no rows"),
            ("a.csv", b"n\n1\nx\n2\n", r"'n' mixes numbers and text: 2 of 3 cells are numbers \('1'\), .*\('x'\)"),
            ("a.csv", b"d\n2020-01-31\n2021-12-01 10:00\n", r"'d' holds dates \(such as '2020-01-31'\).*drop it"),
            ("a.csv", b"d\n31.1.2020\n1.12.2021\n", "'d' holds dates"),
            ("a.csv", b"n\n1\ninf\n", r"'n' holds 1 numbers that are infinite .*, inf, in row 1"),
            ("a.csv", b"n\n1\n+Infinity\n", r"'n' holds 1 numbers that are infinite .*, inf, in row 1"),
            ("a.csv", b"n\n1\n-1e39\n", r"'n' holds 1 numbers that are infinite .*, -1e\+39, in row 1"),
            ("a.xls", b"a\n1\n", r"a\.xls: cannot read files of this kind as a table, only \.csv"),
            ("a.csv.gz", gzip.compress(b"a\n" + b"1\n2\n" * 999, mtime=0)[:-12], r"a\.csv\.gz: cannot be read"),
            ("a.csv.zst", b"a\n1\n", r"a\.csv\.zst: cannot be read"),
            ("a.parquet", b"PAR1 but not really", r"a\.parquet: "),
            ("a.jsonl", b'{"a": 1}\n{"a": "x"}\n', r"a\.jsonl: .*changed from number to string"),
            ("a.jsonl", b'{"a": 1}\n{"a": ', r"a\.jsonl: JSON parse error"),
        ],
    )
    def test_a_file_that_is_no_table_is_named_with_the_place(
        self, tmp_path: Path, name: str, content: bytes, said: str
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=said):
            Table(str(tmp_path / name))

    def test_a_ragged_real_file(self):
        path = locate("sklearn", "datasets/data/wine_data.csv")
        with pytest.raises(ValueError, match=r"wine_data\.csv, row 2 .*: 14 cells where there are 5 columns"):
            Table(path)

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            ({"a": [1, "x"]}, "cannot make a table of dict: the column 'a': .*'x'"),
            ({"a": [1, 2], "b": [1]}, "cannot make a table of dict: .*named b expected length 2 but got length 1"),
            (np.eye(3), "cannot make a table of ndarray"),
            ({}, "the table has no columns"),
            ({"a": []}, "the table has no rows"),
            ({"a": [datetime.date(2020, 1, 1)]}, r"the column 'a' holds dates or times \(date32"),
            ({"a": [[1, 2]]}, r"the column 'a' holds list<.*>, expected numbers, truth values or text"),
            ({"a": [f"word {i}" for i in range(65)]}, "'a' holds 65 different texts .*max_categories = 64"),
            ((), "there are no files"),
            ("no.csv", r"there is no file no\.csv"),
            ("no*.csv", r"no file matches no\*\.csv"),
            (".", r"\. is a folder: name the files in it, such as \./\*\.csv"),
        ],
    )
    def test_what_is_no_table(self, data: Any, said: str):
        with pytest.raises(ValueError, match=said):
            Table(data)

    @pytest.mark.parametrize("where", ["keep", "drop", "categories"])
    def test_a_column_that_is_not_there_gets_the_nearest(self, iris: Path, where: str):
        with pytest.raises(ValueError, match=r"there is no column 'specis'; did you mean 'species'"):
            learned(iris, **{where: ("specis",)})

    def test_columns_that_are_dropped_may_hold_anything(self):
        data = {"a": [1, 2], "day": [datetime.date(2020, 1, 1)] * 2, "l": [[1], [2]]}
        assert learned(data, drop=("day", "l")).names == ("a",)
        with pytest.raises(ValueError, match="no column is left: all of a, day, l are dropped"):
            learned(data, drop=("a", "day", "l"))

    def test_impossible_choices(self):
        with pytest.raises(ValueError, match="the column 'a' is in keep and in drop"):
            ColumnChoices(keep=("a",), drop=("a",))
        with pytest.raises(ValueError, match="max_categories must be at least 1, got 0"):
            ColumnChoices(max_categories=0)

    def test_text_files_and_typed_ones_do_not_mix(self, tmp_path: Path):
        paths = [write(tmp_path / "a.csv", "a\n1\n"), write(tmp_path / "a.jsonl", '{"a": 1}\n')]
        with pytest.raises(ValueError, match=r"a\.csv and .*a\.jsonl are of different kinds"):
            Table(paths)

    def test_without_pyarrow_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ValueError, match=r"needs pyarrow: pip install 'gossamer\[data\]'"):
            Table("a.csv")
