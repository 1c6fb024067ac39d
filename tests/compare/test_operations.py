"""Multiply–adds by formula are those that torch counts when it runs the same parts."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gossamer.autoencoder.autoencoder import AutoencoderSpec
from gossamer.autoencoder.presets import preset
from gossamer.codes import DenseCodes
from gossamer.compare.operations import attention_layer, pursuit, work
from gossamer.transformer.layers import Block, Layer

ROWS, WIDTH, LATENTS = 8, 48, 24

SPECS = {
    "linear": preset("topk", input_width=WIDTH, latents=LATENTS, l0=4),
    "tied": preset("k-sparse", input_width=WIDTH, latents=LATENTS, l0=4),
    "deep": preset("deep-autoencoder", input_width=WIDTH, latents=LATENTS, hidden=(40, 30)),
    "transformer": preset("transformer-autoencoder", input_width=WIDTH, latents=LATENTS, patches=6, width=32),
}


def counted(run) -> int:
    """Multiply–adds of a call: half of the floating-point operations that torch counts."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_formula_of_an_autoencoder_is_what_torch_counts(spec: AutoencoderSpec):
    sae, x = spec.build(), torch.randn(ROWS, WIDTH)
    dense = DenseCodes(values=torch.randn(ROWS, LATENTS))
    found = work(spec, l0=LATENTS)
    assert found.encode * ROWS == counted(lambda: sae.pre_activations(x).dense())
    assert found.decode * ROWS == counted(lambda: sae.decoder(dense))


def test_a_decoder_is_charged_for_active_latents_only():
    dense, sparse = (work(SPECS["linear"], l0=l0).decode for l0 in (LATENTS, 4))
    assert (dense, sparse) == (LATENTS * WIDTH, 4 * WIDTH)


@pytest.mark.parametrize("length", [1, 7, 64])
def test_the_formula_of_attention_is_what_torch_counts(length: int):
    layer, x = Layer(width=24, hidden=56, heads=4, block=Block(dropout=0.0)), torch.randn(1, length, 24)
    assert attention_layer(length, 24, 56) == counted(lambda: layer(x))


def test_a_pursuit_costs_one_product_with_the_dictionary_and_little_for_each_step():
    assert pursuit(500, 100, 0) == 500 * 100
    assert pursuit(500, 100, 10) == pytest.approx(500 * 100 + 500 * 50 + 1000 / 3)


def test_parts_without_a_formula_say_so():
    spec = preset("lista-matryoshka", input_width=WIDTH, latents=LATENTS, l0=4)
    with pytest.raises(TypeError, match="encoder 'lista' are not counted"):
        work(spec, l0=4)
