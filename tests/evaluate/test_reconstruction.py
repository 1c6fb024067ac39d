"""FVU and cosine have one definition, and do not hang on how the rows were cut into batches or where they lie."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gossamer.evaluate.reconstruction import Reconstruction, cosine, fvu


def pair(rows: int, width: int, seed: int, *, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = offset + torch.randn(rows, width, generator=generator)
    return x, x + 0.3 * torch.randn(rows, width, generator=generator)


def by_numpy(x: Tensor, x_hat: Tensor) -> tuple[float, float]:
    a, b = x.double().numpy(), x_hat.double().numpy()
    unexplained = ((b - a) ** 2).sum() / ((a - a.mean(axis=0)) ** 2).sum()
    angles = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return unexplained, angles.mean()


def in_batches(x: Tensor, x_hat: Tensor, cuts: list[int]) -> Reconstruction:
    accumulated = Reconstruction()
    for a, b in zip(x.tensor_split(cuts), x_hat.tensor_split(cuts), strict=True):
        accumulated.update(a, b)
    return accumulated


class TestKnownAnswers:
    x = torch.tensor([[1.0, 0.0], [3.0, 4.0]])

    def test_by_hand(self):
        x_hat = torch.tensor([[0.0, 1.0], [3.0, 4.0]])
        assert fvu(self.x, x_hat) == pytest.approx(2 / ((1 + 1) + (4 + 4)))
        assert cosine(self.x, x_hat) == pytest.approx((0 + 1) / 2)

    def test_perfect(self):
        assert fvu(self.x, self.x) == 0
        assert cosine(self.x, self.x) == pytest.approx(1, abs=1e-15)

    def test_the_mean_row_explains_nothing(self):
        assert fvu(self.x, self.x.mean(dim=0).expand(2, 2)) == pytest.approx(1)

    def test_opposite_and_perpendicular(self):
        assert cosine(self.x, -2 * self.x) == pytest.approx(-1)
        assert cosine(self.x, self.x @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])) == pytest.approx(0)

    def test_rows_that_are_zero_have_cosine_zero(self):
        assert cosine(self.x, torch.zeros(2, 2)) == 0
        assert cosine(torch.zeros(2, 2), self.x) == 0

    @pytest.mark.parametrize("size", [1e-15, 1e-30, 1e15])
    def test_cosine_does_not_depend_on_size(self, size: float):
        assert cosine(size * self.x, self.x) == pytest.approx(1)

    def test_rows_all_alike_have_no_variance_to_explain(self):
        x = torch.full((5, 3), 0.1)
        assert fvu(x, x) == 0
        assert fvu(x, x + 1) == math.inf
        assert fvu(x[:1], x[:1]) == 0

    def test_no_rows_have_no_answer(self):
        for score in (Reconstruction().score(), in_batches(torch.zeros(0, 3), torch.zeros(0, 3), []).score()):
            assert math.isnan(score.fvu)
            assert math.isnan(score.cosine)
            assert score.rows == 0
        with pytest.raises(ValueError, match="no rows"):
            _ = Reconstruction().mean


class TestDefinition:
    @given(st.integers(2, 50), st.integers(1, 9), st.integers(0, 999))
    def test_is_that_of_numpy(self, rows: int, width: int, seed: int):
        x, x_hat = pair(rows, width, seed)
        assert (fvu(x, x_hat), cosine(x, x_hat)) == pytest.approx(by_numpy(x, x_hat), rel=1e-10)

    @given(st.lists(st.integers(0, 40), max_size=5).map(sorted), st.integers(0, 99))
    def test_any_batches_give_what_the_whole_gives(self, cuts: list[int], seed: int):
        x, x_hat = pair(40, 3, seed)
        accumulated, whole = in_batches(x, x_hat, cuts), in_batches(x, x_hat, [])
        assert accumulated.score().fvu == pytest.approx(whole.score().fvu, rel=1e-12)
        assert accumulated.score().cosine == pytest.approx(whole.score().cosine, rel=1e-12)
        assert accumulated.score().rows == 40
        torch.testing.assert_close(accumulated.mean, x.double().mean(dim=0))

    @given(st.floats(0.01, 100), st.integers(0, 99))
    def test_fvu_does_not_depend_on_units_and_origin(self, factor: float, seed: int):
        x, x_hat = (t.double() for t in pair(20, 3, seed))
        moved = fvu(factor * x + 7, factor * x_hat + 7)
        assert moved == pytest.approx(fvu(x, x_hat), rel=1e-9)

    @pytest.mark.parametrize("cuts", [[], [1], [100, 200, 300, 400], list(range(500))])
    @pytest.mark.parametrize("offset", [1e4, 1e6, -1e6])
    def test_a_large_offset_does_no_harm(self, offset: float, cuts: list[int]):
        """E‖x‖² − ‖E x‖², the other formula for variance, loses every digit here."""
        x, x_hat = pair(500, 4, 0, offset=offset)
        score = in_batches(x, x_hat, cuts).score()
        assert (score.fvu, score.cosine) == pytest.approx(by_numpy(x, x_hat), rel=1e-9)

    def test_batches_that_drift_are_measured_about_one_mean(self):
        x = torch.arange(30.0).view(10, 3) ** 2
        x_hat = x + 1
        assert in_batches(x, x_hat, list(range(10))).score().fvu == pytest.approx(by_numpy(x, x_hat)[0])

    def test_low_precision_rows_are_summed_in_float64(self):
        x, x_hat = (t.bfloat16() for t in pair(3000, 3, 0, offset=10))
        score = in_batches(x, x_hat, [1000]).score()
        assert (score.fvu, score.cosine) == pytest.approx(by_numpy(x.float(), x_hat.float()), rel=1e-9)

    def test_rows_that_need_a_gradient_are_measured_too(self):
        x, x_hat = pair(20, 3, 0)
        assert fvu(x, x_hat.requires_grad_()) == fvu(x, x_hat.detach())

    def test_says_how_many_rows_it_rests_on(self):
        assert in_batches(*pair(7, 2, 0), [3]).score().rows == 7


@pytest.mark.parametrize(("a", "b"), [((2, 3), (2, 4)), ((2, 3), (3, 3)), ((3,), (3,)), ((2, 3), (2,))])
def test_shapes_that_do_not_fit_are_named(a: tuple[int, ...], b: tuple[int, ...]):
    with pytest.raises(ValueError, match=rf"got \({a[0]}.* and \({b[0]}"):
        fvu(torch.zeros(a), torch.zeros(b))
