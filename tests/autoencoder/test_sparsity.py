"""Every sparsity gives the codes of its definition, and their gradients, in either precision of the selection."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder
from gossamer.autoencoder.encoders import Tied
from gossamer.autoencoder.initialise import start_from_data
from gossamer.autoencoder.pre_activations import Affine, Computed
from gossamer.autoencoder.presets import preset
from gossamer.autoencoder.sparsity import (
    AbsTopK,
    BatchTopK,
    GroupMax,
    Identity,
    LinearTopK,
    MatchingPursuit,
    ReLU,
    Rule,
    Sigmoid,
    Sparsity,
    TopK,
    WinnerTakeAll,
)
from gossamer.autoencoder.trace import Moment
from gossamer.codes import SparseCodes, density, is_active

LATENTS, WIDTH = 48, 16


def kept(p: Tensor, indices: Tensor, dim: int = 1) -> Tensor:
    """p, and zero elsewhere."""
    return p * torch.zeros_like(p).scatter(dim, indices, 1.0)


def largest_of_all(p: Tensor, count: int) -> Tensor:
    return kept(p.flatten(), p.flatten().topk(count).indices, dim=0).view(p.shape)


DEFINITIONS: list[tuple[Sparsity, Callable[[Tensor], Tensor]]] = [
    (TopK(k=4), lambda p: kept(p, p.topk(4, dim=1).indices).relu()),
    (TopK(k=40), lambda p: kept(p, p.topk(40, dim=1).indices).relu()),
    (LinearTopK(k=40), lambda p: kept(p, p.topk(40, dim=1).indices)),
    (AbsTopK(k=4), lambda p: kept(p, p.abs().topk(4, dim=1).indices)),
    (GroupMax(k=4), lambda p: (p * nn.functional.one_hot(p.unflatten(1, (4, 12)).argmax(2), 12).flatten(1)).relu()),
    (BatchTopK(k=4), lambda p: largest_of_all(p, 4 * len(p)).relu()),
    (BatchTopK(k=40), lambda p: largest_of_all(p, 40 * len(p)).relu()),
    (WinnerTakeAll(k=4), lambda p: kept(p, p.topk(round(len(p) * 4 / LATENTS), dim=0).indices, dim=0).relu()),
    (WinnerTakeAll(k=36), lambda p: kept(p, p.topk(round(len(p) * 3 / 4), dim=0).indices, dim=0).relu()),
    (Identity(), lambda p: p),
    (ReLU(), lambda p: p.clamp_min(0)),
    (Sigmoid(), lambda p: 1 / (1 + (-p).exp())),
]

LEARNED_ELSEWHERE = {"gated", "jumprelu", "matching-pursuit", "orthogonal-matching-pursuit", "threshold"}
"""Rules with tests of their own (test_learned_sparsity.py; the last one: test_imported_parts.py)."""


@pytest.fixture
def affine(generator: torch.Generator) -> Affine:
    x, weight = torch.randn(100, WIDTH, generator=generator), torch.randn(LATENTS, WIDTH, generator=generator)
    bias = torch.randn(LATENTS, generator=generator) - 1
    return Affine(*(tensor.requires_grad_() for tensor in (x, weight, bias)))


def leaves(pre: Affine) -> list[Tensor]:
    return [pre.x, pre.weight, pre.bias]


def in_double(pre: Affine) -> Affine:
    return Affine(*(tensor.detach().double().requires_grad_() for tensor in leaves(pre)))


def weights_like(tensor: Tensor) -> Tensor:
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(tensor)


def test_every_sparsity_has_a_definition_here():
    ours = {kind for kind, part in Sparsity.kinds().items() if part.__module__.startswith("gossamer.")}
    assert {sparsity.kind for sparsity, _ in DEFINITIONS} | LEARNED_ELSEWHERE == ours


@pytest.mark.usefixtures("low_precision_selection")
@pytest.mark.parametrize(
    ("sparsity", "definition"),
    DEFINITIONS,
    ids=lambda part: "-".join(str(v) for v in getattr(part, "to_dict", dict)().values()),
)
class TestEveryRule:
    def test_its_training_codes_are_the_definition_with_all_gradients(
        self, sparsity: Sparsity, definition: Callable[[Tensor], Tensor], affine: Affine
    ):
        rule: Rule = sparsity.build(latents=LATENTS)
        exact = in_double(affine)
        expected = definition(exact.dense())
        found = rule.training_codes(affine).to_dense()
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
        gradients = torch.autograd.grad((expected * weights_like(expected)).sum(), leaves(exact))
        got = torch.autograd.grad((found * weights_like(found)).sum(), leaves(affine))
        for mine, theirs in zip(got, gradients, strict=True):
            assert (mine.double() - theirs).norm() <= 1e-5 * theirs.norm()

    def test_as_a_matrix_they_are_the_same(
        self, sparsity: Sparsity, definition: Callable[[Tensor], Tensor], affine: Affine
    ):
        if not sparsity.ragged:
            with pytest.raises(NotImplementedError):
                sparsity.build(latents=LATENTS).dense(affine)
            return
        pre = in_double(affine)
        sparse, dense = sparsity.training_codes(pre), sparsity.dense(pre)
        torch.testing.assert_close(dense.values, sparse.to_dense())
        assert dense.level == sparse.level
        assert density(dense) == density(sparse)
        assert is_active(dense).sum() == is_active(sparse).sum()
        weights = weights_like(dense.values)
        of_dense = torch.autograd.grad((dense.values * weights).sum(), leaves(pre))
        of_sparse = torch.autograd.grad((sparse.to_dense() * weights).sum(), leaves(pre))
        for mine, theirs in zip(of_sparse, of_dense, strict=True):
            torch.testing.assert_close(mine, theirs)

    def test_values_have_the_sign_that_the_family_says(
        self, sparsity: Sparsity, definition: Callable[[Tensor], Tensor], affine: Affine
    ):
        values = sparsity.build(latents=LATENTS).training_codes(affine).values
        assert bool((values < 0).any()) == sparsity.signed
        if not sparsity.signed:
            assert not torch.signbit(values[values == 0]).any()

    def test_grows_with_the_pre_activations_where_the_family_says(
        self, sparsity: Sparsity, definition: Callable[[Tensor], Tensor], affine: Affine
    ):
        rule = sparsity.build(latents=LATENTS)
        doubled = Affine(affine.x * 2, affine.weight, affine.bias * 2)
        once, twice = (rule.training_codes(pre).to_dense() for pre in (affine, doubled))
        assert torch.allclose(twice, 2 * once) == sparsity.homogeneous


class TestLargest:
    def test_of_tied_pre_activations_exactly_k_are_kept(self):
        pre = Computed(torch.ones(3, 8))
        assert [TopK(k=k)(pre).l0 for k in (1, 3, 8)] == [1, 3, 8]

    def test_abs_topk_keeps_signs(self):
        codes = AbsTopK(k=2)(Computed(torch.tensor([[1.0, -3, 2, 0.5]])))
        assert codes.to_dense().tolist() == [[0, -3, 2, 0]]

    def test_linear_topk_keeps_the_largest_of_negative_ones(self):
        codes = LinearTopK(k=2)(Computed(torch.tensor([[-1.0, -3, -2, -5]])))
        assert codes.to_dense().tolist() == [[-1, 0, -2, 0]]

    def test_group_max_has_one_of_each_group_at_most(self, affine: Affine):
        codes = GroupMax(k=6)(affine).to_dense().unflatten(1, (6, 8))
        assert codes.count_nonzero(dim=2).amax() == 1
        p = affine.dense().unflatten(1, (6, 8))
        torch.testing.assert_close(codes.amax(dim=2), p.amax(dim=2).relu())

    @given(st.integers(1, 20), st.integers(0, 20))
    def test_k_falls_linearly_over_the_first_half_of_the_training(self, k: int, more: int):
        rule, pre = TopK(k=k, start_k=k + more), Computed(torch.rand(2, 64) + 1)
        found = [rule.training_codes(pre, progress).l0 for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
        assert found == [k + more, k + round(more / 2), k, k, k]
        assert rule(pre).l0 == k
        assert TopK(k=k).training_codes(pre, 0.0).l0 == k

    def test_the_training_is_told_how_far_it_is(self, rows: Tensor):
        sae = preset("k-sparse", input_width=24, latents=96, l0=6).build()
        counts = [sae.loss(rows, moment=Moment(progress=progress)).codes for progress in (0.0, 0.25, 1.0)]
        assert [len(codes.values) / 300 for codes in counts] == [24, 15, 6]


class TestSigmoid:
    def test_is_active_above_one_half(self):
        codes = Sigmoid()(Computed(torch.tensor([[-2.0, 0.0, 1e-3, 5.0]])))
        assert is_active(codes).tolist() == [False, False, True, True]
        assert codes.l0 == 2
        assert codes.replace_values(codes.values).l0 == codes.detach().l0 == codes.to(torch.float64).l0 == 2


def remembering(spec: Sparsity, rows: Tensor, steps: int = 40) -> SparseAutoencoder:
    """An autoencoder that has taken note of many batches of its training codes."""
    sae = AutoencoderSpec(input_width=24, latents=96, sparsity=spec).build(seed=0)
    start_from_data(sae, rows)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        sae.sparsity.note(sae.loss(rows[torch.randint(300, (150,), generator=generator)]).codes)
    return sae


@pytest.mark.parametrize("sparsity", [BatchTopK(k=6), WinnerTakeAll(k=6)], ids=lambda part: part.kind)
class TestWhatLooksAtTheBatch:
    def test_in_use_it_has_about_k_active(self, sparsity: Sparsity, rows: Tensor):
        assert remembering(sparsity, rows).encode(rows).l0 == pytest.approx(6, rel=0.15)

    def test_in_use_a_row_does_not_depend_on_its_neighbours(self, sparsity: Sparsity, rows: Tensor):
        sae = remembering(sparsity, rows)
        together = sae.encode(rows).to_dense()
        for some in ([3], [3, 200], list(range(0, 300, 7))):
            torch.testing.assert_close(sae.encode(rows[some]).to_dense(), together[some], rtol=1e-5, atol=1e-6)

    def test_in_training_it_does(self, sparsity: Sparsity, rows: Tensor):
        sae = remembering(sparsity, rows)
        strong = torch.cat([rows[:1], sae.scaler.mean + 100 * (rows[1:50] - sae.scaler.mean)])
        alone, beside = (sae.loss(x).codes for x in (rows[:1], strong))
        assert isinstance(alone, SparseCodes)
        assert isinstance(beside, SparseCodes)
        assert beside.to_dense()[0].count_nonzero() < alone.to_dense()[0].count_nonzero()

    def test_what_it_remembers_travels(self, sparsity: Sparsity, rows: Tensor):
        sae = remembering(sparsity, rows)
        assert sae.state_dict()["sparsity.threshold"].all()
        other = sae.spec.build(seed=5)
        other.load_state_dict(sae.state_dict())
        assert torch.equal(other.encode(rows).to_dense(), sae.encode(rows).to_dense())
        sae.reset(seed=0)
        assert not sae.state_dict()["sparsity.threshold"].any()

    def test_before_it_remembers_all_that_is_positive_is_kept(self, sparsity: Sparsity, affine: Affine):
        rule = sparsity.build(latents=LATENTS)
        torch.testing.assert_close(rule(affine).to_dense(), affine.dense().relu())

    def test_what_it_remembers_is_what_pre_activations_have_to_exceed(self, sparsity: Sparsity, affine: Affine):
        rule = sparsity.build(latents=LATENTS)
        rule.note(rule.training_codes(affine).detach())
        latents = torch.tensor([0, 7, 30])
        floor = rule.floor(latents)
        expected = affine.dense() * (affine.dense() > rule.floor(torch.arange(LATENTS)))
        torch.testing.assert_close(rule(affine).to_dense(), expected)
        assert floor.shape == (3,)
        assert torch.equal(floor, rule.floor(torch.arange(LATENTS))[latents])

    @pytest.mark.parametrize("memory", [-0.1, 1.0, 2.0])
    def test_a_memory_that_never_learns_is_refused(self, sparsity: Sparsity, memory: float):
        with pytest.raises(ValueError, match=rf"memory is the share .* \[0, 1\); got {memory}"):
            sparsity.replace(memory=memory)


class TestThresholds:
    def test_of_a_batch_is_the_mean_of_the_smallest_kept(self):
        rule = BatchTopK(k=2, memory=0.75).build(latents=3)
        seen = []
        for p in ([[5.0, 4, 1], [9, 0, -1]], [[8.0, 6, 1], [7, 8, -1]], [[-1.0, -1, -1], [-1, -1, -1]]):
            rule.note(rule.training_codes(Computed(torch.tensor(p))))
            seen.append(rule.state_dict()["threshold"].item())
        assert seen == [1.0, 0.75 * 1 + 0.25 * 6, 2.25]  # the first is taken as it is; nothing positive says nothing

    def test_of_a_latent_is_the_mean_of_its_smallest_kept(self):
        rule = WinnerTakeAll(k=1, memory=0.5).build(latents=2)
        seen = []
        for p in ([[5.0, 1], [9, -1], [2, -2], [1, -1]], [[7.0, -1], [8, -1], [2, -2], [1, -3]]):
            rule.note(rule.training_codes(Computed(torch.tensor(p))))
            seen.append(rule.state_dict()["threshold"].tolist())
        assert seen == [[5.0, 1.0], [6.0, 1.0]]

    def test_no_latent_goes_without_a_row(self, rows: Tensor):
        sae = AutoencoderSpec(input_width=24, latents=96, sparsity=WinnerTakeAll(k=1)).build(seed=0)
        start_from_data(sae, rows)
        codes = sae.loss(rows[:20]).codes
        assert isinstance(codes, SparseCodes)
        assert (codes.to_dense() != 0).sum(dim=0).amax() == 1
        assert len(codes.indices.unique()) == 96


class TestAnotherL0:
    """One autoencoder, another number of active latents."""

    @pytest.mark.parametrize(
        ("sparsity", "other"),
        [
            (TopK(k=6, start_k=12), TopK(k=3)),
            (LinearTopK(k=6), LinearTopK(k=3)),
            (AbsTopK(k=6), AbsTopK(k=3)),
            (MatchingPursuit(k=6), MatchingPursuit(k=3)),
        ],
    )
    def test_is_the_rule_with_that_k(self, sparsity: Sparsity, other: Sparsity):
        assert sparsity.with_l0(3) == other

    @pytest.mark.parametrize("sparsity", [ReLU(), BatchTopK(k=6), Sigmoid()], ids=lambda s: s.kind)
    def test_is_refused_where_there_is_no_such_number(self, sparsity: Sparsity):
        with pytest.raises(ValueError, match=f"'{sparsity.kind}' has no number of active latents"):
            sparsity.with_l0(3)


def test_a_rule_says_the_same_of_tied_weights(rows: Tensor):
    """What a rule is handed is the encoder's business."""
    sae = AutoencoderSpec(input_width=24, latents=96, sparsity=TopK(k=6), encoder=Tied()).build(seed=0).double()
    start_from_data(sae, rows)
    p = (sae.scaler(rows.double()) - sae.decoder.bias) @ sae.decoder.directions().T
    expected = kept(p, p.topk(6, dim=1).indices).relu() / sae.scaler.scale
    torch.testing.assert_close(sae.encode(rows).to_dense(), expected)
