"""One autoencoder in training: codes that are dense first and sparse later, and the state that a checkpoint needs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import gossamer as gs
from gossamer.autoencoder.initialise import start_from_data
from gossamer.autoencoder.trace import Moment
from gossamer.codes import DenseCodes, SparseCodes
from gossamer.training.spec import Adam, OptimizerSpec, TrainSpec, derive
from gossamer.training.trainee import REFRESH, Density, Trainee

SPEC = TrainSpec(rows=100_000, batch=100, learning_rate=1e-2)


DIALS = {"topk": {}, "vanilla-l1": {"l1": 0.005}, "jumprelu": {"l0_weight": 2e-3}}


def trainee(name: str, rows: Tensor, adam: OptimizerSpec = SPEC.optimizer, **options: float) -> Trainee:
    spec = gs.preset(name, input_width=24, latents=96, **(options or DIALS[name]))
    sae = spec.build()
    start_from_data(sae, rows)
    return Trainee(sae.train(), spec.task.bind(None), SPEC.replace(optimizer=adam), derive(SPEC, spec))


class TestDensity:
    @staticmethod
    def codes(share: float) -> DenseCodes:
        values = torch.zeros(10, 100)
        values.view(-1)[: round(share * 1000)] = 1.0
        return DenseCodes(values=values)

    def test_changes_at_different_shares_on_the_way_down_and_up(self):
        density = Density(ragged=True)
        seen = []
        for share in (0.5, 0.08, 0.04, 0.08, 0.2, 0.08):
            density.refresh(self.codes(share))
            seen.append(density.dense)
        assert seen == [True, True, False, False, True, True]

    def test_is_the_same_for_codes_in_sparse_form(self):
        density = Density(ragged=True)
        density.refresh(SparseCodes.from_dense(self.codes(0.04).values))
        assert not density.dense

    def test_codes_of_fixed_size_are_always_sparse(self):
        density = Density(ragged=False)
        density.refresh(self.codes(0.9))
        assert not density.dense


@pytest.mark.parametrize("name", ["vanilla-l1", "jumprelu"])
class TestRagged:
    def test_codes_become_sparse_as_the_penalty_takes_hold(self, name: str, rows: Tensor):
        options = {"vanilla-l1": {"l1": 0.3}, "jumprelu": {"l0_weight": 0.3}}[name]
        one = trainee(name, rows, **options)
        layouts = []
        for step in range(60 * REFRESH):
            layouts.append(one.density.dense)
            one.step({"": rows[:100]}, step)
        assert layouts[0]
        assert not layouts[-1]
        assert layouts.index(False) % REFRESH == 0

    def test_a_step_in_either_form_changes_the_weights_alike(self, name: str, rows: Tensor):
        trained = []
        for dense in (True, False):
            one = trainee(name, rows)
            one.density.dense = dense
            for step in range(5):
                one.step({"": rows[:100]}, step)
            trained.append(one)
        a, b = (dict(one.sae.named_parameters()) for one in trained)
        for parameter in a:
            torch.testing.assert_close(a[parameter], b[parameter], rtol=1e-4, atol=2e-5, msg=parameter)
        assert trained[0].log() == pytest.approx(trained[1].log(), rel=1e-4)

    def test_the_form_goes_into_checkpoints(self, name: str, rows: Tensor):
        one, other = trainee(name, rows), trainee(name, rows)
        one.density.dense = False
        one.step({"": rows[:100]}, 0)
        other.load_state_dict(one.state_dict())
        assert not other.density.dense
        for each in (one, other):
            each.step({"": rows[100:200]}, 1)
        for (parameter, p), q in zip(one.sae.named_parameters(), other.sae.parameters(), strict=True):
            assert torch.equal(p, q), parameter


@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_a_checkpoint_holds_the_moments_in_their_precision(moments: str, rows: Tensor):
    one, other = (trainee("topk", rows, Adam(moments=moments), l0=4) for _ in range(2))
    for step in range(3):
        one.step({"": rows[:100]}, step)
    state = one.state_dict()
    assert state["optimizer.encoder.weight.exp_avg"].dtype == getattr(torch, moments)
    other.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
    for each in (one, other):
        each.step({"": rows[100:200]}, 3)
    for (parameter, p), q in zip(one.sae.named_parameters(), other.sae.parameters(), strict=True):
        assert torch.equal(p, q), parameter


def test_moments_of_an_unknown_precision_are_refused():
    with pytest.raises(ValueError, match="moments are stored as 'float32' or 'bfloat16', got 'int8'"):
        Adam(moments="int8")


def test_steps_are_those_of_plain_adam(rows: Tensor):
    """The same loss, `torch.optim.Adam` and the constraint written out give the same weights.

    With an eps of 1e-8 Adam would turn the rounding of a gradient that is all but zero into a step of another size.
    """
    one = trainee("topk", rows, Adam(eps=1e-5), l0=4)
    plain = gs.preset("topk", input_width=24, latents=96, l0=4).build()
    start_from_data(plain, rows)
    optimizer = torch.optim.Adam(plain.parameters(), betas=(0.9, 0.99), eps=1e-5)
    for step in range(5):
        one.step({"": rows[:100]}, step)
        optimizer.param_groups[0]["lr"] = one.derived.learning_rate_at(step, one.steps)
        optimizer.zero_grad()
        plain.loss(rows[:100]).total.backward()
        plain.decoder.before_step()
        optimizer.step()
        plain.decoder.after_step()
    for (parameter, p), q in zip(one.sae.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6, msg=parameter)


def test_no_gradient_as_large_as_a_weight_is_ever_written(rows: Tensor):
    one = trainee("topk", rows, l0=4)
    one.dead.indices = torch.arange(0, 96, 5)
    with one.optimizer.gradients():
        one.sae.loss(rows, moment=Moment(dead=one.dead.indices)).total.backward()
    assert one.sae.encoder.weight.grad is None
    assert one.sae.decoder.weight.grad is None
    assert one.sae.encoder.bias.grad is not None
