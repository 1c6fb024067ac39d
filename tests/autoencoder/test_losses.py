"""The loss is what its formula says, in value and gradient; each term reaches what it should and nothing else."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder
from gossamer.autoencoder.auxiliaries import AuxK, nearest_power_of_two
from gossamer.autoencoder.decoders import Linear
from gossamer.autoencoder.encoders import LinearEncoder
from gossamer.autoencoder.penalties import L1, Penalty
from gossamer.autoencoder.pre_activations import Affine, PreActivations
from gossamer.autoencoder.presets import preset
from gossamer.autoencoder.sparsity import JumpReLU, TopK
from gossamer.autoencoder.trace import Moment, Trace
from gossamer.codes import SparseCodes

NAMES = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
THRESHOLD = "sparsity.log_threshold"
DEAD = torch.tensor([3, 50, 51, 95])


class Straight(torch.autograd.Function):
    """A value that has, beside its own gradient, a stated slope towards thresholds."""

    @staticmethod
    def forward(ctx, value: Tensor, slope: Tensor, theta: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.clone()

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None, Tensor]:
        return g, None, (g * ctx.saved_tensors[0]).sum(dim=0)


def written_out(
    spec: AutoencoderSpec, x: Tensor, parameters: dict[str, Tensor], dead: Tensor | None
) -> dict[str, Tensor]:
    """Return the terms of the loss in dense torch, as the papers define them; x is in training units."""
    w_enc, b_enc, w_dec, b_dec = (parameters[name] for name in NAMES)
    pre = x @ w_enc.T + b_enc
    codes = pre.relu()
    if isinstance(spec.sparsity, TopK):
        kept = codes.topk(spec.sparsity.k, dim=1).indices
        codes = codes * torch.zeros_like(codes).scatter(1, kept, 1.0)
    gates = torch.ones_like(codes)
    if isinstance(spec.sparsity, JumpReLU):
        theta, width = parameters[THRESHOLD].exp(), spec.sparsity.bandwidth
        near = ((pre - theta).abs() < width / 2).to(pre.dtype).detach() / width
        gates = Straight.apply((pre > theta).to(pre.dtype), -near, theta)
        codes = Straight.apply(pre * (pre > theta), -near * theta.detach(), theta)
    x_hat = codes @ w_dec + b_dec
    terms = {"reconstruction": ((x_hat - x) ** 2).mean()}
    for penalty in spec.penalties:
        cost = codes.abs() * w_dec.norm(dim=1) if isinstance(penalty, L1) else gates
        assert penalty.weight is not None
        terms[penalty.kind] = penalty.weight * cost.sum(dim=1).mean()
    for auxiliary in spec.auxiliaries:
        if dead is None:
            continue
        assert isinstance(auxiliary, AuxK)
        error = (x - x_hat).detach()
        kept = pre[:, dead].relu().topk(min(auxiliary.k or 16, len(dead)), dim=1)
        dense = torch.zeros_like(pre[:, dead]).scatter(1, kept.indices, kept.values)
        terms["auxk"] = auxiliary.weight * ((error - dense @ w_dec[dead]) ** 2).sum() / (error**2).sum()
    return terms


def gradients_of(sae: SparseAutoencoder, total: Tensor) -> dict[str, Tensor]:
    wanted = dict(sae.named_parameters())
    found = torch.autograd.grad(total, list(wanted.values()), materialize_grads=True)
    return dict(zip(wanted, found, strict=True))


class TestWholeLoss:
    @pytest.mark.parametrize(
        ("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)], ids=["float64", "float32"]
    )
    @pytest.mark.parametrize("dead", [None, DEAD], ids=["none-dead", "some-dead"])
    @pytest.mark.parametrize("dense", [False, True], ids=["sparse-codes", "dense-codes"])
    @pytest.mark.usefixtures("low_precision_selection")
    def test_is_that_of_a_dense_autoencoder_in_value_and_all_gradients(
        self,
        trained: SparseAutoencoder,
        rows: Tensor,
        dead: Tensor | None,
        dense: bool,
        dtype: torch.dtype,
        tolerance: float,
    ):
        sae = trained.to(dtype)
        loss = sae.loss(rows, moment=Moment(dead=dead, dense=dense and sae.spec.sparsity.ragged))
        parameters = {n: p.detach().double().clone().requires_grad_() for n, p in sae.named_parameters()}
        scaled = (rows.double() - sae.scaler.mean.double()) * sae.scaler.scale.double()
        terms = written_out(sae.spec, scaled, parameters, dead)
        total = torch.stack(list(terms.values())).sum()
        assert loss.terms.keys() == terms.keys()
        for name, term in terms.items():
            assert loss.terms[name].item() == pytest.approx(term.item(), rel=tolerance), name
        assert loss.total.item() == pytest.approx(total.item(), rel=tolerance)
        expected = torch.autograd.grad(total, list(parameters.values()))
        for (name, got), exact in zip(gradients_of(sae, loss.total).items(), expected, strict=True):
            assert (got.double() - exact).norm() <= tolerance * exact.norm(), name

    def test_does_not_change_when_rows_are_repeated(self, trained: SparseAutoencoder, rows: Tensor):
        once = trained.loss(rows, moment=Moment(dead=DEAD))
        for repeated in (torch.cat([rows, rows]), rows.repeat_interleave(3, dim=0)):
            again = trained.loss(repeated, moment=Moment(dead=DEAD))
            for name, term in once.terms.items():
                assert again.terms[name].item() == pytest.approx(term.item(), rel=1e-5), name

    def test_of_predicting_the_mean_is_one(self, rows: Tensor):
        sae = preset("vanilla-l1", input_width=24, latents=96).build()
        mean, scale = sae.spec.scaling.measure(rows)
        sae.scaler.mean.copy_(mean)
        sae.scaler.scale.copy_(scale)
        with torch.no_grad():
            sae.encoder.get_parameter("bias").fill_(-1e6)
        assert sae.loss(rows).total.item() == pytest.approx(1, rel=1e-5)

    def test_its_terms_and_codes_are_outside_the_graph(self, trained: SparseAutoencoder, rows: Tensor):
        loss = trained.loss(rows, moment=Moment(dead=DEAD))
        assert loss.total.requires_grad
        assert not any(term.requires_grad for term in loss.terms.values())
        assert not loss.codes.values.requires_grad

    def test_its_codes_are_in_training_units(self, trained: SparseAutoencoder, rows: Tensor):
        codes = trained.loss(rows).codes
        assert isinstance(codes, SparseCodes)
        scaled = codes.to_dense() / trained.scaler.scale
        torch.testing.assert_close(scaled, trained.encode(rows).to_dense())

    def test_falls_when_one_steps_along_its_gradient(self, trained: SparseAutoencoder, rows: Tensor):
        loss = trained.loss(rows)
        gradients = gradients_of(trained, loss.total)
        with torch.no_grad():
            for name, parameter in trained.named_parameters():
                parameter -= 1e-4 * gradients[name]
        assert trained.loss(rows).total < loss.total


def trace_of(codes: SparseCodes, directions: Tensor, pre: PreActivations | None = None) -> Trace:
    """What losses see of some codes and decoder directions."""
    latents, width = directions.shape
    decoder = Linear().build(input_width=width, output_width=width, latents=latents)
    del decoder.weight
    decoder.weight = directions  # pyright: ignore[reportAttributeAccessIssue] - no parameter, so that tests see its gradient
    x = directions.new_zeros(codes.rows, width)
    pre = pre or Affine(x, directions, directions.new_zeros(latents))
    return Trace(x, x, pre, codes, LinearEncoder(width, latents), TopK(k=1), decoder, Moment())


def cost_of(penalty: Penalty, codes: SparseCodes, directions: Tensor) -> Tensor:
    return penalty(trace_of(codes, directions))


def auxk(auxiliary: AuxK, pre: PreActivations, residual: Tensor, dead: Tensor, directions: Tensor) -> Tensor:
    nothing = SparseCodes.from_dense(torch.zeros(len(residual), len(directions)))
    return auxiliary(trace_of(nothing, directions, pre), residual, dead)


def codes_of(values: list[list[float]]) -> SparseCodes:
    return SparseCodes.from_dense(torch.tensor(values, dtype=torch.float64))


class TestL1:
    directions = torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]], dtype=torch.float64)

    def test_knows_the_answer_by_hand(self):
        cost = cost_of(L1(weight=7.0), codes_of([[1.0, 0, 2], [0, 3, 0], [0, 0, 0], [0, 0, -1]]), self.directions)
        assert cost.item() == pytest.approx((1 * 5 + 2 * 1 + 3 * 2 + 1 * 1) / 4)

    def test_of_nothing_is_nothing(self):
        assert cost_of(L1(weight=1.0), codes_of([[0.0, 0, 0]]), self.directions).item() == 0
        assert cost_of(L1(weight=1.0), SparseCodes.from_dense(torch.zeros(0, 3)), self.directions).item() == 0

    @given(st.integers(0, 99))
    def test_is_lower_for_a_sparser_code(self, seed: int):
        generator = torch.Generator().manual_seed(seed)
        dense = torch.randn(5, 3, generator=generator, dtype=torch.float64)
        kept = dense * (torch.rand(5, 3, generator=generator) < 0.5)
        costs = [cost_of(L1(weight=1.0), SparseCodes.from_dense(x), self.directions) for x in (dense, kept, kept / 2)]
        assert costs[0] >= costs[1] >= costs[2]
        assert costs[2] == costs[1] / 2
        assert (costs[0] > costs[1]) == bool((dense != kept).any())

    @given(st.floats(0.01, 100), st.integers(0, 99))
    def test_growing_the_decoder_to_shrink_the_code_gains_nothing(self, factor: float, seed: int):
        generator = torch.Generator().manual_seed(seed)
        codes = SparseCodes.from_dense(torch.randn(5, 3, generator=generator, dtype=torch.float64).relu())
        moved = codes.replace_values(codes.values * factor)
        cost = cost_of(L1(weight=1.0), codes, self.directions)
        torch.testing.assert_close(cost_of(L1(weight=1.0), moved, self.directions / factor), cost)

    @given(st.integers(1, 5))
    def test_does_not_grow_with_the_batch(self, times: int):
        values = [[1.0, 0, 2], [0, 3, 0]]
        once, more = (cost_of(L1(weight=1.0), codes_of(v), self.directions).item() for v in (values, values * times))
        assert more == pytest.approx(once)

    def test_pulls_codes_and_directions_towards_zero(self):
        codes = codes_of([[1.0, 0, -2]])
        values, directions = codes.values.clone().requires_grad_(), self.directions.clone().requires_grad_()
        cost_of(L1(weight=1.0), codes.replace_values(values), directions).backward()
        assert values.grad is not None
        assert directions.grad is not None
        assert values.grad.tolist() == [5.0, -1.0]
        torch.testing.assert_close(
            directions.grad, torch.tensor([[0.6, 0.8], [0.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
        )


class TestAuxK:
    @pytest.fixture
    def sae(self, rows: Tensor) -> SparseAutoencoder:
        """An autoencoder all of whose latents have positive pre-activations on some rows."""
        sae = preset("topk", input_width=24, latents=96, l0=6).build(seed=4)
        mean, scale = sae.spec.scaling.measure(rows)
        sae.scaler.mean.copy_(mean)
        sae.scaler.scale.copy_(scale)
        torch.nn.init.normal_(sae.decoder.bias, std=0.1, generator=torch.Generator().manual_seed(0))
        return sae

    def test_its_gradient_reaches_the_dead_and_nothing_else(self, sae: SparseAutoencoder, rows: Tensor):
        without = gradients_of(sae, sae.loss(rows).total)
        with_dead = gradients_of(sae, sae.loss(rows, moment=Moment(dead=DEAD)).total)
        is_dead = torch.zeros(96, dtype=torch.bool).index_fill(0, DEAD, True)
        assert torch.equal(with_dead["decoder.bias"], without["decoder.bias"])
        for name in ("encoder.weight", "encoder.bias", "decoder.weight"):
            reached = (with_dead[name] - without[name]).reshape(96, -1).ne(0).any(dim=1)
            assert torch.equal(reached, is_dead), name

    def test_follows_what_the_living_leave_over(self, sae: SparseAutoencoder, rows: Tensor):
        """The living change the auxiliary through the residual, but its gradient does not reach them."""
        pre = sae.pre_activations(rows)
        for factor in (1.0, 2.0):
            residual = factor * torch.ones(300, 24)
            cost = auxk(AuxK(), pre, residual, DEAD, sae.decoder.get_parameter("weight"))
            reached = gradients_of(sae, cost)["encoder.weight"].ne(0).any(dim=1).nonzero()[:, 0]
            assert set(reached.tolist()) <= set(DEAD.tolist())

    def test_of_none_dead_is_zero(self, sae: SparseAutoencoder, rows: Tensor):
        none = torch.zeros(0, dtype=torch.int64)
        loss = sae.loss(rows, moment=Moment(dead=none))
        assert loss.terms["auxk"].item() == 0
        assert loss.total.item() == pytest.approx(sae.loss(rows).total.item())
        loss.total.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in sae.parameters())

    def test_is_one_for_no_explanation_and_zero_for_a_perfect_one(self):
        directions = torch.eye(3, 4)
        x, bias = torch.tensor([[1.0, 2, 3, 0]]), torch.zeros(3)
        residual = torch.tensor([[0.0, 2, 0, 0]])
        cost = auxk(AuxK(k=1), Affine(x, directions, bias), residual, torch.tensor([1]), directions)
        assert cost.item() == 0
        cost = auxk(AuxK(k=1), Affine(-x, directions, bias), residual, torch.tensor([1]), directions)
        assert cost.item() == 1
        cost = auxk(AuxK(k=1), Affine(x, directions, bias), residual, torch.tensor([0]), directions)
        assert cost.item() == pytest.approx((1 + 4) / 4)

    def test_only_the_k_strongest_of_the_dead_explain(self):
        directions = torch.eye(3)
        pre = Affine(torch.tensor([[1.0, 2, 3]]), directions, torch.zeros(3))
        dead, residual = torch.arange(3), torch.tensor([[1.0, 2, 3]])
        costs = [auxk(AuxK(k=k), pre, residual, dead, directions).item() for k in (1, 2, 3, 100)]
        assert costs == pytest.approx([5 / 14, 1 / 14, 0, 0])

    @pytest.mark.parametrize("factor", [1e-3, 1e3])
    def test_does_not_depend_on_the_size_of_the_residual(self, factor: float):
        directions = torch.eye(3)
        x, residual = torch.tensor([[1.0, 2, 3]]), torch.tensor([[3.0, 1, 1]])
        cost = [
            auxk(AuxK(k=2), Affine(f * x, directions, torch.zeros(3)), f * residual, torch.arange(3), directions)
            for f in (1.0, factor)
        ]
        assert cost[1].item() == pytest.approx(cost[0].item(), rel=1e-5)

    def test_is_finite_where_nothing_is_left_to_explain(self, sae: SparseAutoencoder):
        with torch.no_grad():
            sae.encoder.get_parameter("bias")[:] = torch.arange(96.0)
        pre = sae.pre_activations(torch.zeros(5, 24))
        cost = auxk(AuxK(), pre, torch.zeros(5, 24), torch.arange(9), sae.decoder.get_parameter("weight"))
        assert cost.isfinite()
        assert all(g.isfinite().all() for g in gradients_of(sae, cost).values())

    def test_revives(self, sae: SparseAutoencoder, rows: Tensor):
        """Latents too weak ever to win come to explain something; a loss that ignores them leaves them dead."""
        with torch.no_grad():
            sae.encoder.get_parameter("weight")[:48] *= 0.01
        dead = torch.arange(48)
        assert not (sae.encode(rows).to_dense()[:, :48] != 0).any()
        alive = []
        for shown in (None, dead):
            trial = copy.deepcopy(sae)
            optimizer = torch.optim.Adam(trial.parameters(), lr=1e-2)
            for _ in range(60):
                optimizer.zero_grad()
                trial.loss(rows, moment=Moment(dead=shown)).total.backward()
                trial.decoder.before_step()
                optimizer.step()
                trial.decoder.after_step()
            alive.append((trial.encode(rows).to_dense()[:, :48] != 0).any(dim=0).sum().item())
        assert alive[0] < 5
        assert alive[1] > 20

    @pytest.mark.parametrize(("x", "nearest"), [(0.3, 1), (1, 1), (12, 16), (11, 8), (288, 256), (384, 512)])
    def test_its_k_is_the_nearest_power_of_two(self, x: float, nearest: int):
        assert nearest_power_of_two(x) == nearest
