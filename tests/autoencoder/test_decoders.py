"""Constraints keep decoder rows where they belong, and take nothing from a step that they need not."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.constraints import Free, UnitRows
from gossamer.autoencoder.decoders import Linear
from gossamer.codes import SparseCodes

shapes_and_seeds = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 999))


def drawn(latents: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight, gradient = torch.randn(2, latents, width, generator=generator, dtype=torch.float64)
    return weight, gradient


class TestUnitRows:
    @given(shapes_and_seeds)
    def test_after_a_step_rows_have_norm_one_and_their_direction(self, drawing: tuple[int, int, int]):
        weight, _ = drawn(*drawing)
        before = weight.clone()
        UnitRows().after_step(weight)
        torch.testing.assert_close(weight.norm(dim=1), torch.ones_like(weight[:, 0]))
        torch.testing.assert_close(weight * before.norm(dim=1, keepdim=True), before)

    @given(shapes_and_seeds)
    def test_before_a_step_the_gradient_loses_what_is_parallel_and_only_that(self, drawing: tuple[int, int, int]):
        weight, gradient = drawn(*drawing)
        UnitRows().after_step(weight)
        original = gradient.clone()
        UnitRows().before_step(weight, gradient)
        torch.testing.assert_close((gradient * weight).sum(dim=1), torch.zeros_like(weight[:, 0]))
        lost = original - gradient
        along = (lost * weight).sum(dim=1, keepdim=True)
        torch.testing.assert_close(lost, along * weight)

    def test_a_row_of_zeros_stays_a_number(self):
        weight = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
        UnitRows().after_step(weight)
        assert weight.isfinite().all()
        torch.testing.assert_close(weight[1], torch.tensor([0.6, 0.8]))

    @pytest.mark.parametrize("size", [1e-15, 1e15])
    def test_rows_of_any_size_come_back(self, size: float):
        weight = torch.full((1, 4), size)
        UnitRows().after_step(weight)
        torch.testing.assert_close(weight, torch.full((1, 4), 0.5))


class TestAroundAStep:
    def test_the_gradient_is_perpendicular_and_the_rows_stay_unit(self, trained: SparseAutoencoder, rows: Tensor):
        optimizer = torch.optim.Adam(trained.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            trained.loss(rows).total.backward()
            gradient = trained.decoder.get_parameter("weight").grad
            assert gradient is not None
            size = gradient.norm()
            trained.decoder.before_step()
            along = (gradient * trained.decoder.get_parameter("weight")).sum(dim=1)
            assert along.abs().max() <= 1e-6 * size
            optimizer.step()
            trained.decoder.after_step()
            torch.testing.assert_close(trained.decoder.get_parameter("weight").norm(dim=1), torch.ones(96))

    def test_a_free_decoder_is_left_alone(self, rows: Tensor):
        decoder = Linear(constraint=Free()).build(input_width=3, output_width=3, latents=5)
        torch.nn.init.normal_(decoder.weight)
        decoder(SparseCodes.from_dense(torch.ones(2, 5))).square().sum().backward()
        assert decoder.weight.grad is not None
        weight, gradient = decoder.weight.detach().clone(), decoder.weight.grad.clone()
        decoder.before_step()
        decoder.after_step()
        assert torch.equal(decoder.weight, weight)
        assert torch.equal(decoder.weight.grad, gradient)

    def test_without_a_gradient_there_is_nothing_to_do(self, trained: SparseAutoencoder):
        trained.zero_grad()
        weight = trained.decoder.get_parameter("weight").detach().clone()
        trained.decoder.before_step()
        assert trained.decoder.get_parameter("weight").grad is None
        assert torch.equal(trained.decoder.get_parameter("weight"), weight)

    def test_encoder_and_biases_are_not_touched(self, trained: SparseAutoencoder, rows: Tensor):
        trained.loss(rows).total.backward()
        others = {n: p for n, p in trained.named_parameters() if n != "decoder.weight"}
        assert all(p.grad is not None for p in others.values())
        before = {n: (p.detach().clone(), p.grad.clone()) for n, p in others.items()}  # pyright: ignore
        trained.decoder.before_step()
        trained.decoder.after_step()
        for name, parameter in others.items():
            assert torch.equal(parameter, before[name][0])
            assert parameter.grad is not None
            assert torch.equal(parameter.grad, before[name][1])
