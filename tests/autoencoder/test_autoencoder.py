"""One class encodes, decodes, trains and travels, and a row's code never depends on its neighbours."""

import copy
import io
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder
from gossamer.autoencoder.penalties import L1
from gossamer.autoencoder.pre_activations import Affine
from gossamer.autoencoder.presets import preset
from gossamer.autoencoder.sparsity import JumpReLUThresholds, ReLU, Sparsity, TopK
from gossamer.codes import SparseCodes, concatenate_codes

same_fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)


compiling = pytest.mark.filterwarnings(  # of torch about itself
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
)


def require_same_codes(a: SparseCodes, b: SparseCodes, *, relative: float = 0.0) -> None:
    scale = b.values.abs().max().item() if len(b.values) else 0.0
    torch.testing.assert_close(a.to_dense(), b.to_dense(), rtol=0, atol=relative * scale)


class TestEncodeAndDecode:
    @pytest.mark.parametrize("count", [0, 1, 7, 300])
    def test_shapes(self, trained: SparseAutoencoder, rows: Tensor, count: int):
        output = trained(rows[:count])
        assert output.reconstruction.shape == (count, 24)
        assert output.codes.shape == (count, 96)

    def test_one_row_counts_as_a_batch_of_one(self, trained: SparseAutoencoder, rows: Tensor):
        assert trained.encode(rows[3]).shape == (1, 96)
        assert torch.equal(trained(rows[3]).reconstruction, trained(rows[3:4]).reconstruction)

    def test_forward_decodes_what_it_encodes(self, trained: SparseAutoencoder, rows: Tensor):
        output = trained(rows)
        require_same_codes(trained.encode(rows), output.codes)
        assert torch.equal(trained.decode(trained.encode(rows)), output.reconstruction)

    def test_reconstructs_what_it_was_trained_on(self, trained: SparseAutoencoder, rows: Tensor):
        error = (trained(rows).reconstruction - rows).square().sum()
        assert error < 0.2 * (rows - rows.mean(dim=0)).square().sum()

    def test_a_reconstruction_is_a_sum_of_directions_and_a_constant_row(self, trained: SparseAutoencoder, rows: Tensor):
        none = SparseCodes.from_dense(torch.zeros(1, 96))
        constant, codes = trained.decode(none), trained.encode(rows)
        expected = codes.to_dense() @ trained.decoder.get_parameter("weight") + constant
        torch.testing.assert_close(trained.decode(codes), expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.usefixtures("low_precision_selection")
    def test_codes_are_the_definition(self, trained: SparseAutoencoder, rows: Tensor):
        double = copy.deepcopy(trained).double()
        pre = double.pre_activations(rows).dense()
        if isinstance(trained.spec.sparsity, TopK):
            kept = pre.topk(6, dim=1)
            pre = torch.zeros_like(pre).scatter(1, kept.indices, kept.values)
        if isinstance(double.sparsity, JumpReLUThresholds):
            pre = pre * (pre > double.sparsity.log_threshold.exp())
        expected = pre.relu() / double.scaler.scale
        torch.testing.assert_close(trained.encode(rows).to_dense().double(), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("sparsity", [ReLU(), TopK(k=30)])
    def test_codes_are_never_negative(self, generator: torch.Generator, sparsity: Sparsity):
        """z = max(p, 0), also where a pre-activation is so near to zero that its sign hangs on rounding."""
        x = torch.randn(64, generator=generator)
        weight = torch.randn(200, 64, generator=generator)
        weight -= torch.outer(weight @ x, x) / x.square().sum()
        bias = torch.zeros(200)
        bias[20:] = -1
        codes = sparsity(Affine(x.expand(300, 64).contiguous(), weight, bias))
        assert not (codes.values < 0).any()

    def test_a_row_with_fewer_than_k_positive_pre_activations_has_fewer_active(self):
        sae = preset("topk", input_width=2, latents=4, l0=3).build()
        with torch.no_grad():
            sae.encoder.get_parameter("weight").copy_(torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]))
        codes = sae.encode(torch.tensor([[2.0, 3.0], [2.0, 0.0], [0.0, 0.0]]))
        assert codes.to_dense().tolist() == [[2, 3, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]]
        assert codes.l0 == 1

    def test_no_row_has_more_than_k_active(self, rows: Tensor):
        sae = preset("topk", input_width=24, latents=96, l0=5).build()
        codes = sae.encode(rows)
        assert codes.offsets.diff().max() <= 5
        assert codes.l0 <= 5

    @pytest.mark.parametrize(
        "change",
        [lambda x: x.double(), lambda x: x.T.contiguous().T, lambda x: torch.stack([x, x])[:, ::1][1]],
        ids=["float64", "transposed", "sliced"],
    )
    def test_rows_may_come_in_any_form(
        self, trained: SparseAutoencoder, rows: Tensor, change: Callable[[Tensor], Tensor]
    ):
        require_same_codes(trained.encode(change(rows)), trained.encode(rows), relative=1e-6)

    def test_whole_numbers_are_rows_too(self, trained: SparseAutoencoder):
        x = torch.arange(48).view(2, 24)
        require_same_codes(trained.encode(x), trained.encode(x.float()))

    def test_using_it_changes_nothing(self, trained: SparseAutoencoder, rows: Tensor):
        before = copy.deepcopy(trained.state_dict())
        for mode in (True, False):
            trained.train(mode)
            trained(rows)
            trained.loss(rows)
        assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())


@pytest.mark.usefixtures("low_precision_selection")
class TestIndependence:
    """A row has one code, whatever it is encoded with.

    Which latents are active, and for TopK every bit, is the same. For ReLU the values may differ by rounding:
    whether a batch takes the dense or the sparse path hangs on how many of its latents are active.
    """

    @pytest.fixture
    def trained(self, trained: SparseAutoencoder) -> SparseAutoencoder:
        return trained.eval()

    def tolerance(self, sae: SparseAutoencoder) -> float:
        return 0.0 if isinstance(sae.spec.sparsity, TopK) else 1e-6

    def test_alone_as_among_others(self, trained: SparseAutoencoder, rows: Tensor):
        together = trained.encode(rows).to_dense()
        for row in range(0, 300, 7):
            alone = trained.encode(rows[row])
            require_same_codes(alone, SparseCodes.from_dense(together[row : row + 1]), relative=self.tolerance(trained))

    @given(st.permutations(range(40)))
    @same_fixtures
    def test_in_any_order(self, trained: SparseAutoencoder, rows: Tensor, order: list[int]):
        codes = trained.encode(rows[:40][order])
        expected = SparseCodes.from_dense(trained.encode(rows[:40]).to_dense()[order])
        require_same_codes(codes, expected, relative=self.tolerance(trained))

    @given(st.lists(st.integers(0, 299), min_size=1, max_size=20))
    @same_fixtures
    def test_with_any_neighbours(self, trained: SparseAutoencoder, rows: Tensor, picked: list[int]):
        codes = trained.encode(rows[picked])
        expected = SparseCodes.from_dense(trained.encode(rows).to_dense()[picked])
        require_same_codes(codes, expected, relative=self.tolerance(trained))

    @pytest.mark.parametrize("stranger", [1e6, 0.0])
    def test_beside_a_row_unlike_any_other(self, trained: SparseAutoencoder, rows: Tensor, stranger: float):
        batch = torch.cat([rows[:9], torch.full((200, 24), stranger)])
        expected = SparseCodes.from_dense(trained.encode(rows).to_dense()[:9])
        got = SparseCodes.from_dense(trained.encode(batch).to_dense()[:9])
        require_same_codes(got, expected, relative=self.tolerance(trained))


class TestStart:
    spec = preset("topk", input_width=24, latents=96, l0=6)

    def test_the_same_seed_gives_the_same_weights_and_others_give_others(self):
        weights = [self.spec.build(seed=seed).decoder.get_parameter("weight") for seed in (0, 0, 1, 2**31)]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])
        assert not torch.equal(weights[0], weights[3])

    def test_randomness_comes_from_the_seed_alone(self):
        torch.manual_seed(0)
        state = torch.get_rng_state()
        first = self.spec.build(seed=5)
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(1)
        assert torch.equal(
            self.spec.build(seed=5).encoder.get_parameter("weight"), first.encoder.get_parameter("weight")
        )

    def test_directions_have_norm_one_and_the_encoder_looks_along_them(self):
        sae = self.spec.build(seed=1)
        torch.testing.assert_close(sae.decoder.get_parameter("weight").norm(dim=1), torch.ones(96))
        # but for the rounding of the decoder's rows to norm 1
        torch.testing.assert_close(
            sae.encoder.get_parameter("weight"), 0.5 * sae.decoder.get_parameter("weight"), rtol=3e-7, atol=0
        )

    def test_a_built_one_is_fresh_until_a_bias_moves(self, trained: SparseAutoencoder):
        sae = self.spec.build(seed=1)
        assert sae.is_fresh is True
        assert trained.is_fresh is False
        for bias in (sae.encoder.get_parameter("bias"), sae.decoder.bias):
            with torch.no_grad():
                bias[-1] = 1e-30
            assert not sae.is_fresh
            torch.nn.init.zeros_(bias)

    def test_reset_forgets_everything(self, trained: SparseAutoencoder):
        trained.reset(seed=3)
        fresh = trained.spec.build(seed=3).state_dict()
        assert all(torch.equal(tensor, fresh[name]) for name, tensor in trained.state_dict().items())


class TestTravel:
    def pickled(self, sae: SparseAutoencoder) -> SparseAutoencoder:
        return pickle.loads(pickle.dumps(sae))

    def saved_by_torch(self, sae: SparseAutoencoder) -> SparseAutoencoder:
        buffer = io.BytesIO()
        torch.save(sae.state_dict(), buffer)
        buffer.seek(0)
        other = sae.spec.build(seed=9)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        return other

    @pytest.mark.parametrize("way", ["pickled", "saved_by_torch", "copied"])
    def test_a_copy_gives_the_same_bits(self, trained: SparseAutoencoder, rows: Tensor, way: str):
        other = copy.deepcopy(trained) if way == "copied" else getattr(self, way)(trained)
        assert other.spec == trained.spec
        assert torch.equal(other(rows).reconstruction, trained(rows).reconstruction)
        require_same_codes(other.encode(rows), trained.encode(rows))

    def test_a_copy_is_on_its_own(self, trained: SparseAutoencoder, rows: Tensor):
        before = trained(rows).reconstruction
        copy.deepcopy(trained).reset(seed=0)
        assert torch.equal(trained(rows).reconstruction, before)

    def test_float64_gives_the_same_within_float32_rounding(self, trained: SparseAutoencoder, rows: Tensor):
        double = copy.deepcopy(trained).to(torch.float64)
        assert {t.dtype for t in double.state_dict().values()} == {torch.float64}
        output = double(rows)
        assert output.reconstruction.dtype == output.codes.values.dtype == torch.float64
        torch.testing.assert_close(output.reconstruction.float(), trained(rows).reconstruction, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_gives_about_the_same(self, trained: SparseAutoencoder, rows: Tensor, dtype: torch.dtype):
        reconstruction = copy.deepcopy(trained).to(dtype)(rows).reconstruction
        assert reconstruction.dtype == dtype
        error = (reconstruction.float() - trained(rows).reconstruction).square().sum()
        assert error < 0.01 * rows.square().sum()

    @compiling
    def test_compiled_it_gives_the_same(self, trained: SparseAutoencoder, rows: Tensor, request: pytest.FixtureRequest):
        backends = ["aot_eager"]
        if isinstance(trained.spec.sparsity, TopK) and (shutil.which("c++") or shutil.which("g++")):
            backends.append("inductor")  # takes seconds: once is enough
        request.addfinalizer(torch._dynamo.reset)
        expected = trained(rows)
        for backend in backends:
            output = torch.compile(trained, backend=backend)(rows)
            torch.testing.assert_close(output.reconstruction, expected.reconstruction, rtol=1e-5, atol=1e-5)
            require_same_codes(output.codes, expected.codes, relative=1e-6)

    @compiling
    def test_compiled_it_has_the_same_gradients(
        self, trained: SparseAutoencoder, rows: Tensor, request: pytest.FixtureRequest
    ):
        request.addfinalizer(torch._dynamo.reset)

        def gradients(call: Callable[[Tensor], Tensor]) -> list[Tensor]:
            return list(torch.autograd.grad(call(rows), list(trained.parameters())))

        compiled = torch.compile(lambda x: trained.loss(x).total, backend="aot_eager")
        for a, b in zip(gradients(compiled), gradients(lambda x: trained.loss(x).total), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)

    def test_state_dict_holds_what_inference_needs_and_nothing_else(self, trained: SparseAutoencoder):
        assert set(trained.state_dict()) == {
            *(f"{part}.{name}" for part in ("encoder", "decoder") for name in ("weight", "bias")),
            *(("sparsity.log_threshold",) if trained.spec.name == "jumprelu" else ()),
            "scaler.mean",
            "scaler.scale",
        }

    def test_print_shows_name_and_sizes(self, trained: SparseAutoencoder):
        assert f"{trained.spec.name}: 24 → 96" in repr(trained)


class TestMistakes:
    @pytest.mark.parametrize("method", ["encode", "forward", "loss", "pre_activations"])
    @pytest.mark.parametrize("shape", [(5, 23), (25,), (2, 3, 24), (0, 1), ()])
    def test_rows_of_another_width_are_refused_with_both(
        self, trained: SparseAutoencoder, method: str, shape: tuple[int, ...]
    ):
        with pytest.raises(ValueError, match=rf"width 24.*{re.escape(str(shape if len(shape) != 1 else (1, 25)))}"):
            getattr(trained, method)(torch.zeros(shape))

    def test_codes_of_another_autoencoder_are_refused_with_both_sizes(self, trained: SparseAutoencoder):
        with pytest.raises(ValueError, match=r"95 latents .* autoencoder of 96"):
            trained.decode(SparseCodes.from_dense(torch.ones(2, 95)))

    def test_more_active_latents_than_there_are_are_refused_with_both_numbers(self):
        with pytest.raises(ValueError, match=r"33 .*32 latents.*lower l0 or raise latents"):
            AutoencoderSpec(input_width=8, latents=32, sparsity=TopK(k=33))
        assert AutoencoderSpec(input_width=8, latents=32, sparsity=TopK(k=32)).build().encode(torch.ones(8)).rows

    @pytest.mark.parametrize(("width", "latents"), [(0, 8), (8, 0), (-1, 8)])
    def test_sizes_below_one_are_refused_with_both(self, width: int, latents: int):
        with pytest.raises(ValueError, match=f"at least 1, got {width} and {latents}"):
            AutoencoderSpec(input_width=width, latents=latents, sparsity=ReLU())

    def test_no_active_latents_are_refused(self):
        with pytest.raises(ValueError, match="at least 1; got 0"):
            TopK(k=0)

    def test_two_penalties_of_one_kind_both_count_or_are_refused(self, rows: Tensor):
        one = preset("vanilla-l1", input_width=24, latents=96, l1=1.0)
        try:
            both = one.replace(penalties=(L1(weight=1.0), L1(weight=2.0)))
        except ValueError:
            return
        cost = [spec.build().loss(rows).total.item() for spec in (one.replace(penalties=()), one, both)]
        assert cost[2] - cost[0] == pytest.approx(3 * (cost[1] - cost[0]), rel=1e-4)


class TestEncodeChunks:
    @pytest.mark.parametrize("chunk", [1, 7, 300, 4096])
    def test_is_encode_of_all_rows(self, trained: SparseAutoencoder, rows: Tensor, chunk: int):
        whole = trained.encode(rows)
        for same in (rows, rows.numpy()):
            codes = concatenate_codes(trained.encode_chunks(same, chunk=chunk))
            assert torch.equal(codes.offsets, whole.offsets)
            assert torch.equal(codes.indices, whole.indices)
            assert torch.equal(codes.values, whole.values)
            assert not codes.values.requires_grad

    def test_reads_a_file_chunk_by_chunk(self, trained: SparseAutoencoder, rows: Tensor, tmp_path: Path):
        np.save(tmp_path / "rows.npy", rows.numpy())
        mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
        chunks = trained.encode_chunks(mapped, chunk=100)
        assert len(next(chunks)) == 100
        assert [len(codes) for codes in chunks] == [100, 100]

    def test_takes_half_precision_and_no_rows(self, trained: SparseAutoencoder, rows: Tensor):
        half = rows.numpy().astype(np.float16)
        codes = concatenate_codes(trained.encode_chunks(half))
        assert torch.equal(codes.values, trained.encode(torch.from_numpy(half)).values)
        assert list(trained.encode_chunks(rows[:0])) == []

    def test_mistakes_are_named_at_once(self, trained: SparseAutoencoder, rows: Tensor):
        with pytest.raises(ValueError, match="expected rows of width 24"):
            trained.encode_chunks(rows[:, :5])
        with pytest.raises(ValueError, match="a chunk has at least one row, got 0"):
            trained.encode_chunks(rows, chunk=0)


@pytest.mark.parametrize(
    ("offsets", "indices"), [([0, 2], [0, 96]), ([0, 2], [-1, 3]), ([0, 3], [0, 1]), ([1, 2], [0, 1])]
)
def test_codes_that_point_outside_are_refused(trained: SparseAutoencoder, offsets: list[int], indices: list[int]):
    codes = SparseCodes(offsets=torch.tensor(offsets), indices=torch.tensor(indices), values=torch.ones(2), latents=96)
    with pytest.raises(ValueError, match=r"offsets must rise from 0 .* indices lie in 0 to 95"):
        trained.decode(codes)
