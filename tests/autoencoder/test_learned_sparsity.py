"""JumpReLU, Gated and matching pursuit: the values of their formulas, and the gradients that their papers state."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder
from gossamer.autoencoder.encoders import Tied
from gossamer.autoencoder.penalties import L1
from gossamer.autoencoder.pre_activations import Affine, Computed
from gossamer.autoencoder.presets import preset
from gossamer.autoencoder.sparsity import (
    Gated,
    GatedMagnitudes,
    JumpReLU,
    JumpReLUThresholds,
    MatchingPursuit,
    OrthogonalMatchingPursuit,
    TopK,
)
from gossamer.autoencoder.trace import Moment
from gossamer.codes import Codes, DenseCodes, SparseCodes, density

LATENTS, WIDTH = 48, 16

KERNELS = {  # of u, as their names say: height 1 at the edge of [−½, ½] or 0 there, integral 1
    "rectangle": lambda u: 1.0 * (u.abs() < 0.5),
    "triangle": lambda u: (2 - 4 * u.abs()).clamp_min(0),
    "parabola": lambda u: (1.5 - 6 * u**2).clamp_min(0),
}


@pytest.fixture
def pre(generator: torch.Generator) -> Affine:
    x, weight = torch.randn(100, WIDTH, generator=generator), torch.randn(LATENTS, WIDTH, generator=generator)
    bias = 0.5 * torch.randn(LATENTS, generator=generator)
    return Affine(*(tensor.requires_grad_() for tensor in (x, weight / WIDTH**0.5, bias)))


def as_matrices(codes: Codes) -> dict[str, Tensor]:
    """Values, gates and what is charged, `(rows, latents)` each, zero where there is no entry."""
    found = {"values": codes.values, "gates": codes.gates, "charged": codes.charged}
    found = {name: tensor for name, tensor in found.items() if tensor is not None}
    if isinstance(codes, DenseCodes):
        return found
    return {name: codes.replace_values(tensor).to_dense() for name, tensor in found.items()}


def weights_like(tensor: Tensor, seed: int = 7) -> Tensor:
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(tensor)


def close(a: Tensor, b: Tensor, relative: float = 1e-5) -> bool:
    return bool((a.double() - b.double()).norm() <= relative * b.double().norm())


def jumping(spec: JumpReLU, generator: torch.Generator) -> JumpReLUThresholds:
    """Thresholds that differ, some nearer to zero than half a bandwidth."""
    rule = spec.build(latents=LATENTS)
    with torch.no_grad():
        rule.log_threshold.copy_((1.5 * torch.rand(LATENTS, generator=generator) + 0.05).log())
    return rule


@pytest.mark.parametrize("kernel", KERNELS)
class TestJumpReLU:
    @pytest.mark.parametrize("dense", [False, True], ids=["sparse-codes", "dense-codes"])
    @pytest.mark.usefixtures("low_precision_selection")
    def test_is_its_formula_in_value_and_all_gradients(
        self, pre: Affine, generator: torch.Generator, kernel: str, dense: bool
    ):
        spec = JumpReLU(kernel=kernel, bandwidth=0.4)
        rule = jumping(spec, generator)
        found = as_matrices((rule.dense if dense else rule.training_codes)(pre))
        leaves = [pre.x, pre.weight, pre.bias, rule.log_threshold]

        p, theta = pre.dense().detach().double(), rule.log_threshold.detach().double().exp()
        active = (p > theta).double()
        bump = KERNELS[kernel]((p - theta) / 0.4) / 0.4
        assert close(found["values"], p * active)
        assert torch.equal(found["gates"].double(), active)
        for name, own, towards_theta in (("values", active, -theta * bump), ("gates", 0 * active, -bump)):
            g = weights_like(p)
            got = torch.autograd.grad(
                (found[name] * g.to(found[name])).sum(), leaves, retain_graph=True, allow_unused=True
            )
            of_p = g * own
            x, weight = pre.x.detach().double(), pre.weight.detach().double()
            exact = [of_p @ weight, of_p.T @ x, of_p.sum(dim=0), (g * towards_theta).sum(dim=0) * theta]
            for mine, theirs in zip(got, exact, strict=True):
                assert close(torch.zeros_like(theirs) if mine is None else mine, theirs), name

    def test_its_kernel_has_integral_one(self, kernel: str):
        """Of gates over evenly spread pre-activations, it gives the derivative of the share that is active."""
        rule = JumpReLU(kernel=kernel, threshold=0.5, bandwidth=0.3).build(latents=1).double()
        spread = torch.linspace(0, 1, 100_001, dtype=torch.float64)[:, None]
        gates = rule.training_codes(Computed(spread)).gates
        assert gates is not None
        (gradient,) = torch.autograd.grad(gates.sum() / len(spread), rule.log_threshold)
        assert gradient.item() == pytest.approx(-0.5, rel=1e-3)  # d(1 − θ)/d ln θ

    def test_sparse_codes_have_the_entries_that_dense_ones_count(
        self, pre: Affine, generator: torch.Generator, kernel: str
    ):
        rule = jumping(JumpReLU(kernel=kernel, bandwidth=0.4), generator)
        sparse, dense = rule.training_codes(pre), rule.dense(pre)
        assert density(sparse) == density(dense)
        assert len(sparse.values) > sparse.values.count_nonzero()
        assert rule(pre).l0 == sparse.l0

    def test_in_use_it_keeps_what_is_above(self, pre: Affine, generator: torch.Generator, kernel: str):
        rule = jumping(JumpReLU(kernel=kernel), generator)
        codes = rule(pre)
        floor = rule.floor(torch.arange(LATENTS))
        torch.testing.assert_close(floor, rule.log_threshold.exp())
        expected = pre.dense() * (pre.dense() > floor)
        torch.testing.assert_close(codes.to_dense(), expected)
        assert codes.gates is None


class TestThresholdsOfJumpReLU:
    def test_start_where_they_are_told_but_not_below_half_a_bandwidth(self):
        rule = JumpReLU(threshold=0.7, bandwidth=0.4).build(latents=3)
        rule.reset()
        torch.testing.assert_close(rule.floor(torch.arange(3)), torch.full((3,), 0.7))
        assert rule.start(torch.tensor([-1.0, 0.1, 3.0])) is True
        torch.testing.assert_close(rule.floor(torch.arange(3)), torch.tensor([0.2, 0.2, 3.0]))

    @pytest.mark.parametrize("numbers", [{"threshold": 0.0}, {"bandwidth": 0.0}, {"threshold": -1.0}])
    def test_are_above_zero(self, numbers: dict[str, Any]):
        with pytest.raises(ValueError, match="threshold and bandwidth must be above 0"):
            JumpReLU(**numbers)

    def test_of_an_unknown_kernel_are_refused(self):
        with pytest.raises(ValueError, match="unknown kernel 'triangel'; did you mean 'triangle'"):
            JumpReLU(kernel="triangel")

    def test_fall_where_a_target_wants_more_active(self, rows: Tensor):
        """The L0 penalty pushes thresholds up, the reconstruction pulls them down."""
        sae = preset("jumprelu", input_width=24, latents=96, l0_weight=1.0).build(seed=0)
        before = sae.sparsity.floor(torch.arange(96))
        optimizer = torch.optim.SGD(sae.sparsity.parameters(), lr=0.1)
        sae.loss(rows).total.backward()
        optimizer.step()
        change = sae.sparsity.floor(torch.arange(96)) - before
        assert (change >= 0).all()
        assert (change > 0).any()


class TestGated:
    @pytest.fixture
    def rule(self, generator: torch.Generator) -> GatedMagnitudes:
        rule = Gated().build(latents=LATENTS)
        with torch.no_grad():
            rule.log_gain.copy_(0.3 * torch.randn(LATENTS, generator=generator))
            rule.bias.copy_(0.3 * torch.randn(LATENTS, generator=generator))
        return rule

    @pytest.mark.parametrize("dense", [False, True], ids=["sparse-codes", "dense-codes"])
    @pytest.mark.usefixtures("low_precision_selection")
    def test_is_its_formula_in_value_and_all_gradients(self, pre: Affine, rule: GatedMagnitudes, dense: bool):
        """z = H(p) · ReLU(exp(r) (p − b_gate) + b_mag), with b_mag = bias + exp(r) b_gate, kept fixed for its slope."""
        found = as_matrices((rule.dense if dense else rule.training_codes)(pre))
        leaves = [pre.x, pre.weight, pre.bias, rule.log_gain, rule.bias]
        x, weight, bias, log_gain, rest = (leaf.detach().double().requires_grad_() for leaf in leaves)
        gate = (x @ weight.T + bias).relu()
        gain = log_gain.exp()
        magnitude = (gain * (x @ weight.T + bias.detach()) + rest).relu()
        expected = {"values": (gate > 0) * magnitude, "charged": gate}
        assert found.keys() == expected.keys()
        for name, exact in expected.items():
            assert close(found[name], exact), name
            g = weights_like(exact)
            given_leaves = [x, weight, bias, log_gain, rest]
            theirs = torch.autograd.grad(
                (exact * g).sum(), given_leaves, materialize_grads=True, retain_graph=True, allow_unused=True
            )
            mine = torch.autograd.grad(
                (found[name] * g.to(found[name])).sum(),
                leaves,
                materialize_grads=True,
                retain_graph=True,
                allow_unused=True,
            )
            for got, wanted in zip(mine, theirs, strict=True):
                assert (got.double() - wanted).norm() <= 1e-5 * wanted.norm() + 1e-5, name

    @pytest.mark.parametrize("dense", [False, True])
    def test_the_gate_bias_has_no_gradient_through_the_values(self, pre: Affine, rule: GatedMagnitudes, dense: bool):
        codes = (rule.dense if dense else rule.training_codes)(pre)
        assert codes.charged is not None
        (through_values,) = torch.autograd.grad(codes.values.square().sum(), pre.bias, retain_graph=True)
        (through_gates,) = torch.autograd.grad(codes.charged.square().sum(), pre.bias)
        assert through_values.abs().max() <= 1e-5 * through_gates.abs().max()
        assert through_gates.any()

    def test_sparse_codes_have_the_entries_that_dense_ones_count(self, pre: Affine, rule: GatedMagnitudes):
        assert density(rule.training_codes(pre)) == density(rule.dense(pre))

    def test_starts_as_relu(self, pre: Affine):
        rule = Gated().build(latents=LATENTS)
        torch.testing.assert_close(rule(pre).to_dense(), pre.dense().relu())

    def test_its_gates_learn_from_penalty_and_reconstruction(self, rows: Tensor):
        sae = preset("gated", input_width=24, latents=96, l1=0.01).build(seed=0)
        loss = sae.loss(rows)
        assert set(loss.terms) == {"reconstruction", "l1", "gate-reconstruction"}
        (gradient,) = torch.autograd.grad(loss.total, sae.encoder.get_parameter("bias"))
        assert gradient.any()


def pursued(x: Tensor, directions: Tensor, k: int) -> tuple[Tensor, list[float]]:
    """Codes by a plain loop over rows and steps, and the norm of all residuals after each step."""
    codes, rests = torch.zeros(len(x), len(directions), dtype=x.dtype), x.clone()
    norms = [rests.norm().item()]
    for _ in range(k):
        for row in range(len(x)):
            products = directions @ rests[row]
            best = int(products.argmax())
            if products[best] > 0:
                codes[row, best] += products[best]
                rests[row] -= products[best] * directions[best]
        norms.append(rests.norm().item())
    return codes, norms


class TestMatchingPursuit:
    @pytest.fixture
    def pre(self, generator: torch.Generator) -> Affine:
        x = torch.randn(30, WIDTH, generator=generator, dtype=torch.float64)
        directions = torch.randn(LATENTS, WIDTH, generator=generator, dtype=torch.float64)
        return Affine(x, nn.functional.normalize(directions, dim=1), torch.zeros(LATENTS, dtype=torch.float64))

    @pytest.mark.parametrize("k", [1, 2, 7, 40])
    def test_is_a_plain_loop(self, pre: Affine, k: int):
        codes = MatchingPursuit(k=k)(pre)
        torch.testing.assert_close(codes.to_dense(), pursued(pre.x, pre.weight, k)[0])
        assert (codes.offsets.diff() <= k).all()

    @pytest.mark.usefixtures("low_precision_selection")
    def test_is_one_in_single_precision_too(self, pre: Affine):
        single = Affine(pre.x.float(), pre.weight.float(), pre.bias.float())
        found = MatchingPursuit(k=5)(single).to_dense().double()
        torch.testing.assert_close(found, pursued(pre.x, pre.weight, 5)[0], rtol=1e-4, atol=1e-5)

    def test_leaves_less_with_every_step(self, pre: Affine):
        left = [(pre.x - MatchingPursuit(k=k)(pre).to_dense() @ pre.weight).norm(dim=1) for k in range(1, 9)]
        assert all((after < before).all() for before, after in zip([pre.x.norm(dim=1), *left], left, strict=False))

    def test_explains_more_than_the_largest_products(self, pre: Affine):
        errors = [(pre.x - rule(pre).to_dense() @ pre.weight).norm() for rule in (TopK(k=6), MatchingPursuit(k=6))]
        assert errors[1] < 0.75 * errors[0]

    def test_stops_where_nothing_points_along_the_residual(self):
        directions = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        codes = MatchingPursuit(k=2)(Affine(torch.tensor([[-1.0, -2.0], [3.0, -1.0]]), directions, torch.zeros(2)))
        assert codes.to_dense().tolist() == [[0, 0], [3, 0]]
        assert codes.l0 == 0.5

    def test_a_direction_taken_twice_has_one_entry(self):
        """⟨d₀, d₁⟩ < 0: what d₁ takes leaves something for d₀ again."""
        directions, x = torch.tensor([[1.0, 0.0], [-0.8, 0.6]]), torch.tensor([[1.0, 0.5]])
        codes = MatchingPursuit(k=3)(Affine(x, directions, torch.zeros(2)))
        assert codes.indices.tolist() == [0, 1]
        torch.testing.assert_close(codes.values, torch.tensor([1.24, 0.3]))

    @pytest.mark.parametrize("k", [1, 3, 6])
    def test_has_the_gradients_of_its_steps(self, pre: Affine, k: int):
        def codes(x: Tensor, weight: Tensor) -> Tensor:
            return MatchingPursuit(k=k)(Affine(x, weight, pre.bias[:30])).to_dense()

        x, weight = pre.x[:4, :6].clone(), nn.functional.normalize(pre.weight[:30, :6], dim=1)
        assert (codes(x, weight) > 0.01).sum() > 3 * k  # nobody stops early, where values have a kink
        assert torch.autograd.gradcheck(codes, (x.requires_grad_(), weight.requires_grad_()))

    def test_is_the_autoencoder_that_subtracts_what_it_has_found(self, rows: Tensor):
        sae: SparseAutoencoder = AutoencoderSpec(
            input_width=24, latents=96, encoder=Tied(), sparsity=MatchingPursuit(k=5)
        ).build(seed=0)
        with torch.no_grad():
            sae.decoder.bias.copy_(rows.mean(dim=0))
        expected, _ = pursued(rows.double() - sae.decoder.bias.double(), sae.decoder.directions().double(), 5)
        codes = sae.encode(rows)
        assert close(codes.to_dense(), expected, 1e-4)
        assert isinstance(sae.loss(rows, moment=Moment()).codes, SparseCodes)


@given(st.floats(0.01, 5), st.floats(0.01, 2))
def test_a_change_of_units_moves_thresholds_along(threshold: float, factor: float):
    rule = JumpReLU(threshold=threshold).build(latents=2)
    rule.reset()
    rule.rescale(torch.tensor(factor))
    assert rule.floor(torch.arange(2)).tolist() == pytest.approx([threshold * factor] * 2, rel=1e-5)
    assert math.isfinite(rule.log_threshold.sum().item())


class TestOrthogonalMatchingPursuit:
    @pytest.fixture
    def pre(self, generator: torch.Generator) -> Affine:
        x = torch.randn(30, WIDTH, generator=generator, dtype=torch.float64)
        directions = torch.randn(LATENTS, WIDTH, generator=generator, dtype=torch.float64)
        return Affine(x, nn.functional.normalize(directions, dim=1), torch.zeros(LATENTS, dtype=torch.float64))

    @pytest.mark.parametrize("table", [True, False])
    @pytest.mark.parametrize("k", [1, 2, 7])
    def test_is_that_of_scikit_learn(self, pre: Affine, k: int, table: bool, monkeypatch: pytest.MonkeyPatch):
        linear_model = pytest.importorskip("sklearn.linear_model")
        monkeypatch.setattr("gossamer.autoencoder.sparsity.pursuit.LARGEST_TABLE", LATENTS if table else 0)
        codes = OrthogonalMatchingPursuit(k=k)(pre)
        expected = linear_model.orthogonal_mp(pre.weight.T.numpy(), pre.x.T.numpy(), n_nonzero_coefs=k)
        expected = torch.from_numpy(expected.reshape(LATENTS, -1).T.copy())
        torch.testing.assert_close(codes.to_dense(), expected, rtol=1e-3, atol=1e-5)
        assert (codes.offsets.diff() == k).all()
        assert k == 1 or (codes.values < 0).any()

    def test_explains_more_than_the_pursuit_that_does_not_fit_again(self, pre: Affine):
        rules = (MatchingPursuit(k=6), OrthogonalMatchingPursuit(k=6))
        errors = [(pre.x - rule(pre).to_dense() @ pre.weight).norm() for rule in rules]
        assert errors[1] < 0.9 * errors[0]

    def test_the_gradient_by_the_directions_is_exact(self, pre: Affine):
        """Against finite differences of the whole: choosing, fitting, and the squared error."""
        x, weight = pre.x[:6], pre.weight[:40].clone().requires_grad_()

        def error(directions: Tensor) -> Tensor:
            codes = OrthogonalMatchingPursuit(k=3)(Affine(x, directions, pre.bias[:40])).to_dense()
            return (x - codes @ directions).square().sum()

        found = torch.autograd.grad(error(weight), weight)[0]
        step = torch.zeros_like(weight)
        chosen = OrthogonalMatchingPursuit(k=3)(Affine(x, weight, pre.bias[:40])).indices
        for place in ((int(chosen[0]), 1), (int(chosen[7]), 5), (int(chosen[-1]), 15)):
            assert found[place] != 0
            step.zero_()[place] = 1e-5
            with torch.no_grad():
                slope = (error(weight + step) - error(weight - step)) / 2e-5
            torch.testing.assert_close(found[place], slope, rtol=1e-3, atol=1e-4)

    def test_lives_through_rows_of_zeros_and_equal_directions(self):
        directions = nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), dim=1)
        codes = OrthogonalMatchingPursuit(k=3)(
            Affine(torch.tensor([[0.0, 0.0], [2.0, 1.0]]), directions, torch.zeros(3))
        )
        back = codes.to_dense() @ directions
        torch.testing.assert_close(back, torch.tensor([[0.0, 0.0], [2.0, 1.0]]), rtol=1e-4, atol=1e-5)

    def test_refuses_penalties_on_codes(self):
        with pytest.raises(ValueError, match="have no gradient"):
            AutoencoderSpec(
                input_width=24,
                latents=96,
                encoder=Tied(),
                sparsity=OrthogonalMatchingPursuit(k=5),
                penalties=(L1(weight=0.1),),
            )
