"""Every implementation of the four primitives agrees with `reference.py` in float64: outputs and all gradients.

The tolerance is the bound of floating-point summation: a sum of n products is off by at most about n ε Σ|products|,
with ε of the dtype in use. Σ|products| is the same primitive applied to absolute values.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gossamer import kernels
from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.encoders import PreActivations
from gossamer.codes import SparseCodes
from gossamer.kernels import reference, torch_cpu


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
        return Problem(*(t.detach().double() if t.is_floating_point() else t for t in vars(self).values()))

    def absolute(self) -> "Problem":
        return Problem(*(t.abs() for t in vars(self.double()).values()))


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
    if density < 1:
        places[:, : max(1, latents // 3)] &= torch.rand(rows, 1, generator=generator) < 0.7
        places[: rows // 2, -1] = density > 0
        places[rows // 2 : rows // 2 + 1] = False
        places[:, latents // 2] = False
    row, indices = places.nonzero(as_tuple=True)
    order = (row + 0.9 * torch.rand(len(row), generator=generator)).argsort()
    offsets = torch.nn.functional.pad(places.sum(dim=1).cumsum(0), (1, 0))
    values = torch.randn(len(row), generator=generator)
    x, weight = torch.randn(rows, width, generator=generator), torch.randn(latents, width, generator=generator)
    bias = torch.randn(latents, generator=generator)
    tensors = [x.to(dtype), weight.to(dtype), bias.to(dtype), offsets, indices[order], values.to(dtype)]
    return Problem(*(relaid(tensor, layout) for tensor in tensors))


Primitive = Callable[[ModuleType, Problem], Tensor]
PRIMITIVES: dict[str, Primitive] = {
    "gather_dot": lambda by, p: by.gather_dot(p.x, p.weight, p.offsets, p.indices),
    "gather_sum": lambda by, p: by.gather_sum(p.offsets, p.indices, p.values, p.weight),
    "scatter_outer": lambda by, p: by.scatter_outer(p.offsets, p.indices, p.values, p.x, p.weight.shape[0]),
}
LEAVES = {"gather_dot": ("x", "weight"), "gather_sum": ("values", "weight"), "scatter_outer": ("values", "x")}

SIZES = {
    "smallest": (1, 1, 1, 1.0),
    "one-row": (1, 100, 63, 0.2),
    "one-column": (100, 1, 63, 0.05),
    "one-latent": (63, 100, 1, 1.0),
    "sparse": (100, 63, 1000, 0.01),
    "many-rows": (1000, 63, 100, 0.04),
    "wide": (63, 1000, 100, 0.3),
    "half": (63, 100, 100, 0.5),
    "all": (63, 63, 100, 1.0),
    "no-entries": (63, 100, 100, 0.0),
    "no-rows": (0, 63, 100, 0.5),
}


@pytest.fixture(params=[2.0, -1.0], ids=["sparse-path", "dense-path"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Force either side of the density from which the dense products are used."""
    monkeypatch.setattr(torch_cpu, "DENSE", request.param)
    return request.param


def require_close(name: str, got: Tensor, exact: Tensor, magnitude: Tensor, terms: int) -> None:
    assert got.shape == exact.shape, f"{name}: shape {tuple(got.shape)}, expected {tuple(exact.shape)}"
    bound = (terms + 4) * torch.finfo(got.dtype).eps * magnitude
    error = (got.double() - exact).abs()
    assert bool((error <= bound).all()), f"{name}: off by {error.max():.3g}, bound {bound.max():.3g}"


def with_gradients(run: Primitive, by: ModuleType, p: Problem, leaves: tuple[str, ...]) -> list[Tensor]:
    """Return the output and its gradients with respect to the leaves, weighted by a fixed cotangent."""
    wanted = [vars(p)[name].detach().requires_grad_() for name in leaves]
    output = run(by, Problem(**{**vars(p), **dict(zip(leaves, wanted, strict=True))}))
    cotangent = torch.randn(output.shape, generator=torch.Generator().manual_seed(7)).to(output.dtype)
    if (p.values.double() >= 0).all() and (p.x.double() >= 0).all():
        cotangent = cotangent.abs()
    gradients = torch.autograd.grad(output, wanted, cotangent)
    return [output.detach(), *gradients]


def most_terms(p: Problem) -> int:
    return max(*p.x.shape, *p.weight.shape)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_outputs_and_gradients_are_those_of_the_definition(primitive: str, size: str, dtype: torch.dtype, layout: str):
    p = problem(*SIZES[size], dtype=dtype, layout=layout)
    run, leaves = PRIMITIVES[primitive], LEAVES[primitive]
    exact = with_gradients(run, reference, p.double(), leaves)
    magnitude = with_gradients(run, reference, p.absolute(), leaves)
    names = ["output", *(f"gradient of {leaf}" for leaf in leaves)]
    got = with_gradients(run, kernels, p, leaves)
    for name, a, b, m in zip(names, got, exact, magnitude, strict=True):
        assert a.dtype == dtype
        require_close(f"{primitive}, {name}", a, b, m, most_terms(p))
    require_close(f"torch_cpu.{primitive}", run(torch_cpu, p), exact[0], magnitude[0], most_terms(p))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_half_precision_agrees_too(primitive: str, dtype: torch.dtype):
    p = problem(*SIZES["half"], dtype=dtype)
    run, leaves = PRIMITIVES[primitive], LEAVES[primitive]
    exact = with_gradients(run, reference, p.double(), leaves)
    magnitude = with_gradients(run, reference, p.absolute(), leaves)
    for name, a, b, m in zip(
        ["output", *leaves], with_gradients(run, kernels, p, leaves), exact, magnitude, strict=True
    ):
        assert a.dtype == dtype
        require_close(f"{primitive}, {name}", a, b, m, most_terms(p))


@pytest.mark.parametrize("expanded", [True, False])
@pytest.mark.parametrize("size", ["sparse", "half"])
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_the_gradient_of_a_sum_is_that_of_its_written_out_form(primitive: str, size: str, expanded: bool):
    """The gradient of a sum arrives as one number spread over memory that is not there."""
    p = problem(*SIZES[size], dtype=torch.float64)
    run, leaves = PRIMITIVES[primitive], LEAVES[primitive]
    wanted = [vars(p)[name].requires_grad_() for name in leaves]
    output, exact = run(kernels, p), run(reference, p)
    one = torch.ones((), dtype=torch.float64).expand(output.shape) if expanded else torch.ones_like(output)
    for a, b in zip(torch.autograd.grad(output, wanted, one), torch.autograd.grad(exact, wanted, one), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("size", ["smallest", "sparse", "wide", "all", "no-entries"])
def test_chosen_pre_activations_have_the_gradients_of_their_definition(size: str):
    def run(by: ModuleType, p: Problem) -> Tensor:
        if by is kernels:
            return PreActivations(p.x, p.weight, p.bias).at(p.offsets, p.indices).values
        return by.gather_dot(p.x, p.weight, p.offsets, p.indices) + p.bias[p.indices]

    p, leaves = problem(*SIZES[size]), ("x", "weight", "bias")
    exact = with_gradients(run, reference, p.double(), leaves)
    magnitude = with_gradients(run, reference, p.absolute(), leaves)
    for name, a, b, m in zip(
        ["output", *leaves], with_gradients(run, kernels, p, leaves), exact, magnitude, strict=True
    ):
        require_close(name, a, b, m, most_terms(p))


@given(
    st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(1, 30)),
    st.sampled_from([0.0, 0.05, 0.09, 0.1, 0.11, 0.5, 1.0]),
    st.integers(0, 99),
)
def test_both_sides_of_the_density_switch_agree(shape: tuple[int, int, int], density: float, seed: int):
    p = problem(*shape, density, dtype=torch.float64, seed=seed)
    for run in PRIMITIVES.values():
        results = []
        with pytest.MonkeyPatch.context() as patch:
            for threshold in (-1.0, torch_cpu.DENSE, 2.0):
                patch.setattr(torch_cpu, "DENSE", threshold)
                results.append(run(torch_cpu, p))
        for result in results[1:]:
            torch.testing.assert_close(result, results[0], rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_gradients_are_the_limit_of_differences(primitive: str, check: Callable[..., bool]):
    p = problem(4, 3, 9, 0.4, dtype=torch.float64)
    leaves = LEAVES[primitive]

    def function(*tensors: Tensor) -> Tensor:
        return PRIMITIVES[primitive](kernels, Problem(**{**vars(p), **dict(zip(leaves, tensors, strict=True))}))

    assert check(function, tuple(vars(p)[name].requires_grad_() for name in leaves))


@pytest.mark.parametrize("name", ["gather_dot", "gather_sum", "scatter_outer", "select_topk", "select_positive"])
def test_operators_are_what_torch_expects_of_them(name: str):
    p = problem(6, 5, 40, 0.2)
    x, weight, values = (t.requires_grad_() for t in (p.x, p.weight, p.values))
    arguments = {
        "gather_dot": (x, weight, p.offsets, p.indices),
        "gather_sum": (p.offsets, p.indices, values, weight),
        "scatter_outer": (p.offsets, p.indices, values, x, 40),
        "select_topk": (x.detach(), weight.detach(), p.bias, 3),
        "select_positive": (x.detach(), weight.detach(), p.bias),
    }[name]
    torch.library.opcheck(getattr(torch.ops.gossamer, name).default, arguments)


def require_topk(p: Problem, k: int, chosen: Tensor) -> None:
    """The chosen are k different latents a row, and none left out is larger beyond float32 rounding."""
    rows, latents = p.x.shape[0], p.weight.shape[0]
    assert chosen.shape == (rows, k)
    assert chosen.dtype == torch.int64
    is_chosen = torch.zeros(rows, latents, dtype=torch.bool).scatter(1, chosen, True)
    assert is_chosen.sum(dim=1).eq(k).all(), "a latent was chosen twice"
    exact, size = p.double(), p.absolute()
    value = exact.x @ exact.weight.T + exact.bias
    slack = (p.x.shape[1] + 4) * torch.finfo(torch.float32).eps * (size.x @ size.weight.T + size.bias)
    least = (value + slack).masked_fill(~is_chosen, float("inf")).amin(dim=1)
    most = (value - slack).masked_fill(is_chosen, -float("inf")).amax(dim=1)
    wrong = least < most
    assert not wrong.any(), f"{int(wrong.sum())} of {rows} rows chose another set"


@pytest.mark.usefixtures("low_precision_selection")
class TestSelectTopK:
    @pytest.mark.parametrize(
        ("rows", "width", "latents", "k"),
        [
            (1, 1, 1, 1),
            (63, 100, 1000, 1),
            (100, 63, 1000, 32),
            (63, 100, 100, 100),
            (7, 1000, 63, 5),
            (100, 1, 1000, 16),
            (0, 63, 100, 3),
        ],
    )
    @pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced"])
    def test_chooses_what_float64_chooses(self, rows: int, width: int, latents: int, k: int, layout: str):
        p = problem(rows, width, latents, 0.1, layout=layout)
        require_topk(p, k, kernels.select_topk(p.x, p.weight, p.bias, k))

    @given(
        st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 200)),
        st.integers(1, 24),
        st.integers(0, 999),
    )
    @settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_chooses_what_float64_chooses_whatever_the_sizes(self, shape: tuple[int, int, int], k: int, seed: int):
        p, k = problem(*shape, 0.1, seed=seed), min(k, shape[2])
        require_topk(p, k, kernels.select_topk(p.x, p.weight, p.bias, k))

    def test_ties_give_different_latents(self, generator: torch.Generator):
        x = torch.randint(-1, 2, (50, 6), generator=generator).float()
        weight = torch.randint(-1, 2, (200, 6), generator=generator).float()
        for given_weight in (weight, torch.zeros(200, 6)):
            p = Problem(x, given_weight, torch.zeros(200), *(torch.zeros(0),) * 3)
            require_topk(p, 9, kernels.select_topk(x, given_weight, p.bias, 9))

    @pytest.mark.parametrize("distance", [1.0, 30.0, 300.0])
    def test_rows_far_from_the_origin_are_chosen_as_well(self, generator: torch.Generator, distance: float):
        """This is what a saved autoencoder sees: raw rows, and the mean folded into its bias."""
        mean = distance * torch.randn(64, generator=generator)
        x, weight = mean + torch.randn(200, 64, generator=generator), torch.randn(1000, 64, generator=generator)
        p = Problem(x, weight, -(weight @ mean), *(torch.zeros(0),) * 3)
        require_topk(p, 16, kernels.select_topk(p.x, p.weight, p.bias, 16))

    def test_a_bias_common_to_all_latents_changes_nothing(self, generator: torch.Generator):
        x, weight = torch.randn(100, 64, generator=generator), torch.randn(1000, 64, generator=generator)
        p = Problem(x, weight, torch.full((1000,), 1000.0), *(torch.zeros(0),) * 3)
        require_topk(p, 16, kernels.select_topk(p.x, p.weight, p.bias, 16))


@given(st.tuples(st.integers(0, 9), st.integers(1, 20), st.integers(1, 40)), st.integers(0, 99))
def test_select_positive_finds_every_positive_pre_activation_in_order(shape: tuple[int, int, int], seed: int):
    p = problem(*shape, 0.1, dtype=torch.float64, seed=seed)
    positive = p.x @ p.weight.T + p.bias > 0
    for by in (kernels, torch_cpu, reference):
        offsets, indices = by.select_positive(p.x, p.weight, p.bias)
        assert offsets.dtype == indices.dtype == torch.int64
        assert torch.equal(offsets.diff(), positive.sum(dim=1))
        assert torch.equal(indices, positive.nonzero()[:, 1])


class TestBits:
    @pytest.fixture
    def two_threads(self) -> Iterator[None]:
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        yield
        torch.set_num_threads(threads)

    @pytest.mark.usefixtures("path", "two_threads")
    @pytest.mark.parametrize("primitive", PRIMITIVES)
    def test_are_the_same_on_every_call(self, primitive: str):
        p, run, leaves = problem(1000, 64, 256, 0.05), PRIMITIVES[primitive], LEAVES[primitive]
        first = with_gradients(run, kernels, p, leaves)
        for _ in range(4):
            for again, once in zip(with_gradients(run, kernels, p, leaves), first, strict=True):
                assert torch.equal(again, once)

    @pytest.mark.usefixtures("low_precision_selection", "two_threads")
    def test_of_a_selection_are_the_same_on_every_call(self):
        p = problem(300, 64, 1000, 0.05)
        first = kernels.select_topk(p.x, p.weight, p.bias, 16)
        assert all(torch.equal(kernels.select_topk(p.x, p.weight, p.bias, 16), first) for _ in range(4))


class TestUninitialisedMemory:
    @pytest.fixture(params=["by torch", "by Python"])
    def poisoned(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Fill what is allocated without a value: with NaN, or with a number that is no index."""
        if request.param == "by torch":
            torch.use_deterministic_algorithms(True)
        for owner, name in itertools.product((torch, Tensor), ("empty", "empty_like", "new_empty")):
            if request.param == "by Python" and hasattr(owner, name):
                monkeypatch.setattr(owner, name, _filled(getattr(owner, name)))
        yield
        torch.use_deterministic_algorithms(False)

    @pytest.mark.usefixtures("poisoned")
    def test_is_poisoned_here(self):
        assert torch.empty(3).isnan().all()
        assert torch.ones(1).new_empty(3).isnan().all()

    @pytest.mark.usefixtures("path", "poisoned", "low_precision_selection")
    @pytest.mark.parametrize("size", ["sparse", "half", "no-entries", "all"])
    def test_is_not_read(self, size: str):
        p = problem(*SIZES[size])
        for name, run in PRIMITIVES.items():
            for tensor in with_gradients(run, kernels, p, LEAVES[name]):
                assert tensor.isfinite().all(), name
        k = min(3, p.weight.shape[0])
        require_topk(p, k, kernels.select_topk(p.x, p.weight, p.bias, k))

    @pytest.mark.usefixtures("poisoned", "low_precision_selection")
    def test_is_not_read_by_an_autoencoder(self, trained: SparseAutoencoder, rows: Tensor):
        loss = trained.loss(rows, dead=torch.arange(9))
        loss.total.backward()
        output = trained(rows)
        tensors = [loss.total, output.reconstruction, output.codes.values, output.codes.to_dense()]
        tensors += [p.grad for p in trained.parameters()]
        assert all(t.isfinite().all() for t in tensors)
        assert isinstance(output.codes, SparseCodes)
        assert output.codes.indices.ge(0).all()


def _filled(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def allocate_and_fill(*arguments: object, **options: object) -> Tensor:
        tensor = allocate(*arguments, **options)
        if tensor.is_floating_point():
            return tensor.fill_(float("nan"))
        return tensor.fill_(-1) if tensor.dtype == torch.int64 else tensor

    return allocate_and_fill
