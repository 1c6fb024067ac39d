"""Every penalty is its formula, in value and gradient, whichever form the codes have and however large the batch is."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gossamer.autoencoder import penalties as of_codes
from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder
from gossamer.autoencoder.decoders import Linear
from gossamer.autoencoder.encoders import LinearEncoder, Tied
from gossamer.autoencoder.penalties import GateReconstruction, Penalty
from gossamer.autoencoder.pre_activations import Affine
from gossamer.autoencoder.sparsity import Gated, JumpReLU, ReLU, Sigmoid, Sparsity
from gossamer.autoencoder.trace import Moment, Trace, traced
from gossamer.autoencoder.weight_penalties import Contractive, Orthogonality, WeightL1, WeightL2
from gossamer.codes import DenseCodes, SparseCodes


@dataclass
class Dense:
    """What a penalty rests on, as matrices: the definition to compare with."""

    x: Tensor
    w_enc: Tensor
    w_dec: Tensor
    b_dec: Tensor
    z: Tensor
    gates: Tensor
    charged: Tensor

    @property
    def cost(self) -> Tensor:
        """|z_i| ‖d_i‖ `(rows, latents)`."""
        return self.charged.abs() * self.w_dec.norm(dim=1)


def defined(sae: SparseAutoencoder, x: Tensor, p: dict[str, Tensor]) -> Dense:
    """Return everything in dense torch, from the sparsity's own definition."""
    w_dec = p["decoder.weight"]
    w_enc = p.get("encoder.weight", w_dec)
    seen = x - p["decoder.bias"] if "encoder.weight" not in p else x
    pre = seen @ w_enc.T + p["encoder.bias"]
    z, gates = pre.relu(), (pre > 0).double()
    charged = z
    if isinstance(sae.spec.sparsity, Sigmoid):
        z = charged = 1 / (1 + (-pre).exp())
    if isinstance(sae.spec.sparsity, JumpReLU):
        theta, width = p["sparsity.log_threshold"].exp(), sae.spec.sparsity.bandwidth
        near, moving = ((pre - theta).abs() < width / 2).double() / width, theta - theta.detach()
        gates = (pre > theta).double() - near * moving
        z = charged = pre * (pre > theta) - theta.detach() * near * moving
    if isinstance(sae.spec.sparsity, Gated):
        unmoved = pre.detach() + (pre - p["encoder.bias"]) - (pre - p["encoder.bias"]).detach()
        z = (pre > 0) * (p["sparsity.log_gain"].exp() * unmoved + p["sparsity.bias"]).relu()
    return Dense(x, w_enc, w_dec, p["decoder.bias"], z, gates, charged)


def per_row(entries: Tensor) -> Tensor:
    return entries.sum(dim=1).mean()


def powers(d: Dense) -> Tensor:
    """L1 in value; p = 0.6, halfway from 1 to 0.2, in slope."""
    raised = d.cost.clamp_min(1e-3) ** 0.6 * (d.cost > 0)
    return (raised * (d.cost.sum() / raised.sum()).detach()).sum() / len(d.x)


def hoyer(d: Dense) -> Tensor:
    rows = [cost.sum() ** 2 / (cost**2).sum() for cost in d.cost if cost.any()]
    return torch.stack(rows).sum() / len(d.x)


def kl(d: Dense) -> Tensor:
    mean = d.z.mean(dim=0)
    return sum((0.1 * (0.1 / q).log() + 0.9 * (0.9 / (1 - q)).log() for q in mean), torch.zeros(()))


def groups(d: Dense) -> Tensor:
    sums = (d.cost**2).unflatten(1, (-1, 4)).sum(dim=2)
    return 2 * torch.where(sums > 0, sums.where(sums > 0, 1.0).sqrt(), 0.0).sum() / len(d.x)


def crowding(d: Dense) -> Tensor:
    cosines = torch.nn.functional.cosine_similarity(d.w_dec[:, None], d.w_dec[None], dim=2)
    return (cosines - 2 * torch.eye(len(cosines))).amax(dim=1).clamp_min(0).square().mean()


def slopes(d: Dense) -> Tensor:
    return (d.z > 0) * (d.w_enc**2).sum(dim=1)


CASES: list[tuple[Penalty, Sparsity, Callable[[Dense], Tensor]]] = [
    (of_codes.L1(weight=1.0), ReLU(), lambda d: per_row(d.cost)),
    (of_codes.L1(weight=1.0), JumpReLU(), lambda d: per_row(d.cost)),
    (of_codes.L1(weight=1.0), Gated(), lambda d: per_row(d.cost)),
    (of_codes.L2(weight=1.0), ReLU(), lambda d: per_row(d.cost**2) / 2),
    (of_codes.ElasticNet(weight=1.0, ratio=0.3), ReLU(), lambda d: per_row(0.3 * d.cost + 0.35 * d.cost**2)),
    (of_codes.Lp(weight=1.0, begin=0.0), ReLU(), powers),
    (of_codes.Log(weight=1.0, scale=2.0), ReLU(), lambda d: per_row((1 + d.cost / 2).log())),
    (of_codes.Tanh(weight=1.0, scale=3.0), ReLU(), lambda d: per_row((3 * d.cost).tanh())),
    (of_codes.Tanh(weight=1.0), JumpReLU(), lambda d: per_row((4 * d.cost).tanh())),
    (of_codes.Hoyer(weight=1.0), ReLU(), hoyer),
    (of_codes.KL(weight=1.0, rate=0.1), Sigmoid(), kl),
    (of_codes.L0(weight=1.0), JumpReLU(), lambda d: per_row(d.gates)),
    (of_codes.L0(weight=1.0), JumpReLU(threshold=0.1, bandwidth=1.0), lambda d: per_row(d.gates)),
    (of_codes.L0Target(weight=1.0, wanted=5.0), JumpReLU(), lambda d: (per_row(d.gates) / 5 - 1) ** 2),
    (
        GateReconstruction(weight=1.0),
        Gated(),
        lambda d: ((d.x - d.b_dec.detach() - d.charged @ d.w_dec.detach()) ** 2).mean(),
    ),
    (of_codes.GroupLasso(weight=1.0, size=4), ReLU(), groups),
    (Contractive(weight=1.0), ReLU(), lambda d: per_row(slopes(d))),
    (Contractive(weight=1.0), Sigmoid(), lambda d: per_row((d.z * (1 - d.z)) ** 2 * (d.w_enc**2).sum(dim=1))),
    (Orthogonality(weight=1.0), ReLU(), crowding),
    (WeightL1(weight=1.0), ReLU(), lambda d: d.w_enc.abs().sum() + d.w_dec.abs().sum()),
    (WeightL2(weight=1.0), ReLU(), lambda d: ((d.w_enc**2).sum() + (d.w_dec**2).sum()) / 2),
]

HALFWAY = {dense: Moment(dense=dense, progress=0.5) for dense in (False, True)}


def built(penalty: Penalty, sparsity: Sparsity, **parts) -> SparseAutoencoder:
    """An autoencoder with this penalty, in float64, that scales nothing; its parameters are far from the start."""
    both = (penalty,) if penalty.kind == "gate-reconstruction" else (penalty, GateReconstruction(weight=1.0))
    spec = AutoencoderSpec(
        input_width=8,
        latents=24,
        sparsity=sparsity,
        penalties=both if isinstance(sparsity, Gated) else (penalty,),
        **parts,
    )
    sae = spec.build(seed=2).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        sae.encoder.get_parameter("bias").abs_().mul_(-1)
    return sae


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    x = torch.randn(40, 8, generator=generator, dtype=torch.float64)
    x[3] = 0  # no latent is active
    return x


def cost_of(penalty: Penalty, sae: SparseAutoencoder, x: Tensor, *, dense: bool = False) -> Tensor:
    return penalty(traced(sae, x, x, HALFWAY[dense]))


def named(case: object) -> str:
    return str(getattr(case, "kind", ""))


every_penalty = pytest.mark.parametrize(("penalty", "sparsity", "formula"), CASES, ids=named)


def test_every_penalty_has_a_formula_here():
    ours = {kind for kind, penalty in Penalty.kinds().items() if penalty.__module__.startswith("gossamer.")}
    assert {penalty.kind for penalty, _, _ in CASES} == ours


@every_penalty
class TestEveryPenalty:
    @pytest.mark.parametrize("dense", [False, True], ids=["sparse-codes", "dense-codes"])
    def test_is_its_formula_in_value_and_all_gradients(
        self, penalty: Penalty, sparsity: Sparsity, formula: Callable[[Dense], Tensor], x: Tensor, dense: bool
    ):
        sae = built(penalty, sparsity)
        parameters = {name: p.detach().clone().requires_grad_() for name, p in sae.named_parameters()}
        expected = formula(defined(sae, x, parameters))
        cost = cost_of(penalty, sae, x, dense=dense)
        assert cost.shape == ()
        assert cost.item() == pytest.approx(expected.item(), rel=1e-10)
        assert cost.item() > 0
        exact = torch.autograd.grad(expected, list(parameters.values()), materialize_grads=True, allow_unused=True)
        found = torch.autograd.grad(cost, list(sae.parameters()), materialize_grads=True, allow_unused=True)
        assert any(gradient.any() for gradient in exact)
        for name, got, wanted in zip(parameters, found, exact, strict=True):
            assert (got - wanted).norm() <= 1e-9 * wanted.norm(), name

    def test_does_not_change_when_rows_are_repeated(
        self, penalty: Penalty, sparsity: Sparsity, formula: Callable[[Dense], Tensor], x: Tensor
    ):
        sae = built(penalty, sparsity)
        once = cost_of(penalty, sae, x).item()
        for repeated in (torch.cat([x, x]), x.repeat_interleave(3, dim=0)):
            assert cost_of(penalty, sae, repeated).item() == pytest.approx(once, rel=1e-10)

    def test_enters_the_loss_with_its_weight(
        self, penalty: Penalty, sparsity: Sparsity, formula: Callable[[Dense], Tensor], x: Tensor
    ):
        steered = {"weight": None, "target_l0": 3.0}
        for change, strength, factor in (
            ({"weight": 0.25}, 1.0, 0.25),
            ({"weight": 0.0}, 1.0, 0.0),
            (steered, 0.25, 0.25),
        ):
            sae = built(penalty.replace(**change), sparsity)
            loss = sae.loss(x, moment=Moment(progress=0.5, strength=strength))
            expected = factor * cost_of(penalty, sae, x).item()
            assert loss.terms[penalty.kind].item() == pytest.approx(expected, rel=1e-10)
            assert loss.total.item() == pytest.approx(sum(term.item() for term in loss.terms.values()), rel=1e-10)

    def test_takes_a_weight_or_a_target_and_neither_both_nor_none(
        self, penalty: Penalty, sparsity: Sparsity, formula: Callable[[Dense], Tensor]
    ):
        assert penalty.replace(weight=0.0).weight == 0
        assert penalty.replace(weight=None, target_l0=3.0).target_l0 == 3
        for target in (None, 5.0):
            with pytest.raises(ValueError, match=f"'{penalty.kind}' takes either a weight or a target_l0"):
                penalty.replace(weight=None if target is None else 1.0, target_l0=target)
        with pytest.raises(ValueError, match=r"below 0 would reward .* got -0.1"):
            penalty.replace(weight=-0.1)
        for target in (0.0, -3.0):
            with pytest.raises(ValueError, match="target_l0 is a number of active latents per row, above 0"):
                penalty.replace(weight=None, target_l0=target)


def trace_of(values: Tensor, directions: Tensor, *, dense: bool = False) -> Trace:
    """What penalties see of some codes and decoder directions."""
    latents, width = directions.shape
    decoder = Linear().build(input_width=width, output_width=width, latents=latents).to(directions.dtype)
    decoder.weight = torch.nn.Parameter(directions)
    x = directions.new_zeros(len(values), width)
    codes = DenseCodes(values=values) if dense else SparseCodes.from_dense(values)
    pre = Affine(x, directions, directions.new_zeros(latents))
    return Trace(x, x, pre, codes, LinearEncoder(width, latents), ReLU(), decoder, Moment())


MAGNITUDES = [
    of_codes.L1(weight=1.0),
    of_codes.L2(weight=1.0),
    of_codes.ElasticNet(weight=1.0),
    of_codes.Lp(weight=1.0),
    of_codes.Log(weight=1.0),
    of_codes.Tanh(weight=1.0),
    of_codes.GroupLasso(weight=1.0, size=2),
]


@pytest.mark.parametrize("penalty", [*MAGNITUDES, of_codes.Hoyer(weight=1.0)], ids=named)
class TestMagnitudes:
    directions = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    @given(st.floats(0.01, 100), st.integers(0, 99))
    def test_growing_the_decoder_to_shrink_the_code_gains_nothing(self, penalty: Penalty, factor: float, seed: int):
        values = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).relu()
        cost = penalty(trace_of(values, self.directions))
        torch.testing.assert_close(penalty(trace_of(values * factor, self.directions / factor)), cost)

    @pytest.mark.parametrize("dense", [False, True])
    def test_of_nothing_is_nothing_and_pulls_nowhere(self, penalty: Penalty, dense: bool):
        for rows in (0, 3):
            values = torch.zeros(rows, 6, dtype=torch.float64, requires_grad=True)
            trace = trace_of(values, self.directions, dense=dense)
            cost = penalty(trace)
            assert cost.item() == 0
            gradients = torch.autograd.grad(cost, [values, *trace.decoder.parameters()], materialize_grads=True)
            assert all(gradient.isfinite().all() for gradient in gradients)

    def test_counts_both_signs_alike(self, penalty: Penalty):
        values = torch.randn(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        cost = penalty(trace_of(values.abs(), self.directions))
        torch.testing.assert_close(penalty(trace_of(values, self.directions)), cost)


@given(st.sampled_from(MAGNITUDES), st.integers(0, 99))
def test_a_sparser_or_smaller_code_costs_less(penalty: Penalty, seed: int):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(5, 6, generator=generator, dtype=torch.float64) + 0.1
    sparser = values * (torch.rand(5, 6, generator=generator) < 0.5)
    costs = [penalty(trace_of(v, TestMagnitudes.directions)).item() for v in (values, sparser, sparser / 2)]
    assert costs[0] >= costs[1] >= costs[2]
    assert (costs[0] > costs[1]) == bool((values != sparser).any())
    assert (costs[1] > costs[2]) == bool(sparser.any())


class TestHoyer:
    @given(st.integers(1, 6), st.floats(1e-6, 1e6))
    def test_of_n_equal_ones_is_n_whatever_their_size(self, n: int, size: float):
        values = torch.zeros(1, 6, dtype=torch.float64)
        values[0, :n] = size
        directions = torch.eye(6, dtype=torch.float64)
        assert of_codes.Hoyer(weight=1.0)(trace_of(values, directions)).item() == pytest.approx(n)

    def test_is_lower_the_more_one_latent_says_of_it(self):
        directions = torch.eye(3, dtype=torch.float64)
        costs = [
            of_codes.Hoyer(weight=1.0)(trace_of(torch.tensor([row], dtype=torch.float64), directions)).item()
            for row in ([1.0, 1, 1], [2.0, 1, 1], [9.0, 1, 1], [9.0, 1, 0], [9.0, 0, 0])
        ]
        assert costs == sorted(costs, reverse=True)
        assert costs[-1] == 1


class TestLp:
    @pytest.mark.parametrize(
        ("progress", "p"), [(0.0, 1.0), (0.2, 1.0), (0.6, 0.6), (0.8, 0.4), (1.0, 0.2)]
    )  # from 1 to 0.2, from a fifth of the training on
    def test_its_slope_is_that_of_the_power_at_this_point_of_the_training(self, progress: float, p: float):
        values = torch.tensor([[0.5, 2.0, 0.0], [4.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
        trace = trace_of(values, torch.eye(3, dtype=torch.float64))
        trace = Trace(**{**vars(trace), "moment": Moment(progress=progress)})
        (gradient,) = torch.autograd.grad(of_codes.Lp(weight=1.0)(trace), values)
        active = values.detach()[values.detach() > 0]
        slope = p * active ** (p - 1) * active.sum() / (active**p).sum() / 2
        torch.testing.assert_close(gradient[values > 0], slope)

    def test_its_value_is_that_of_l1(self, x: Tensor):
        sae = built(of_codes.L1(weight=1.0), ReLU())
        costs = [cost_of(penalty, sae, x).item() for penalty in (of_codes.L1(weight=1.0), of_codes.Lp(weight=1.0))]
        assert costs[1] == pytest.approx(costs[0], rel=1e-10)


def test_kl_is_lowest_where_latents_are_active_at_their_rate():
    penalty, directions = of_codes.KL(weight=1.0, rate=0.2), torch.eye(2, dtype=torch.float64)
    costs = {
        rate: penalty(trace_of(torch.full((4, 2), rate, dtype=torch.float64), directions)).item()
        for rate in (0.0, 1e-9, 0.1, 0.2, 0.3, 0.9, 1.0)
    }
    assert min(costs, key=lambda rate: costs[rate]) == 0.2
    assert costs[0.2] == pytest.approx(0, abs=1e-12)
    assert all(math.isfinite(cost) for cost in costs.values())
    assert costs[0.9] == pytest.approx(2 * (0.2 * math.log(0.2 / 0.9) + 0.8 * math.log(0.8 / 0.1)))


class TestOrthogonality:
    def cost(self, directions: list[list[float]], sample: int = 2048) -> float:
        weight = torch.tensor(directions, dtype=torch.float64)
        return Orthogonality(weight=1.0, sample=sample)(trace_of(torch.zeros(1, len(weight)).double(), weight)).item()

    def test_knows_the_answer_by_hand(self):
        assert self.cost([[1.0, 0], [0, 1]]) == 0
        assert self.cost([[1.0, 0], [2, 0]]) == pytest.approx(1)
        assert self.cost([[1.0, 0], [1, 1], [0, -7]]) == pytest.approx((0.5 + 0.5 + 0) / 3)
        assert self.cost([[1.0, 0]]) == 0

    def test_opposite_directions_are_not_pushed_apart(self):
        assert self.cost([[1.0, 0], [-1, 0]]) == 0

    def test_a_sample_looks_only_within_itself(self):
        torch.manual_seed(0)
        pairs = [[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]
        costs = {self.cost(pairs, sample=2) for _ in range(40)}
        assert costs == {0.0, 1.0}


def test_contractive_knows_tied_weights(x: Tensor):
    sae = built(Contractive(weight=1.0), Sigmoid(), encoder=Tied())
    parameters = {name: p.detach().clone() for name, p in sae.named_parameters()}
    dense = defined(sae, x, parameters)
    expected = per_row((dense.z * (1 - dense.z)) ** 2 * (dense.w_dec**2).sum(dim=1))
    assert cost_of(Contractive(weight=1.0), sae, x).item() == pytest.approx(expected.item(), rel=1e-10)
    sae.encoder.get_buffer("gain").fill_(2.0)
    jacobian = torch.autograd.functional.jacobian(lambda row: sae.pre_activations(row).dense().sigmoid(), x[0])
    one_row = cost_of(Contractive(weight=1.0), sae, x[:1]).item()
    assert one_row == pytest.approx(jacobian.square().sum().item(), rel=1e-9)
