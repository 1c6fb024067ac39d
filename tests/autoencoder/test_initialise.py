"""The start from data: a fresh autoencoder predicts the mean row, a trained one keeps what it does."""

import pytest
import torch
from torch import Tensor

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.initialise import start_from_data
from gossamer.autoencoder.presets import preset
from gossamer.autoencoder.scaling import MeanScale, PerSite, Scaling, Unscaled, Whitening
from gossamer.autoencoder.trace import Moment
from gossamer.codes import SparseCodes


def fresh(scaling: Scaling) -> SparseAutoencoder:
    return preset("topk", input_width=24, latents=96, l0=6).replace(scaling=scaling).build(seed=2)


def of_no_code(sae: SparseAutoencoder) -> Tensor:
    return sae.decode(SparseCodes.from_dense(torch.zeros(1, 96)))[0]


@pytest.mark.parametrize(
    "scaling", [MeanScale(), Unscaled(), PerSite(widths=(10, 14)), Whitening()], ids=lambda s: s.kind
)
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
        assert torch.equal(sae.decoder.get_parameter("weight"), fresh(scaling).decoder.get_parameter("weight"))
        assert torch.equal(sae.encoder.get_parameter("weight"), fresh(scaling).encoder.get_parameter("weight"))

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


class TestNearTheL0:
    """Where a penalty is steered to an L0, codes are about as sparse from the first step."""

    @pytest.mark.parametrize("name", ["vanilla-l1", "p-anneal", "gated", "jumprelu", "kl-sparse", "two-layer-l1"])
    @pytest.mark.parametrize("l0", [3, 12])
    def test_about_so_many_are_active_at_the_start(self, rows: Tensor, name: str, l0: int):
        sae = preset(name, input_width=24, latents=96, l0=l0).build(seed=0)
        start_from_data(sae, rows)
        assert sae.encode(rows).l0 == pytest.approx(l0, rel=0.4)

    def test_with_a_weight_the_start_is_as_ever(self, rows: Tensor):
        sae = preset("vanilla-l1", input_width=24, latents=96, l1=0.1).build(seed=0)
        start_from_data(sae, rows)
        at_mean = sae.pre_activations(rows.mean(dim=0)).dense()
        torch.testing.assert_close(at_mean, torch.zeros(1, 96), rtol=0, atol=1e-5)

    def test_a_cross_layer_transcoder_starts_so_too(self, rows: Tensor, targets: Tensor):
        sizes = {"input_width": 24, "latents": 96}
        sae = preset("clt", **sizes, sites=("a", "b"), targets=("c", "d"), l0=6).build(seed=0)
        start_from_data(sae, rows, targets)
        assert sae.encode(rows).l0 == pytest.approx(6, rel=0.4)


@pytest.mark.parametrize("sample", [torch.zeros(0, 24), torch.zeros(5, 23), torch.zeros(24)])
def test_a_sample_of_another_shape_is_refused(rows: Tensor, sample: Tensor):
    with pytest.raises(ValueError, match=r"expected sample rows of width 24, got shape"):
        start_from_data(fresh(MeanScale()), sample)
    transcoder = preset("transcoder", input_width=24, latents=96, target="out").build()
    for target in (None, sample):
        with pytest.raises(ValueError, match=r"expected sample rows of width 24, got shape"):
            start_from_data(transcoder, rows, target)


def test_the_mean_square_in_training_units_is_one(rows: Tensor):
    sae = fresh(MeanScale())
    start_from_data(sae, rows)
    assert sae.scaler(rows).square().mean().item() == pytest.approx(1, rel=1e-4)
