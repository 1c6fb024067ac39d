"""Compiled steps of a generation are those of the modules, and stay out of the way where somebody looks at these."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from gossamer import kernels
from gossamer.kernels.mkl import product_address
from gossamer.transformer import Block, Learned, NoPositions, Rotary, Sinusoidal, Transformer
from gossamer.transformer.generate import _compiled
from gossamer.transformer.steps import NEVER, Steps
from tests.transformer.conftest import SOURCE, TARGET, lively, sequences, spec_of

if not product_address(torch.float32):
    pytest.skip("torch brings no MKL here: generation is by modules", allow_module_level=True)

from gossamer.kernels import numba_decode as loops
from gossamer.transformer.compiled import CompiledSteps, DecoderArrays

POSITIONS = (Sinusoidal(longest=64), Learned(longest=64), Rotary(longest=64), NoPositions(longest=64))
KINDS = [
    {"block": Block(norm=norm, activation=activation), "positions": positions, "encoder_layers": layers}
    for (norm, activation), positions, layers in itertools.product(
        (("pre", "relu"), ("post", "gelu"), ("pre", "swish"), ("post", "relu")), POSITIONS, (0, 2)
    )
]


def both(model: Transformer, source: Tensor | None, rows: int, share: int = 1) -> tuple[Steps, Steps]:
    """Steps by modules and compiled ones; `share` rows to a source."""
    options = {"batch": rows * share, "longest": 12}
    arrays = DecoderArrays.of(model)
    assert arrays is not None
    return Steps(model, source, **options), CompiledSteps(arrays, model, source, **options)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def test_they_are_those_of_the_modules(kind: dict):
    """Single ids, several at once in between, rows that leave, and rows that share a source."""
    model = lively(spec_of(**{"source": SOURCE if kind["encoder_layers"] else None, **kind}))
    source = sequences(5, SOURCE, seed=3) if kind["encoder_layers"] else None
    steps = both(model, source, 5, share=2)
    generator = torch.Generator().manual_seed(0)
    alive = 10
    for step, length in enumerate((1, 1, 2, 1, 1, 1)):
        ids = torch.randint(4, TARGET, (alive, length), generator=generator)
        expected, made = (some.logits(ids) for some in steps)
        assert_close(made, expected, rtol=1e-5, atol=2e-5)
        if step == 3:
            kept = torch.tensor([3, 0])
            for some in steps:
                some.rows(torch.tensor([7, 6, 0, 1]), None if source is None else kept)
            alive = 4


@torch.no_grad()
def test_bfloat16_is_as_near_to_float32_as_that_of_the_modules():
    model = lively(spec_of())
    source = sequences(20, SOURCE, seed=3)
    exact, _ = both(model, source, 20)
    low, compiled = both(lively(spec_of()).to(torch.bfloat16), source, 20)
    ids = torch.randint(4, TARGET, (4, 20, 1), generator=torch.Generator().manual_seed(0))
    for some in ids:
        expected, by_modules, made = (steps.logits(some) for steps in (exact, low, compiled))
        assert (made - expected).square().mean() < (by_modules - expected).square().mean()


def test_the_likeliest_id_is_torchs():
    logits = torch.randn(50, 1000, generator=torch.Generator().manual_seed(0)) * 5
    logits[3, 7] = logits[3, 900] = 60.0  # the first of several
    logits[4, NEVER[1]] = 80.0  # counts for the probabilities, but is not said
    for count in (1000, 17, 16, 5, 4):
        given = logits[:, :count].contiguous()
        gains = given.log_softmax(dim=1).double()
        gains[:, NEVER] = -torch.inf
        chosen, gain = np.empty(50, np.int64), np.empty(50)
        loops.likeliest(given.clone().numpy(), np.array(NEVER), chosen, gain)
        expected, places = gains.max(dim=1)
        assert torch.equal(torch.from_numpy(chosen), places)
        assert_close(torch.from_numpy(gain), expected, rtol=1e-5, atol=1e-5)


def test_functions_without_calls_are_those_of_the_library():
    for x in np.linspace(-90, 0, 1001, dtype=np.float32):
        assert loops._exp(x) == pytest.approx(np.exp(np.float64(x)), rel=2e-7 * (1 - float(x)), abs=1e-37)
    assert loops._exp(np.float32(-np.inf)) < 1e-37
    for x in torch.linspace(-6, 6, 1001):
        assert loops._erf(np.float32(x)) == pytest.approx(float(torch.erf(x.double())), abs=1e-6)


class TestModulesAreCalled:
    """Where modules have to be called, nothing is compiled."""

    def served(self, model: Transformer) -> bool:
        return _compiled(model) is not None

    def test_if_somebody_listens(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("gossamer.transformer.generate.WORTH", 1)
        model, source, heard = lively(spec_of()), sequences(4, SOURCE, seed=3), []
        plain = model.generate(source, longest=6).ids
        for site in ("decoder.layers.1", "encoder.layers.0", "decoder.layers.0.cross_attention"):
            module = model.get_submodule(site)
            handle = module.register_forward_hook(lambda *_: heard.append(1))
            assert not self.served(model)
            assert torch.equal(model.generate(source, longest=6).ids, plain)
            assert heard
            handle.remove()
            heard.clear()
        assert self.served(model)
        zero = model.decoder.layers[1].register_forward_hook(lambda _, __, x: x * 0)
        assert not torch.equal(model.generate(source, longest=6).ids, plain)
        zero.remove()

    def test_if_they_are_not_as_built(self):
        class Louder(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return 2 * super().forward(x)

        model = lively(spec_of())
        model.decoder.layers[0].feed_forward.wide = Louder(24, 40)
        assert not self.served(model)
        model = lively(spec_of())
        nn.utils.parametrizations.weight_norm(model.decoder.layers[0].feed_forward.wide)
        assert not self.served(model)
        model = lively(spec_of())
        weight = model.decoder.layers[0].feed_forward.wide.weight
        weight.data = weight.data.t().contiguous().t()
        assert not self.served(model)

    def test_in_other_precisions_and_by_other_kernels(self):
        model = lively(spec_of())
        assert not self.served(lively(spec_of()).double())
        model.decoder.norm.double()
        assert not self.served(model)
        model = lively(spec_of())
        with kernels.use(backend="torch"):
            assert not self.served(model)
        with torch.autocast("cpu", torch.bfloat16):
            assert not self.served(model)
        assert self.served(model)


def test_rows_are_the_same_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gossamer.transformer.generate.WORTH", 1)
    model, source = lively(spec_of()), sequences(40, SOURCE, seed=3)
    before, made = torch.get_num_threads(), {}
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            for beam in (1, 3):
                made[threads, beam] = model.generate(source, longest=10, beam=beam)
    finally:
        torch.set_num_threads(before)
    for (_, beam), some in made.items():
        assert torch.equal(some.ids[:, 0], made[1, beam].ids[:, 0])
        assert_close(some.scores[:, 0], made[1, beam].scores[:, 0], rtol=1e-5, atol=1e-5)


def test_what_a_thread_refuses_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gossamer.transformer.generate.WORTH", 1)
    source = sequences(40, SOURCE, seed=3)
    source[33, 0] = SOURCE
    with pytest.raises(ValueError, match=f"the source holds id {SOURCE}"):
        lively(spec_of()).generate(source)
