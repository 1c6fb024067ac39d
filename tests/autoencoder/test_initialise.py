"""The start from data: a fresh autoencoder predicts the mean row, a trained one keeps what it does."""

import pytest
import torch
from torch import Tensor

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.initialise import start_from_data
from gossamer.autoencoder.presets import preset
from gossamer.autoencoder.scaling import MeanScale, Scaling, Unscaled
from gossamer.autoencoder.trace import Moment
from gossamer.codes import SparseCodes


def fresh(scaling: Scaling) -> SparseAutoencoder:
    return preset("topk", input_width=24, latents=96, l0=6).replace(scaling=scaling).build(seed=2)


def of_no_code(sae: SparseAutoencoder) -> Tensor:
    return sae.decode(SparseCodes.from_dense(torch.zeros(1, 96)))[0]


@pytest.mark.parametrize("scaling", [MeanScale(), Unscaled()])
class TestFresh:
    def test_without_a_code_it_predicts_the_mean_row(self, rows: Tensor, scaling: Scaling):
        sae = fresh(scaling)
        start_from_data(sae, rows)
        torch.testing.assert_close(of_no_code(sae), rows.mean(dim=0), rtol=1e-5, atol=1e-5)

    def test_its_encoder_looks_at_the_distance_from_the_mean(self, rows: Tensor, scaling: Scaling):
        sae = fresh(scaling)
        start_from_data(sae, rows)
        at_mean = sae.pre_activations(rows.mean(dim=0)).dense()
        torch.testing.assert_close(at_mean, torch.zeros(1, 96), rtol=0, atol=1e-5)

    def test_its_directions_stay(self, rows: Tensor, scaling: Scaling):
        sae = fresh(scaling)
        start_from_data(sae, rows)
        assert torch.equal(sae.decoder.weight, fresh(scaling).decoder.weight)
        assert torch.equal(sae.encoder.weight, fresh(scaling).encoder.weight)

    def test_its_directions_still_need_a_gradient(self, rows: Tensor, scaling: Scaling):
        sae = fresh(scaling)
        start_from_data(sae, rows)
        sae.loss(rows).total.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in sae.parameters())

    @pytest.mark.parametrize(
        "sample",
        [
            torch.zeros(5, 24),
            torch.full((5, 24), 0.1),
            torch.full((5, 24), -1e6),
            torch.arange(24.0)[None],
            torch.arange(48).view(2, 24),
            torch.cat([torch.zeros(4, 23), torch.arange(4.0)[:, None]], dim=1).double(),
        ],
        ids=["zeros", "constant", "far", "one-row", "whole-numbers", "one-live-column"],
    )
    def test_poor_samples_give_numbers(self, sample: Tensor, scaling: Scaling):
        sae = fresh(scaling)
        start_from_data(sae, sample)
        assert all(t.isfinite().all() for t in sae.state_dict().values())
        mean = sample.float().mean(dim=0)
        torch.testing.assert_close(of_no_code(sae), mean, rtol=1e-5, atol=1e-5)
        loss = sae.loss(sample, moment=Moment(dead=torch.arange(96)))
        assert loss.total.isfinite()


def test_a_trained_one_keeps_its_function_in_new_units(trained: SparseAutoencoder, rows: Tensor):
    before = trained(rows).reconstruction
    others = 5 * rows + 3
    start_from_data(trained, others)
    assert (trained(rows).reconstruction - before).norm() < 1e-4 * before.norm()
    torch.testing.assert_close(trained.scaler.mean, others.mean(dim=0), rtol=1e-5, atol=1e-4)


def test_the_mean_square_in_training_units_is_one(rows: Tensor):
    sae = fresh(MeanScale())
    start_from_data(sae, rows)
    assert sae.scaler(rows).square().mean().item() == pytest.approx(1, rel=1e-4)
