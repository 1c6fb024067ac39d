"""A preset is a short list of parts that trains as it is, and says what it did not understand."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gossamer as gs
from gossamer.autoencoder.archetypal import Archetypal
from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder
from gossamer.autoencoder.auxiliaries import AuxK
from gossamer.autoencoder.constraints import Free, UnitRows
from gossamer.autoencoder.decoders import Linear, Skip
from gossamer.autoencoder.encoders import Tied
from gossamer.autoencoder.initialise import start_from_data
from gossamer.autoencoder.penalties import L0, L1, GateReconstruction, Penalty
from gossamer.autoencoder.presets import PRESETS, options, preset
from gossamer.autoencoder.sparsity import AbsTopK, BatchTopK, Gated, JumpReLU, LinearTopK, ReLU, Sparsity, TopK
from gossamer.autoencoder.trace import Moment


def batch_for(spec: AutoencoderSpec, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """What this autoencoder may read and has to give; an output between 0 and 1 gets data between 0 and 1."""
    if getattr(spec.decoder, "output", "linear") == "sigmoid":
        rows = (rows - rows.amin()) / (rows.amax() - rows.amin())
    return rows, rows if spec.task.same_rows else targets


def trained_for(spec: AutoencoderSpec, x: Tensor, target: Tensor, steps: int) -> tuple[SparseAutoencoder, list[float]]:
    """Start from data and train; also return the loss before and after, the penalty's strength being fixed."""
    moment, losses = Moment(strength=0.003), []
    sae = spec.build(seed=0)
    torch.manual_seed(0)
    start_from_data(sae, x, target)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    for _ in range(steps + 1):
        optimizer.zero_grad()
        loss = sae.loss(x, target, moment)
        losses.append(loss.total.item())
        loss.total.backward()
        sae.decoder.before_step()
        optimizer.step()
        sae.decoder.after_step()
        sae.sparsity.note(loss.codes)
    return sae, [losses[0], losses[-1]]


class TestEveryPreset:
    def test_is_at_most_twelve_lines(self, name: str):
        assert len(inspect.getsource(PRESETS[name]).splitlines()) <= 13  # one of which is the decorator

    def test_names_itself_and_survives_files(self, name: str, needed: dict[str, Any]):
        spec = preset(name, **needed)
        assert (spec.name, spec.input_width, spec.latents) == (name, 24, 96)
        assert AutoencoderSpec.from_toml(spec.to_toml()) == spec
        assert AutoencoderSpec.from_json(spec.to_json()) == spec

    def test_names_its_paper(self, name: str):
        assert re.search(r"https://\S+\.\S+", str(PRESETS[name].__doc__))

    def test_takes_an_l0_that_its_parts_then_have(self, name: str, needed: dict[str, Any]):
        assert "l0" in options(name)
        for l0 in (3, 8):
            spec = preset(name, **needed, l0=l0)
            assert spec.target_l0 == l0 if spec.target_l0 is not None else getattr(spec.sparsity, "k", None) == l0
        assert preset(name, **needed, l0=3) != preset(name, **needed, l0=8)

    def test_trains_as_it_is(self, example: AutoencoderSpec, rows: Tensor, targets: Tensor):
        x, target = batch_for(example, rows, targets)
        sae, (before, after) = trained_for(example, x, target, steps=20)
        assert after < (0.65 if example.decoder.linear else 0.9) * before
        assert all(p.isfinite().all() for p in sae.parameters())

    def test_every_weight_has_a_gradient(self, example: AutoencoderSpec, rows: Tensor, targets: Tensor):
        if example.sparsity.kind.endswith("matching-pursuit"):
            pytest.skip("the bias of its encoder plays no part")
        x, target = batch_for(example, rows, targets)
        sae = trained_for(example, x, target, steps=2)[0]
        sae.loss(x, target).total.backward()
        missing = [name for name, p in sae.named_parameters() if p.grad is None or not p.grad.any()]
        assert missing == []

    def test_comes_back_from_a_file_with_the_same_codes(
        self, example: AutoencoderSpec, rows: Tensor, targets: Tensor, tmp_path: Path
    ):
        x, target = batch_for(example, rows, targets)
        sae = trained_for(example, x, target, steps=3)[0]
        gs.save(sae, tmp_path / "sae")
        loaded = gs.load(tmp_path / "sae")
        sae.fold()
        assert loaded.spec == example
        assert loaded.state_dict().keys() == sae.state_dict().keys()
        expected, found = sae(x), loaded(x)
        assert expected.codes.l0 > 1
        assert torch.equal(found.codes.to_dense(), expected.codes.to_dense())
        assert found.codes.level == expected.codes.level
        assert torch.equal(found.reconstruction, expected.reconstruction)

    def test_needs_what_it_cannot_know(self, name: str, needed: dict[str, Any]):
        for option, required in options(name).items():
            if required:
                others = {key: value for key, value in needed.items() if key != option}
                with pytest.raises(ValueError, match=f"preset '{name}' needs {option}"):
                    preset(name, **others)

    def test_names_the_option_nearest_to_an_unknown_one(self, name: str, needed: dict[str, Any]):
        with pytest.raises(ValueError, match=f"preset '{name}' takes no 'latent'; did you mean 'latents'"):
            preset(name, **needed, latent=96)

    def test_more_active_latents_than_latents_are_refused_with_both(self, name: str, needed: dict[str, Any]):
        with pytest.raises(ValueError, match=r"97 .*96 latents"):
            preset(name, **needed, l0=97)

    @pytest.mark.parametrize("l0", [0, -1, 2.5, "6", True, float("nan")])
    def test_an_l0_that_is_no_number_of_latents_is_refused(self, name: str, needed: dict[str, Any], l0: Any):
        steered = preset(name, **needed, l0=6).target_l0 is not None
        if l0 == 2.5 and steered:
            assert preset(name, **needed, l0=l0).target_l0 == 2.5
            return
        with pytest.raises((ValueError, TypeError)):
            preset(name, **needed, l0=l0)

    @pytest.mark.parametrize("sizes", [{"latents": 0}, {"latents": -4}, {"latents": 96.5}, {"input_width": 0}])
    def test_sizes_that_cannot_be_are_refused(self, name: str, needed: dict[str, Any], sizes: dict[str, Any]):
        with pytest.raises((ValueError, TypeError), match=r"latents|input_width|width 0|96\.5"):
            preset(name, **(needed | sizes))


STEERED = {"vanilla-l1": "l1", "gated": "l1", "jumprelu": "l0_weight", "p-anneal": "lp", "kl-sparse": "kl"}


class TestPriceOfSparsity:
    @pytest.mark.parametrize(("preset_name", "option"), STEERED.items())
    def test_is_an_l0_to_reach_or_a_weight(self, preset_name: str, option: str):
        sizes = {"input_width": 24, "latents": 96}

        def price(**dial: float) -> Penalty:
            return preset(preset_name, **sizes, **dial).penalties[0]

        assert (price().target_l0, price().weight) == (32.0, None)
        assert (price(l0=7).target_l0, price(l0=7).weight) == (7.0, None)
        weighted = price(**{option: 0.25})
        assert (weighted.target_l0, weighted.weight) == (None, 0.25)
        assert price(**{option: 0.0}).weight == 0.0
        with pytest.raises(ValueError, match=r"either l0 = 7 .* or the penalty's weight 0.25, not both"):
            price(l0=7, **{option: 0.25})

    @pytest.mark.parametrize(("preset_name", "option"), STEERED.items())
    @pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0, "1", True])
    def test_a_weight_that_cannot_be_is_refused_at_once(self, preset_name: str, option: str, weight: Any):
        with pytest.raises((ValueError, TypeError)):
            preset(preset_name, input_width=24, latents=96, **{option: weight})


SIZES = {"input_width": 24, "latents": 96}


@pytest.mark.parametrize(
    ("preset_name", "sparsity", "penalties", "auxiliaries"),
    [
        ("topk", TopK(k=7), (), (AuxK(weight=1 / 32),)),
        ("batch-topk", BatchTopK(k=7), (), (AuxK(weight=1 / 32),)),
        ("abs-topk", AbsTopK(k=7), (), (AuxK(weight=1 / 32),)),
        ("vanilla-l1", ReLU(), (L1(target_l0=7.0),), ()),
        ("jumprelu", JumpReLU(), (L0(target_l0=7.0),), ()),
        ("gated", Gated(), (L1(target_l0=7.0), GateReconstruction(weight=1.0)), ()),
    ],
)
def test_parts_are_what_the_paper_says(
    preset_name: str, sparsity: Sparsity, penalties: tuple[Penalty, ...], auxiliaries: tuple[AuxK, ...]
):
    spec = preset(preset_name, **SIZES, l0=7)
    assert (spec.sparsity, spec.penalties, spec.auxiliaries) == (sparsity, penalties, auxiliaries)
    assert spec.decoder == Linear(constraint=UnitRows())


def test_parts_beside_the_sparsity_are_what_the_paper_says():
    spec = preset("k-sparse", **SIZES, l0=7)
    assert (spec.encoder, spec.sparsity) == (Tied(), LinearTopK(k=7, start_k=28))
    assert spec.decoder == Linear(constraint=Free())
    assert preset("k-sparse", **SIZES, l0=40).sparsity == LinearTopK(k=40, start_k=96)
    assert preset("skip-transcoder", **SIZES, target="out").decoder == Skip()
    assert preset("archetypal", **SIZES).decoder == Archetypal()
    assert preset("crosscoder", **SIZES, sites=("a", "b"), widths=(10, 14)).decoder == Linear(blocks=(10, 14))


class TestMistakes:
    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ("topkk", "did you mean 'topk'"),
            ("vanilla", "did you mean 'vanilla-l1'"),
            ("?", f"known: {', '.join(sorted(PRESETS))}"),
        ],
    )
    def test_an_unknown_preset_is_answered_with_the_nearest(self, given: str, said: str):
        with pytest.raises(ValueError, match=f"unknown preset '.*'; {said}"):
            preset(given, **SIZES)

    def test_the_dial_of_another_preset_is_refused(self):
        with pytest.raises(ValueError, match=r"preset 'topk' takes no 'l1'.*l0"):
            preset("topk", **SIZES, l1=0.1)

    def test_all_that_is_missing_is_named(self):
        with pytest.raises(ValueError, match="preset 'crosscoder' needs latents and sites and widths"):
            preset("crosscoder", input_width=24)
