"""Sparse codes say the same in every form, and are never changed by being looked at."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from gossamer.codes import (
    DenseCodes,
    SparseCodes,
    active_rows,
    concatenate_codes,
    density,
    is_active,
    keep_entries,
    rank_in_row,
    require_valid,
    spread,
    with_value,
)

numbers = st.just(0.0) | st.floats(-100, 100, width=32)
matrices = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=7),
    elements=numbers,
).map(torch.from_numpy)


@st.composite
def topk_parts(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Indices and values `(rows, k)` in no particular order, and the number of latents."""
    latents = draw(st.integers(1, 7))
    k, rows = draw(st.integers(0, latents)), draw(st.integers(0, 5))
    indices = [draw(st.permutations(range(latents)))[:k] for _ in range(rows)]
    values = draw(arrays.arrays(np.float32, (rows, k), elements=numbers))
    return torch.tensor(indices, dtype=torch.int64).view(rows, k), torch.from_numpy(values), latents


@pytest.fixture
def codes() -> SparseCodes:
    """Four rows over five latents: unsorted, none, one stored zero, one entry."""
    return SparseCodes(
        offsets=torch.tensor([0, 3, 3, 5, 6]),
        indices=torch.tensor([4, 0, 2, 3, 1, 4]),
        values=torch.tensor([1.0, -2.0, 3.0, 0.0, 4.0, 5.0]),
        latents=5,
    )


DENSE = [[-2.0, 0, 3, 0, 1], [0, 0, 0, 0, 0], [0, 4, 0, 0, 0], [0, 0, 0, 0, 5]]


class TestForms:
    @given(matrices)
    def test_dense_to_codes_and_back(self, dense: Tensor):
        codes = SparseCodes.from_dense(dense)
        assert codes.shape == dense.shape
        assert torch.equal(codes.to_dense(), dense)
        assert codes.values.all()
        assert codes.offsets.dtype == codes.indices.dtype == torch.int64

    @given(matrices)
    def test_rows_follow_each_other(self, dense: Tensor):
        codes = SparseCodes.from_dense(dense)
        counts = dense.count_nonzero(dim=1) if dense.numel() else torch.zeros(len(dense), dtype=torch.int64)
        assert torch.equal(codes.offsets.diff(), counts)
        assert codes.offsets[0] == 0
        assert torch.equal(codes.row_of_entry(), dense.nonzero()[:, 0])

    @given(topk_parts())
    def test_topk_parts_are_put_where_they_say(self, parts: tuple[Tensor, Tensor, int]):
        indices, values, latents = parts
        codes = SparseCodes.from_topk(indices, values, latents=latents)
        assert codes.shape == (len(indices), latents)
        assert torch.equal(codes.to_dense(), torch.zeros(codes.shape).scatter(1, indices, values))

    @given(topk_parts())
    def test_torch_sparse_means_the_same(self, parts: tuple[Tensor, Tensor, int]):
        codes = SparseCodes.from_topk(parts[0], parts[1], latents=parts[2])
        csr = codes.to_csr()
        assert csr.shape == codes.shape
        assert torch.equal(csr.to_dense(), codes.to_dense())

    @given(topk_parts())
    def test_torch_sparse_is_what_torch_takes_for_valid(self, parts: tuple[Tensor, Tensor, int]):
        csr = SparseCodes.from_topk(parts[0], parts[1], latents=parts[2]).to_csr()
        buffers = csr.crow_indices(), csr.col_indices(), csr.values()
        torch.sparse_csr_tensor(*buffers, size=csr.shape, check_invariants=True)

    def test_bfloat16_can_be_looked_at_and_counted(self, codes: SparseCodes):
        pytest.importorskip("scipy")
        low = codes.replace_values(codes.values.bfloat16())
        assert low.to_scipy().dtype == np.float32
        assert low.to_scipy().toarray().tolist() == DENSE
        ones = SparseCodes.from_dense(torch.ones(1000, 2, dtype=torch.bfloat16))
        assert active_rows(ones).tolist() == [1000, 1000]

    @given(topk_parts())
    def test_scipy_means_the_same_without_stored_zeros(self, parts: tuple[Tensor, Tensor, int]):
        pytest.importorskip("scipy")
        dense = torch.zeros(len(parts[0]), parts[2]).scatter(1, parts[0], parts[1])
        matrix = SparseCodes.from_topk(parts[0], parts[1], latents=parts[2]).to_scipy()
        np.testing.assert_array_equal(matrix.toarray(), dense.numpy())
        assert matrix.nnz == dense.count_nonzero()
        assert matrix.has_sorted_indices

    @given(topk_parts())
    def test_looking_at_codes_with_scipy_leaves_them_alone(self, parts: tuple[Tensor, Tensor, int]):
        pytest.importorskip("scipy")
        codes = SparseCodes.from_topk(parts[0].clone(), parts[1].clone(), latents=parts[2])
        matrix = codes.to_scipy()
        matrix.data[:] = 7
        assert torch.equal(codes.indices, parts[0].flatten())
        assert torch.equal(codes.values, parts[1].flatten())
        assert codes.offsets.tolist() == [row * parts[0].shape[1] for row in range(codes.rows + 1)]

    def test_scipy_takes_codes_that_need_a_gradient(self, codes: SparseCodes):
        pytest.importorskip("scipy")
        codes = codes.replace_values(codes.values.clone().requires_grad_())
        assert codes.to_scipy().toarray().tolist() == DENSE

    def test_ragged_unsorted_rows_with_stored_zeros(self, codes: SparseCodes):
        assert codes.to_dense().tolist() == codes.to_csr().to_dense().tolist() == DENSE
        assert codes.row_of_entry().tolist() == [0, 0, 0, 2, 2, 3]

    def test_says_what_it_is(self, codes: SparseCodes):
        assert (len(codes), codes.rows, codes.latents, codes.shape) == (4, 4, 5, (4, 5))
        assert repr(codes) == "SparseCodes(rows=4, latents=5, entries=6)"


class TestL0:
    def test_counts_active_latents_not_stored_entries(self, codes: SparseCodes):
        assert codes.l0 == 5 / 4

    @given(topk_parts())
    def test_is_the_mean_number_of_non_zeros_of_a_row(self, parts: tuple[Tensor, Tensor, int]):
        codes = SparseCodes.from_topk(parts[0], parts[1], latents=parts[2])
        assert codes.l0 * max(codes.rows, 1) == pytest.approx(np.count_nonzero(codes.to_dense().numpy()))

    def test_is_zero_for_no_rows(self):
        assert SparseCodes.from_dense(torch.zeros(0, 5)).l0 == 0
        assert SparseCodes.from_dense(torch.zeros(3, 5)).l0 == 0


class TestGradients:
    @given(matrices, st.integers(0, 9))
    def test_flow_through_from_dense_to_what_is_active(self, dense: Tensor, seed: int):
        weight = torch.randn(dense.shape, generator=torch.Generator().manual_seed(seed))
        leaf = dense.clone().requires_grad_()
        (SparseCodes.from_dense(leaf).to_dense() * weight).sum().backward()
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, weight * (dense != 0))

    def test_flow_through_to_dense_to_stored_zeros_too(self, codes: SparseCodes):
        values = codes.values.clone().requires_grad_()
        weight = torch.arange(20.0).view(4, 5)
        (codes.replace_values(values).to_dense() * weight).sum().backward()
        assert values.grad is not None
        assert values.grad.tolist() == [4.0, 0, 2, 13, 11, 19]

    def test_stop_at_detach(self, codes: SparseCodes):
        codes = codes.replace_values(codes.values.clone().requires_grad_())
        assert codes.to_dense().requires_grad
        assert not codes.detach().to_dense().requires_grad
        assert torch.equal(codes.detach().values, codes.values)


class TestTo:
    def test_changes_the_dtype_of_the_values_only(self, codes: SparseCodes):
        changed = codes.to(torch.float64)
        assert (changed.values.dtype, changed.indices.dtype) == (torch.float64, torch.int64)
        assert changed.to_dense().tolist() == DENSE
        assert codes.values.dtype == torch.float32

    @pytest.mark.parametrize("how", [{"device": "meta"}, {"device": "meta", "dtype": torch.float16}])
    def test_moves_all_of_it(self, codes: SparseCodes, how: dict):
        moved = codes.to(**how)
        assert {t.device.type for t in (moved.offsets, moved.indices, moved.values)} == {"meta"}
        assert moved.values.dtype == how.get("dtype", torch.float32)
        assert moved.shape == codes.shape

    def test_follows_another_tensor(self, codes: SparseCodes):
        assert codes.to(torch.zeros(1, dtype=torch.float64)).values.dtype == torch.float64

    def test_keeps_the_gradient(self, codes: SparseCodes):
        values = codes.values.clone().requires_grad_()
        codes.replace_values(values).to(torch.float64).to_dense().sum().backward()
        assert values.grad is not None
        assert values.grad.tolist() == [1.0] * 6


class TestMistakes:
    def test_values_of_another_shape_are_refused_with_the_shapes(self, codes: SparseCodes):
        with pytest.raises(ValueError, match=re.escape("[(5,), (6,), (4,)]")):
            codes.replace_values(torch.zeros(4))

    @pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
    def test_only_matrices_have_codes(self, shape: tuple[int, ...]):
        with pytest.raises(ValueError, match=re.escape(f"(rows, latents) tensor, got shape {shape}")):
            SparseCodes.from_dense(torch.zeros(shape))


class TestConcatenation:
    @given(st.lists(matrices, min_size=1, max_size=4))
    def test_is_that_of_the_dense_forms(self, parts: list[Tensor]):
        width = parts[0].shape[1]
        parts = [part[:, :1].expand(-1, width) for part in parts if part.shape[1]] if width else [parts[0]]
        codes = concatenate_codes(SparseCodes.from_dense(part) for part in parts)
        assert torch.equal(codes.to_dense(), torch.cat(parts))

    def test_of_nothing_or_of_different_widths_is_refused(self):
        with pytest.raises(ValueError, match="got no codes at all"):
            concatenate_codes([])
        with pytest.raises(ValueError, match=r"got \[3, 4\]"):
            concatenate_codes(SparseCodes.from_dense(torch.ones(2, width)) for width in (3, 4))


@given(matrices)
def test_dense_and_sparse_codes_say_the_same_of_latents(dense: Tensor):
    sparse, whole = SparseCodes.from_dense(dense), DenseCodes(values=dense)
    assert sparse.rows == whole.rows == len(dense)
    assert torch.equal(active_rows(sparse).long(), active_rows(whole).long())
    weights = torch.arange(dense.shape[1], dtype=torch.float32)
    per_entry = (sparse.values * spread(sparse, weights)).sum()
    torch.testing.assert_close(per_entry, (whole.values * spread(whole, weights)).sum())


class TestLevel:
    """Units that are never quite off are active above a level."""

    values = torch.tensor([[0.2, 0.7, -0.9], [0.5, 0.0, 0.6]])

    def sparse(self) -> SparseCodes:
        codes = SparseCodes.from_dense(self.values)
        places = {"offsets": codes.offsets, "indices": codes.indices, "latents": 3}
        return SparseCodes(**places, values=codes.values, level=0.5)

    def test_says_what_is_active_in_every_form(self):
        dense = DenseCodes(values=self.values, level=0.5)
        assert is_active(dense).tolist() == [[False, True, True], [False, False, True]]
        assert active_rows(dense).tolist() == active_rows(self.sparse()).tolist() == [0, 1, 2]
        assert self.sparse().l0 == 1.5

    def test_stays_with_the_codes(self):
        codes = self.sparse()
        kept = keep_entries(codes, codes.values > 0)
        for same in (codes.detach(), codes.to(torch.float64), codes.replace_values(codes.values * 1), kept):
            assert same.level == 0.5
        assert concatenate_codes([codes, codes]).level == 0.5
        assert DenseCodes(values=self.values, level=0.5).detach().level == 0.5
        with pytest.raises(ValueError, match="expected codes of one number of latents"):
            concatenate_codes([codes, SparseCodes.from_dense(self.values)])


class TestEntries:
    @given(topk_parts(), st.integers(0, 99))
    def test_those_that_are_kept_are_those_of_the_matrix(self, parts: tuple[Tensor, Tensor, int], seed: int):
        codes = SparseCodes.from_topk(parts[0], parts[1].clone().requires_grad_(), latents=parts[2])
        generator = torch.Generator().manual_seed(seed)
        kept = torch.rand(codes.values.shape, generator=generator) < 0.5
        found = keep_entries(codes, kept)
        expected = codes.replace_values(codes.values * kept).to_dense()
        assert torch.equal(found.to_dense(), expected)
        assert len(found.values) == kept.sum()
        assert torch.equal(found.row_of_entry(), codes.row_of_entry()[kept])
        if codes.values.numel():
            weight = torch.randn(codes.shape, generator=generator)
            (got,) = torch.autograd.grad((found.to_dense() * weight).sum(), codes.values, retain_graph=True)
            (exact,) = torch.autograd.grad((expected * weight).sum(), codes.values)
            assert torch.equal(got, exact)

    @given(topk_parts())
    def test_rank_counts_from_the_largest_of_its_row(self, parts: tuple[Tensor, Tensor, int]):
        codes = SparseCodes.from_topk(parts[0], parts[1], latents=parts[2])
        rank = rank_in_row(codes).view(parts[1].shape)
        for ranks, values in zip(rank, parts[1], strict=True):
            assert sorted(ranks.tolist()) == list(range(len(values)))
            assert torch.equal(values[ranks.argsort()], values.sort(descending=True).values)

    @pytest.mark.parametrize("value", [0.0, 7.0, -1.5])
    def test_latents_are_set_in_every_row(self, codes: SparseCodes, value: float):
        changed = with_value(codes, torch.tensor([3, 0]), value)
        expected = codes.to_dense()
        expected[:, [0, 3]] = value
        assert torch.equal(changed.to_dense(), expected)
        assert torch.equal(changed.offsets, torch.tensor([0, 4, 6, 9, 12]))
        require_valid(changed)

    def test_rank_of_ragged_rows(self, codes: SparseCodes):
        assert rank_in_row(codes).tolist() == [1, 2, 0, 1, 0, 0]

    def test_density_counts_entries(self, codes: SparseCodes):
        assert density(codes) == 6 / 20
        assert density(DenseCodes(values=codes.to_dense())) == 5 / 20
        assert density(DenseCodes(values=codes.to_dense(), entries=torch.tensor(6))) == 6 / 20
        assert density(DenseCodes(values=torch.zeros(0, 5))) == density(SparseCodes.from_dense(torch.zeros(0, 5))) == 0

    @pytest.mark.parametrize(
        ("offsets", "indices"),
        [([0, 2], [0, 5]), ([0, 2], [-1, 3]), ([0, 3], [0, 1]), ([1, 2], [0, 1]), ([0, 2, 1, 2], [0, 1])],
    )
    def test_those_that_point_outside_are_found(self, offsets: list[int], indices: list[int]):
        bad = SparseCodes(offsets=torch.tensor(offsets), indices=torch.tensor(indices), values=torch.ones(2), latents=5)
        with pytest.raises(ValueError, match="offsets must rise from 0 to the number of entries, 2, and indices"):
            require_valid(bad)

    def test_those_that_do_not_are_left_alone(self, codes: SparseCodes):
        require_valid(codes)
        require_valid(SparseCodes.from_dense(torch.zeros(3, 5)))


@given(matrices, st.integers(0, 9))
def test_what_is_spread_has_the_gradient_of_both_forms(dense: Tensor, seed: int):
    generator = torch.Generator().manual_seed(seed)
    per_latent = torch.randn(dense.shape[1], generator=generator, dtype=torch.float64).requires_grad_()
    sparse, whole = SparseCodes.from_dense(dense.double()), DenseCodes(values=dense.double())
    gradients = [
        torch.autograd.grad((codes.values * spread(codes, per_latent)).sum(), per_latent)[0]
        for codes in (sparse, whole)
    ]
    torch.testing.assert_close(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[1], dense.double().sum(dim=0))
