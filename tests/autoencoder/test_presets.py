"""A preset is a short list of parts that trains as it is, and says what it did not understand."""

import inspect

import pytest
import torch
from torch import Tensor

from gossamer.autoencoder.autoencoder import AutoencoderSpec
from gossamer.autoencoder.auxiliaries import AuxK
from gossamer.autoencoder.constraints import UnitRows
from gossamer.autoencoder.decoders import Linear
from gossamer.autoencoder.initialise import start_from_data
from gossamer.autoencoder.penalties import L1
from gossamer.autoencoder.presets import PRESETS, preset
from gossamer.autoencoder.sparsity import ReLU, TopK


class TestEveryPreset:
    @pytest.fixture(params=sorted(PRESETS))
    def name(self, request: pytest.FixtureRequest) -> str:
        return request.param

    def test_is_at_most_twelve_lines(self, name: str):
        assert len(inspect.getsource(PRESETS[name]).splitlines()) <= 12

    def test_names_itself_and_survives_a_file(self, name: str):
        spec = preset(name, input_width=24, latents=96)
        assert (spec.name, spec.input_width, spec.latents) == (name, 24, 96)
        assert AutoencoderSpec.from_toml(spec.to_toml()) == spec

    def test_names_its_paper(self, name: str):
        assert "https://" in str(PRESETS[name].__doc__)

    def test_trains_with_nothing_set(self, name: str, rows: Tensor):
        sae = preset(name, input_width=24, latents=96).build()
        start_from_data(sae, rows)
        before = sae.loss(rows).terms["reconstruction"]
        optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
        for _ in range(20):
            optimizer.zero_grad()
            sae.loss(rows).total.backward()
            sae.decoder.before_step()
            optimizer.step()
            sae.decoder.after_step()
        assert sae.loss(rows).terms["reconstruction"] < before / 2

    @pytest.mark.parametrize("option", ["input_width", "latents"])
    def test_needs_its_sizes(self, name: str, option: str):
        sizes = {"input_width": 24, "latents": 96}
        del sizes[option]
        with pytest.raises(ValueError, match=f"preset '{name}' needs {option}"):
            preset(name, **sizes)

    def test_names_the_option_nearest_to_an_unknown_one(self, name: str):
        with pytest.raises(ValueError, match=f"preset '{name}' takes no 'latent'; did you mean 'latents'"):
            preset(name, input_width=24, latent=96)


def test_topk_is_what_its_paper_says():
    spec = preset("topk", input_width=24, latents=96, l0=7)
    assert spec.sparsity == TopK(k=7)
    assert (spec.penalties, spec.auxiliaries) == ((), (AuxK(weight=1 / 32),))
    assert spec.decoder == Linear(constraint=UnitRows())


def test_vanilla_l1_is_what_its_paper_says():
    spec = preset("vanilla-l1", input_width=24, latents=96, l1=0.3)
    assert spec.sparsity == ReLU()
    assert (spec.penalties, spec.auxiliaries) == ((L1(weight=0.3),), ())
    assert spec.decoder == Linear(constraint=UnitRows())


class TestMistakes:
    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("topkk", "did you mean 'topk'"),
            ("vanilla", "did you mean 'vanilla-l1'"),
            ("?", "known: jumprelu, topk, vanilla-l1"),
        ],
    )
    def test_an_unknown_preset_is_answered_with_the_nearest(self, name: str, said: str):
        with pytest.raises(ValueError, match=f"unknown preset '.*'; {said}"):
            preset(name, input_width=24, latents=96)

    def test_the_dial_of_another_preset_is_refused(self):
        with pytest.raises(ValueError, match=r"preset 'topk' takes no 'l1'.*l0"):
            preset("topk", input_width=24, latents=96, l1=0.1)

    def test_more_active_latents_than_latents_are_refused_with_both(self):
        with pytest.raises(ValueError, match=r"97 .*96"):
            preset("topk", input_width=24, latents=96, l0=97)

    @pytest.mark.parametrize(
        ("name", "option", "value"),
        [
            ("topk", "l0", 2.5),
            ("topk", "l0", "6"),
            ("topk", "l0", True),
            ("topk", "latents", 96.5),
            ("topk", "input_width", 24.5),
            ("vanilla-l1", "l1", float("nan")),
            ("vanilla-l1", "l1", float("inf")),
            ("vanilla-l1", "l1", -1.0),
        ],
    )
    def test_a_dial_set_to_what_cannot_be_is_refused_at_once(self, name: str, option: str, value: float):
        with pytest.raises((ValueError, TypeError)):
            preset(name, **({"input_width": 24, "latents": 96} | {option: value}))
