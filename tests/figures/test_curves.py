"""Paths, rates, use and loss: the lines are the numbers given, the marks are where they should be, names as given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gossamer as gs
from gossamer import figures
from gossamer.figures.style import line_style

STRENGTHS = [1.0, 0.01, 0.1]
CURVES = {"error": ([0.9, 0.2, 0.3], [0.1, 0.0, 0.05]), "L0": [1, 30, 10]}


def points(line) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def labels(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def paths(axes) -> list:
    return [line for line in axes.lines if len(line.get_xdata()) == len(STRENGTHS)]


def test_a_path_is_sorted_named_and_on_a_logarithmic_axis():
    error, l0 = figures.sparsity_path(STRENGTHS, CURVES)
    assert points(paths(error)[0]) == [(0.01, 0.2), (0.1, 0.3), (1, 0.9)]
    assert points(paths(l0)[0]) == [(0.01, 30), (0.1, 10), (1, 1)]
    assert (error.get_ylabel(), l0.get_ylabel()) == ("error", "L0")
    assert error.get_xscale() == l0.get_xscale() == "log" and l0.get_xlabel() == "strength of the sparsity"


def test_the_band_is_one_standard_error_to_either_side_and_said():
    error, l0 = figures.sparsity_path(STRENGTHS, CURVES)
    (band,) = error.collections
    corners = {(round(x, 9), round(y, 9)) for x, y in band.get_paths()[0].vertices}
    assert corners == {(0.01, 0.2), (0.1, 0.25), (0.1, 0.35), (1, 0.8), (1, 1.0)}
    assert not l0.collections and labels(error) == ["± 1 standard error"]
    assert figures.sparsity_path(STRENGTHS, {"L0": [1, 2, 3]})[0].get_legend() is None


def test_the_choice_is_marked_in_every_panel_and_said():
    panels = figures.sparsity_path(STRENGTHS, CURVES, 0.1, family="L1")
    assert labels(panels[0])[0] == "L1, chosen 0.1"
    for axes, value in zip(panels, (0.3, 10), strict=True):
        assert [(0.1, value)] in [points(line) for line in axes.lines]  # the ring
        assert [(0.1, 0.0), (0.1, 1.0)] in [points(line) for line in axes.lines]  # the line across


def test_a_second_family_joins_in_its_own_style():
    panels = figures.sparsity_path(STRENGTHS, CURVES, 0.1, family="L1")
    again = figures.sparsity_path(STRENGTHS, {"error": [3, 1, 2], "L0": [9, 8, 7]}, 1.0, family="L2", axes=panels)
    assert (again == panels).all()
    first, second = paths(panels[0])
    assert points(second) == [(0.01, 1), (0.1, 2), (1, 3)]
    assert all(
        getattr(first, f"get_{name}")() != getattr(second, f"get_{name}")() for name in ("color", "linestyle", "marker")
    )
    assert labels(panels[0]) == ["L1, chosen 0.1", "L2, chosen 1", "± 1 standard error"]


def test_the_axis_holds_every_family_and_a_single_strength():
    panels = figures.sparsity_path([0.1], {"error": ([1.0], [0.2])}, 0.1)
    assert panels[0].get_xlim()[0] < 0.1 < panels[0].get_xlim()[1]
    figures.sparsity_path([5.0, 90], {"error": [1.0, 2]}, axes=panels)
    assert panels[0].get_xlim()[0] < 0.1 and panels[0].get_xlim()[1] > 90
    panels[0].figure.draw_without_rendering()


def test_styles_differ_in_line_or_marker_not_in_color_alone():
    looks = [(str(line_style(number)["linestyle"]), line_style(number)["marker"]) for number in range(28)]
    assert len(set(looks)) == 28


def test_rates_are_sorted_and_names_taken_literally():
    given = {r"_ours $\no$": ([2, 1], [40.0, 30.0]), "DCT": (np.array([1, 3]), torch.tensor([20.0, 35.0]))}
    axes = figures.rate_distortion(given, quality="SNR (dB)", bits="bits per sample")
    assert [points(line) for line in axes.lines] == [[(1, 30), (2, 40)], [(1, 20), (3, 35)]]
    assert labels(axes) == [r"_ours $\no$", "DCT"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("bits per sample", "SNR (dB)")
    axes.figure.draw_without_rendering()


def test_use_is_sorted_and_never_active_latents_are_counted():
    codes = np.zeros((10, 5))
    codes[:, 3], codes[:4, 1], codes[9, 0] = 1, -2, 0.5
    axes = figures.usage(codes)
    drawn = [patch.get_data() for patch in axes.patches if hasattr(patch, "get_data")]
    assert (
        all(data.values.tolist() == [1.0, 0.4, 0.1] and data.edges.tolist() == [0, 1, 2, 3] for data in drawn) and drawn
    )
    (never,) = [patch for patch in axes.patches if patch.get_hatch()]
    assert (never.get_x(), never.get_width()) == (3, 2)
    assert axes.get_title(loc="left") == "5 latents on 10 rows: 2 never active; 1.5 active per row"
    assert axes.get_yscale() == "log" and axes.get_ylim()[0] < 0.1 and axes.get_xlim() == (0, 5)


def test_use_of_real_codes_agrees_with_their_l0(digits):
    title = figures.usage(digits.codes).get_title(loc="left").replace("\n", " ")
    never = int((digits.codes.to_dense() != 0).any(0).logical_not().sum())
    assert title.endswith(f"{digits.codes.l0:.3g} active per row")
    assert (f"{never} never active" if never else "all active at least once") in title


def test_use_of_nothing_is_drawn():
    figures.usage(np.zeros((3, 4))).figure.draw_without_rendering()
    assert "4 never active" in figures.usage(np.zeros((3, 4))).get_title(loc="left")
    empty = gs.SparseCodes.from_dense(torch.zeros(2, 3))
    assert "3 never active" in figures.usage(empty).get_title(loc="left")


def test_loss_beside_that_of_held_out_rows_with_the_lowest_marked():
    axes = figures.loss_curve([3.0, 2.0, 1.5], [3.1, 2.5, 2.7], axis="epoch")
    training, held_out, lowest = axes.lines
    assert points(training) == [(1, 3), (2, 2), (3, 1.5)] and points(held_out) == [(1, 3.1), (2, 2.5), (3, 2.7)]
    assert points(lowest) == [(2, 2.5)]
    assert labels(axes) == ["training loss", "held-out loss", "lowest: 2.5 at epoch 2"]
    assert axes.get_yscale() == "linear"


def test_loss_measured_more_rarely_and_falling_far_has_a_logarithmic_axis():
    axes = figures.loss_curve([100.0, 10, 1], {300: 2.0, 100: 50.0}, steps=[100, 200, 300], axis="step", label="FVU")
    assert points(axes.lines[1]) == [(100, 50), (300, 2)]
    assert axes.get_yscale() == "log" and (axes.get_xlabel(), axes.get_ylabel()) == ("step", "FVU")
    assert figures.loss_curve([100.0, 0.0]).get_yscale() == "linear"


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: figures.sparsity_path([0.0, 1], {"a": [1, 2]}), "logarithmic"),
        (lambda: figures.sparsity_path([], {"a": []}), "not empty"),
        (lambda: figures.sparsity_path([1, 2], {}), "at least one criterion"),
        (lambda: figures.sparsity_path([1, 2], {"a": [1, 2, 3]}), "a: expected 2 values"),
        (lambda: figures.sparsity_path([1, 2, 3], {"a": ([1, 2, 3], [1, 2])}), "got 3 and 2"),
        (lambda: figures.sparsity_path([1, 2], {"a": ([1, 2], [1, -2])}), "not negative"),
        (lambda: figures.sparsity_path([1, 2], {"a": [1, np.nan]}), "NaN"),
        (lambda: figures.sparsity_path([1, 2], {"a": [1, 2]}, 1.5), "not among the values"),
        (
            lambda: figures.sparsity_path([1], {"b": [1]}, axes=figures.sparsity_path([1], {"a": [1]})),
            "given for criteria",
        ),
        (lambda: figures.rate_distortion({}), "at least one name"),
        (lambda: figures.rate_distortion({"a": ([1], [2], [3])}), "got 3 parts"),
        (lambda: figures.rate_distortion({"a": ([1, 2], [2])}), "got 2 and 1"),
        (lambda: figures.rate_distortion({"a": ([-1], [2])}), "none negative"),
        (lambda: figures.usage(np.zeros((0, 3))), "not empty"),
        (lambda: figures.usage(gs.SparseCodes.from_dense(torch.zeros(0, 3))), "at least one row"),
        (lambda: figures.usage(torch.full((2, 2), torch.nan)), "NaN"),
        (lambda: figures.loss_curve([]), "not empty"),
        (lambda: figures.loss_curve([1, np.nan]), "NaN"),
        (lambda: figures.loss_curve([1, 2], [1]), "1 given for 2"),
        (lambda: figures.loss_curve([1, 2], steps=[1]), "steps: 1 given for 2"),
        (lambda: figures.loss_curve([1, 2], {}), "not empty"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, said):
    with pytest.raises(ValueError, match=said):
        draw()
