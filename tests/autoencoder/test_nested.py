"""Nested reconstructions cost the mean of their squared errors, and every part of a code learns from all it is in."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gossamer import kernels
from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder, with_l0
from gossamer.autoencoder.decoders import Deep, Skip
from gossamer.autoencoder.initialise import start_from_data
from gossamer.autoencoder.presets import preset
from gossamer.autoencoder.reconstruction import HierarchicalK, Matryoshka, Reconstruction, SquaredError
from gossamer.autoencoder.sparsity import ReLU, TopK
from gossamer.autoencoder.tasks import Transcode
from gossamer.autoencoder.trace import Moment
from gossamer.codes import DenseCodes, SparseCodes

WIDTH, LATENTS = 8, 24


def prefixes(z: Tensor) -> list[Tensor]:
    """The codes of the first 3, 6 and 24 latents."""
    return [z * (torch.arange(LATENTS) < end) for end in (3, 6, LATENTS)]


def budgets(z: Tensor) -> list[Tensor]:
    """The 1 and 4 largest of each row, and the whole: 6 is more than most rows have, fewer than some."""
    order = z.detach().argsort(dim=1, descending=True).argsort(dim=1)
    return [z * (order < 1), z * (order < 4), z]


CASES: list[tuple[Reconstruction, Callable[[Tensor], list[Tensor]]]] = [
    (SquaredError(), lambda z: [z]),
    (Matryoshka(prefixes=(3, 6, LATENTS)), prefixes),
    (Matryoshka(prefixes=(LATENTS,)), lambda z: [z]),
    (HierarchicalK(budgets=(1, 4, 6)), budgets),
    (HierarchicalK(budgets=(30,)), lambda z: [z]),
]


def built(reconstruction: Reconstruction, **parts) -> SparseAutoencoder:
    """In float64, parameters far from where they start."""
    chosen = {"sparsity": ReLU(), "reconstruction": reconstruction} | parts
    sae = AutoencoderSpec(input_width=WIDTH, latents=LATENTS, **chosen).build(seed=0).double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return sae


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return torch.randn(60, WIDTH, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("reconstruction", "parts"), CASES, ids=lambda part: getattr(part, "kind", ""))
class TestEveryReconstruction:
    @pytest.mark.parametrize("dense", [False, True], ids=["sparse-codes", "dense-codes"])
    def test_is_that_of_dense_torch_in_value_and_all_gradients(
        self, reconstruction: Reconstruction, parts: Callable[[Tensor], list[Tensor]], x: Tensor, dense: bool
    ):
        sae = built(reconstruction)
        loss = sae.loss(x, moment=Moment(dense=dense))
        w_enc, b_enc, w_dec, b_dec = leaves = [p.detach().clone().requires_grad_() for p in sae.parameters()]
        z = (x @ w_enc.T + b_enc).relu()
        expected = torch.stack([(x - part @ w_dec - b_dec).square().mean() for part in parts(z)]).mean()
        assert [name for name, _ in sae.named_parameters()] == [
            f"{part}.{kind}" for part in ("encoder", "decoder") for kind in ("weight", "bias")
        ]
        torch.testing.assert_close(loss.total, expected)
        found = torch.autograd.grad(loss.total, list(sae.parameters()))
        for got, exact in zip(found, torch.autograd.grad(expected, leaves), strict=True):
            torch.testing.assert_close(got, exact)

    @pytest.mark.parametrize("dense", [False, True])
    def test_leaves_what_the_whole_code_leaves(
        self, reconstruction: Reconstruction, parts: Callable[[Tensor], list[Tensor]], x: Tensor, dense: bool
    ):
        sae = built(reconstruction)
        z = sae.encoder(x, sae.decoder).dense().relu()
        codes = DenseCodes(values=z) if dense else SparseCodes.from_dense(z)
        residual, _ = reconstruction(sae.decoder, codes, x)
        assert not residual.requires_grad
        torch.testing.assert_close(residual, (x - z @ sae.decoder.directions() - sae.decoder.bias).detach())

    def test_its_factored_gradients_are_the_same(
        self, reconstruction: Reconstruction, parts: Callable[[Tensor], list[Tensor]], x: Tensor
    ):
        """What an optimizer that makes a weight's gradient row by row is handed."""
        sae = built(reconstruction)
        weights = [sae.encoder.get_parameter("weight"), sae.decoder.get_parameter("weight")]
        exact = torch.autograd.grad(sae.loss(x).total, weights)
        with kernels.factored_gradients(weights) as gradients:
            sae.loss(x).total.backward()
        for weight, factored, wanted in zip(weights, gradients, exact, strict=True):
            whole = torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
            for term in factored.terms:
                whole += kernels.scatter_outer(term.offsets, term.indices, term.values, term.rows, len(weight))
            torch.testing.assert_close(whole, wanted)

    @pytest.mark.parametrize(
        "parts_of_it",
        [
            {"decoder": Deep(hidden=(9,))},
            {"decoder": Skip(), "task": Transcode(site="in", target="out", width=5)},
        ],
        ids=["deep", "skip"],
    )
    @pytest.mark.parametrize("dense", [False, True])
    def test_other_decoders_have_it_too(
        self,
        reconstruction: Reconstruction,
        parts: Callable[[Tensor], list[Tensor]],
        x: Tensor,
        dense: bool,
        parts_of_it: dict,
    ):
        sae = built(reconstruction, **parts_of_it)
        target = x[:, : sae.spec.output_width].contiguous()
        z = sae.encoder(x, sae.decoder).dense().relu()
        each = [target - sae.decoder(SparseCodes.from_dense(part), x) for part in parts(z)]
        expected = torch.stack([error.square().mean() for error in each]).mean()
        given = None if sae.spec.task.same_rows else target
        torch.testing.assert_close(sae.loss(x, given, Moment(dense=dense)).total, expected)


class TestMatryoshka:
    def test_early_latents_reconstruct_better_than_without(self, rows: Tensor):
        errors = []
        for name in ("batch-topk", "matryoshka-batch-topk"):
            sae = preset(name, input_width=24, latents=96, l0=6).build(seed=0)
            start_from_data(sae, rows)
            optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
            for _ in range(60):
                optimizer.zero_grad()
                loss = sae.loss(rows)
                loss.total.backward()
                optimizer.step()
                sae.sparsity.note(loss.codes)
            codes = sae.encode(rows).to_dense()
            first = SparseCodes.from_dense(codes * (torch.arange(96) < 24))
            errors.append((sae.decode(first) - rows).square().sum().item())
        assert errors[1] < 0.8 * errors[0]

    @pytest.mark.parametrize("wrong", [(3, 6), (3, 3, 24), (6, 3, 24), (0, 24), (24, 30), ()])
    def test_prefixes_that_do_not_rise_to_all_latents_are_refused(self, wrong: tuple[int, ...]):
        with pytest.raises(ValueError, match=r"prefixes rise from above 0 to the number of latents, 24; got"):
            AutoencoderSpec(input_width=8, latents=24, sparsity=ReLU(), reconstruction=Matryoshka(prefixes=wrong))


class TestHierarchicalK:
    @pytest.mark.parametrize("wrong", [(), (0, 3), (3, 3), (4, 2)])
    def test_budgets_that_do_not_rise_are_refused(self, wrong: tuple[int, ...]):
        with pytest.raises(ValueError, match="budgets are numbers of entries that rise from above 0; got"):
            HierarchicalK(budgets=wrong)

    def test_trained_with_it_a_smaller_k_serves_better(self, rows: Tensor):
        errors = []
        for name in ("topk", "hierarchical-topk"):
            sae = preset(name, input_width=24, latents=96, l0=16).build(seed=0)
            start_from_data(sae, rows)
            optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
            for _ in range(60):
                optimizer.zero_grad()
                sae.loss(rows).total.backward()
                optimizer.step()
            errors.append((with_l0(sae, 2)(rows).reconstruction - rows).square().sum().item())
        assert errors[1] < 0.8 * errors[0]


class TestWithL0:
    @given(st.integers(1, 96))
    def test_has_the_same_weights_and_another_k(self, l0: int):
        sae = preset("hierarchical-topk", input_width=24, latents=96, l0=8).build(seed=0).double().eval()
        other = with_l0(sae, l0)
        assert other.spec == sae.spec.replace(sparsity=TopK(k=l0))
        assert other.training is False
        state = sae.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())
        assert {tensor.dtype for tensor in other.state_dict().values()} == {torch.float64}
        x = torch.randn(20, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        p = sae.pre_activations(x).dense().relu()
        expected = p * torch.zeros_like(p).scatter(1, p.topk(l0, dim=1).indices, 1.0)
        torch.testing.assert_close(other.encode(x).to_dense(), expected)

    def test_is_on_its_own(self, rows: Tensor):
        sae = preset("topk", input_width=24, latents=96, l0=8).build(seed=0)
        before = sae(rows).reconstruction
        with_l0(sae, 3).reset(seed=5)
        assert torch.equal(sae(rows).reconstruction, before)

    def test_more_than_there_are_and_rules_without_a_k_are_refused(self):
        with pytest.raises(ValueError, match=r"97 .*96 latents"):
            with_l0(preset("topk", input_width=24, latents=96, l0=8).build(), 97)
        with pytest.raises(ValueError, match="'relu' has no number of active latents"):
            with_l0(preset("vanilla-l1", input_width=24, latents=96).build(), 3)
