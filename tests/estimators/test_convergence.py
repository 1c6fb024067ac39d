"""Convergence: at which epoch training is over, on losses made up by hand."""

import math

import pytest

from gossamer.estimators.convergence import Convergence


def end(losses: list[float], **parameters) -> int | None:
    """Return the epoch, from 1, at which training is told to end."""
    watch = Convergence(**{"tol": 0.1, "patience": 3, **parameters})
    answers = [watch(i, [{"loss": loss, "l0": 2.0}]) for i, loss in enumerate(losses)]
    assert watch.losses == losses
    assert watch.converged == any(answers)
    return answers.index(True) + 1 if any(answers) else None


def test_it_ends_after_patience_epochs_without_a_fall_of_more_than_tol():
    assert end([1.0, 0.5, 0.45, 0.42, 0.41]) == 5  # the best was 0.5, 0.45 and 0.42: never by more than 0.1
    assert end([1.0, 0.5, 0.45, 0.42]) is None
    assert end([1.0, 0.5, 0.45, 0.42, 0.3, 0.25, 0.24, 0.23]) == 8
    assert end([1.0, 0.8, 0.6, 0.4, 0.2]) is None
    assert end([1.0, 1.5, 2.0, 0.95]) == 4
    assert end([1.0, 0.5, 0.45, 0.42, 0.41], patience=4) is None


def test_without_a_tolerance_it_never_ends():
    assert end([1.0] * 50, tol=0) is None
    assert end([1.0] * 50, tol=-1) is None


def test_a_score_is_gone_by_instead_of_the_loss():
    scores = iter([0.9, 0.5, 0.5, 0.5, 0.5])
    watch = Convergence(tol=0.1, patience=3, score=lambda: next(scores))
    answers = [watch(i, [{"loss": 1.0 / (i + 1), "l0": 2.0}]) for i in range(5)]
    assert answers == [False] * 4 + [True]
    assert watch.scores == [0.9, 0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("missed", [False, True])
def test_where_an_l0_is_steered_to_nothing_ends_early(missed):
    watch = Convergence(tol=0.1, patience=2)
    figures = {"loss": 1.0, "l0": 3.0, "target_l0": 4.0}
    assert not any(watch(i, [figures]) for i in range(10))
    assert not watch.converged
    assert not watch(10, [{**figures, "reached_l0": 3.9, "missed_l0": missed}])
    assert watch.converged != missed
    assert watch.complaint() == "asked for 4 active components per row, reached 3.9; raise max_iter, or give alpha"


def test_the_complaint_names_what_can_be_raised():
    watch = Convergence(tol=0.25, patience=7)
    assert math.isnan(watch.l0)
    for i in range(4):
        watch(i, [{"loss": 4.0 - i, "l0": 2.0}])
    assert "max_iter = 4 epochs" in watch.complaint() and "tol = 0.25 in 7 epochs" in watch.complaint()
    assert watch.l0 == 2
