"""Documents become rows of words, the same ones after saving, and what cannot become rows is explained."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gossamer.sources.assets import INSTALL_COMMAND, MissingAsset, locate
from gossamer.sources.documents import Documents, DocumentsSpec, Vocabulary, Words, read_texts
from gossamer.sources.source import Feed, SourceSpec

pytest.importorskip("sklearn", reason="pip install 'gossamer[sklearn]'")

TEXTS = ["the cat sat", "the cat ran ran", "a dog sat on the mat", "no dog ran"]


@pytest.fixture(scope="session")
def news() -> list[str]:
    """The first 1200 posts of 20 newsgroups; not to be changed."""
    try:
        path = locate("orangecontrib.text", "datasets/20newsgroups-test.tab")
    except MissingAsset:
        pytest.skip(f"install the assets with {INSTALL_COMMAND}")
    lines = path.read_text(encoding="utf-8").split("\n")[3:]
    return [line.split("\t", 1)[1] for line in lines if "\t" in line][:1200]


def dense(vocabulary: Vocabulary, texts: list[str]) -> np.ndarray:
    return vocabulary.rows(texts).toarray()


class TestRows:
    def test_counts_and_binary_by_hand(self):
        counts = Vocabulary.learn(TEXTS, Words(features="counts", min_df=2))
        assert counts.words == ("cat", "dog", "ran", "sat", "the")
        expected = [[1, 0, 0, 1, 1], [1, 0, 2, 0, 1], [0, 1, 0, 1, 1], [0, 1, 1, 0, 0]]
        assert dense(counts, TEXTS).tolist() == expected
        binary = Vocabulary.learn(TEXTS, Words(features="binary", min_df=2))
        assert dense(binary, TEXTS).tolist() == np.minimum(expected, 1).tolist()

    def test_tfidf_by_hand(self):
        vocabulary = Vocabulary.learn(TEXTS, Words(min_df=2))
        idf = {"cat": math.log(5 / 3) + 1, "ran": math.log(5 / 3) + 1, "the": math.log(5 / 4) + 1}
        row = np.array([idf["cat"], 0, 2 * idf["ran"], 0, idf["the"]])
        assert np.allclose(dense(vocabulary, TEXTS)[1], row / np.linalg.norm(row), atol=1e-7)

    def test_tfidf_is_that_of_scikit_learn_on_real_posts(self, news: list[str]):
        from sklearn.feature_extraction.text import TfidfVectorizer

        vocabulary = Vocabulary.learn(news[:800], Words(min_df=3, max_df=0.5, ngrams=(1, 2), stop_words="english"))
        peer = TfidfVectorizer(min_df=3, max_df=0.5, ngram_range=(1, 2), stop_words="english").fit(news[:800])
        assert list(vocabulary.words) == list(peer.get_feature_names_out())
        ours, theirs = vocabulary.rows(news[800:]), peer.transform(news[800:])
        assert ours.dtype == np.float32
        assert abs(ours - theirs).max() < 1e-6

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (Words(min_df=1, max_features=2), ("ran", "the")),
            (Words(min_df=0.75), ("the",)),
            (Words(min_df=2, max_df=2), ("cat", "dog", "sat")),
            (Words(min_df=2, ngrams=(2, 2)), ("the cat",)),
            (Words(min_df=2, stop_words="english", extra_stop_words=("dog",)), ("cat", "ran", "sat")),
        ],
    )
    def test_the_options_choose_the_words(self, options: Words, words: tuple[str, ...]):
        texts = [*TEXTS[:3], "no dog ran ran"] if options.max_df == 2 else TEXTS
        texts = [*texts, "ran ran"] if options.max_df == 2 else texts
        assert Vocabulary.learn(texts, options).words == words

    def test_case_is_folded_only_by_choice(self):
        assert Vocabulary.learn(["Cat cat"], Words(min_df=1)).words == ("cat",)
        assert Vocabulary.learn(["Cat cat"], Words(min_df=1, lowercase=False)).words == ("Cat", "cat")

    def test_new_words_are_passed_over_and_a_row_does_not_depend_on_the_others(self):
        vocabulary = Vocabulary.learn(TEXTS, Words(min_df=2))
        rows = dense(vocabulary, ["zebra", "the zebra sat", "", TEXTS[0]])
        assert not rows[0].any() and not rows[2].any()
        assert np.array_equal(rows[3], dense(vocabulary, TEXTS)[0])


class TestStoring:
    def test_a_saved_vocabulary_gives_the_same_rows(self, news: list[str], tmp_path: Path):
        vocabulary = Vocabulary.learn(news[:300], Words(min_df=3, ngrams=(1, 2), stop_words="english"))
        vocabulary.save(tmp_path / "vocabulary.json")
        again = Vocabulary.load(tmp_path / "vocabulary.json")
        assert again == vocabulary
        assert (again.rows(news[300:400]) != vocabulary.rows(news[300:400])).nnz == 0
        assert again.documents == 300

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"idf": [1.0]}, "expected 5 idf weights for 5 words, got 1"),
            ({"words": ["a", "a", "b", "c", "d"]}, "a word is in the vocabulary twice"),
            ({"words": [], "idf": []}, "needs at least one word"),
            ({"wrds": []}, "unknown field 'wrds'; did you mean 'words'"),
        ],
    )
    def test_a_damaged_file_is_refused_by_name(self, tmp_path: Path, change: dict[str, object], said: str):
        path = tmp_path / "v.json"
        Vocabulary.learn(TEXTS, Words(min_df=2)).save(path)
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(ValueError, match=rf"v\.json is damaged, or not a vocabulary .*{said}"):
            Vocabulary.load(path)

    def test_a_truncated_or_absent_file_is_refused_by_name(self, tmp_path: Path):
        path = tmp_path / "v.json"
        with pytest.raises(ValueError, match=r"v\.json does not exist"):
            Vocabulary.load(path)
        Vocabulary.learn(TEXTS, Words(min_df=2)).save(path)
        path.write_text(path.read_text()[:-20])
        with pytest.raises(ValueError, match=r"v\.json is damaged"):
            Vocabulary.load(path)


class TestSource:
    def test_a_feed_hands_out_every_training_document_once(self, news: list[str]):
        source = Documents(news, Words(min_df=3, max_features=500), validation=0.1)
        assert source.widths == {"": 500} and len(source.names) == 500
        assert (source.rows, source.validation_rows) == (1080, 120)
        feed = Feed(source, batch=120, seed=0)
        batches = [feed.next() for _ in range(9)]
        held = list(source.validation(batch=50))
        origins = torch.cat([batch.origins[:, 0] for batch in [*batches, *held]])
        assert sorted(origins.tolist()) == list(range(1200))
        for batch in (batches[0], held[0]):
            expected = source.matrix[batch.origins[:, 0].numpy()].toarray()
            assert np.array_equal(batch.rows[""].numpy(), expected)

    def test_words_are_learned_from_the_training_documents_alone(self):
        texts = [f"common only{number}" for number in range(40)]
        source = Documents(texts, Words(min_df=1), validation=0.25)
        (held,) = source.validation(batch=100)
        assert source.vocabulary.documents == 30 and len(source.names) == 31
        assert not {f"only{int(number)}" for number in held.origins[:, 0]} & set(source.names)

    def test_a_learned_vocabulary_is_used_as_it_is(self, news: list[str]):
        vocabulary = Vocabulary.learn(news[:300], Words(min_df=3))
        source = Documents(news[300:310], vocabulary=vocabulary)
        assert source.names == vocabulary.words
        assert (source.matrix != vocabulary.rows(news[300:310])).nnz == 0
        with pytest.raises(TypeError, match="not both"):
            Documents(news[:10], Words(), vocabulary=vocabulary)

    def test_the_fingerprint_changes_with_the_content_and_the_weights(self, news: list[str]):
        prints = [
            Documents(news[:50], Words(min_df=2)).fingerprint(),
            Documents(news[:50], Words(min_df=2, features="counts")).fingerprint(),
            Documents([*news[:49], "other words"], Words(min_df=2)).fingerprint(),
        ]
        assert prints[0] == Documents(news[:50], Words(min_df=2)).fingerprint()
        assert len({json.dumps(one) for one in prints}) == 3
        assert [one["features"] for one in prints] == ["tfidf", "counts", "tfidf"]
        assert prints[0]["kind"] == "documents"

    def test_documents_without_a_word_are_counted(self):
        described = Documents([*TEXTS, "zebra", "77"], Words(min_df=2), validation=0).describe()
        assert described["empty"] == "2 of 6 documents hold none of the words: their rows are zero"
        assert "5 words" in described["columns"]
        assert "empty" not in Documents(TEXTS, Words(min_df=2), validation=0).describe()


class TestFiles:
    def test_a_spec_survives_toml_and_builds(self, tmp_path: Path):
        for number, text in enumerate(TEXTS):
            (tmp_path / f"{number}.txt").write_text(text)
        spec = DocumentsSpec(paths=(str(tmp_path),), words=Words(min_df=1, max_df=0.7), validation=0.0)
        assert SourceSpec.from_toml(spec.to_toml()) == spec
        source = spec.build()
        assert source.matrix.shape == (4, 7) and source.validation_rows == 0
        source.vocabulary.save(tmp_path / "v.json")
        again = spec.replace(vocabulary=str(tmp_path / "v.json"), paths=(str(tmp_path / "1.txt"),)).build()
        assert np.array_equal(again.matrix.toarray(), source.matrix.toarray()[1:2])

    def test_a_folder_is_its_text_files_by_name(self, tmp_path: Path):
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "x.txt").write_text("two")
        (tmp_path / "a.txt").write_text("one")
        (tmp_path / "blank.txt").write_text(" \n")
        (tmp_path / "other.md").write_text("three")
        assert read_texts([str(tmp_path)]) == ["one", "two"]

    @pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.tsv.zst", "a.jsonl", "a.parquet"])
    def test_any_column_of_any_table_can_be_the_text(self, tmp_path: Path, name: str):
        arrow = pytest.importorskip("pyarrow", reason="pip install 'gossamer[data]'")
        from pyarrow import csv, parquet

        bodies = ["one", "two\nlines, and a comma", " 3 ", "one", "NA"]
        table = arrow.table({"label": [0, 1, 2, 3, 4], "body": bodies})
        path = tmp_path / name
        if name.endswith("parquet"):
            parquet.write_table(table, path)
        elif name.endswith("jsonl"):
            path.write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
        else:
            kind = {"gz": "gzip", "zst": "zstd"}.get(name.rpartition(".")[2])
            options = csv.WriteOptions(delimiter="\t" if "tsv" in name else ",")
            with arrow.output_stream(str(path), compression=kind) as stream:
                csv.write_csv(table, stream, options)
        (tmp_path / "first.txt").write_text("zero")
        texts = read_texts([str(tmp_path / "first.txt"), str(path)], field="body")
        assert texts == ["zero", "one", "two\nlines, and a comma", " 3 ", "NA"]
        assert read_texts([str(path)], field="body", min_characters=2) == [*texts[1:3], "NA"]
        with pytest.raises(ValueError, match=r"there is no column 'bod'; did you mean 'body'\?"):
            read_texts([str(path)], field="bod")

    def test_tab_separated_text_needs_no_field(self, tmp_path: Path):
        (tmp_path / "a.tsv").write_text("label\tprompt\n1\tone\n")
        assert read_texts([str(tmp_path / "a.tsv")]) == ["one"]

    def test_packaged_data_is_read(self):
        try:
            texts = read_texts(["asset:100_news_fake"], field="prompt")
        except MissingAsset:
            pytest.skip(f"install the assets with {INSTALL_COMMAND}")
        assert len(texts) == 2010


class TestMistakes:
    @pytest.mark.parametrize(
        ("texts", "error", "said"),
        [
            ([], ValueError, "the corpus is empty"),
            ("one string", TypeError, "texts is one string; give a list"),
            (["a", None], TypeError, "document 1 must be a string, got NoneType"),
            (["x y", "1 2"], ValueError, "no word is left: none in the 2 documents has two letters or more"),
        ],
    )
    def test_what_is_no_corpus(self, texts: list[str], error: type[Exception], said: str):
        with pytest.raises(error, match=said):
            Documents(texts, Words(min_df=1), validation=0)

    @pytest.mark.parametrize("min_df", [3, 0.9, 1000])
    def test_no_word_left_after_min_df(self, min_df: float):
        with pytest.raises(ValueError, match=rf"no word is left.* at least min_df = {min_df} .*lower min_df"):
            Vocabulary.learn(["aa bb", "bb cc", "cc aa"], Words(min_df=min_df))

    def test_only_stop_words(self):
        with pytest.raises(ValueError, match=r"no word is left: .*no stop word"):
            Vocabulary.learn(["the and", "the or"], Words(min_df=1, stop_words="english"))

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"min_df": 0}, "min_df is a number of documents from 1 or a share"),
            ({"max_df": 1.5}, "max_df is a number of documents from 1 or a share"),
            ({"max_features": 0}, "max_features must be at least 1"),
            ({"ngrams": (2, 1)}, r"ngrams is the shortest and the longest .* got \(2, 1\)"),
            ({"features": "tf-idf"}, "did you mean 'tfidf'"),
        ],
    )
    def test_impossible_options(self, options: dict[str, object], said: str):
        with pytest.raises(ValueError, match=said):
            Words.from_dict(options)

    def test_files_that_hold_no_text(self, tmp_path: Path):
        pytest.importorskip("pyarrow")
        (tmp_path / "latin.tsv").write_bytes(b"text\none\n\xe4h\n")
        with pytest.raises(ValueError, match=r"latin\.tsv, line 3: not valid UTF-8"):
            read_texts([str(tmp_path / "latin.tsv")])
        (tmp_path / "n.jsonl").write_text('{"body": 7}\n')
        with pytest.raises(ValueError, match=r"n\.jsonl, row 1: the column body must hold text, got 7"):
            read_texts([str(tmp_path / "n.jsonl")], field="body")
        (tmp_path / "b.csv").write_text("body\n \n")
        with pytest.raises(ValueError, match=r"no document of .*b\.csv has 1 characters or more"):
            read_texts([str(tmp_path / "b.csv")], field="body")
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match=r"the folder .*empty holds no \.txt file"):
            read_texts([str(tmp_path / "empty")])
        with pytest.raises(ValueError, match="paths is empty"):
            read_texts([])
        with pytest.raises(TypeError, match=r"write \['a'\]"):
            read_texts("a")

    def test_without_scikit_learn_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(__import__("sys").modules, "sklearn.feature_extraction.text", None)
        with pytest.raises(ValueError, match=r"pip install 'gossamer\[sklearn\]'"):
            Documents(TEXTS)
