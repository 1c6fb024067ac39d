"""Scaling changes the units of training and nothing else: it folds into the biases without a trace."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.initialise import start_from_data
from gossamer.autoencoder.presets import preset
from gossamer.autoencoder.scaling import MeanScale, PerSite, RowNorm, Scaler, Scaling, Unscaled, Whitening
from gossamer.autoencoder.sparsity import TopK


def require_close(a: Tensor, b: Tensor, relative: float = 1e-5) -> None:
    assert (a - b).norm() <= relative * b.norm()


def scaler(mean: Tensor, scale: float) -> Scaler:
    made = Scaler(len(mean))
    made.mean.copy_(mean)
    made.scale.fill_(scale)
    return made


class TestScaler:
    @given(st.integers(0, 99), st.floats(1e-3, 1e3))
    def test_undo_undoes(self, seed: int, scale: float):
        generator = torch.Generator().manual_seed(seed)
        x, mean = torch.randn(5, 7, generator=generator), torch.randn(7, generator=generator)
        made = scaler(mean, scale)
        torch.testing.assert_close(made.undo(made(x)), x, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(made(x), (x - mean) * made.scale)


class TestMeasure:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_rows_in_training_units_have_mean_zero_and_mean_square_one(self, rows: Tensor, dtype: torch.dtype):
        mean, scale = MeanScale().measure(rows.to(dtype))
        assert (mean.dtype, scale.dtype, scale.shape) == (dtype, dtype, ())
        scaled = (rows.to(dtype) - mean) * scale
        torch.testing.assert_close(scaled.mean(dim=0), torch.zeros(24, dtype=dtype), rtol=0, atol=1e-5)
        assert scaled.square().mean().item() == pytest.approx(1, rel=1e-5)

    def test_knows_the_answer_by_hand(self):
        mean, scale = MeanScale().measure(torch.tensor([[1.0, 10.0], [5.0, 10.0]]))
        assert mean.tolist() == [3.0, 10.0]
        assert scale.item() == pytest.approx(2**-0.5)

    @given(st.floats(0.01, 100), st.floats(-100, 100))
    def test_follows_a_change_of_units(self, factor: float, shift: float):
        x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        mean, scale = MeanScale().measure(x)
        other_mean, other_scale = MeanScale().measure(factor * x + shift)
        torch.testing.assert_close(other_mean, factor * mean + shift)
        torch.testing.assert_close(other_scale, scale / factor)

    def test_is_not_lost_in_a_large_offset(self):
        x = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
        shifted = x + 1e4
        _, scale = MeanScale().measure(shifted)
        deviation = shifted.double() - shifted.double().mean(dim=0)
        assert scale.item() == pytest.approx(deviation.square().mean().rsqrt().item(), rel=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("count", [1, 3, 7, 100])
    @pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
    def test_rows_all_alike_keep_their_units(self, value: float, count: int, dtype: torch.dtype):
        mean, scale = MeanScale().measure(torch.full((count, 3), value, dtype=dtype))
        torch.testing.assert_close(mean, torch.full((3,), value, dtype=dtype))
        assert scale.item() == 1.0

    def test_unscaled_leaves_the_units(self, rows: Tensor):
        mean, scale = Unscaled().measure(rows)
        assert mean.tolist() == [0.0] * 24
        assert scale.item() == 1.0


def set_from(scaling: Scaling, sample: Tensor) -> Scaler:
    made = scaling.build(input_width=sample.shape[1]).to(sample.dtype)
    made.set(*scaling.measure(sample))
    return made


@pytest.mark.parametrize(
    "scaling", [Unscaled(), MeanScale(), PerSite(widths=(10, 14)), Whitening()], ids=lambda scaling: scaling.kind
)
class TestEveryFoldingScaling:
    def test_undo_undoes(self, rows: Tensor, scaling: Scaling):
        made = set_from(scaling, rows.double())
        torch.testing.assert_close(made.undo(made(rows.double())), rows.double())

    def test_its_changes_of_units_are_what_it_does(self, rows: Tensor, scaling: Scaling):
        made = set_from(scaling, rows.double())
        one = torch.ones((), dtype=torch.float64)
        for change, old, new in (
            (made.to_own_units(one), made(rows.double()), rows.double()),
            (made.to_training_units(one), rows.double(), made(rows.double())),
        ):
            moved = old.clone()
            change.of_rows(moved)
            torch.testing.assert_close(moved, new)
            torch.testing.assert_close(change.scaled_back(old[1:] - old[:-1]), new[1:] - new[:-1])

    def test_reset_scales_nothing(self, rows: Tensor, scaling: Scaling):
        made = set_from(scaling, rows)
        made.reset()
        torch.testing.assert_close(made(rows), rows)

    def test_rows_all_alike_give_numbers(self, scaling: Scaling):
        made = set_from(scaling, torch.full((7, 24), 3.0))
        assert made(torch.full((7, 24), 3.0)).isfinite().all()
        assert made.undo(torch.zeros(2, 24)).isfinite().all()


class TestWhitening:
    def test_decorrelates(self, rows: Tensor):
        x = set_from(Whitening(floor=1e-9), rows.double())(rows.double())
        torch.testing.assert_close(x.mean(dim=0), torch.zeros(24, dtype=torch.float64), rtol=0, atol=1e-5)
        covariance = x.T @ x / len(x)
        torch.testing.assert_close(covariance, torch.eye(24, dtype=torch.float64), rtol=0, atol=1e-5)

    def test_its_matrix_is_symmetric_and_rises_with_the_floor(self, rows: Tensor):
        sizes = []
        for floor in (1e-9, 0.01, 1.0):
            _, scale = Whitening(floor=floor).measure(rows.double())
            torch.testing.assert_close(scale, scale.T)
            sizes.append(torch.linalg.eigvalsh(scale).amax().item())
        assert sizes[0] > sizes[1] > sizes[2]

    def test_knows_the_answer_by_hand(self):
        """C = diag(4, 1), mean eigenvalue 2.5, floor 0.2: C + 0.5."""
        x = torch.tensor([[2.0, 1.0], [-2.0, 1.0], [2.0, -1.0], [-2.0, -1.0]]) + 5
        mean, scale = Whitening(floor=0.2).measure(x)
        assert mean.tolist() == [5.0, 5.0]
        torch.testing.assert_close(scale, torch.tensor([[4.5**-0.5, 0], [0, 1.5**-0.5]]))

    def test_a_direction_without_variance_is_not_blown_up(self):
        x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 1, 1, 1, 1, 0.0])
        _, scale = Whitening().measure(x)
        assert scale.abs().max() < 1 / (0.01 * 5 / 6 * 0.9) ** 0.5


class TestPerSite:
    def test_gives_each_site_the_same_size(self, rows: Tensor):
        uneven = rows.double() * torch.tensor([100.0] * 10 + [0.01] * 14)
        x = set_from(PerSite(widths=(10, 14)), uneven)(uneven)
        for site in x.split([10, 14], dim=1):
            assert site.square().mean().item() == pytest.approx(1, rel=1e-6)
            torch.testing.assert_close(site.mean(dim=0), torch.zeros_like(site[0]), rtol=0, atol=1e-6)

    def test_of_one_site_is_mean_scale(self, rows: Tensor):
        one, same = set_from(PerSite(widths=(24,)), rows), set_from(MeanScale(), rows)
        torch.testing.assert_close(one(rows), same(rows))


def test_row_norm_measures_the_mean_alone(rows: Tensor):
    mean, scale = RowNorm().measure(rows)
    torch.testing.assert_close(mean, rows.mean(dim=0))
    assert scale.item() == 1


@pytest.mark.usefixtures("low_precision_selection")
class TestFolding:
    def test_keeps_the_function(self, trained: SparseAutoencoder, rows: Tensor):
        before = trained(rows)
        trained.fold()
        after = trained(rows)
        require_close(after.reconstruction, before.reconstruction)
        require_close(after.codes.to_dense(), before.codes.to_dense(), 1e-4)
        assert trained.scaler.mean.tolist() == [0.0] * 24
        assert trained.scaler.scale.item() == 1.0

    def test_leaves_tensors_that_need_no_more_than_plain_torch(self, trained: SparseAutoencoder, rows: Tensor):
        expected = trained(rows).reconstruction
        trained.fold()
        state = trained.state_dict()
        codes = (rows @ state["encoder.weight"].T + state["encoder.bias"]).relu()
        if isinstance(trained.spec.sparsity, TopK):
            kept = codes.topk(trained.spec.sparsity.k, dim=1)
            codes = torch.zeros_like(codes).scatter(1, kept.indices, kept.values)
        if "sparsity.log_threshold" in state:
            codes = codes * (codes > state["sparsity.log_threshold"].exp())
        require_close(codes @ state["decoder.weight"] + state["decoder.bias"], expected)

    def test_twice_is_once(self, trained: SparseAutoencoder):
        trained.fold()
        once = copy.deepcopy(trained.state_dict())
        trained.fold()
        assert all(torch.equal(tensor, once[name]) for name, tensor in trained.state_dict().items())

    @pytest.mark.parametrize("distance", [1.0, 30.0, 100.0])
    def test_keeps_the_function_for_rows_far_from_the_origin(self, generator: torch.Generator, distance: float):
        mean = distance * torch.randn(64, generator=generator)
        x = mean + torch.randn(500, 64, generator=generator)
        sae = preset("topk", input_width=64, latents=512, l0=8).build(seed=1)
        start_from_data(sae, x)
        before = sae(x).reconstruction
        sae.fold()
        require_close(sae(x).reconstruction, before)

    def test_rescaling_keeps_the_function(self, trained: SparseAutoencoder, rows: Tensor):
        before = trained(rows)
        generator = torch.Generator().manual_seed(0)
        for scale in (0.01, 30.0, 1.0):
            mean = torch.randn(24, generator=generator)
            trained.rescale((mean, torch.tensor(scale)))
            assert torch.equal(trained.scaler.mean, mean)
            assert trained.scaler.scale.item() == pytest.approx(scale)
            after = trained(rows)
            require_close(after.reconstruction, before.reconstruction, 1e-4)
            require_close(after.codes.to_dense(), before.codes.to_dense(), 1e-3)

    def test_rescaling_leaves_the_weights_alone(self, trained: SparseAutoencoder):
        weights = [trained.encoder.get_parameter("weight").clone(), trained.decoder.get_parameter("weight").clone()]
        trained.rescale((torch.ones(24), torch.tensor(7.0)))
        assert torch.equal(trained.encoder.get_parameter("weight"), weights[0])
        assert torch.equal(trained.decoder.get_parameter("weight"), weights[1])


def test_codes_and_reconstructions_speak_the_units_of_the_input(generator: torch.Generator):
    """Data in other units gives codes and reconstructions in those units, and the same loss."""
    x = torch.randn(200, 24, generator=generator)
    built = []
    for factor in (1.0, 1000.0):
        sae = preset("topk", input_width=24, latents=96, l0=6).build(seed=0)
        start_from_data(sae, factor * x)
        built.append((sae.loss(factor * x).total.item(), sae(factor * x)))
    (loss, output), (other_loss, other) = built
    assert other_loss == pytest.approx(loss, rel=1e-4)
    require_close(other.reconstruction / 1000, output.reconstruction, 1e-4)
    require_close(other.codes.to_dense() / 1000, output.codes.to_dense(), 1e-4)
