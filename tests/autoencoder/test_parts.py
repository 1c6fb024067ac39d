"""Encoders and decoders compute their equations, written out in dense torch, and reach only what they may."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gossamer.autoencoder import decoders, encoders
from gossamer.autoencoder.archetypal import Archetypal, ArchetypalDecoder
from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder
from gossamer.autoencoder.constraints import Free, NonNegative
from gossamer.autoencoder.cross_layer import LaterLayers, PerLayer
from gossamer.autoencoder.initialise import start_from_data
from gossamer.autoencoder.presets import preset
from gossamer.autoencoder.sparsity import Identity, ReLU, TopK
from gossamer.autoencoder.tasks import CrossLayer, Transcode
from gossamer.autoencoder.trace import Moment
from gossamer.codes import DenseCodes, SparseCodes

WIDTH, LATENTS = 24, 96


def built(**parts: Any) -> SparseAutoencoder:
    """In float64, every parameter far from where it starts."""
    spec = AutoencoderSpec(**({"input_width": WIDTH, "latents": LATENTS, "sparsity": Identity()} | parts))
    sae = spec.build(seed=1).double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return sae


@pytest.fixture
def x(rows: Tensor) -> Tensor:
    return rows[:50].double() - rows.double().mean(dim=0)


@pytest.fixture
def codes(generator: torch.Generator) -> SparseCodes:
    dense = torch.randn(50, LATENTS, generator=generator, dtype=torch.float64)
    return SparseCodes.from_dense(dense * (torch.rand(50, LATENTS, generator=generator) < 0.1))


ACTIVATIONS = {
    "relu": lambda h: h.clamp_min(0),
    "sigmoid": lambda h: 1 / (1 + (-h).exp()),
    "tanh": lambda h: (h.exp() - (-h).exp()) / (h.exp() + (-h).exp()),
    "gelu": lambda h: h * 0.5 * (1 + (h / 2**0.5).erf()),
    "linear": lambda h: h,
}


class TestDeep:
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_encoder_is_its_layers(self, x: Tensor, activation: str):
        sae = built(encoder=encoders.Deep(hidden=(17, 9), activation=activation))
        p, f = dict(sae.encoder.named_parameters()), ACTIVATIONS[activation]
        hidden = f(x @ p["layers.0.weight"].T + p["layers.0.bias"])
        hidden = f(hidden @ p["layers.1.weight"].T + p["layers.1.bias"])
        expected = hidden @ p["weight"].T + p["bias"]
        torch.testing.assert_close(sae.encoder(x, sae.decoder).dense(), expected)
        assert p["weight"].shape == (LATENTS, 9)

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("dense", [False, True])
    def test_decoder_is_its_layers(self, codes: SparseCodes, activation: str, dense: bool):
        spec = decoders.Deep(hidden=(17, 9), activation=activation, output="tanh")
        sae = built(decoder=spec, scaling={"kind": "unscaled"})
        p, f = dict(sae.decoder.named_parameters()), ACTIVATIONS[activation]
        hidden = f(codes.to_dense() @ p["weight"] + p["bias"])
        hidden = f(hidden @ p["layers.0.weight"].T + p["layers.0.bias"])
        expected = torch.tanh(hidden @ p["layers.1.weight"].T + p["layers.1.bias"])
        found = sae.decoder(DenseCodes(values=codes.to_dense()) if dense else codes)
        torch.testing.assert_close(found, expected)

    def test_decoder_may_be_an_output_alone(self, codes: SparseCodes):
        sae = built(decoder=decoders.Deep(output="sigmoid"), scaling={"kind": "unscaled"})
        p = dict(sae.decoder.named_parameters())
        torch.testing.assert_close(sae.decoder(codes), (codes.to_dense() @ p["weight"] + p["bias"]).sigmoid())
        assert list(p) == ["weight", "bias"]

    def test_starts_with_the_mean_row_and_every_layer_drawn(self, rows: Tensor):
        sae = preset("deep-autoencoder", input_width=WIDTH, latents=LATENTS, hidden=(48,)).build(seed=0)
        start_from_data(sae, rows)
        nothing = SparseCodes.from_dense(torch.zeros(1, LATENTS))
        torch.testing.assert_close(sae.decode(nothing)[0], rows.mean(dim=0), rtol=1e-4, atol=1e-4)
        at_mean = sae.pre_activations(rows.mean(dim=0)).dense()
        torch.testing.assert_close(at_mean, torch.zeros(1, LATENTS), rtol=0, atol=1e-4)
        for name, parameter in sae.named_parameters():
            if parameter.dim() == 2:
                expected = (2 / sum(parameter.shape)) ** 0.5
                assert parameter.std().item() == pytest.approx(expected, rel=0.1), name


class TestTied:
    @pytest.fixture
    def sae(self) -> SparseAutoencoder:
        return built(encoder=encoders.Tied(), decoder=decoders.Linear(constraint=Free()))

    def test_has_the_decoders_directions(self, sae: SparseAutoencoder, x: Tensor):
        expected = (x - sae.decoder.bias) @ sae.decoder.get_parameter("weight").T + sae.encoder.get_parameter("bias")
        torch.testing.assert_close(sae.encoder(x, sae.decoder).dense(), expected)
        assert "encoder.weight" not in sae.state_dict()

    def test_its_weight_has_the_gradients_of_both_uses(self, sae: SparseAutoencoder, x: Tensor):
        loss = sae.loss(x).total
        weight, bias, b = (
            p.detach().clone().requires_grad_()
            for p in (sae.decoder.get_parameter("weight"), sae.decoder.bias, sae.encoder.get_parameter("bias"))
        )
        expected = (x - (((x - bias) @ weight.T + b) @ weight + bias)).square().mean()
        torch.testing.assert_close(loss, expected)
        found = torch.autograd.grad(loss, [sae.decoder.get_parameter("weight"), sae.decoder.bias])
        for got, exact in zip(found, torch.autograd.grad(expected, [weight, bias]), strict=True):
            torch.testing.assert_close(got, exact)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_lista_is_a_loop(x: Tensor, steps: int):
    sae = built(encoder=encoders.Lista(k=5, steps=steps), sparsity=TopK(k=8))
    w, b = sae.encoder.get_parameter("weight"), sae.encoder.get_parameter("bias")
    d, b_dec = sae.decoder.get_parameter("weight"), sae.decoder.bias
    leaves = [w, b, d, b_dec]

    def kept(p: Tensor, k: int) -> Tensor:
        return (p * torch.zeros_like(p).scatter(1, p.topk(k, dim=1).indices, 1.0)).relu()

    p = (x - b_dec) @ w.T + b
    for _ in range(steps):
        z = kept(p, 5)
        p = z + (x - b_dec - z @ d) @ w.T + b
    pre = sae.encoder(x, sae.decoder)
    torch.testing.assert_close(pre.dense(), p)
    codes, expected = sae.sparsity.training_codes(pre).to_dense(), kept(p, 8)
    torch.testing.assert_close(codes, expected)
    g = torch.randn(p.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for got, exact in zip(
        torch.autograd.grad((codes * g).sum(), leaves),
        torch.autograd.grad((expected * g).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(got, exact)


class TestSkip:
    @pytest.fixture
    def sae(self) -> SparseAutoencoder:
        return built(decoder=decoders.Skip(), task=Transcode(site="in", target="out", width=10), sparsity=ReLU())

    @pytest.mark.parametrize("dense", [False, True])
    def test_adds_a_linear_map_of_the_row(self, sae: SparseAutoencoder, codes: SparseCodes, x: Tensor, dense: bool):
        p = dict(sae.decoder.named_parameters())
        expected = codes.to_dense() @ p["weight"] + x @ p["skip"].T + p["bias"]
        given = DenseCodes(values=codes.to_dense()) if dense else codes
        torch.testing.assert_close(sae.decoder(given, x), expected)
        target = x[:, :10].contiguous()
        residual, square = sae.decoder.residual(given, target, x)
        torch.testing.assert_close(residual, (target - expected).detach())
        torch.testing.assert_close(square, (target - expected).square().mean())
        for got, exact in zip(
            torch.autograd.grad(square, list(p.values())),
            torch.autograd.grad((target - expected).square().mean(), list(p.values())),
            strict=True,
        ):
            torch.testing.assert_close(got, exact)

    def test_starts_without_one(self):
        sae = preset("skip-transcoder", input_width=WIDTH, latents=LATENTS, target="out").build(seed=0)
        assert not sae.decoder.get_parameter("skip").any()

    def test_decoding_needs_the_rows(self, sae: SparseAutoencoder, codes: SparseCodes, x: Tensor):
        assert sae.decode(codes, x).shape == (50, 10)
        with pytest.raises(ValueError, match=r"skip connection: decoding needs the rows, decode\(codes, x\)"):
            sae.decode(codes)


class TestTranscoding:
    def test_a_loss_without_the_target_is_refused(self, rows: Tensor, targets: Tensor):
        sae = preset("transcoder", input_width=WIDTH, latents=LATENTS, target="out").build()
        for target in (None, targets[:, :5], targets[:7]):
            shape = None if target is None else tuple(target.shape)
            with pytest.raises(ValueError, match=r"gives back other rows .* \(300, 24\), got") as caught:
                sae.loss(rows, target)
            assert str(shape) in str(caught.value)

    def test_its_loss_is_that_of_the_target(self, rows: Tensor, targets: Tensor):
        sae = preset("transcoder", input_width=WIDTH, latents=LATENTS, target="out", l0=6).build().double()
        start_from_data(sae, rows, targets)
        error = (sae(rows).reconstruction - targets.double()).square().sum()
        spread = (targets.double() - targets.double().mean(dim=0)).square().sum()
        assert sae.loss(rows, targets).total.item() == pytest.approx((error / spread).item(), rel=1e-4)


def test_norms_of_a_crosscoder_are_summed_over_its_sites():
    sae = preset("crosscoder", input_width=24, latents=96, sites=("a", "b"), widths=(10, 14)).build(seed=0)
    weight = sae.decoder.get_parameter("weight")
    expected = weight[:, :10].norm(dim=1) + weight[:, 10:].norm(dim=1)
    torch.testing.assert_close(sae.decoder.norms(), expected)
    assert (sae.decoder.norms() > 1.1).any()  # the whole row has norm 1


class TestCrossLayer:
    LAYERS = 3

    @pytest.fixture
    def sae(self) -> SparseAutoencoder:
        task = CrossLayer(sites=("a", "b", "c"), destinations=("d", "e", "f"), width=8)
        parts = {"encoder": PerLayer(layers=3), "decoder": LaterLayers(layers=3)}
        return built(task=task, sparsity=ReLU(), **parts)

    def layer_of(self, count: int) -> Tensor:
        return torch.arange(count) // (count // self.LAYERS)

    def test_a_latent_reads_its_own_layer_alone(self, sae: SparseAutoencoder, x: Tensor):
        jacobian = torch.autograd.functional.jacobian(lambda row: sae.encoder(row[None], sae.decoder).dense()[0], x[0])
        own = self.layer_of(LATENTS)[:, None] == self.layer_of(WIDTH)
        assert torch.equal(jacobian != 0, own)

    def test_a_latent_writes_to_its_own_and_later_layers(self, sae: SparseAutoencoder, codes: SparseCodes):
        reached = self.layer_of(LATENTS)[:, None] <= self.layer_of(WIDTH)
        directions = sae.decoder.directions()
        assert torch.equal(directions != 0, reached)
        sites = directions.split(8, dim=1)
        torch.testing.assert_close(sae.decoder.norms(), sum((site.norm(dim=1) for site in sites), torch.zeros(())))
        expected = codes.to_dense() @ directions + sae.decoder.bias
        for given in (codes, DenseCodes(values=codes.to_dense())):
            torch.testing.assert_close(sae.decoder(given), expected)

    @pytest.mark.parametrize("dense", [False, True])
    def test_its_loss_has_the_gradients_of_its_blocks(self, sae: SparseAutoencoder, x: Tensor, dense: bool):
        loss = sae.loss(x, x.flip(1), Moment(dense=dense))
        directions = sae.decoder.directions()
        z = sae.encoder(x, sae.decoder).dense().relu()
        expected = (x.flip(1) - z @ directions - sae.decoder.bias).square().mean()
        torch.testing.assert_close(loss.total, expected)
        leaves = list(sae.parameters())
        for got, exact in zip(
            torch.autograd.grad(loss.total, leaves), torch.autograd.grad(expected, leaves), strict=True
        ):
            torch.testing.assert_close(got, exact)

    def test_starts_with_unit_rows_and_keeps_them(self, rows: Tensor, targets: Tensor):
        sae = preset("clt", input_width=24, latents=96, sites=("a", "b"), targets=("c", "d")).build(seed=0)
        start_from_data(sae, rows, targets)
        optimizer = torch.optim.Adam(sae.parameters(), lr=0.1)
        for _ in range(3):
            torch.testing.assert_close(sae.decoder.directions().norm(dim=1), torch.ones(96))
            assert torch.equal(sae.decoder.directions()[48:, :12], torch.zeros(48, 12))
            optimizer.zero_grad()
            sae.loss(rows, targets).total.backward()
            sae.decoder.before_step()
            optimizer.step()
            sae.decoder.after_step()

    def test_at_the_mean_row_its_pre_activations_are_zero(self, rows: Tensor, targets: Tensor):
        sae = preset("clt", input_width=24, latents=96, sites=("a", "b"), targets=("c", "d")).build(seed=0)
        start_from_data(sae, rows, targets)
        at_mean = sae.pre_activations(rows.mean(dim=0)).dense()
        torch.testing.assert_close(at_mean, torch.zeros(1, 96), rtol=0, atol=1e-4)


class TestArchetypal:
    @pytest.fixture
    def sae(self, rows: Tensor) -> SparseAutoencoder:
        torch.manual_seed(0)
        sae = preset("archetypal", input_width=WIDTH, latents=LATENTS, l0=6)
        sae = sae.replace(decoder=Archetypal(points=40, mixture=5)).build(seed=0).double()
        start_from_data(sae, rows)
        return sae

    def require_mixtures(self, sae: SparseAutoencoder) -> None:
        """Find the shares of the points that each direction mixes: they are not negative, and add up to 1."""
        points, mixed = sae.decoder.get_buffer("points"), sae.decoder.get_buffer("mixed")
        assert mixed.shape == (LATENTS, 5)
        for direction, which in zip(sae.decoder.directions().detach(), mixed, strict=True):
            shares = direction @ torch.linalg.pinv(points[which])
            torch.testing.assert_close(shares @ points[which], direction)
            assert shares.min() > -1e-9
            assert shares.sum().item() == pytest.approx(1)

    def test_directions_are_mixtures_of_points(self, sae: SparseAutoencoder):
        self.require_mixtures(sae)

    def test_points_are_data_seen_from_the_mean_with_norm_one(self, sae: SparseAutoencoder, rows: Tensor):
        points = sae.decoder.get_buffer("points")
        torch.testing.assert_close(points.norm(dim=1), torch.ones(40, dtype=torch.float64))
        centered = sae.scaler(rows.double()) - sae.decoder.bias
        cosines = nn.functional.normalize(points, dim=1) @ nn.functional.normalize(centered, dim=1).T
        torch.testing.assert_close(cosines.amax(dim=1), torch.ones(40, dtype=torch.float64))

    def test_training_moves_the_shares_and_never_the_points(self, sae: SparseAutoencoder, rows: Tensor):
        points, before = sae.decoder.get_buffer("points").clone(), sae.decoder.directions().detach().clone()
        optimizer = torch.optim.Adam(sae.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            sae.loss(rows).total.backward()
            optimizer.step()
        assert torch.equal(sae.decoder.get_buffer("points"), points)
        assert not torch.equal(sae.decoder.directions(), before)
        self.require_mixtures(sae)
        assert isinstance(sae.decoder, ArchetypalDecoder)

    def test_the_encoder_starts_along_the_directions(self, sae: SparseAutoencoder):
        expected = 0.5 * nn.functional.normalize(sae.decoder.directions(), dim=1)
        torch.testing.assert_close(sae.encoder.get_parameter("weight"), expected)


def test_non_negative_directions_stay_so(rows: Tensor):
    spec = preset("topk", input_width=WIDTH, latents=LATENTS, l0=6)
    sae = spec.replace(decoder=decoders.Linear(constraint=NonNegative())).build(seed=0)
    weight = sae.decoder.get_parameter("weight")
    optimizer = torch.optim.SGD(sae.parameters(), lr=1.0)
    for _ in range(3):
        assert (weight >= 0).all()
        assert (weight > 0).any()
        optimizer.zero_grad()
        sae.loss(rows).total.backward()
        assert weight.grad is not None
        expected = (weight - weight.grad).clamp_min(0)
        sae.decoder.before_step()
        optimizer.step()
        sae.decoder.after_step()
        torch.testing.assert_close(weight, expected)
