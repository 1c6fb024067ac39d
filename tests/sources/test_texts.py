"""Documents are read from every kind of file in a fixed order, and whatever cannot be read is named."""

import csv
import io
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gossamer.sources.assets import INSTALL_COMMAND, MissingAsset
from gossamer.sources.texts import asset_names, read_documents

# What a file may hold: any text but carriage returns, which a .txt file loses, and documents of white space only.
documents = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\ufeff"), min_size=1).filter(str.strip), min_size=1
)


def as_csv(texts: list[str], column: str = "text") -> bytes:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerows([["label", column], *(["0", text] for text in texts)])
    return file.getvalue().encode()


def as_jsonl(texts: list[str], column: str = "text") -> bytes:
    return "\n".join(json.dumps({"label": 0, column: text}) for text in texts).encode()


def as_zst(data: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    return zstandard.ZstdCompressor().compress(data)


class TestFormats:
    @pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order-mark"])
    @pytest.mark.parametrize("column", ["text", "prompt"])
    @pytest.mark.parametrize(
        ("suffix", "write"),
        [
            (".csv", as_csv),
            (".jsonl", as_jsonl),
            (".csv.zst", lambda texts, column: as_zst(as_csv(texts, column))),
        ],
    )
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(texts=documents)
    def test_rows_come_back_distinct_and_in_order(
        self, tmp_path: Path, suffix: str, write: Callable[..., bytes], column: str, mark: bytes, texts: list[str]
    ):
        path = tmp_path / f"texts{suffix}"
        path.write_bytes((b"" if suffix == ".csv.zst" else mark) + write(texts, column))
        assert read_documents([str(path)]) == list(dict.fromkeys(texts))

    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(texts=documents)
    def test_a_txt_file_is_one_document(self, tmp_path: Path, texts: list[str]):
        for number, text in enumerate(texts):
            (tmp_path / f"{number}.txt").write_bytes(text.encode())
        names = [str(tmp_path / f"{number}.txt") for number in range(len(texts))]
        assert read_documents(names) == list(dict.fromkeys(texts))

    def test_windows_line_ends_are_read_as_plain_ones(self, tmp_path: Path):
        (tmp_path / "a.TXT").write_bytes(b"one\r\ntwo")
        assert read_documents([str(tmp_path / "a.TXT")]) == ["one\ntwo"]

    def test_text_comes_before_prompt(self, tmp_path: Path):
        (tmp_path / "a.csv").write_text("prompt,text\nno,yes\n")
        assert read_documents([str(tmp_path / "a.csv")]) == ["yes"]

    def test_blank_lines_of_jsonl_and_csv_are_no_documents(self, tmp_path: Path):
        (tmp_path / "a.jsonl").write_text('\n{"text": "one"}\n\n  \n')
        (tmp_path / "b.csv").write_text("text\none\n\ntwo\n\n")
        assert read_documents([str(tmp_path / "a.jsonl"), str(tmp_path / "b.csv")]) == ["one", "two"]

    def test_long_fields_are_read_and_the_limit_of_the_process_stays(self, tmp_path: Path):
        before = csv.field_size_limit(131_072)
        (tmp_path / "a.csv").write_text(f"text\n{'x' * 400_000}\n")
        assert read_documents([str(tmp_path / "a.csv")]) == ["x" * 400_000]
        (tmp_path / "b.csv").write_text("other\n1\n")
        with pytest.raises(ValueError, match=r"b\.csv"):
            read_documents([str(tmp_path / "b.csv")])
        assert csv.field_size_limit(before) == 131_072

    def test_several_zstandard_frames_are_read_as_one(self, tmp_path: Path):
        (tmp_path / "a.csv.zst").write_bytes(as_zst(b"text\none\n") + as_zst(b"two\n"))
        assert read_documents([str(tmp_path / "a.csv.zst")]) == ["one", "two"]

    def test_parquet_without_pyarrow_says_what_to_install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
        (tmp_path / "a.parquet").touch()
        with pytest.raises(ValueError, match=r"a\.parquet: reading Parquet needs pyarrow: `pip install pyarrow`"):
            read_documents([str(tmp_path / "a.parquet")])

    def test_parquet(self, tmp_path: Path):
        parquet = pytest.importorskip("pyarrow.parquet", reason="pip install pyarrow")
        arrow = pytest.importorskip("pyarrow")
        parquet.write_table(arrow.table({"label": [0, 1], "text": ["one", "two"]}), tmp_path / "a.parquet")
        assert read_documents([str(tmp_path / "a.parquet")]) == ["one", "two"]

    @pytest.mark.parametrize(
        ("names", "values", "said"),
        [
            (["label", "prompt"], ["one", "two"], None),
            (["text"], ["one", None], r"row 2: the field text must hold text, got nothing"),
            (["label"], [], r"expected a field text or prompt, found label"),
            (None, [], r"not a valid Parquet file \(magic bytes\)"),
        ],
    )
    def test_parquet_calls(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: Any, values: Any, said: str | None
    ):
        """Stands in for `test_parquet` where pyarrow is not installed."""

        def read_schema(path: Path) -> Any:
            if names is None:
                raise ValueError("magic bytes")
            return types.SimpleNamespace(names=names)

        def read_table(path: Path, *, columns: list[str]) -> Any:
            cells = types.SimpleNamespace(to_pylist=lambda: values)
            return types.SimpleNamespace(column={columns[0]: cells}.__getitem__)

        stub = types.SimpleNamespace(read_schema=read_schema, read_table=read_table)
        monkeypatch.setitem(sys.modules, "pyarrow", types.ModuleType("pyarrow"))
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", stub)  # type: ignore[arg-type]
        (tmp_path / "a.parquet").touch()
        if said is None:
            assert read_documents([str(tmp_path / "a.parquet")]) == values
        else:
            with pytest.raises(ValueError, match=r"a\.parquet.*" + said):
                read_documents([str(tmp_path / "a.parquet")])


class TestSelection:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (tmp_path / "deep").mkdir()
        (tmp_path / "folder.txt").mkdir()
        for name, text in {"b.txt": "bee", "a.txt": "ay", "deep/c.txt": "sea", "d.txt": "ay", "[x].txt": "x"}.items():
            (tmp_path / name).write_text(text)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        return tmp_path

    @pytest.mark.usefixtures("folder")
    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            (["*.txt"], ["x", "ay", "bee"]),
            (["b.txt", "*.txt"], ["bee", "x", "ay"]),
            (("**/*.txt",), ["x", "ay", "bee", "sea"]),
            (["[ab].txt"], ["ay", "bee"]),
            (["[x].txt"], ["x"]),
            (["~/b.txt", "~/deep/*"], ["bee", "sea"]),
        ],
    )
    def test_the_order_depends_on_the_names_alone(self, names: list[str], expected: list[str]):
        assert read_documents(names) == expected

    @pytest.mark.usefixtures("folder")
    def test_short_documents_are_dropped(self, folder: Path):
        (folder / "blank.txt").write_text("  \n\t   ")
        (folder / "padded.txt").write_text("  hi\n ")
        assert read_documents(["*.txt"], min_characters=2) == ["ay", "bee", "  hi\n "]
        assert read_documents(["padded.txt", "b.txt"], min_characters=3) == ["bee"]

    @pytest.mark.usefixtures("folder")
    @pytest.mark.parametrize(
        ("names", "said"),
        [
            ([], "names is empty"),
            (["no.txt"], r"there is no file no\.txt"),
            (["no*.txt"], r"no file matches no\*\.txt"),
            (["folder*"], r"no file matches folder\*"),
            (["deep"], r"deep is a folder: name the files in it, such as deep/\*\.txt"),
            (["asset"], "there is no file asset"),
        ],
    )
    def test_a_name_without_files_is_an_error(self, names: list[str], said: str):
        with pytest.raises(ValueError, match=said):
            read_documents(names)

    @pytest.mark.usefixtures("folder")
    def test_nothing_left_is_an_error(self):
        with pytest.raises(ValueError, match="of the 4 documents in 4 files, none has 50 characters or more"):
            read_documents(["*.txt"], min_characters=50)

    def test_a_single_string_is_an_error(self):
        with pytest.raises(TypeError, match=r"write \['a\.txt'\]"):
            read_documents("a.txt")

    def test_min_characters_must_be_positive(self):
        with pytest.raises(ValueError, match="min_characters must be at least 1, got 0"):
            read_documents(["a.txt"], min_characters=0)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "one"}\n{"text": \n', "line 2: not valid JSON"),
        ("a.jsonl", b'{"text": "one"}\n\n["two"]\n', "line 3: expected a JSON object, got list"),
        ("a.jsonl", b'{"body": "one"}\n', "line 1: expected a field text or prompt, found body"),
        ("a.jsonl", b'{"text": 7}\n', "line 1: the field text must hold text, got 7"),
        ("a.jsonl", b'{"text": null}\n', "line 1: the field text must hold text, got nothing"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1: the field text is not valid Unicode"),
        ("a.jsonl", b'{"text": "one"}\n{"text": "\xff"}\n', "line 2: not valid UTF-8"),
        ("a.csv", b"body,label\none,1\n", "line 1: expected a field text or prompt, found body, label"),
        ("a.csv", b"label,text\n1,one\n2\n", "line 3: the field text must hold text, got nothing"),
        ("a.csv", b'text\n"one\ntwo"\n\xff\n', "line 4: not valid UTF-8"),
        ("a.csv", b"", "no document left"),
        ("a.txt", b"one\ntwo\n\xe4\n", "line 3: not valid UTF-8"),
        ("a.txt", b" \n", "no document left"),
        ("a.csv.zst", b"text\none\n", "not valid zstandard data"),
        ("a.pdf", b"one", r"cannot read files of this kind, only \.txt, \.jsonl, \.csv, \.csv\.zst, \.parquet"),
    ],
)
def test_an_error_names_the_file_and_the_line(tmp_path: Path, name: str, content: bytes, said: str):
    (tmp_path / name).write_bytes(content)
    where = "" if said == "no document left" else rf"{name.replace('.', chr(92) + '.')}(:|,) "
    with pytest.raises(ValueError, match=where + said):
        read_documents([str(tmp_path / name)])


def test_data_that_was_cut_off_is_an_error(tmp_path: Path):
    (tmp_path / "a.csv.zst").write_bytes(as_zst(b"text\n" + b"one\ntwo\n" * 99)[:-4])
    with pytest.raises(ValueError, match=r"a\.csv\.zst: the compressed data is cut off"):
        read_documents([str(tmp_path / "a.csv.zst")])


def test_zst_without_zstandard_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    (tmp_path / "a.csv.zst").touch()
    with pytest.raises(ValueError, match=r"a\.csv\.zst: reading \.zst needs zstandard: `pip install zstandard`"):
        read_documents([str(tmp_path / "a.csv.zst")])


def test_unreadable_kinds_are_found_before_anything_is_read(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text("broken")
    (tmp_path / "b.pdf").touch()
    with pytest.raises(ValueError, match="cannot read files of this kind"):
        read_documents([str(tmp_path / "a.jsonl"), str(tmp_path / "b.pdf")])


class TestAssets:
    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("zstandard")
        try:
            asset_names()
        except MissingAsset:
            pytest.skip(f"install the assets with {INSTALL_COMMAND}")

    def test_names_are_listed(self):
        names = asset_names()
        assert len(names) == 155
        assert names == sorted(names)
        assert {"100_news_fake", "94_ai_gen", "158_code_C"} <= set(names)

    def test_a_data_set_is_read_without_its_duplicates(self):
        news = read_documents(["asset:100_news_fake"])
        assert len(news) == len(set(news)) == 2010
        assert sum(map(len, news)) == 5_760_297
        assert read_documents(["asset:112_amzn_rev", "asset:111_yelp_data"]) == read_documents(["asset:111_yelp_data"])

    @pytest.mark.parametrize(
        ("name", "nearest"),
        [
            ("101_news_fake", "100_news_fake"),
            ("94_AIgen", "94_ai_gen"),
            ("yelp", "111_yelp_data"),
            ("CODE", "160_code_HTML"),
        ],
    )
    def test_an_unknown_name_gets_the_nearest(self, name: str, nearest: str):
        with pytest.raises(ValueError, match=f"no data set asset:{name} among the 155: the nearest are .*{nearest}"):
            read_documents([f"asset:{name}"])

    @pytest.mark.parametrize("name", ["", "../../x", "qqqqqqqqqqqq"])
    def test_a_name_like_no_other_gets_the_range(self, name: str):
        with pytest.raises(ValueError, match="they run from 100_news_fake to 9_nyc_long"):
            read_documents([f"asset:{name}"])
