"""Analogies: what is told beside a source, and what is not."""

from __future__ import annotations

import pytest

from gossamer.transformer.analogies import Analogies
from gossamer.transformer.files import load_vocabularies, save_vocabularies
from gossamer.transformer.vocabulary import END, PAD, SPECIAL, Characters, Phonemes, UnknownTokenError

SAID = {
    "walk": "W AO K",
    "walker": "W AO K ER",
    "walking": "W AO K IH NG",
    "talked": "T AO K T",
    "stalked": "S T AO K T",
    "zebra": "Z IY B R AH",
}
LETTERS, PHONEMES = Characters.learned(SAID), Phonemes.learned(SAID.values())


def made(alike: int = 1) -> Analogies:
    return Analogies.of(SAID.items(), letters=LETTERS, target=PHONEMES, alike=alike)


def shown(vocabulary: Analogies, text: str) -> str:
    return " ".join(map(vocabulary.token, vocabulary.encode(text)))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("walked", "w a l k e d | W AO K ER | T AO K T"),
        ("walk", "w a l k | W AO K ER | Z IY B R AH"),
        ("talk", "t a l k | T AO K T | W AO K"),
        ("stalked", "s t a l k e d | W AO K | T AO K T"),
    ],
)
def test_the_targets_of_what_begins_and_ends_alike_are_beside_a_source(text: str, read: str):
    assert shown(made(), text) == read


def test_several_are_told_the_most_similar_first():
    vocabulary = made(alike=2)
    examples = [vocabulary.sources[number] for number in vocabulary.examples("walked")]
    assert examples == ["walker", "walk", "talked", "stalked"]
    assert shown(vocabulary, "walked").endswith("| W AO K ER | W AO K | T AO K T | S T AO K T")


def test_a_source_is_never_its_own_example():
    vocabulary = made(alike=3)
    for text in SAID:
        assert text not in [vocabulary.sources[number] for number in vocabulary.examples(text)]
    alone = Analogies(letters=LETTERS, target=PHONEMES, sources=("walk",), targets=("W AO K",))
    assert shown(alone, "walk") == "w a l k"


def test_of_several_targets_the_first_is_told():
    pairs = [("read", "R EH D"), ("read", "R IY D"), ("bread", "B R EH D")]
    phonemes = Phonemes.learned(said for _, said in pairs)
    vocabulary = Analogies.of(pairs, letters=Characters(tokens=tuple("abder")), target=phonemes)
    assert shown(vocabulary, "bread") == "b r e a d | R EH D | R EH D"


def test_every_id_has_its_meaning():
    vocabulary = made()
    tokens = [vocabulary.token(index) for index in range(len(vocabulary))]
    assert tokens == [*SPECIAL, *LETTERS.tokens, "|", *PHONEMES.tokens]
    assert max(max(vocabulary.encode(text)) for text in SAID) < len(vocabulary)
    assert vocabulary.decode([*vocabulary.encode("walked"), END, PAD]) == "walked"


def test_letters_that_are_not_known_are_refused():
    with pytest.raises(UnknownTokenError, match="holds 'W', which the vocabulary of 14 characters does not know"):
        made().encode("Walked")


def test_it_is_kept_in_a_file(tmp_path):
    save_vocabularies(made(alike=2), PHONEMES, tmp_path / "vocabularies.json")
    assert load_vocabularies(tmp_path / "vocabularies.json") == (made(alike=2), PHONEMES)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="2 sources of examples, but 1 targets"):
        Analogies(letters=LETTERS, target=PHONEMES, sources=("a", "b"), targets=("W",))
    with pytest.raises(ValueError, match="alike must be at least 1, got 0"):
        made(alike=0)
