"""The Triton kernels agree with `reference.py` in float64, and compile for real GPUs.

With a CUDA device everything runs on it. Without one, kernels run in Triton's interpreter, on CPU tensors: that has to
be asked for before Triton is imported, and would make every kernel of this process an interpreted one, so the tests of
this file run in a process of their own (`test_in_the_interpreter`). To pick one of them:

    TRITON_INTERPRET=1 pytest tests/parity/test_triton.py -k adam

The interpreter allows what a compiler does not. So the launches that public functions make at realistic widths are
written down, and compiled for compute capabilities 8.0 and 9.0, down to machine code; no GPU is needed for that.

The tolerance is the bound of floating-point summation, as in `test_kernels.py`.
"""

import importlib
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from gossamer.kernels import reference
from gossamer.kernels.gradient import AdamStep, Outer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HERE = (DEVICE == "cuda" or INTERPRETED) and importlib.util.find_spec("triton") is not None
KERNELS = Path(reference.__file__).parent
MODULES = [f"gossamer.kernels.{path.stem}" for path in sorted(KERNELS.glob("triton_*.py"))]

if HERE:
    from gossamer.kernels import triton_dots, triton_gpu, triton_select


if not HERE:

    @pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
    def test_in_the_interpreter():
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--no-header", __file__],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"TRITON_INTERPRET": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]


class OnDevice:
    """Tests that launch kernels."""

    __test__ = HERE


@dataclass(frozen=True)
class Problem:
    """Rows x, directions weight and the places and values of codes, as any primitive needs them."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    offsets: Tensor
    indices: Tensor
    values: Tensor

    def double(self) -> "Problem":
        return Problem(*(t.double() if t.is_floating_point() else t for t in vars(self).values()))

    def absolute(self) -> "Problem":
        return Problem(*(t.abs() for t in vars(self.double()).values()))


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def relaid(tensor: Tensor, layout: str) -> Tensor:
    """Return equal numbers, laid out differently in memory."""
    if layout == "transposed" and tensor.dim() == 2:
        return tensor.T.contiguous().T
    if layout == "sliced":
        return torch.stack([tensor, torch.full_like(tensor, 99)], dim=-1)[..., 0]
    return tensor.contiguous()


def problem(
    rows: int,
    width: int,
    latents: int,
    density: float,
    *,
    dtype: torch.dtype = torch.float32,
    layout: str = "contiguous",
    seed: int = 0,
) -> Problem:
    """Ragged rows, a row and a latent without entries, a latent in many rows, no order within a row."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(rows, latents, generator=generator) < density
    if density < 1 and latents:
        places[: rows // 2, -1] = density > 0
        places[rows // 2 : rows // 2 + 1] = False
        places[:, latents // 2] = False
    row, indices = places.nonzero(as_tuple=True)
    order = (row + 0.9 * torch.rand(len(row), generator=generator)).argsort()
    offsets = torch.nn.functional.pad(places.sum(dim=1).cumsum(0), (1, 0)).to(DEVICE)
    x, weight = random(rows, width, seed=seed + 1), random(latents, width, seed=seed + 2)
    bias, values = random(latents, seed=seed + 3), random(len(row), seed=seed + 4)
    tensors = [x.to(dtype), weight.to(dtype), bias.to(dtype), offsets, indices[order].to(DEVICE), values.to(dtype)]
    return Problem(*(relaid(tensor, layout) for tensor in tensors))


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what is allocated without a value with NaN, or with a number that is no index."""
    for owner, name in [(torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")]:
        monkeypatch.setattr(owner, name, _filled(getattr(owner, name)))


def _filled(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def allocate_and_fill(*arguments: object, **options: object) -> Tensor:
        tensor = allocate(*arguments, **options)
        return tensor.fill_(float("nan") if tensor.is_floating_point() else -77)

    return allocate_and_fill


Primitive = Callable[[ModuleType, Problem], Tensor]
PRIMITIVES: dict[str, Primitive] = {
    "gather_dot": lambda by, p: by.gather_dot(p.x, p.weight, p.offsets, p.indices),
    "gather_sum": lambda by, p: by.gather_sum(p.offsets, p.indices, p.values, p.weight),
    "scatter_outer": lambda by, p: by.scatter_outer(p.offsets, p.indices, p.values, p.x, p.weight.shape[0]),
    "residual": lambda by, p: by.residual(p.offsets, p.indices, p.values, p.weight, p.x[:1].sum(0), -p.x)[0],
}
SIZES = {
    "smallest": (1, 1, 1, 1.0),
    "one-row": (1, 100, 63, 0.2),
    "one-column": (20, 1, 63, 0.1),
    "one-latent": (63, 100, 1, 1.0),
    "sparse": (20, 63, 400, 0.02),
    "wide": (9, 1000, 40, 0.3),
    "all": (9, 63, 100, 1.0),
    "no-entries": (63, 100, 63, 0.0),
    "no-rows": (0, 63, 20, 0.5),
    "no-columns": (5, 0, 7, 0.5),
    "no-latents": (5, 7, 0, 0.5),
}


def require_close(got: Tensor, exact: Tensor, magnitude: Tensor, terms: int) -> None:
    assert got.shape == exact.shape
    bound = (terms + 4) * torch.finfo(got.dtype).eps * magnitude
    error = (got.double() - exact).abs()
    assert bool((error <= bound).all()), f"off by {error.max():.3g}, bound {bound.max():.3g}"


def require_primitive(name: str, p: Problem) -> Tensor:
    run = PRIMITIVES[name]
    got = run(triton_gpu, p)
    assert got.dtype == p.x.dtype
    terms = max(*p.x.shape, *p.weight.shape)
    require_close(got, run(reference, p.double()), run(reference, p.absolute()).abs(), terms)
    return got


@pytest.mark.parametrize("primitive", PRIMITIVES)
class TestSums(OnDevice):
    @pytest.mark.parametrize("size", SIZES)
    def test_are_those_of_the_definition(self, primitive: str, size: str):
        require_primitive(primitive, problem(*SIZES[size]))

    @pytest.mark.parametrize("layout", ["transposed", "sliced"])
    def test_do_not_depend_on_how_tensors_lie_in_memory(self, primitive: str, layout: str):
        require_primitive(primitive, problem(9, 63, 100, 0.2, layout=layout))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
    def test_agree_in_every_dtype(self, primitive: str, dtype: torch.dtype):
        require_primitive(primitive, problem(9, 40, 63, 0.2, dtype=dtype))

    @pytest.mark.usefixtures("poisoned")
    @pytest.mark.parametrize("size", ["one-row", "no-entries", "all"])
    def test_do_not_read_uninitialised_memory(self, primitive: str, size: str):
        assert torch.ones(1).new_empty(3).isnan().all()
        require_primitive(primitive, problem(*SIZES[size]))

    def test_have_the_same_bits_on_every_call(self, primitive: str):
        p = problem(16, 63, 30, 0.4)
        first = PRIMITIVES[primitive](triton_gpu, p)
        for _ in range(2):
            assert torch.equal(PRIMITIVES[primitive](triton_gpu, p), first)


class TestResidual(OnDevice):
    def test_comes_with_the_sum_of_its_squares(self):
        p = problem(9, 63, 100, 0.2)
        rest, square = triton_gpu.residual(p.offsets, p.indices, p.values, p.weight, p.x[0], p.x)
        assert square.shape == ()
        torch.testing.assert_close(square, rest.double().square().sum().float())


class TestLatentsInManyRows(OnDevice):
    """Their entries are summed in segments beforehand."""

    @pytest.mark.parametrize("segment", [1, 4, 32])
    @pytest.mark.parametrize("density", [0.3, 1.0])
    @pytest.mark.parametrize("latents", [1, 3, 6])
    def test_have_the_sums_of_the_definition(
        self, segment: int, density: float, latents: int, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(triton_gpu, "SEGMENT", segment)
        for rows in (1, 31, 32, 33):
            require_primitive("scatter_outer", problem(rows, 5, latents, density, seed=rows))

    @pytest.mark.usefixtures("poisoned")
    def test_have_them_at_the_real_size_of_a_segment(self):
        require_primitive("scatter_outer", problem(700, 5, 3, 0.9))


def pre_activations(p: Problem) -> tuple[Tensor, Tensor]:
    """Return the float64 values, and by how much float32 may differ from them."""
    exact, size = p.double(), p.absolute()
    slack = (p.x.shape[1] + 4) * torch.finfo(torch.float32).eps * (size.x @ size.weight.T + size.bias)
    return exact.x @ exact.weight.T + exact.bias, slack


def dense_mask(offsets: Tensor, indices: Tensor, p: Problem) -> Tensor:
    """Return `(rows, latents)`: what was chosen, after checks that apply to any selection in CSR form."""
    rows, latents = p.x.shape[0], p.weight.shape[0]
    assert offsets.dtype == indices.dtype == torch.int64
    assert offsets.shape == (rows + 1,)
    row = torch.repeat_interleave(torch.arange(rows, device=DEVICE), offsets.diff())
    place = row * latents + indices
    assert bool((place.diff() > 0).all()), "latents are not in order, or twice"
    return torch.zeros(rows, latents, dtype=torch.bool, device=DEVICE).index_put((row, indices), torch.tensor(True))


def require_largest(chosen: Tensor, value: Tensor, slack: Tensor) -> None:
    """No value that was left out is larger than one that was chosen, beyond float32 rounding; row by row."""
    least = (value + slack).masked_fill(~chosen, float("inf")).amin(dim=1)
    most = (value - slack).masked_fill(chosen, -float("inf")).amax(dim=1)
    assert not (least < most).any(), f"{int((least < most).sum())} of {len(value)} rows chose another set"


MEASURES: dict[str, Callable[[Tensor], Tensor]] = {"select_topk": lambda pre: pre, "select_abs_topk": torch.abs}
"""By what the latents of a row are compared."""


def require_topk(name: str, p: Problem, k: int, trusted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Check a selection, in the rows that are trusted to have finite values."""
    indices, values = getattr(triton_gpu, name)(p.x, p.weight, p.bias, k)
    rows, latents = p.x.shape[0], p.weight.shape[0]
    assert indices.shape == values.shape == (rows, k)
    assert indices.dtype == torch.int64 and values.dtype == p.x.dtype
    assert bool(((indices >= 0) & (indices < latents)).all())
    chosen = torch.zeros(rows, latents, dtype=torch.bool, device=DEVICE).scatter(1, indices, True)
    assert chosen.sum(dim=1).eq(k).all(), "a latent was chosen twice"
    value, slack = pre_activations(p)
    trusted = torch.ones(rows, dtype=torch.bool) if trusted is None else trusted
    if rows and k:
        require_largest(chosen[trusted], MEASURES[name](value)[trusted], slack[trusted])
    off = (values - value.gather(1, indices)).abs()[trusted]
    assert bool((off <= slack.gather(1, indices)[trusted]).all()), "values are not exact"
    return indices, values


def require_group_max(p: Problem, groups: int, trusted: Tensor | None = None) -> Tensor:
    """Check a selection, in the rows that are trusted to have finite values."""
    indices, values = triton_gpu.select_group_max(p.x, p.weight, p.bias, groups)
    rows, latents = p.x.shape[0], p.weight.shape[0]
    assert indices.shape == values.shape == (rows, groups)
    assert indices.dtype == torch.int64 and values.dtype == p.x.dtype
    of_group = torch.arange(groups, device=DEVICE).expand(rows, groups)
    assert torch.equal(indices // (latents // groups), of_group), "a latent is of another group"
    value, slack = pre_activations(p)
    most = (value - slack).view(rows, groups, latents // groups).amax(2)
    value, slack = value.gather(1, indices), slack.gather(1, indices)
    trusted = torch.ones(rows, dtype=torch.bool) if trusted is None else trusted
    assert not (value + slack < most)[trusted].any(), "another latent is larger"
    assert bool(((values - value).abs() <= slack)[trusted].all()), "values are not exact"
    return indices


def require_above(p: Problem, floor: Tensor, trusted: Tensor | None = None) -> Tensor:
    offsets, indices, values = triton_gpu.select_above(p.x, p.weight, p.bias, floor)
    chosen = dense_mask(offsets, indices, p)
    value, slack = pre_activations(p)
    trusted = torch.ones(len(value), dtype=torch.bool) if trusted is None else trusted
    clear = ((value - floor).abs() > slack)[trusted]
    assert torch.equal(chosen[trusted][clear], (value > floor)[trusted][clear])
    dense = torch.zeros_like(value).masked_scatter(chosen, values.double())
    assert bool(((dense - value).abs() <= slack)[trusted][chosen[trusted]].all()), "values are not exact"
    return chosen


def require_batch_topk(p: Problem, count: int) -> Tensor:
    offsets, indices, values = triton_gpu.select_batch_topk(p.x, p.weight, p.bias, count)
    chosen = dense_mask(offsets, indices, p)
    value, slack = pre_activations(p)
    assert int(chosen.sum()) == len(values) == count
    if count:
        require_largest(chosen.view(1, -1), value.view(1, -1), slack.view(1, -1))
    assert bool(((values - value[chosen]).abs() <= slack[chosen]).all()), "values are not exact"
    return chosen


@pytest.fixture
def redone(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect how many rows the definition was asked for, in each call."""
    rows: list[int] = []
    for name in ("select_topk", "select_abs_topk", "select_group_max", "select_above", "select_batch_topk"):
        define = getattr(reference, name)

        def note(x: Tensor, *arguments: Any, define: Callable[..., Any] = define) -> Any:
            rows.append(x.shape[0])
            return define(x, *arguments)

        monkeypatch.setattr(triton_select.reference, name, note)
    return rows


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of 1000 latents fit into one chunk, or one row in full precision."""
    monkeypatch.setattr(triton_select, "CHUNK_BYTES", 13_000)


TOPK_SIZES = {
    "smallest": (1, 1, 1, 1),
    "k-1": (9, 100, 1000, 1),
    "k-32": (9, 63, 1000, 32),
    "k-100": (3, 63, 3000, 100),
    "k-is-latents": (5, 100, 100, 100),
    "few-latents": (7, 100, 63, 5),
    "one-column": (9, 1, 1000, 16),
    "several-blocks": (3, 40, 2500, 40),
    "one-row": (1, 63, 1000, 8),
    "no-rows": (0, 63, 1000, 3),
    "none": (3, 63, 1000, 0),
}


def one_latent_is_far_off(last_candidate: float, other: float) -> Problem:
    """Latent 500 is rounded twice as badly as the last of 32 candidates, which is rounded up to 64."""
    p = problem(3, 2, 1000, 0.0)
    p.x[:] = torch.tensor([1, 1 + 0.9 * 2**-8], device=DEVICE)  # in bfloat16 that is 1, 1
    p.weight.zero_(), p.bias.zero_()
    p.weight[:32, 0] = torch.tensor([last_candidate, *range(70, 101)], device=DEVICE)
    p.weight[500, 1] = other
    return p


@pytest.mark.parametrize("name", MEASURES)
class TestSelectTopK(OnDevice):
    @pytest.mark.parametrize("size", TOPK_SIZES)
    def test_chooses_what_float64_chooses(self, name: str, size: str):
        rows, width, latents, k = TOPK_SIZES[size]
        require_topk(name, problem(rows, width, latents, 0.0), k)

    @pytest.mark.parametrize("layout", ["transposed", "sliced"])
    def test_does_not_depend_on_how_tensors_lie_in_memory(self, name: str, layout: str):
        require_topk(name, problem(5, 63, 1000, 0.0, layout=layout), 32)

    @pytest.mark.parametrize("seed", range(3))
    def test_does_nothing_twice_in_ordinary_rows(self, name: str, seed: int, redone: list[int]):
        require_topk(name, problem(9, 32, 1000, 0.0, seed=seed), 24)
        assert redone == []

    @pytest.mark.usefixtures("small_chunks")
    @pytest.mark.parametrize("latents", [200, 1000])
    def test_works_through_chunks_of_rows(self, name: str, latents: int):
        p = problem(7, 40, latents, 0.0)
        require_topk(name, p, 20)
        require_topk(name, Problem(**{**vars(p), "bias": 1000 + p.bias}), 20)

    def test_ties_give_different_latents(self, name: str):
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(-1, 2, (9, 6), generator=generator).float().to(DEVICE)
        weight = torch.randint(-1, 2, (600, 6), generator=generator).float().to(DEVICE)
        for given_weight in (weight, weight[:1].expand(600, 6), torch.zeros_like(weight)):
            p = Problem(x, given_weight, torch.zeros(600, device=DEVICE), *(torch.zeros(0),) * 3)
            require_topk(name, p, 9)

    def test_the_best_are_found_behind_more_ties_than_there_is_room_for(self, name: str):
        p = problem(3, 4, 1000, 0.0)
        p = Problem(*(torch.ones_like(t) for t in vars(p).values()))
        p.weight[-5:] = 2
        indices, _ = require_topk(name, p, 20)
        assert torch.equal(indices.sort().values[:, -5:], torch.arange(995, 1000, device=DEVICE).expand(3, 5))

    def test_a_row_with_a_larger_error_than_was_allowed_for_is_done_again(self, name: str, redone: list[int]):
        """The candidates' largest error is 0.11, so that 0.165 is allowed for; then a latent is off by 0.224."""
        indices, _ = require_topk(name, one_latent_is_far_off(63.89, 63.75), 32)
        assert redone == [3]
        assert (indices == 500).any(dim=1).all()

    @pytest.mark.parametrize("distance", [1.0, 30.0, 300.0])
    def test_rows_far_from_the_origin_are_chosen_as_well(self, name: str, distance: float):
        """This is what a saved autoencoder sees: raw rows, and the mean folded into its bias."""
        mean, weight = distance * random(64, seed=1), random(1000, 64, seed=2)
        p = Problem(mean + random(12, 64, seed=3), weight, -(weight @ mean), *(torch.zeros(0),) * 3)
        require_topk(name, p, 16)

    def test_latents_of_very_different_length_are_chosen_as_well(self, name: str):
        weight = random(1000, 64, seed=2) * torch.logspace(-3, 3, 1000, device=DEVICE)[:, None]
        require_topk(name, Problem(random(9, 64, seed=3), weight, random(1000, seed=4), *(torch.zeros(0),) * 3), 16)

    @pytest.mark.parametrize("where", ["row", "latent", "bias", "everything", "infinity"])
    def test_nan_and_infinity_harm_only_their_rows(self, name: str, where: str):
        p = problem(6, 40, 1000, 0.0)
        {
            "row": lambda: p.x[2].fill_(float("nan")),
            "latent": lambda: p.weight[7, 3].fill_(float("nan")),
            "bias": lambda: p.bias[7].fill_(float("nan")),
            "everything": lambda: p.x.fill_(float("nan")),
            "infinity": lambda: p.x[2, 0].fill_(float("inf")),
        }[where]()
        trusted = torch.arange(6, device=DEVICE) != 2
        indices, _ = require_topk(name, p, 16, trusted if where in ("row", "infinity") else torch.zeros_like(trusted))
        if where in ("latent", "bias"):
            assert (indices == 7).any(dim=1).all(), "NaN is larger than any number, as in torch.topk"

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_other_dtypes_are_done_by_the_definition(self, name: str, dtype: torch.dtype):
        p = problem(5, 20, 1000, 0.0, dtype=dtype)
        indices, values = getattr(triton_gpu, name)(p.x, p.weight, p.bias, 9)
        exact_indices, exact = getattr(reference, name)(p.x, p.weight, p.bias, 9)
        assert torch.equal(indices, exact_indices) and torch.equal(values, exact)

    @pytest.mark.usefixtures("poisoned")
    @pytest.mark.parametrize("k", [3, 32])
    def test_does_not_read_uninitialised_memory(self, name: str, k: int):
        require_topk(name, problem(5, 40, 1000, 0.0), k)

    def test_has_the_same_bits_on_every_call(self, name: str):
        p = problem(9, 40, 1000, 0.0)
        once, again = (getattr(triton_gpu, name)(p.x, p.weight, p.bias, 16) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))

    @pytest.mark.parametrize("setting", ["high", "autocast"])
    def test_full_precision_is_full_whatever_is_set(self, name: str, setting: str, monkeypatch: pytest.MonkeyPatch):
        before = torch.get_float32_matmul_precision()
        p = problem(5, 64, 100, 0.0)
        try:
            torch.set_float32_matmul_precision("high" if setting == "high" else before)
            with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=setting == "autocast"):
                require_topk(name, p, 5)
                require_topk(name, problem(5, 64, 1000, 0.0), 5)
            assert torch.get_float32_matmul_precision() == ("high" if setting == "high" else before)
        finally:
            torch.set_float32_matmul_precision(before)


class TestSelectTopKByValue(OnDevice):
    def test_the_margin_is_the_error_of_the_row_or_what_is_typical_of_its_batch(self):
        nan = float("nan")
        error = torch.tensor([0, 1, 2, 3, 100, nan], device=DEVICE)
        margin = triton_select._margin(error, torch.ones(6, 4, device=DEVICE), torch.nanmedian)
        expected = triton_select.SAFETY * torch.tensor([2, 2, 2, 3, 100, nan], device=DEVICE)
        torch.testing.assert_close(margin, expected, equal_nan=True)

    def test_a_bias_of_minus_infinity_turns_latents_off(self):
        p = problem(4, 40, 1000, 0.0)
        p.bias[::2] = -float("inf")
        indices, _ = triton_gpu.select_topk(p.x, p.weight, p.bias, 16)
        exact = p.x.double() @ p.weight.double().T + p.bias.double()
        assert torch.equal(indices.sort().values, exact.topk(16).indices.sort().values)

    def test_a_bias_of_infinity_is_in_every_row(self):
        p = problem(3, 40, 1000, 0.0)
        p.bias[7] = float("inf")
        indices, _ = triton_gpu.select_topk(p.x, p.weight, p.bias, 4)
        assert (indices == 7).any(dim=1).all()

    def test_magnitudes_are_those_of_negative_numbers_too(self, redone: list[int]):
        p = problem(4, 40, 1000, 0.0)
        p.bias[::10] = -1000
        indices, values = triton_gpu.select_abs_topk(p.x, p.weight, p.bias, 100)
        assert torch.equal(indices.sort().values, torch.arange(0, 1000, 10, device=DEVICE).expand(4, 100))
        assert (values < -900).all()
        assert redone == []


class TestSelectGroupMax(OnDevice):
    @pytest.mark.parametrize(
        ("rows", "width", "latents", "groups"),
        [
            (1, 1, 1, 1),
            (9, 100, 1000, 1),
            (9, 63, 999, 3),
            (5, 63, 1024, 16),
            (3, 40, 2560, 40),
            (9, 1, 1000, 8),
            (1, 63, 1000, 5),
            (5, 20, 1000, 500),
            (7, 100, 63, 9),
            (0, 63, 1000, 8),
        ],
    )
    def test_chooses_what_float64_chooses(self, rows: int, width: int, latents: int, groups: int):
        require_group_max(problem(rows, width, latents, 0.0), groups)

    @pytest.mark.parametrize("groups", [0, 3, 2000])
    def test_groups_have_to_divide_the_latents(self, groups: int):
        p = problem(2, 4, 1000, 0.0)
        with pytest.raises(ValueError, match=f"1000 latents cannot be cut into {groups} equal groups"):
            triton_gpu.select_group_max(p.x, p.weight, p.bias, groups)

    @pytest.mark.parametrize("layout", ["transposed", "sliced"])
    def test_does_not_depend_on_how_tensors_lie_in_memory(self, layout: str):
        require_group_max(problem(5, 63, 1000, 0.0, layout=layout), 8)

    @pytest.mark.parametrize("groups", [1, 2, 20])
    def test_does_nothing_twice_in_ordinary_rows(self, groups: int, redone: list[int]):
        require_group_max(problem(3, 32, 1000, 0.0), groups)
        assert redone == []

    @pytest.mark.parametrize("groups", [1, 4, 20])
    def test_the_error_of_a_row_is_that_of_enough_candidates(self, groups: int, monkeypatch: pytest.MonkeyPatch):
        wanted, best = [], triton_select._best

        def noted(rough: Tensor, k: int, *arguments: Any, **options: Any) -> Any:
            wanted.append(k)
            return best(rough, k, *arguments, **options)

        monkeypatch.setattr(triton_select, "_best", noted)
        require_group_max(problem(3, 32, 1000, 0.0), groups)
        assert wanted and all(k * groups >= triton_select.SAMPLE for k in wanted)

    @pytest.mark.usefixtures("small_chunks")
    @pytest.mark.parametrize("latents", [200, 1000])
    def test_works_through_chunks_of_rows(self, latents: int):
        require_group_max(problem(7, 40, latents, 0.0), 10)

    @pytest.mark.parametrize("bias", [0.0, 1000.0])
    def test_ties_give_a_latent_of_the_group(self, bias: float):
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(-1, 2, (3, 6), generator=generator).float().to(DEVICE)
        weight = torch.randint(-1, 2, (600, 6), generator=generator).float().to(DEVICE)
        for given_weight in (weight, torch.zeros_like(weight)):
            biases = torch.full((600,), bias, device=DEVICE)
            require_group_max(Problem(x, given_weight, biases, *(torch.zeros(0),) * 3), 10)

    def test_a_row_with_a_larger_error_than_was_allowed_for_is_done_again(self, redone: list[int]):
        """The candidates' largest error is 0.11, so that 0.165 is allowed for; then a latent is off by 0.224."""
        p = one_latent_is_far_off(0.0, 0.0)
        p.weight[:16, 0] = torch.arange(70.0, 86.0, device=DEVICE)
        p.weight[600:616, 0] = 63.89
        p.weight[900, 1] = 63.75
        indices = require_group_max(p, 2)
        assert redone == [3]
        assert (indices[:, 1] == 900).all()

    @pytest.mark.parametrize("distance", [30.0, 300.0])
    @pytest.mark.parametrize("groups", [1, 4, 20])
    def test_rows_far_from_the_origin_are_chosen_as_well(self, distance: float, groups: int):
        mean, weight = distance * random(64, seed=1), random(1000, 64, seed=2)
        p = Problem(mean + random(3, 64, seed=3), weight, -(weight @ mean), *(torch.zeros(0),) * 3)
        require_group_max(p, groups)

    @pytest.mark.parametrize("where", ["row", "latent", "infinity"])
    def test_nan_and_infinity_harm_only_their_rows(self, where: str):
        p = problem(6, 40, 1000, 0.0)
        {
            "row": lambda: p.x[2].fill_(float("nan")),
            "latent": lambda: p.weight[7, 3].fill_(float("nan")),
            "infinity": lambda: p.x[2, 0].fill_(float("inf")),
        }[where]()
        trusted = torch.arange(6, device=DEVICE) != 2
        indices = require_group_max(p, 10, torch.zeros_like(trusted) if where == "latent" else trusted)
        if where == "latent":
            assert (indices[:, 0] == 7).all(), "NaN is larger than any number, as in torch.max"

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_other_dtypes_are_done_by_the_definition(self, dtype: torch.dtype):
        p = problem(5, 20, 1000, 0.0, dtype=dtype)
        found = triton_gpu.select_group_max(p.x, p.weight, p.bias, 8)
        exact = reference.select_group_max(p.x, p.weight, p.bias, 8)
        assert all(torch.equal(a, b) for a, b in zip(found, exact, strict=True))

    @pytest.mark.usefixtures("poisoned")
    @pytest.mark.parametrize("groups", [1, 20])
    def test_does_not_read_uninitialised_memory(self, groups: int):
        require_group_max(problem(2, 40, 1000, 0.0), groups)

    def test_has_the_same_bits_on_every_call(self):
        p = problem(3, 40, 1000, 0.0)
        once, again = (triton_gpu.select_group_max(p.x, p.weight, p.bias, 10) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


class TestSelectAbove(OnDevice):
    @pytest.mark.parametrize(("rows", "width", "latents"), [(9, 63, 1000), (1, 100, 2500), (5, 1, 1000), (7, 100, 63)])
    @pytest.mark.parametrize("level", [-100.0, 0.0, 1.8, 1000.0])
    def test_chooses_what_float64_chooses(self, rows: int, width: int, latents: int, level: float):
        p = problem(rows, width, latents, 0.0)
        floor = width**0.5 * (level + 0.1 * random(latents, seed=9))
        require_above(p, floor)

    def test_of_no_rows_is_nothing(self):
        p = problem(0, 63, 1000, 0.0)
        assert require_above(p, torch.zeros(1000, device=DEVICE)).shape == (0, 1000)

    @pytest.mark.parametrize("seed", range(3))
    def test_does_nothing_twice_in_ordinary_rows(self, seed: int, redone: list[int]):
        p = problem(9, 32, 1000, 0.0, seed=seed)
        assert require_above(p, torch.full((1000,), 12.0, device=DEVICE)).sum() > 50
        assert redone == []

    @pytest.mark.usefixtures("small_chunks", "poisoned")
    def test_works_through_chunks_of_rows(self):
        p = problem(7, 40, 1000, 0.0)
        require_above(p, torch.full((1000,), 12.0, device=DEVICE))
        require_above(p, torch.zeros(1000, device=DEVICE))

    @pytest.mark.parametrize("distance", [30.0, 300.0])
    def test_rows_far_from_the_origin_are_chosen_as_well(self, distance: float):
        mean, weight = distance * random(64, seed=1), random(1000, 64, seed=2)
        p = Problem(mean + random(12, 64, seed=3), weight, -(weight @ mean), *(torch.zeros(0),) * 3)
        require_above(p, torch.full((1000,), 15.0, device=DEVICE))

    def test_a_row_with_a_larger_error_than_was_allowed_for_is_done_again(self, redone: list[int]):
        """The candidates' largest error is 0.174, so that 0.261 is allowed for; then a latent is off by 0.294."""
        chosen = require_above(one_latent_is_far_off(63.876, 63.62), torch.full((1000,), 63.8, device=DEVICE))
        assert redone == [3]
        assert chosen[:, 500].all()

    def test_a_value_at_its_floor_is_not_above_it(self):
        p = problem(5, 6, 600, 0.0)
        p = Problem(*(t.round() if t.is_floating_point() else t for t in vars(p).values()))
        floor = torch.full((600,), 9.0, device=DEVICE)
        offsets, indices, _ = triton_gpu.select_above(p.x, p.weight, p.bias, floor)
        assert torch.equal(dense_mask(offsets, indices, p), p.x @ p.weight.T + p.bias > 9)

    def test_an_infinite_floor_turns_latents_off(self):
        p, floor = problem(5, 40, 1000, 0.0), torch.full((1000,), 12.0, device=DEVICE)
        floor[::2] = float("inf")
        assert not require_above(p, floor)[:, ::2].any()

    def test_a_floor_of_minus_infinity_lets_latents_through(self):
        p, floor = problem(5, 40, 1000, 0.0), torch.full((1000,), 12.0, device=DEVICE)
        floor[::2] = -float("inf")
        offsets, indices, _ = triton_gpu.select_above(p.x, p.weight, p.bias, floor)
        assert torch.equal(dense_mask(offsets, indices, p), p.x @ p.weight.T + p.bias > floor)

    def test_nan_is_seen_even_where_nothing_else_is(self):
        p, floor = problem(3, 40, 1000, 0.0), torch.full((1000,), 1e9, device=DEVICE)
        p.weight[3] = float("nan")
        offsets, indices, _ = triton_gpu.select_above(p.x, p.weight, p.bias, floor)
        assert indices.tolist() == [3] * 3 and offsets.tolist() == [0, 1, 2, 3]

    @pytest.mark.parametrize("where", ["row", "latent", "floor", "infinity"])
    def test_nan_stays_so_that_it_is_seen(self, where: str):
        p, floor = problem(6, 40, 1000, 0.0), torch.full((1000,), 12.0, device=DEVICE)
        {
            "row": lambda: p.x[2].fill_(float("nan")),
            "latent": lambda: p.weight[7, 3].fill_(float("nan")),
            "floor": lambda: floor[7].fill_(float("nan")),
            "infinity": lambda: p.x[2, 0].fill_(float("inf")),
        }[where]()
        offsets, indices, _ = triton_gpu.select_above(p.x, p.weight, p.bias, floor)
        chosen = dense_mask(offsets, indices, p)
        assert torch.equal(chosen, ~(p.x @ p.weight.T + p.bias <= floor))


class TestSelectBatchTopK(OnDevice):
    @pytest.mark.parametrize(
        ("rows", "width", "latents", "count"),
        [
            (9, 63, 1000, 9 * 32),
            (1, 100, 1000, 5),
            (9, 40, 2500, 100),
            (9, 1, 1000, 50),
            (5, 63, 1000, 1),
            (5, 63, 1000, 0),
            (5, 20, 1000, 5000),
            (5, 20, 63, 40),
            (1, 1, 1, 1),
            (0, 63, 1000, 0),
        ],
    )
    def test_chooses_what_float64_chooses(self, rows: int, width: int, latents: int, count: int):
        require_batch_topk(problem(rows, width, latents, 0.0), count)

    @pytest.mark.parametrize("seed", range(3))
    def test_does_nothing_twice_in_ordinary_batches(self, seed: int, redone: list[int]):
        require_batch_topk(problem(9, 32, 1000, 0.0, seed=seed), 9 * 24)
        assert redone == []

    def test_rows_may_have_very_different_shares(self, redone: list[int]):
        p = problem(9, 40, 1000, 0.0)
        p.x[3] *= 1000
        p.x[5] = 0
        chosen = require_batch_topk(p, 90)
        assert chosen[3].sum() == 90
        assert redone == []

    @pytest.mark.usefixtures("small_chunks")
    @pytest.mark.parametrize("latents", [200, 1000])
    def test_works_through_chunks_of_rows(self, latents: int, redone: list[int]):
        require_batch_topk(problem(7, 40, latents, 0.0), 100)
        assert bool(redone) == (latents == 200)

    def test_a_batch_with_a_larger_error_than_was_allowed_for_is_done_again(self, redone: list[int]):
        chosen = require_batch_topk(one_latent_is_far_off(63.89, 63.75), 96)
        assert redone == [3]
        assert chosen[:, 500].all()

    def test_ties_do_not_change_the_count(self):
        x = torch.ones(5, 6, device=DEVICE)
        p = Problem(x, torch.ones(600, 6, device=DEVICE), torch.zeros(600, device=DEVICE), *(torch.zeros(0),) * 3)
        require_batch_topk(p, 77)

    @pytest.mark.usefixtures("poisoned")
    def test_does_not_read_uninitialised_memory(self):
        require_batch_topk(problem(5, 40, 1000, 0.0), 60)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_nan_and_infinity_give_as_many_entries_as_ever(self, value: float):
        p = problem(6, 40, 1000, 0.0)
        p.x[2, 1] = value
        offsets, indices, _ = triton_gpu.select_batch_topk(p.x, p.weight, p.bias, 70)
        assert int(dense_mask(offsets, indices, p).sum()) == 70


@dataclass
class Adam:
    """Weights in training by torch's Adam in float64, on gradients that are written out, with the projections."""

    weight: Tensor
    unit_rows: bool
    options: ClassVar[dict[str, Any]] = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8}

    def __post_init__(self) -> None:
        self.weight = self.weight.double().requires_grad_()
        self.optimizer = torch.optim.Adam([self.weight], **self.options)

    def step(self, terms: list[Outer], dense: Tensor | None) -> None:
        with torch.no_grad():
            gradient = torch.zeros_like(self.weight) if dense is None else dense.double()
            for offsets, indices, values, rows in terms:
                gradient += reference.scatter_outer(offsets, indices, values.double(), rows.double(), len(gradient))
            if self.unit_rows:
                gradient -= (gradient * self.weight).sum(1, keepdim=True) * self.weight
            self.weight.grad = gradient
            self.optimizer.step()
            if self.unit_rows:
                self.weight /= self.weight.norm(dim=1, keepdim=True)

    @property
    def moments(self) -> list[Tensor]:
        return [self.optimizer.state[self.weight][name] for name in ("exp_avg", "exp_avg_sq")]


def adam_step(step: int) -> AdamStep:
    (beta1, beta2), eps = Adam.options["betas"], Adam.options["eps"]
    return AdamStep(Adam.options["lr"], beta1, beta2, eps, 1 - beta1**step, 1 - beta2**step)


def terms_and_dense(kind: str, latents: int, width: int, step: int) -> tuple[list[Outer], Tensor | None]:
    """Return a gradient; the last latent has entries only in the first step."""
    terms = []
    for number in range({"none": 0, "dense": 0, "two": 2, "all": 2}.get(kind, 1)):
        p = problem(12, width, latents, 0.3, seed=10 * step + number)
        values = torch.where(p.indices == latents - 1, p.values * (step == 1), p.values)
        terms.append(Outer(p.offsets, p.indices, values, p.x))
    return terms, random(latents, width, seed=step) if kind in ("dense", "all") else None


class TestAdamRows(OnDevice):
    @pytest.mark.parametrize("unit_rows", [False, True])
    @pytest.mark.parametrize("kind", ["none", "dense", "one", "two", "all"])
    @pytest.mark.parametrize(("latents", "width"), [(7, 63), (1, 100), (3, 1000)])
    def test_does_what_torch_does(self, unit_rows: bool, kind: str, latents: int, width: int):
        weight = torch.nn.functional.normalize(random(latents, width, seed=5))
        first, second = torch.zeros_like(weight), torch.zeros_like(weight)
        expected = Adam(weight.clone(), unit_rows)
        for step in (1, 2, 3):
            terms, dense = terms_and_dense(kind, latents, width, step)
            kept = None if dense is None else dense.clone()
            triton_gpu.adam_rows(weight, first, second, terms, dense, adam_step(step), unit_rows=unit_rows)
            expected.step(terms, dense)
            assert dense is None or torch.equal(dense, kept), "the gradient was written to"
        for got, exact in zip((weight, first, second), (expected.weight, *expected.moments), strict=True):
            torch.testing.assert_close(got.double(), exact, rtol=2e-5, atol=2e-6)

    def test_a_latent_without_entries_moves_by_its_momentum(self):
        weight, first, second = random(3, 20, seed=1), random(3, 20, seed=2), random(3, 20, seed=3).square()
        before = weight.clone()
        step = adam_step(9)
        empty = Outer(torch.zeros(5, dtype=torch.int64, device=DEVICE), *(torch.zeros(0, device=DEVICE),) * 3)
        empty = empty._replace(indices=empty.indices.long(), rows=torch.zeros(4, 20, device=DEVICE))
        expected = [t.double() for t in (before, first, second)]
        reference.adam_rows(*expected, [], None, step, unit_rows=False)
        triton_gpu.adam_rows(weight, first, second, [empty], None, step, unit_rows=False)
        assert not torch.equal(weight, before)
        for got, exact in zip((weight, first, second), expected, strict=True):
            torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("unit_rows", [False, True])
    def test_moments_may_be_bfloat16(self, unit_rows: bool):
        """Their rounding is that of one step; Triton's interpreter cuts off instead."""
        weight = torch.nn.functional.normalize(random(7, 63, seed=5))
        first, second = random(7, 63, seed=6).bfloat16(), random(7, 63, seed=7).square().bfloat16()
        terms, dense = terms_and_dense("one", 7, 63, 3)
        expected = [t.double() for t in (weight, first, second)]
        doubles = [Outer(t.offsets, t.indices, t.values.double(), t.rows.double()) for t in terms]
        reference.adam_rows(*expected, doubles, dense, adam_step(3), unit_rows=unit_rows)
        triton_gpu.adam_rows(weight, first, second, terms, dense, adam_step(3), unit_rows=unit_rows)
        torch.testing.assert_close(weight.double(), expected[0], rtol=2e-5, atol=2e-6)
        assert first.dtype == second.dtype == torch.bfloat16
        for got, exact in zip((first, second), expected[1:], strict=True):
            torch.testing.assert_close(got.double(), exact, rtol=2**-7, atol=1e-6)

    @pytest.mark.parametrize("change", ["layout", "float64", "too wide", "segments"])
    def test_other_ways_lead_there_too(self, change: str, monkeypatch: pytest.MonkeyPatch):
        dtype = torch.float64 if change == "float64" else torch.float32
        tensors = [
            random(7, 63, seed=5).to(dtype),
            random(7, 63, seed=6).to(dtype),
            random(7, 63, seed=7).to(dtype).square(),
        ]
        if change == "layout":
            tensors = [relaid(t, layout) for t, layout in zip(tensors, ("transposed", "sliced", "plain"), strict=True)]
        if change in ("too wide", "segments"):
            monkeypatch.setattr(triton_gpu, {"too wide": "WIDEST", "segments": "SEGMENT"}[change], 4)
        terms, dense = terms_and_dense("two", 7, 63, 3)
        terms = [Outer(t.offsets, t.indices, t.values.to(dtype), t.rows.to(dtype)) for t in terms]
        doubles = [Outer(t.offsets, t.indices, t.values.double(), t.rows.double()) for t in terms]
        expected = [t.double() for t in tensors]
        reference.adam_rows(*expected, doubles, dense, adam_step(3), unit_rows=True)
        triton_gpu.adam_rows(*tensors, terms, dense, adam_step(3), unit_rows=True)
        for got, exact in zip(tensors, expected, strict=True):
            torch.testing.assert_close(got.double(), exact, rtol=2e-5, atol=2e-6)

    @pytest.mark.usefixtures("poisoned")
    def test_does_not_read_uninitialised_memory_and_leaves_parameters_parameters(self):
        weight = torch.nn.Parameter(random(5, 63, seed=1))
        moments = torch.zeros(5, 63, device=DEVICE), torch.zeros(5, 63, device=DEVICE)
        terms, dense = terms_and_dense("all", 5, 63, 1)
        triton_gpu.adam_rows(weight, *moments, terms, dense, adam_step(1), unit_rows=True)
        assert weight.requires_grad and weight.grad_fn is None
        assert all(t.isfinite().all() for t in (weight, *moments))

    def test_a_row_of_zeros_stays_finite(self):
        weight = torch.zeros(2, 20, device=DEVICE)
        moments = torch.zeros(2, 20, device=DEVICE), torch.zeros(2, 20, device=DEVICE)
        triton_gpu.adam_rows(weight, *moments, [], None, adam_step(1), unit_rows=True)
        assert torch.equal(weight, torch.zeros_like(weight))


@dataclass(frozen=True)
class Launch:
    """What a launch makes Triton compile: a kernel for these types, constants and numbers divisible by 16."""

    module: str
    kernel: str
    types: dict[str, str]
    constants: dict[str, Any]
    divisible: list[str]
    num_warps: int


NAMES = {"float32": "fp32", "float64": "fp64", "bfloat16": "bf16", "int64": "i64", "int32": "i32", "int16": "i16"}


def note_launch(kernel: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Launch:
    """Specialise as Triton does: 1 is a constant, and what 16 divides is known to be so."""
    options = dict(options)
    num_warps = options.pop("num_warps", 4)
    types, constants, divisible = {}, {}, []
    for name, value in [*zip(kernel.arg_names, arguments, strict=False), *options.items()]:
        if isinstance(value, Tensor):
            types[name] = "*" + NAMES[str(value.dtype).removeprefix("torch.")]
            divisible.append(name)
        elif isinstance(value, float):
            types[name] = "fp32"
        elif name.isupper() or value == 1:
            constants[name] = value if isinstance(value, int) else str(value)
        else:
            types[name] = "i32"
            divisible += [name] if value % 16 == 0 else []
    ordered = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    return Launch(kernel.fn.__module__, kernel.fn.__name__, ordered, constants, divisible, num_warps)


def realistic_calls(width: int, latents: int, k: int) -> Iterator[Callable[[], object]]:
    """Give calls of everything public, with the block sizes that real widths and numbers of latents lead to."""
    x, weight, bias = random(2, width, seed=1), random(latents, width, seed=2), random(latents, seed=3)
    yield lambda: triton_gpu.select_topk(x, weight, bias, k)
    yield lambda: triton_gpu.select_abs_topk(x, weight, bias, k)
    yield lambda: triton_gpu.select_group_max(x, weight, bias, 4)
    yield lambda: triton_gpu.select_batch_topk(x, weight, bias, 2 * k)
    yield lambda: triton_gpu.select_above(x, weight, bias, torch.full_like(bias, 3.5 * width**0.5))
    offsets = torch.arange(301, device=DEVICE)
    indices = (offsets[1:] == 300).long()
    values, rows = random(300, seed=4), random(300, width, seed=5)
    yield lambda: triton_gpu.gather_dot(rows[:2], weight[:2], offsets[:3], indices[:2])
    yield lambda: triton_gpu.gather_sum(offsets[:3], indices[:2], values[:2], weight[:2])
    yield lambda: triton_gpu.scatter_outer(offsets, indices, values, rows, 2)
    term = Outer(offsets, indices, values, rows)
    for unit_rows, dtype in [(True, torch.float32), (False, torch.bfloat16)]:
        moments = [torch.zeros(2, width, dtype=dtype, device=DEVICE) for _ in range(2)]
        dense = None if unit_rows else rows[:2]
        yield lambda moments=moments, dense=dense, unit_rows=unit_rows: triton_gpu.adam_rows(
            rows[:2].clone(), *moments, [term], dense, adam_step(1), unit_rows=unit_rows
        )


@pytest.fixture(scope="module")
def launches() -> list[Launch]:
    """Note the launches of realistic calls; make only those of selection, which depends on their results."""
    noted: dict[str, Launch] = {}

    def note(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        noted.setdefault(repr(launch := note_launch(kernel, arguments, options)), launch)

    def note_and_launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        note(kernel, grid, *arguments, **options)
        real_launch(kernel, grid, *arguments, **options)

    real_launch = triton_select.launch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_gpu, "launch", note)
        patch.setattr(triton_select, "launch", note_and_launch)
        patch.setattr(triton_dots, "launch", note_and_launch)
        for size in [(768, 1024, 32), (63, 600, 1), (1, 600, 8), (8192, 300, 8), (63, 8192, 1024)]:
            for call in realistic_calls(*size):
                call()
    return list(noted.values())


class TestEveryKernel(OnDevice):
    def test_is_among_those_that_are_compiled(self, launches: list[Launch]):
        from triton.runtime.jit import KernelInterface

        functions = {
            name: inspect.getsource(value.fn)
            for module in map(importlib.import_module, MODULES)
            for name, value in vars(module).items()
            if isinstance(value, KernelInterface)
        }
        compiled = {launch.kernel for launch in launches}
        assert compiled == {name for name in functions if name.endswith("_kernel")}
        for name in functions.keys() - compiled:
            assert any(f"{name}(" in source for other, source in functions.items() if other != name), name

    def test_compiles_to_machine_code_without_a_gpu(self, launches: list[Launch], tmp_path: Path):
        (tmp_path / "launches.json").write_text(json.dumps([vars(launch) for launch in launches]))
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        done = subprocess.run(
            [sys.executable, __file__, str(tmp_path / "launches.json")],
            env=environment | {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-5000:]
        assert done.stdout.split() == [str(2 * len(launches))]


def compile_all(path: str) -> None:
    """Compile what was written down, for an A100 and an H100, and print how many binaries that made."""
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    binaries = 0
    for values in json.loads(Path(path).read_text()):
        launch = Launch(**values)
        kernel = getattr(importlib.import_module(launch.module), launch.kernel)
        constants = {n: getattr(tl, f"float{v[2:]}") if isinstance(v, str) else v for n, v in launch.constants.items()}
        divisible = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in launch.divisible}
        source = ASTSource(kernel, launch.types, constexprs=constants, attrs=divisible)
        for capability in (80, 90):
            target = GPUTarget("cuda", capability, 32)
            compiled = triton.compile(source, target=target, options={"num_warps": launch.num_warps})
            binaries += len(compiled.asm["cubin"]) > 0
    print(binaries)


if __name__ == "__main__":
    compile_all(sys.argv[1])
