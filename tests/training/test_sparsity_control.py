"""An L0 that was asked for is reached, by whatever penalty; a run that misses it says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import gossamer as gs
from gossamer.autoencoder.autoencoder import AutoencoderSpec
from gossamer.autoencoder.penalties import Hoyer, Penalty
from gossamer.autoencoder.sparsity import ReLU
from gossamer.training.metrics import read_metrics
from gossamer.training.sparsity_control import SparsityControl
from gossamer.training.spec import TrainSpec

STEPS = 400
CPU = torch.device("cpu")


def follow(control: SparsityControl, *, gain: float, steps: int = STEPS) -> list[float]:
    """Let ln L0 follow −ln λ with a lag of twenty steps, from four times the target."""
    level, seen = torch.tensor(control.target * 4).log(), []
    control.begin(torch.tensor(1.0), torch.tensor(1.0))
    for step in range(steps):
        control.update(level.exp(), step)
        wanted = torch.tensor(control.target).log() - gain * (control.log_strength.float() + 5)
        level = torch.lerp(wanted, level, 0.95)
        seen.append(level.exp().item())
    return seen


class TestControl:
    @pytest.mark.parametrize("gain", [0.3, 0.7, 1.5])
    @pytest.mark.parametrize("target", [4.0, 32.0])
    def test_brings_what_follows_slowly_to_the_target_and_keeps_it_there(self, gain: float, target: float):
        control = SparsityControl(target, steps=STEPS, device=CPU)
        late = follow(control, gain=gain)[3 * STEPS // 4 :]
        assert max(abs(l0 / target - 1) for l0 in late) < 0.05
        assert not control.missed()
        assert control.reached() == pytest.approx(sum(late[-STEPS // 10 :]) / (STEPS // 10), rel=0.01)

    def test_raises_the_weight_where_too_much_is_active_and_lowers_it_where_too_little(self):
        for l0, sign in ((64.0, 1), (16.0, -1)):
            control = SparsityControl(32.0, steps=10, device=CPU)
            control.begin(torch.tensor(1.0), torch.tensor(4.0))
            start = control.strength.item()
            assert start == pytest.approx(0.05 / 4)
            for step in range(10):
                control.update(torch.tensor(l0), step)
            assert sign * (control.strength.item() - start) > 0
            assert control.missed()

    def test_goes_on_from_a_saved_state(self):
        one, other = (SparsityControl(8.0, steps=20, device=CPU) for _ in range(2))
        one.begin(torch.tensor(1.0), torch.tensor(1.0))
        for step in range(20):
            if step == 11:
                other.load_state_dict({name: tensor.clone() for name, tensor in one.state_dict().items()})
            for control in (one, other)[: 1 + (step >= 11)]:
                control.update(torch.tensor(20.0 - step), step)
        assert one.strength.item() == other.strength.item()
        assert one.reached() == other.reached()

    def test_lives_through_a_batch_without_an_active_latent(self):
        control = SparsityControl(8.0, steps=10, device=CPU)
        control.begin(torch.tensor(1.0), torch.tensor(0.0))
        for step in range(10):
            control.update(torch.tensor(0.0), step)
        assert control.log_strength.isfinite()


def spec_of(name: str, l0: float) -> AutoencoderSpec:
    if name == "hoyer":
        penalties: tuple[Penalty, ...] = (Hoyer(target_l0=l0),)
        return AutoencoderSpec(name="hoyer", input_width=24, latents=96, sparsity=ReLU(), penalties=penalties)
    return gs.preset(name, input_width=24, latents=96, l0=l0)


def run(name: str, rows: Tensor, steps: int, folder: Path) -> dict[str, float]:
    source = gs.Arrays(rows.repeat(4, 1))
    train = TrainSpec(rows=steps * 100, batch=100, learning_rate=3e-3, log_every=50)
    gs.train(spec_of(name, 6).build(), source, train, out=folder / name, quiet=True)
    return read_metrics(folder / name)[-1]


class TestRuns:
    @pytest.mark.parametrize("name", ["vanilla-l1", "hoyer", "gated", "jumprelu"])
    def test_reach_what_was_asked_for(self, name: str, rows: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture):
        last = run(name, rows, 800, tmp_path)
        assert last["target_l0"] == 6
        assert last["reached_l0"] == pytest.approx(6, rel=0.05)
        assert not last["missed_l0"]
        assert "missed" not in capsys.readouterr().err

    def test_that_miss_say_so(self, rows: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture):
        last = run("vanilla-l1", rows, 10, tmp_path)
        assert last["missed_l0"]
        assert "vanilla-l1 missed its L0: asked for 6, reached" in capsys.readouterr().err
