"""Every architecture computes the same in any units: scaling folds into whatever parts it is made of, or stays."""

import copy
import itertools

import pytest
import torch
from torch import Tensor

from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder
from gossamer.autoencoder.encoders import Lista, Tied
from gossamer.autoencoder.initialise import start_from_data
from gossamer.autoencoder.presets import preset
from gossamer.autoencoder.scaling import MeanScale, PerSite, RowNorm, RowScaler, Scaling, Unscaled, Whitening
from gossamer.autoencoder.sparsity import GroupMax, JumpReLU, Sigmoid
from gossamer.codes import SparseCodes

SCALINGS = [Unscaled(), MeanScale(), PerSite(widths=(10, 14)), Whitening(), RowNorm()]

REFUSED = {  # what presets may not be combined with
    "archetypal": set(),
    "clt": {"whitening", "row-norm"},
    "deep-autoencoder": {"whitening", "row-norm"},
    "dense-100-64": {"mean-scale", "per-site", "whitening", "row-norm"},
    "end-to-end": {"row-norm"},
    "kl-sparse": {"row-norm"},
    "skip-transcoder": {"whitening", "row-norm"},
    "transcoder": {"whitening", "row-norm"},
    "transformer-autoencoder": {"per-site", "whitening", "row-norm"},
    "two-layer-l1": {"whitening", "row-norm"},
} | {
    key: {"per-site", "whitening"}
    for key in ["contractive", "k-sparse", "lista-matryoshka", "matching-pursuit", "orthogonal-matching-pursuit"]
}


def used(spec: AutoencoderSpec, rows: Tensor, targets: Tensor) -> SparseAutoencoder:
    """An autoencoder of this spec in float64, far from where it started."""
    torch.manual_seed(0)
    sae = spec.build(seed=1).double()
    start_from_data(sae, rows.double(), targets.double()[:, : spec.output_width])
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in sae.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        for buffer in (buffer for name, buffer in sae.named_buffers() if name == "sparsity.threshold"):
            buffer.fill_(0.3)
    return sae


def require_same(sae: SparseAutoencoder, before: SparseAutoencoder, x: Tensor) -> None:
    found, expected = sae(x), before(x)
    assert expected.codes.l0 > 1
    pairs = [(found.reconstruction, expected.reconstruction), (found.codes.to_dense(), expected.codes.to_dense())]
    for got, exact in pairs:
        assert (got - exact).norm() <= 1e-10 * exact.norm()


def new_units(sae: SparseAutoencoder, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """A mean and a scale for the rows and, if it has one, for the target, of the form that this scaling measures."""
    measured = []
    for scaler in sae._scalers():
        if isinstance(sae.spec.scaling, Unscaled):
            measured.append((torch.zeros_like(scaler.mean), torch.ones_like(scaler.scale)))
            continue
        mean = torch.randn(scaler.mean.shape, generator=generator, dtype=torch.float64)
        scale = torch.rand(scaler.scale.shape, generator=generator, dtype=torch.float64)
        measured.append((mean, 0.5 + scale if scale.dim() < 2 else torch.eye(len(scale)) + scale + scale.T))
    return measured


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: scaling.kind)
class TestEveryPresetInEveryScaling:
    @pytest.fixture
    def spec(self, name: str, example: AutoencoderSpec, scaling: Scaling) -> AutoencoderSpec:
        if scaling.kind in REFUSED.get(name, ()):
            with pytest.raises(ValueError, match=r"scaling|output"):
                example.replace(scaling=scaling)
            pytest.skip(f"refused: {scaling.kind}")
        return example.replace(scaling=scaling)

    def test_folded_and_in_new_units_it_computes_the_same(
        self, spec: AutoencoderSpec, rows: Tensor, targets: Tensor, generator: torch.Generator
    ):
        sae, x = used(spec, rows, targets), rows.double()
        before = copy.deepcopy(sae)
        for _ in range(2):
            sae.rescale(*new_units(sae, generator))
            require_same(sae, before, x)
        copied = copy.deepcopy(sae)
        for one in (sae, copied):
            one.fold()
            require_same(one, before, x)
        assert all(torch.equal(t, copied.state_dict()[name]) for name, t in sae.state_dict().items())
        for scaler in sae._scalers():
            if scaler.folds:
                identity = torch.eye(24) if scaler.scale.dim() == 2 else torch.ones_like(scaler.scale)
                assert not scaler.mean.any()
                assert torch.equal(scaler.scale, identity.double())

    def test_codes_and_directions_speak_the_units_of_the_rows(
        self, spec: AutoencoderSpec, rows: Tensor, targets: Tensor
    ):
        """Folded, x̂ is Σ z_i d_i and a constant row, whatever scaling it was trained in."""
        if not spec.decoder.linear or spec.decoder.wants_rows:
            pytest.skip("its reconstructions are no sums of directions")
        sae = used(spec, rows, targets)
        output = sae(rows.double())
        sae.fold()
        nothing = SparseCodes.from_dense(torch.zeros(1, 96, dtype=torch.float64))
        expected = output.codes.to_dense() @ sae.decoder.directions() + sae.decode(nothing)
        assert (output.reconstruction - expected).norm() <= 1e-10 * expected.norm()


@pytest.mark.parametrize(
    "change",
    [
        {"sparsity": Sigmoid(), "auxiliaries": ()},
        {"sparsity": Sigmoid(), "auxiliaries": (), "encoder": Tied()},
        {"sparsity": Sigmoid(), "auxiliaries": (), "encoder": Lista(k=6, steps=2)},
        {"sparsity": JumpReLU(), "encoder": Lista(k=6)},
        {"sparsity": GroupMax(k=6), "encoder": Tied()},
    ],
    ids=lambda change: f"{change['sparsity'].kind}-{getattr(change.get('encoder'), 'kind', 'linear')}",
)
def test_combinations_without_a_preset_fold_too(
    rows: Tensor, targets: Tensor, generator: torch.Generator, change: dict
):
    spec = preset("topk", input_width=24, latents=96, l0=6).replace(**change)
    sae = used(spec, rows, targets)
    before = copy.deepcopy(sae)
    sae.rescale(*new_units(sae, generator))
    require_same(sae, before, rows.double())
    sae.fold()
    require_same(sae, before, rows.double())


class TestRowNorm:
    @pytest.fixture
    def sae(self, rows: Tensor, targets: Tensor) -> SparseAutoencoder:
        return used(preset("topk", input_width=24, latents=96, l0=6).replace(scaling=RowNorm()), rows, targets)

    def test_gives_every_row_the_same_norm(self, sae: SparseAutoencoder, rows: Tensor):
        norms = sae.scaler(rows.double()).norm(dim=1)
        torch.testing.assert_close(norms, torch.full_like(norms, 24**0.5))

    def test_codes_carry_the_norm_of_their_row(self, sae: SparseAutoencoder, rows: Tensor):
        """Rows that differ by a factor, seen from the mean, have codes and reconstructions that differ by it."""
        x, mean = rows.double(), sae.scaler.mean
        once = sae(x)
        for factor in (1e-3, 7.0):
            more = sae(mean + factor * (x - mean))
            torch.testing.assert_close(more.codes.to_dense(), factor * once.codes.to_dense())
            torch.testing.assert_close(more.reconstruction - mean, factor * (once.reconstruction - mean))

    def test_decoding_needs_the_codes_alone(self, sae: SparseAutoencoder, rows: Tensor):
        x = rows.double()
        norm = (x - sae.scaler.mean).norm(dim=1, keepdim=True)
        unit = 24**0.5 * (x - sae.scaler.mean) / norm
        weight, bias = sae.encoder.get_parameter("weight"), sae.encoder.get_parameter("bias")
        pre = (unit @ weight.T + bias).relu()
        kept = pre.topk(6, dim=1)
        codes = torch.zeros_like(pre).scatter(1, kept.indices, kept.values) * norm / 24**0.5
        torch.testing.assert_close(sae.encode(x).to_dense(), codes)
        expected = codes @ sae.decoder.directions() + sae.scaler.mean
        torch.testing.assert_close(sae.decode(SparseCodes.from_dense(codes)), expected)

    def test_a_row_at_the_mean_is_a_number(self, sae: SparseAutoencoder):
        output = sae(sae.scaler.mean[None])
        assert output.reconstruction.isfinite().all()
        torch.testing.assert_close(output.reconstruction[0], sae.scaler.mean)

    def test_the_decoder_has_no_constant_of_its_own(self, sae: SparseAutoencoder):
        assert isinstance(sae.scaler, RowScaler)
        assert not sae.decoder.bias.any()
        assert not sae.decoder.bias.requires_grad


def test_a_transcoder_scales_what_it_reads_and_what_it_gives(rows: Tensor, targets: Tensor):
    """Data in other units gives the same loss, and reconstructions and codes in the units of the target."""
    spec = preset("skip-transcoder", input_width=24, latents=96, l0=6, target="out")
    results = []
    for reads, gives in itertools.product([1.0, 1000.0], [1.0, 50.0]):
        sae = spec.build(seed=0).double()
        x, target = reads * rows.double(), gives * targets.double()
        start_from_data(sae, x, target)
        output = sae(x)
        results.append((sae.loss(x, target).total, output.codes.to_dense() / gives, output.reconstruction / gives))
    for result in results[1:]:
        for got, exact in zip(result, results[0], strict=True):
            torch.testing.assert_close(got, exact, rtol=1e-8, atol=1e-8)
