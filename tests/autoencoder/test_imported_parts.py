"""The parts that other libraries' files are made of compute what they say, train, and take any units."""

import copy

import pytest
import torch
from torch import Tensor

import gossamer as gs
from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.centered import Centered
from gossamer.autoencoder.initialise import start_from_data
from gossamer.autoencoder.presets import preset
from gossamer.autoencoder.row_scaling import ConstantNorm, LayerNorm
from gossamer.autoencoder.scaling import MeanScale, PerSite, Whitening
from gossamer.autoencoder.sparsity import Sigmoid, Threshold
from gossamer.autoencoder.tasks import Transcode
from gossamer.codes import SparseCodes

TOPK = preset("topk", input_width=24, latents=96, l0=6)
ROW_SCALINGS = pytest.mark.parametrize("scaling", [LayerNorm(), ConstantNorm()], ids=lambda scaling: scaling.kind)


def used(spec: gs.AutoencoderSpec, rows: Tensor) -> SparseAutoencoder:
    sae = spec.build(seed=1).double()
    start_from_data(sae, rows.double())
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if isinstance(spec.sparsity, Threshold):
            sae.sparsity.threshold.copy_(torch.rand(96, generator=generator).double())
    return sae


def close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= 1e-10 * expected.norm())


class TestCentered:
    @pytest.mark.parametrize("scaling", [MeanScale(), PerSite(widths=(10, 14)), Whitening()], ids=lambda s: s.kind)
    @pytest.mark.parametrize("sparsity", [TOPK.sparsity, Threshold(), Sigmoid()], ids=lambda s: s.kind)
    def test_it_computes_the_same_in_any_units(self, rows: Tensor, scaling, sparsity):
        spec = TOPK.replace(encoder=Centered(), scaling=scaling, sparsity=sparsity, auxiliaries=())
        sae, x = used(spec, rows), rows.double()
        before = copy.deepcopy(sae)
        sae.fold()
        assert before(x).codes.l0 > 1
        assert close(sae(x).reconstruction, before(x).reconstruction)
        start_from_data(sae, 3 * x + 1)
        assert close(sae(x).codes.to_dense(), before(x).codes.to_dense())

    def test_it_is_the_linear_encoder_with_its_bias_less_the_center(self, rows: Tensor):
        sae, x = used(TOPK.replace(encoder=Centered()), rows), rows.double()
        sae.fold()
        plain = TOPK.build().double()
        plain.load_state_dict(sae.state_dict())
        with torch.no_grad():
            plain.encoder.get_parameter("bias").sub_(sae.encoder.get_parameter("weight") @ sae.decoder.bias)
        assert close(plain(x).codes.to_dense(), sae(x).codes.to_dense())

    def test_a_target_of_another_site_is_refused(self):
        with pytest.raises(ValueError, match=r"encoder 'centered' .* a target that is the input"):
            TOPK.replace(encoder=Centered(), task=Transcode(site="in", target="out"))


class TestThreshold:
    def test_it_keeps_what_is_above_and_nothing_else(self, rows: Tensor):
        sae, x = used(TOPK.replace(sparsity=Threshold(), auxiliaries=()), rows), rows.double()
        sae.fold()
        pre = sae.pre_activations(x).dense()
        assert torch.equal(sae.encode(x).to_dense() != 0, pre > sae.sparsity.threshold)
        with torch.no_grad():
            sae.sparsity.threshold.copy_(pre[0].clamp_min(0) + 1e-9)
        assert not sae.encode(x[:1]).to_dense().any()

    def test_dense_and_sparse_codes_agree_and_it_starts_where_it_is_told(self, rows: Tensor):
        sae, x = used(TOPK.replace(sparsity=Threshold(), auxiliaries=()), rows), rows.double()
        pre = sae.pre_activations(x)
        assert torch.equal(sae.sparsity.dense(pre).values, sae.sparsity.training_codes(pre).to_dense())
        assert sae.sparsity.start(torch.linspace(-1, 1, 96).double())
        assert torch.equal(sae.sparsity.floor(torch.tensor([0, 95])), torch.tensor([0.0, 1.0]).double())
        sae.sparsity.reset()
        assert not sae.sparsity.threshold.any()


class TestScalingsOfTheRow:
    @ROW_SCALINGS
    def test_rows_are_in_units_of_their_own_and_come_back(self, rows: Tensor, scaling):
        scaler, x = scaling.build(input_width=24).double(), rows.double()
        own = scaler(x)
        if scaling.kind == "layer-norm":
            assert own.mean(dim=1).abs().max() < 1e-12
            assert (own.std(dim=1) - 1).abs().max() < 1e-4  # the 1e-5 under the fraction
        else:
            assert (own.norm(dim=1) - 24**0.5).abs().max() < 1e-12
        assert (scaler.undo(own, x) - x).abs().max() < 1e-3

    @ROW_SCALINGS
    def test_decoding_needs_the_rows(self, rows: Tensor, scaling):
        sae, x = used(TOPK.replace(scaling=scaling), rows), rows.double()
        assert sae.spec.wants_rows
        codes = sae.encode(x)
        assert torch.equal(sae.decode(codes, x), sae(x).reconstruction)
        with pytest.raises(ValueError, match=r"decoding needs the rows, decode\(codes, x\)"):
            sae.decode(codes)

    @ROW_SCALINGS
    def test_a_longer_row_has_the_same_codes_and_a_longer_reconstruction(self, rows: Tensor, scaling):
        sae, x = used(TOPK.replace(scaling=scaling), rows), rows.double()
        one, other = sae(x), sae(1000 * x)
        assert (one.codes.to_dense() - other.codes.to_dense()).abs().max() < 1e-3
        assert (1000 * one.reconstruction - other.reconstruction).norm() < 1e-3 * other.reconstruction.norm()

    @ROW_SCALINGS
    def test_it_learns(self, rows: Tensor, scaling):
        sae = TOPK.replace(scaling=scaling, encoder=Centered()).build(seed=0)
        run = gs.train(sae, gs.Arrays(rows.repeat(10, 1)), gs.TrainSpec(rows=20_000, batch=128), quiet=True)
        trained = run.autoencoder
        with torch.no_grad():
            left = (trained(rows).reconstruction - rows).square().sum() / (rows - rows.mean(dim=0)).square().sum()
        assert left < 0.2
        assert trained.decoder.bias.abs().max() > 0

    def test_a_row_of_zeros_stays_one(self):
        scaler = ConstantNorm().build(input_width=4)
        zeros = torch.zeros(2, 4)
        assert torch.equal(scaler(zeros), zeros)
        assert torch.equal(scaler.undo(zeros, zeros), zeros)

    @ROW_SCALINGS
    def test_what_cannot_know_the_row_is_refused(self, scaling, rows: Tensor, tmp_path):
        from gossamer.codec.quantizer import require_codec

        with pytest.raises(ValueError, match=f"'{scaling.kind}' measures the row"):
            TOPK.replace(scaling=scaling, task=Transcode(site="in", target="out"))
        with pytest.raises(ValueError, match="gives its input back from the codes alone"):
            require_codec(TOPK.replace(scaling=scaling).build())
        nothing = SparseCodes.from_dense(torch.zeros(1, 96))
        with pytest.raises(ValueError, match="decoding needs the rows"):
            TOPK.replace(scaling=scaling).build().decode(nothing)
