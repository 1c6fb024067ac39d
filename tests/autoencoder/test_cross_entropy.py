"""The cross-entropy: its value and gradients by hand, and that it is refused where there are no probabilities."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from gossamer.autoencoder.autoencoder import AutoencoderSpec
from gossamer.autoencoder.decoders import Deep, Linear
from gossamer.autoencoder.reconstruction import CrossEntropy
from gossamer.autoencoder.scaling import Unscaled
from gossamer.autoencoder.sparsity import ReLU, TopK
from gossamer.autoencoder.trace import Moment


def spec(**changes) -> AutoencoderSpec:
    parts = {"sparsity": TopK(k=4), "decoder": Deep(hidden=(), output="sigmoid"), "reconstruction": CrossEntropy()}
    return AutoencoderSpec(**{"input_width": 64, "latents": 16, "scaling": Unscaled(), **parts, **changes})


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.from_numpy((load_digits().data[:200] / 16).astype(np.float32))


@pytest.mark.parametrize("dense", [False, True])
def test_value_and_residual_by_hand(images, dense):
    sae = spec(sparsity=ReLU()).build(seed=0)
    loss = sae.loss(images, moment=Moment(dense=dense))
    back = sae(images).reconstruction.double()
    by_hand = -(images * back.log() + (1 - images) * (1 - back).log()).mean()
    assert loss.total.item() == pytest.approx(by_hand.item(), rel=1e-5)
    residual, cost = CrossEntropy()(sae.decoder, loss.codes, images)
    torch.testing.assert_close(residual, images - back.float(), atol=1e-6, rtol=0)
    assert not residual.requires_grad and cost.requires_grad


def test_gradient_of_the_last_bias_is_the_mean_residual(images):
    """For sigmoid outputs d/da of the cross-entropy is x̂ − x, divided by the number of entries."""
    sae = spec().build(seed=0)
    sae.loss(images).total.backward()
    with torch.no_grad():
        expected = (sae(images).reconstruction - images).sum(dim=0) / images.numel()
    torch.testing.assert_close(sae.decoder.bias.grad, expected, atol=1e-7, rtol=1e-4)


def test_certain_and_wrong_is_dear_but_finite():
    sae = spec(input_width=2, latents=4).build(seed=0)
    codes = sae.encode(torch.ones(1, 2))
    with torch.no_grad():
        sae.decoder.bias.copy_(torch.tensor([1000.0, -1000.0]))
    right, wrong = (CrossEntropy()(sae.decoder, codes, torch.tensor([row]))[1] for row in ([1.0, 0.0], [0.0, 1.0]))
    assert right.item() == pytest.approx(0, abs=1e-6)
    assert wrong.item() == pytest.approx(100)


def test_training_on_it_predicts_pixels(images):
    sae = spec().build(seed=0)
    optimizer = torch.optim.Adam(sae.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = sae.loss(images).total
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    mean = images.mean(dim=0).clamp(1e-3, 1 - 1e-3)
    by_the_mean = torch.nn.functional.binary_cross_entropy(mean.expand_as(images), images).item()
    assert losses[-1] < 0.95 * by_the_mean < losses[0]


@pytest.mark.parametrize("decoder", [Linear(), Deep(hidden=(8,)), Deep(hidden=(), output="relu")])
def test_it_is_refused_where_there_are_no_probabilities(decoder):
    with pytest.raises(ValueError, match="output is 'sigmoid'"):
        spec(decoder=decoder)


def test_it_survives_a_file():
    assert AutoencoderSpec.from_dict(spec().to_dict()) == spec()
