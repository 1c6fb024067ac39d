"""Pairs of sequences: what an epoch holds, how little is padded, and what is held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gossamer.sources.assets import MissingAsset
from gossamer.sources.cmudict import CmudictSpec, Entries, read_dictionary, split
from gossamer.sources.pairs import SOURCE, TARGET, Pair, Pairs, PairsSpec, read_pairs
from gossamer.sources.source import Feed
from gossamer.transformer.analogies import Analogies
from gossamer.transformer.files import load_vocabularies
from gossamer.transformer.translator import VOCABULARIES
from gossamer.transformer.vocabulary import END, PAD, START, Characters


def made(count: int = 300, **options: object) -> Pairs:
    """Digits and their mirror images, of different lengths; every number is a document."""
    texts = [str(7919 * number)[: 2 + number % 9].rstrip("0") or "7" for number in range(1, count + 1)]
    pairs = [Pair(text, text[::-1], number) for number, text in enumerate(texts)]
    digits = Characters(tokens=tuple("0123456789"))
    return Pairs(pairs, source=digits, target=digits, bucket=16, **{"validation": 0.1, **options})


def test_an_epoch_holds_every_pair_and_a_few_twice_to_fill_the_last_bucket():
    source = made(buffer_rows=64)
    feed = Feed(source, batch=16, seed=0)
    seen = torch.cat([feed.next().origins[:, 1] for _ in range(source.units)])
    counts = np.bincount(seen.numpy(), minlength=300)
    held = {int(origin) for batch in source.validation(batch=50) for origin in batch.origins[:, 1]}
    assert {int(number) for number in np.flatnonzero(counts)} == set(range(300)) - held
    assert len(held) == 30 == source.validation_rows
    assert counts.max() <= 2
    assert (counts == 2).sum() < 16
    other = torch.cat([feed.next().origins[:, 1] for _ in range(source.units)])
    assert not torch.equal(seen, other), "the second epoch has the order of the first"


def test_pairs_of_like_length_are_together():
    feed = Feed(made(buffer_rows=160), batch=16, seed=0)
    batches = [feed.next().rows for _ in range(10)]
    lengths = torch.stack([(rows[SOURCE] != PAD).sum(dim=1) for rows in batches])
    within = (lengths.amax(dim=1) - lengths.amin(dim=1)).float().mean()
    across = lengths.max() - lengths.min()
    assert within < across / 3


def test_rows_are_ids_with_their_ends():
    rows = made().read(np.array([0])).rows
    source, target = rows[SOURCE], rows[TARGET]
    assert (target[:, 0] == START).all()
    assert (source[:, 0] != START).all()
    for row in range(16):
        said = [index for index in target[row].tolist() if index not in (START, PAD)]
        read = [index for index in source[row].tolist() if index != PAD]
        assert said[-1] == read[-1] == END
        assert said[:-1] == read[:-1][::-1]


def test_files_are_read_and_pairs_with_one_source_stay_together(tmp_path: Path):
    lines = [f"{word}\t{word.upper()}{number}" for word in "abcdefghij" for number in (1, 2)]
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join(lines) + "\n\n")
    spec = PairsSpec(paths=(str(path),), validation=0.3, bucket=4)
    source = spec.build()
    held = {pair.source for pair in source.held_out()}
    assert len(held) == 3
    assert len(source.held_out()) == 6
    assert spec.references() == {word: (f"{word.upper()}1", f"{word.upper()}2") for word in sorted(held)}
    source.keep(tmp_path)
    assert load_vocabularies(tmp_path / VOCABULARIES) == tuple(source.vocabularies.values())
    assert PairsSpec.from_toml(spec.to_toml()) == spec


def test_only_line_ends_end_a_line(tmp_path: Path):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + "a\u2028b\tc\r\nd\x0ce\tf\n".encode())
    assert [pair[:2] for pair in read_pairs([str(path)])] == [("a\u2028b", "c"), ("d\x0ce", "f")]


def test_what_is_no_pair_is_refused(tmp_path: Path):
    path = tmp_path / "pairs.tsv"
    path.write_text("a\tb\nonly one\n")
    with pytest.raises(ValueError, match=r"pairs.tsv, line 2: expected a source, a tab and a target"):
        read_pairs([str(path)])
    path.write_text("Go.\tVa !\tCC-BY\n")
    with pytest.raises(ValueError, match=r"pairs.tsv, line 1: expected a source, a tab and a target"):
        read_pairs([str(path)])
    path.write_bytes("é\tb\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"pairs.tsv is not in UTF-8"):
        read_pairs([str(path)])
    path.write_text("\n")
    with pytest.raises(ValueError, match="there are no pairs in"):
        read_pairs([str(path)])
    with pytest.raises(ValueError, match="there is no file"):
        read_pairs([str(tmp_path / "absent")])
    with pytest.raises(ValueError, match="no pairs to train on"):
        Pairs([], source=Characters(tokens=("a",)), target=Characters(tokens=("a",)))
    path.write_text("a\tb\n")
    with pytest.raises(ValueError, match="did you mean 'characters'"):
        PairsSpec(paths=(str(path),), source_tokens="caracters")  # pyright: ignore


def test_no_target_that_is_held_out_is_told_as_an_analogy(tmp_path: Path):
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{number}\t{str(number)[::-1]}\n" for number in range(100, 400)))
    spec = PairsSpec(paths=(str(path),), validation=0.3, analogies=2)
    source = spec.build()
    held, vocabulary = {pair.source for pair in source.held_out()}, source.vocabularies[SOURCE]
    assert isinstance(vocabulary, Analogies)
    assert len(held) == 90
    assert set(vocabulary.sources) == set(map(str, range(100, 400))) - held
    assert set(spec.references()) == held, "the bare source is what users give"
    assert source.widths[SOURCE] == 3 + 4 * 4 + 1
    with pytest.raises(ValueError, match="analogies are found by characters; set source_tokens to them, not to words"):
        spec.replace(source_tokens="words").build()
    with pytest.raises(ValueError, match="analogies must not be negative, got -1"):
        spec.replace(analogies=-1).build()


@pytest.fixture(scope="module")
def entries() -> Entries:
    try:
        return CmudictSpec().entries()
    except MissingAsset as missing:
        pytest.skip(str(missing))


class TestCmudict:
    def test_it_has_the_words_that_it_is_known_to_have(self, entries):
        assert len(entries) == 126_052
        assert entries["read"] == ("R EH D", "R IY D")
        assert entries["aalsmeer"] == ("AA L S M IH R",), "the comment is no phoneme"
        assert (
            len({phoneme for variants in entries.values() for spoken in variants for phoneme in spoken.split()}) == 39
        )

    def test_no_word_of_the_test_is_trained_on(self, entries):
        parts = {part: split(entries, part) for part in ("train", "validation", "test")}
        assert sum(map(len, parts.values())) == len(entries) == len(set().union(*parts.values()))
        assert abs(len(parts["test"]) / len(entries) - 0.10) < 1e-4
        spec = CmudictSpec(words=2000)
        assert set(spec.references()) == set(parts["test"])
        source = spec.build()
        assert {pair.source for pair in source.held_out()} == set(parts["validation"])
        trained = {source._pairs[number].source for number in source._train}
        assert trained == set(parts["train"][:2000])

    def test_analogies_are_words_that_are_trained_on(self, entries):
        source = CmudictSpec(words=2000, analogies=1).build()
        vocabulary = source.vocabularies[SOURCE]
        assert isinstance(vocabulary, Analogies)
        assert vocabulary.sources == tuple(split(entries, "train")[:2000])
        assert all(said == entries[word][0] for word, said in zip(vocabulary.sources, vocabulary.targets, strict=True))
        assert vocabulary.target == source.vocabularies[TARGET]

    def test_the_split_does_not_depend_on_the_order_of_the_words(self, entries):
        assert split(dict(reversed(entries.items())), "test") == split(entries, "test")

    def test_stress_is_kept_if_asked_for_and_bad_lines_are_named(self, tmp_path: Path):
        path = tmp_path / "dictionary"
        path.write_text("a AH0\na(2) EY1\na(3) EY0\n# nothing\nread R EH1 D # past\n")
        assert read_dictionary(path, stress=False) == {"a": ("AH", "EY"), "read": ("R EH D",)}
        assert read_dictionary(path, stress=True)["a"] == ("AH0", "EY1", "EY0")
        path.write_text("a AH0\nsilent\n")
        with pytest.raises(ValueError, match="line 2: expected a word and its phonemes"):
            read_dictionary(path, stress=True)
        with pytest.raises(ValueError, match=r"there is no file .*absent"):
            CmudictSpec(path=str(tmp_path / "absent")).build()
