"""Documents: texts as rows of word counts or tf-idf weights, and the vocabulary that they were learned with.

Here lives what happens between a text and a sparse row. Reading files is `texts` and `tables`; a dense row from a
language model is `embeddings`. A vocabulary is plain JSON, so that a run that is used later turns new texts into the
same columns without unpickling anything.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np

from gossamer.sources.arrays import Arrays
from gossamer.sources.learned import Learned
from gossamer.sources.source import SourceSpec, held_out
from gossamer.spec import Spec

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Documents", "DocumentsSpec", "Vocabulary", "Words", "read_texts"]

_COLUMN_SUFFIXES: Final = (".tsv", ".tsv.zst", ".tsv.gz", ".csv.gz")
_DEFAULT_FIELDS: Final = ("text", "prompt")


@dataclass(frozen=True, kw_only=True)
class Words(Spec):
    """Choose which words become columns, and what is written there.

    features: "tfidf" (rows of length 1), "counts" or "binary". min_df, max_df: in how many documents a word must and
    may be, as a number (int) or as a share (float). max_features: keep only the most frequent words. lowercase: fold
    case first. ngrams: shortest and longest run of words that is a column. stop_words: "english" leaves out the list
    of scikit-learn; extra_stop_words: more words to leave out.
    """

    features: Literal["tfidf", "counts", "binary"] = "tfidf"
    min_df: int | float = 2
    max_df: int | float = 1.0
    max_features: int | None = None
    lowercase: bool = True
    ngrams: tuple[int, ...] = (1, 1)
    stop_words: Literal["none", "english"] = "none"
    extra_stop_words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("min_df", "max_df"):
            value = getattr(self, name)
            if value < 0 or (isinstance(value, float) and value > 1) or (isinstance(value, int) and value < 1):
                raise ValueError(f"{name} is a number of documents from 1 or a share from 0.0 to 1.0, got {value!r}")
        if self.max_features is not None and self.max_features < 1:
            raise ValueError(f"max_features must be at least 1, got {self.max_features}")
        if len(self.ngrams) != 2 or not 1 <= self.ngrams[0] <= self.ngrams[1]:
            raise ValueError(f"ngrams is the shortest and the longest run of words, such as (1, 2); got {self.ngrams}")


@dataclass(frozen=True, kw_only=True)
class Vocabulary(Learned):
    """Turn texts into sparse rows, always in the same columns.

        tf-idf of word w in document d:  count(d, w) · idf(w) / ‖row‖,   idf(w) = ln((1 + n) / (1 + df(w))) + 1

    words: one per column, sorted. idf: `(words,)`, only for tf-idf. options: how texts become words. documents: n, how
    many it was learned from.
    """

    noun: ClassVar[str] = "a vocabulary"
    words: tuple[str, ...]
    options: Words = Words()
    idf: tuple[float, ...] = ()
    documents: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.words:
            raise ValueError("a vocabulary needs at least one word")
        if len(set(self.words)) != len(self.words):
            raise ValueError("a word is in the vocabulary twice")
        expected = len(self.words) if self.options.features == "tfidf" else 0
        if len(self.idf) != expected:
            raise ValueError(f"expected {expected} idf weights for {len(self.words)} words, got {len(self.idf)}")

    @classmethod
    def learn(cls, texts: Sequence[str], options: Words = Words()) -> Vocabulary:
        """Collect the words of some documents, and for tf-idf their weights.

        Raises ValueError for no documents, or if no word is left after `min_df`, `max_df` and the stop words;
        TypeError for documents that are no strings.
        """
        _check_texts(texts)
        counter = _counter(options)
        try:
            counts = counter.fit_transform(texts)
        except ValueError as error:
            raise ValueError(_no_word_left(len(texts), options)) from error
        idf: tuple[float, ...] = ()
        if options.features == "tfidf":
            found_in = np.bincount(counts.indices, minlength=counts.shape[1])
            idf = tuple((np.log((1 + len(texts)) / (1 + found_in)) + 1).tolist())
        return cls(words=tuple(counter.get_feature_names_out()), options=options, idf=idf, documents=len(texts))

    def rows(self, texts: Sequence[str]) -> csr_array:
        """Return `(texts, words)` float32 in CSR; words that are not in the vocabulary are passed over.

        Raises ValueError for no texts; TypeError for texts that are no strings.
        """
        _check_texts(texts)
        from scipy.sparse import csr_array

        rows = csr_array(_counter(self.options, self.words).transform(texts))
        rows.sort_indices()
        if self.options.features == "tfidf":
            rows.data = rows.data * np.asarray(self.idf, dtype=np.float32)[rows.indices]
            document = np.repeat(np.arange(len(texts)), np.diff(rows.indptr))
            lengths = np.sqrt(np.bincount(document, weights=np.square(rows.data), minlength=len(texts)))
            rows.data = (rows.data / lengths[document]).astype(np.float32)
        return rows


class Documents(Arrays):
    """One sparse row per document: tf-idf, counts, or which words are in it.

    texts: the documents. words: which words become columns; they and their weights are learned from the documents
    that are not held out. vocabulary: one that was learned before, instead. validation: share held out.

    matrix: `(documents, words)` float32 CSR, held-out documents included. names: the word of each column.

    Raises ValueError for no documents, or no word left; TypeError for documents that are no strings, and if both
    `words` and `vocabulary` are given.
    """

    def __init__(
        self,
        texts: Sequence[str],
        words: Words | None = None,
        *,
        vocabulary: Vocabulary | None = None,
        validation: float = 0.05,
        buffer_rows: int = 65_536,
    ) -> None:
        _check_texts(texts)
        if vocabulary is None:
            held = held_out(len(texts), validation)
            vocabulary = Vocabulary.learn(list(itertools.compress(texts, ~held)), words or Words())
        elif words is not None:
            raise TypeError("give either words, to learn a vocabulary, or a vocabulary that was learned, not both")
        self.vocabulary = vocabulary
        self.matrix = vocabulary.rows(texts)
        super().__init__(self.matrix, validation=validation, buffer_rows=buffer_rows)

    @property
    def names(self) -> tuple[str, ...]:
        """The word of each column."""
        return self.vocabulary.words

    def keep(self, folder: Path) -> None:
        """Write the vocabulary: words, weights and options."""
        self.vocabulary.save(folder / "vocabulary.json")

    def fingerprint(self) -> dict[str, str]:
        """Return shape and content of the rows, and what is in them."""
        return super().fingerprint() | {"kind": "documents", "features": self.vocabulary.options.features}

    def describe(self) -> dict[str, str]:
        """Return how many documents and words there are, how full a row is, and which documents are empty."""
        documents, words = self.rows + self.validation_rows, len(self.names)
        filled = np.diff(np.asarray(self.matrix.indptr))
        empty = int((filled == 0).sum())
        features = self.vocabulary.options.features
        topics = {
            "rows": f"{self.rows:,} documents to train on, {self.validation_rows:,} held out for validation",
            "columns": f"{features} of {words:,} words, {filled.mean():.1f} of them in a document",
        }
        if empty:
            topics["empty"] = f"{empty:,} of {documents:,} documents hold none of the words: their rows are zero"
        return topics


@dataclass(frozen=True, kw_only=True)
class DocumentsSpec(SourceSpec):
    """Describe documents on disk as rows of words.

    paths: text files, folders, globs or `asset:NAME`, as `read_texts` takes them; field: the column that holds the
    text, by default `text` or else `prompt`; min_characters: shorter documents are dropped. words: which words become
    columns; vocabulary: the file of one that was learned before, instead. validation: share of documents held out.
    """

    kind: ClassVar[str] = "documents"
    paths: tuple[str, ...]
    field: str | None = None
    min_characters: int = 1
    words: Words = Words()
    vocabulary: str | None = None
    validation: float = 0.05

    def build(self, *, device: str = "cpu") -> Documents:
        """Read the documents and count their words."""
        vocabulary = Vocabulary.load(self.vocabulary) if self.vocabulary else None
        texts = read_texts(self.paths, field=self.field, min_characters=self.min_characters)
        words = self.words if vocabulary is None else None
        return Documents(texts, words, vocabulary=vocabulary, validation=self.validation)


def read_texts(paths: Sequence[str], *, field: str | None = None, min_characters: int = 1) -> list[str]:
    """Read the distinct documents of files, folders, globs and packaged data sets, in order.

    What `gossamer.sources.texts.read_documents` takes, and besides: a folder (all .txt files below it, sorted by
    name), tab-separated files, and with `field` any column of .csv, .tsv, .jsonl and .parquet, compressed (.gz, .zst)
    or not.

    Raises ValueError as `read_documents` does, and for a column that is not there (with the nearest names).
    """
    from gossamer.sources.texts import read_documents

    if isinstance(paths, str):
        raise TypeError(f"paths must be a list of strings, got the string {paths!r}: write [{paths!r}]")
    if not paths:
        raise ValueError("paths is empty: give at least one file, folder, glob or asset:NAME")
    names = [name for path in paths for name in _unfolded(path)]
    documents: dict[str, None] = {}
    for by_column, group in itertools.groupby(names, lambda name: _is_column(name, field)):
        if not by_column:
            documents.update(dict.fromkeys(read_documents(list(group), min_characters=min_characters)))
            continue
        found = (text for name in group for text in _column(name, field))
        documents.update((text, None) for text in found if len(text.strip()) >= min_characters)
    if not documents:
        raise ValueError(f"no document of {', '.join(paths)} has {min_characters} characters or more")
    return list(documents)


def _unfolded(path: str) -> list[str]:
    """Return the .txt files of a folder; anything else as it is."""
    folder = Path(path).expanduser()
    if path.startswith("asset:") or not folder.is_dir():
        return [path]
    files = sorted(str(file) for file in folder.rglob("*.txt") if file.is_file())
    if not files:
        raise ValueError(f"the folder {path} holds no .txt file; name other files one by one or by a glob")
    return files


def _is_column(name: str, field: str | None) -> bool:
    if name.startswith("asset:") or name.lower().endswith(".txt"):
        return False
    return field is not None or name.lower().endswith(_COLUMN_SUFFIXES)


def _column(name: str, field: str | None) -> list[str]:
    from gossamer.sources.tables import matching_files, open_table

    texts: list[str] = []
    for file in matching_files(name):
        table = open_table([str(file)])
        column = field or next((known for known in _DEFAULT_FIELDS if known in table.names), _DEFAULT_FIELDS[0])
        try:
            table.require(column)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        values = table.arrow.column(column).to_pylist()
        for number, value in enumerate(values, start=1):
            if not isinstance(value, str):
                given = "nothing" if value is None else repr(value)[:100]
                raise ValueError(f"{file}, row {number}: the column {column} must hold text, got {given}")
        texts += values
    return texts


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str | bytes):
        raise TypeError(f"texts is one string; give a list of documents, [{texts[:20]!r}…]")
    if not len(texts):
        raise ValueError("the corpus is empty: there are no documents")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"document {number} must be a string, got {type(text).__name__} {text!r:.50}")


def _counter(options: Words, words: Sequence[str] | None = None) -> Any:
    try:
        text: Any = importlib.import_module("sklearn.feature_extraction.text")
    except ImportError as error:
        raise ValueError("counting words needs scikit-learn: pip install 'gossamer[sklearn]'") from error
    stop = {*(text.ENGLISH_STOP_WORDS if options.stop_words == "english" else ()), *options.extra_stop_words}
    return text.CountVectorizer(
        lowercase=options.lowercase,
        stop_words=sorted(stop) or None,
        ngram_range=options.ngrams,
        min_df=options.min_df if words is None else 1,
        max_df=options.max_df if words is None else 1.0,
        max_features=options.max_features if words is None else None,
        vocabulary=words,
        binary=options.features == "binary",
        dtype=np.float32,
    )


def _no_word_left(documents: int, options: Words) -> str:
    stop = ", no stop word" if options.stop_words != "none" or options.extra_stop_words else ""
    return (
        f"no word is left: none in the {documents} documents has two letters or more{stop}, and is in at least "
        f"min_df = {options.min_df} and at most max_df = {options.max_df} of them; lower min_df or raise max_df"
    )
