"""Error rates of sequences: edit distance against its definition, several references, and what is refused."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.evaluate.sequences import Mistake, edit_distance, score_sequences

words = st.lists(st.sampled_from("abc"), max_size=6)


def by_definition(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    @functools.cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(
            distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (one[i - 1] != other[j - 1])
        )

    return distance(len(one), len(other))


@given(words, words, words)
def test_edit_distance_is_the_fewest_edits_and_a_metric(one: list[str], other: list[str], third: list[str]):
    distance = edit_distance(one, other)
    assert distance == by_definition(tuple(one), tuple(other)) == edit_distance(other, one)
    assert (distance == 0) == (one == other)
    assert distance <= edit_distance(one, third) + edit_distance(third, other)


def test_any_reference_counts_and_edits_are_those_to_the_nearest():
    score = score_sequences(
        ["read", "cat", "gas"],
        ["R IY D", "K AE T S", "G AE"],
        [("R EH D", "R IY D"), ("K AE T",), ("G AE S", "G EH S IH Z")],
    )
    assert score.sources == 3
    assert score.error_rate == pytest.approx(2 / 3)
    assert score.token_error_rate == pytest.approx(2 / 9)  # of R IY D, K AE T and G AE S
    assert score.mistakes == (Mistake("cat", "K AE T S", "K AE T", 1), Mistake("gas", "G AE", "G AE S", 1))


def test_tokens_are_what_a_vocabulary_cuts():
    score = score_sequences(["x", "y"], ["abcdefghij", "a  b"], [["abcdefghix"], ["a b"]], cut=list)
    assert score.error_rate == 1
    assert score.token_error_rate == 2 / 13
    assert score_sequences(["y"], ["a  b"], [["a b"]]).error_rate == 0


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="got 2 sources, 1 hypotheses"):
        score_sequences(["a", "b"], ["A"], [("A",), ("B",)])
    with pytest.raises(ValueError, match="some of them"):
        score_sequences([], [], [])
    with pytest.raises(ValueError, match="'a' has no reference"):
        score_sequences(["a"], ["A"], [()])
