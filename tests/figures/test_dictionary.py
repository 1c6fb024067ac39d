"""Atoms as patches, waves and words: which are drawn, in which order, on which scale, and what is written at them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import gossamer as gs
from gossamer import figures


def numbers(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def pictures(axes) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for image in axes.images]


def test_each_atom_is_one_picture_with_its_number(digits):
    axes = figures.atoms(digits.sae, (8, 8), limit=30)
    assert numbers(axes) == [str(latent) for latent in range(30)]
    for drawn, atom in zip(pictures(axes), digits.atoms, strict=False):
        np.testing.assert_allclose(drawn, atom.reshape(8, 8), rtol=1e-6)
    assert "30 of 96 atoms" in axes.get_title(loc="left")


def test_pictures_lie_beside_each_other_in_reading_order_and_upright(digits):
    axes = figures.atoms(digits.atoms, (8, 8), limit=5, columns=2)
    left, _, bottom, top = np.array([image.get_extent() for image in axes.images]).T
    assert left[0] == left[2] == left[4] < left[1] == left[3]
    assert top[0] == top[1] < bottom[0] < top[2] < bottom[2] < top[4]
    low, high = axes.get_ylim()
    assert low > high and min(top) >= high and max(bottom) <= low  # downward, and nothing is cut off


def test_codes_as_order_put_the_most_used_first_and_name_the_unused(digits):
    counts = (digits.codes.to_dense() != 0).sum(0)
    axes = figures.atoms(digits.sae, (8, 8), order=digits.codes)
    shown = [int(text.split()[0]) for text in numbers(axes)]
    assert counts[shown].tolist() == counts.sort(descending=True).values.tolist()
    unused = [int(text.split()[0]) for text in numbers(axes) if text.endswith("unused")]
    assert set(unused) == set((counts == 0).nonzero()[:, 0].tolist())
    for drawn, latent in zip(pictures(axes), shown, strict=True):
        np.testing.assert_allclose(drawn.ravel(), digits.atoms[latent], rtol=1e-6)
    assert "most used first" in axes.get_title(loc="left")


def test_the_kinds_of_codes_agree(digits):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    dense = digits.codes.to_dense()
    kinds = [digits.codes, dense, dense.numpy(), scipy_sparse.coo_matrix(dense.numpy()), digits.codes.to_scipy()]
    orders = [numbers(figures.atoms(digits.sae, (8, 8), order=codes, limit=10)) for codes in kinds]
    assert all(order == orders[0] for order in orders)


def test_stored_zeros_and_units_below_their_level_do_not_count():
    codes = gs.SparseCodes.from_topk(torch.tensor([[0, 1], [0, 2]]), torch.tensor([[0.0, 2.0], [0.0, 3.0]]), latents=3)
    assert numbers(figures.atoms(np.eye(3), (1, 3), order=codes)) == ["1", "2", "0 unused"]
    quiet = gs.SparseCodes(
        offsets=torch.tensor([0, 2]),
        indices=torch.tensor([0, 2]),
        values=torch.tensor([0.05, 0.9]),
        latents=3,
        level=0.1,
    )
    assert numbers(figures.atoms(np.eye(3), (1, 3), order=quiet)) == ["2", "0 unused", "1 unused"]


def test_a_scipy_matrix_counts_each_entry_once_and_no_stored_zero():
    parts = ([1.0, 2.0, 0.0, 1.0, 1.0], [2, 2, 1, 0, 0], [0, 2, 5])
    codes = pytest.importorskip("scipy.sparse").csr_matrix(parts, shape=(2, 3))
    assert codes.nnz == 5
    title = figures.usage(codes).get_title(loc="left")
    assert title == "3 latents on 2 rows: 1 never active; 1 active per row"
    assert codes.nnz == 5  # the caller's matrix is as it was


def test_a_given_order_is_kept(digits):
    axes = figures.atoms(digits.sae, (8, 8), order=[7, 3, 90])
    assert numbers(axes) == ["7", "3", "90"]
    assert "in the order given" in axes.get_title(loc="left")


def test_scales_say_which_value_is_black():
    rows = np.array([[0.0, 1, 2, 4], [-8.0, 0, 0, 0]])
    spans = {
        scale: [image.get_clim() for image in figures.atoms(rows, (2, 2), scale=scale).images]
        for scale in ("symmetric", "range", "shared")
    }
    assert spans == {"symmetric": [(-4, 4), (-8, 8)], "range": [(0, 4), (-8, 0)], "shared": [(-8, 8), (-8, 8)]}
    assert "± 8 " in figures.atoms(rows, (2, 2), scale="shared").get_title(loc="left")


def test_color_atoms_have_zero_in_the_middle_and_constant_ones_are_drawn():
    rows = np.zeros((2, 12))
    rows[0, :3] = [1, -1, 0.5]
    first, second = pictures(figures.atoms(rows, (2, 2, 3)))
    assert first[0, 0].tolist() == [1, 0, 0.75] and (first[1] == 0.5).all() and (second == 0.5).all()
    assert pictures(figures.atoms(rows[:, :4], (2, 2, 1)))[0].shape == (2, 2)


def test_a_picture_goes_where_the_caller_wants_it(digits):
    from matplotlib.figure import Figure

    left, right = Figure().subplots(1, 2)
    assert figures.atoms(digits.sae, (8, 8), limit=4, ax=right) is right
    assert len(right.images) == 4 and not left.images


def test_waves_show_samples_in_milliseconds_and_amplitudes_in_hertz():
    times = np.arange(50) / 500
    wave = 0.2 + 0.7 * np.sin(2 * np.pi * 60 * times) + 0.1 * np.cos(np.pi * 500 * times)
    panels = figures.waveforms(wave[None], 500)
    (drawn,), (spectrum,) = panels[0, 0].lines, panels[0, 1].lines
    np.testing.assert_allclose(drawn.get_xdata(), 1000 * times)
    np.testing.assert_allclose(drawn.get_ydata(), wave)
    expected = np.zeros(26)
    expected[[0, 6, 25]] = 0.2, 0.7, 0.1
    np.testing.assert_allclose(spectrum.get_xdata(), np.arange(26) * 10)
    np.testing.assert_allclose(spectrum.get_ydata(), expected, atol=1e-12)
    assert panels[0, 1].get_title(loc="left") == "strongest at 60 Hz"
    assert "ms" in panels[0, 0].get_xlabel() and "Hz" in panels[0, 1].get_xlabel()


def test_waves_keep_order_and_one_scale(heartbeats):
    panels = figures.waveforms(heartbeats, 360, order=np.argsort(-np.ptp(heartbeats, axis=1)), limit=7)
    assert panels.shape == (7, 2)
    assert np.ptp(panels[0, 0].lines[0].get_ydata()) == np.ptp(heartbeats, axis=1).max()
    assert len({axes.get_ylim() for axes in panels[:, 0]}) == 1 == len({axes.get_ylim() for axes in panels[:, 1]})
    assert all(abs(axes.lines[0].get_ydata()).max() < axes.get_ylim()[1] for axes in panels.ravel())
    assert len(panels[0, 0].figure.axes) == 14  # no empty panel is left
    assert figures.waveforms(heartbeats, 360, spectra=False, limit=3).shape == (3, 1)


def test_every_wave_can_be_read_off_an_axis_below_it(heartbeats):
    panels = figures.waveforms(heartbeats, 360, limit=7)
    for number in (5, 6):  # the lowest of each column
        assert all(axes.get_xlabel() and axes.xaxis.get_tick_params()["labelbottom"] for axes in panels[number])
    assert not any(axes.get_xlabel() for axes in panels[:5].ravel())


def test_words_are_the_strongest_entries_positive_first():
    rows = np.array([[0.1, -0.9, 0.0, 0.5, 0.3], [0, 0, 0, 0, 0]])
    first, second = figures.words(rows, ["a", r"$\no$", "c", "d", "e"], top=3)
    assert [text.get_text() for text in first.get_yticklabels()] == ["d", "e", r"$\no$"]
    assert [bar.get_width() for bar in first.patches] == [0.5, 0.3, -0.9]
    assert [bool(bar.get_hatch()) for bar in first.patches] == [False, False, True]
    assert first.get_ylim()[0] > first.get_ylim()[1]  # the first bar is on top
    assert not second.patches and "all entries are 0" in numbers(second)
    first.figure.draw_without_rendering()  # a dollar sign is no formula


def test_words_of_a_real_table_have_its_columns():
    table = pytest.importorskip("sklearn.datasets").load_wine()
    rows = np.corrcoef(table.data.T)
    panels = figures.words(rows, table.feature_names, limit=4, top=2)
    assert len(panels) == 4 == len(panels[0].figure.axes)
    assert panels[1].get_yticklabels()[0].get_text() == table.feature_names[1]  # correlates with itself by 1
    assert len({axes.get_xlim() for axes in panels}) == 1
    assert [bool(axes.get_xlabel()) for axes in panels] == [False, True, True, True]


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: figures.atoms(np.ones((3, 64)), (8, 9)), "8 × 9 = 72 entries do not fit rows of width 64"),
        (lambda: figures.atoms(np.ones((3, 64)), (64,)), "expected .height, width."),
        (lambda: figures.atoms(np.ones((3, 64)), (4, 8, 2)), "1 or 3 of them"),
        (lambda: figures.atoms(np.ones((0, 64)), (8, 8)), "not empty"),
        (lambda: figures.atoms(np.ones(64), (8, 8)), "expected a matrix"),
        (lambda: figures.atoms(np.full((3, 4), np.nan), (2, 2)), "12 of 12 entries are NaN"),
        (lambda: figures.atoms(np.ones((3, 4), complex), (2, 2)), "complex"),
        (lambda: figures.atoms(np.array([["a", "b"]]), (1, 2)), "expected numbers"),
        (lambda: figures.atoms(np.ones((3, 4)), (2, 2), limit=0), "at least 1 atom"),
        (lambda: figures.atoms(np.ones((3, 4)), (2, 2), columns=0), "columns"),
        (lambda: figures.atoms(np.ones((3, 4)), (2, 2), scale="own"), "'symmetric', 'range', 'shared'"),
        (lambda: figures.atoms(np.ones((3, 4)), (2, 2), order=[3]), "latents from 0 to 2"),
        (lambda: figures.atoms(np.ones((3, 4)), (2, 2), order=[0.5, 0.2, 0.1]), "argsort"),
        (lambda: figures.atoms(np.ones((3, 4)), (2, 2), order=np.ones((5, 4))), "4 latents given for 3"),
        (lambda: figures.waveforms(np.ones((3, 4)), 0), "samples per second"),
        (lambda: figures.waveforms(np.ones((3, 1)), 8), "at least 2 samples"),
        (lambda: figures.words(np.ones((3, 4)), ["a"]), "1 given for atoms of 4"),
        (lambda: figures.words(np.ones((3, 2)), ["a", "b"], top=0), "at least 1 entry"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, said):
    with pytest.raises(ValueError, match=said):
        draw()


def test_latents_before_further_layers_are_refused():
    deep = gs.preset("two-layer-l1", input_width=16, latents=8).build()
    with pytest.raises(ValueError, match="no direction in a row"):
        figures.atoms(deep, (4, 4))


def test_importing_the_pictures_needs_no_matplotlib_and_no_picture_needs_pyplot(tmp_path):
    script = (
        "import sys, numpy as np; from gossamer import figures; assert 'matplotlib' not in sys.modules;"
        f"figures.atoms(np.eye(4), (2, 2)).figure.savefig({str(tmp_path / 'a.png')!r});"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (tmp_path / "a.png").stat().st_size > 500


def test_a_missing_matplotlib_is_named_with_the_command_that_helps(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r'pip install "gossamer\[report\]"'):
        figures.atoms(np.eye(4), (2, 2))
