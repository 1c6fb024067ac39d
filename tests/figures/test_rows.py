"""Rows beside their reconstructions: the atoms drawn are those that contribute most, and the numbers are theirs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gossamer import figures


def test_digits_stand_beside_what_came_back(digits):
    panels = figures.reconstructions(digits.x, digits.x_hat, digits.codes, digits.sae, shape=(8, 8), limit=4, top=3)
    assert panels.shape == (4, 5)
    for number, line in enumerate(panels):
        for axes, rows in zip(line, (digits.x, digits.x_hat), strict=False):
            np.testing.assert_array_equal(axes.images[0].get_array(), rows[number].reshape(8, 8).double())
        assert line[0].images[0].get_clim() == line[1].images[0].get_clim()
        both = torch.stack([digits.x[number], digits.x_hat[number]])
        assert line[0].images[0].get_clim() == (both.min().item(), both.max().item())


def test_error_and_number_of_active_latents_are_written(digits):
    panels = figures.reconstructions(digits.x, digits.x_hat, digits.codes, digits.sae, shape=(8, 8), limit=3)
    for number, line in enumerate(panels):
        error = (digits.x[number] - digits.x_hat[number]).square().mean().sqrt().item()
        active = int((digits.codes.to_dense()[number] != 0).sum())
        named = "" if number else "reconstruction\n"
        assert line[1].get_title(loc="left") == f"{named}{active} active\nerror {error:.3g}"


def test_the_atoms_are_those_that_contribute_most():
    atoms = np.array([[1.0, 0], [0, 10], [3, 4], [0, 1]])
    codes = np.array([[2.0, -0.5, 0.5, 0], [0, 0, 0, 7]])  # contributions 2, 5, 2.5, 0
    x = codes @ atoms
    panels = figures.reconstructions(x, x, codes, atoms, shape=(1, 2), top=2)
    titles = [axes.get_title(loc="left") for axes in panels[0, 2:]]
    assert titles == ["−0.5 ·\natom 1", "+0.5 ·\natom 2"]
    np.testing.assert_array_equal(panels[0, 3].images[0].get_array(), [[3, 4]])
    assert [axes.get_visible() for axes in panels[1]] == [True, True, True, False]


def test_signals_are_drawn_over_time_on_one_scale(heartbeats):
    back = 0.9 * heartbeats
    panels = figures.reconstructions(heartbeats, back, np.eye(16), heartbeats, rate=360, limit=2)
    assert panels.shape == (2, 3)
    np.testing.assert_allclose(panels[1, 1].lines[0].get_xdata(), 1000 * np.arange(64) / 360)
    np.testing.assert_array_equal(panels[1, 1].lines[0].get_ydata(), back[1])
    np.testing.assert_array_equal(panels[1, 2].lines[0].get_ydata(), heartbeats[1])
    assert panels[1, 0].get_ylim() == panels[1, 1].get_ylim() != panels[0, 0].get_ylim()
    assert [axes.get_xlabel() for axes in panels[-1]] == ["time (ms)"] * 3


def test_rows_without_active_latents_are_drawn():
    panels = figures.reconstructions(np.ones((2, 4)), np.zeros((2, 4)), np.zeros((2, 3)), np.ones((3, 4)), shape=(2, 2))
    assert panels.shape == (2, 2) and panels[0, 1].get_title(loc="left") == "reconstruction\n0 active\nerror 1"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shape": None}, "give either"),
        ({"rate": 10.0}, "give either"),
        ({"shape": None, "rate": -1.0}, "samples per second"),
        ({"x_hat": np.ones((3, 4))}, "one shape"),
        ({"codes": np.ones((3, 5))}, "of 3 rows"),
        ({"codes": np.ones((2, 6))}, r"expected shape \(6, 4\)"),
        ({"directions": np.ones((5, 3))}, r"expected shape \(5, 4\)"),
        ({"x": np.full((2, 4), np.inf)}, "infinite"),
        ({"codes": np.full((2, 5), np.nan)}, "codes: 10 of 10"),
        ({"x": np.ones((0, 4))}, "not empty"),
        ({"top": 0}, "at least 1"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, said):
    parts = {"x": np.ones((2, 4)), "x_hat": np.ones((2, 4)), "codes": np.ones((2, 5)), "directions": np.ones((5, 4))}
    given = {**parts, "shape": (2, 2), **change}
    places = [given.pop(name) for name in parts]
    with pytest.raises(ValueError, match=said):
        figures.reconstructions(*places, **given)
