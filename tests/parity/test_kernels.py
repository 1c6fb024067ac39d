"""Every implementation of the four primitives agrees with `reference.py` in float64: outputs and all gradients.

The tolerance is the bound of floating-point summation: a sum of n products is off by at most about n ε Σ|products|,
with ε of the dtype in use. Σ|products| is the same primitive applied to absolute values.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from gossamer import kernels
from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.trace import Moment
from gossamer.codes import SparseCodes
from gossamer.kernels import numba_cpu, reference, torch_cpu


@dataclass(frozen=True)
class Problem:
    """Rows x, directions weight and the places and values of codes, as any primitive needs them."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    offsets: Tensor
    indices: Tensor
    values: Tensor
    shift: Tensor

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
    tensors.append(torch.randn(width, generator=generator).to(dtype))
    return Problem(*(relaid(tensor, layout) for tensor in tensors))


Primitive = Callable[[ModuleType, Problem], Tensor]
PRIMITIVES: dict[str, Primitive] = {
    "gather_dot": lambda by, p: by.gather_dot(p.x, p.weight, p.offsets, p.indices),
    "gather_sum": lambda by, p: by.gather_sum(p.offsets, p.indices, p.values, p.weight),
    "scatter_outer": lambda by, p: by.scatter_outer(p.offsets, p.indices, p.values, p.x, p.weight.shape[0]),
}
LEAVES = {
    "gather_dot": ("x", "weight"),
    "gather_sum": ("values", "weight"),
    "scatter_outer": ("values", "x"),
}

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


@pytest.fixture(params=["numba", "torch", "dense", "reference"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Force one of the implementations; "dense" is the products of matrices that both CPU ones take above a density."""
    for module in (numba_cpu, torch_cpu):
        monkeypatch.setattr(module, "DENSE", -1.0 if request.param == "dense" else 2.0)
    with kernels.use(backend="numba" if request.param == "dense" else request.param):
        yield request.param


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


@given(
    st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(1, 30)),
    st.sampled_from([0.0, 0.05, 0.09, 0.1, 0.11, 0.5, 1.0]),
    st.integers(0, 99),
)
def test_both_sides_of_the_density_switch_agree(shape: tuple[int, int, int], density: float, seed: int):
    p = problem(*shape, density, dtype=torch.float64, seed=seed)
    for run, module in itertools.product(PRIMITIVES.values(), (numba_cpu, torch_cpu)):
        results = []
        with pytest.MonkeyPatch.context() as patch:
            for threshold in (-1.0, module.DENSE, 2.0):
                patch.setattr(module, "DENSE", threshold)
                results.append(run(module, p))
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


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced"])
@pytest.mark.parametrize("size", SIZES)
def test_residual_and_its_square_are_those_of_the_definition(size: str, layout: str):
    p = problem(*SIZES[size], layout=layout)

    def run(by: ModuleType, p: Problem) -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in (p.values, p.weight, p.shift, p.x)]
        residual, square = by.residual(p.offsets, p.indices, *leaves)
        return [residual.detach(), square.detach(), *torch.autograd.grad(square, leaves)]

    names = ("residual", "square", "values", "weight", "bias", "target")
    for name, a, b in zip(names, run(kernels, p), run(reference, p.double()), strict=True):
        scale = b.abs().max().item() if b.numel() else 0.0
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-5 * scale, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.usefixtures("path")
def test_the_gradient_of_a_squared_residual_is_the_limit_of_differences():
    p = problem(4, 3, 9, 0.4, dtype=torch.float64)
    tensors = tuple(t.requires_grad_() for t in (p.values, p.weight, p.shift, p.x))
    assert torch.autograd.gradcheck(lambda *t: kernels.residual(p.offsets, p.indices, *t)[1], tensors)
    residual, square = kernels.residual(p.offsets, p.indices, *tensors)
    assert not residual.requires_grad
    with pytest.raises(NotImplementedError, match="second derivative"):
        torch.autograd.grad(square, tensors, create_graph=True)


def few_groups(latents: int) -> int:
    """Return the largest number of groups below ten that the latents can be cut into."""
    return max(groups for groups in range(1, 10) if latents % groups == 0)


SELECTIONS: dict[str, Callable[[ModuleType, Problem], tuple[Tensor, ...]]] = {
    "select_topk": lambda by, p: by.select_topk(p.x, p.weight, p.bias, min(9, p.weight.shape[0])),
    "select_abs_topk": lambda by, p: by.select_abs_topk(p.x, p.weight, p.bias, min(9, p.weight.shape[0])),
    "select_group_max": lambda by, p: by.select_group_max(p.x, p.weight, p.bias, few_groups(p.weight.shape[0])),
    "select_above": lambda by, p: by.select_above(p.x, p.weight, p.bias, p.bias.detach().abs()),
    "select_batch_topk": lambda by, p: by.select_batch_topk(p.x, p.weight, p.bias, 5 * p.x.shape[0]),
}


@pytest.mark.parametrize("name", [*PRIMITIVES, "residual", *SELECTIONS])
def test_operators_are_what_torch_expects_of_them(name: str):
    p = problem(6, 5, 40, 0.2)
    x, weight, values = (t.requires_grad_() for t in (p.x, p.weight, p.values))
    arguments = {
        "gather_dot": (x, weight, p.offsets, p.indices),
        "gather_sum": (p.offsets, p.indices, values, weight),
        "scatter_outer": (p.offsets, p.indices, values, x, 40),
        "residual": (p.offsets, p.indices, values, weight, p.shift, x.detach()),
        "select_topk": (x, weight, p.bias, 3),
        "select_abs_topk": (x, weight, p.bias, 3),
        "select_group_max": (x, weight, p.bias, 5),
        "select_above": (x, weight, p.bias, p.bias.abs()),
        "select_batch_topk": (x, weight, p.bias, 20),
    }[name]
    operator = getattr(torch.ops.gossamer, name).default
    if name in SELECTIONS:  # torch's own check of gradients cannot add up outputs of which the first are integers
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_autograd_registration"))
        arguments = tuple(t.detach() if isinstance(t, Tensor) else t for t in arguments)
    torch.library.opcheck(operator, arguments)


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_compiled_selection_has_the_same_gradients(name: str):
    p = problem(30, 20, 200, 0.2)

    def total(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        changed = dataclasses.replace(p, x=x, weight=weight, bias=bias)
        return SELECTIONS[name](kernels, changed)[-1].square().sum()

    leaves = [t.requires_grad_() for t in (p.x, p.weight, p.bias)]
    expected = torch.autograd.grad(total(*leaves), leaves)
    compiled = torch.compile(total, backend="aot_eager", fullgraph=True)
    for got, want in zip(torch.autograd.grad(compiled(*leaves), leaves), expected, strict=True):
        torch.testing.assert_close(got, want)


def pre_activations(p: Problem) -> tuple[Tensor, Tensor]:
    """Return the float64 values, and by how much float32 may differ from them."""
    exact, size = p.double(), p.absolute()
    slack = (p.x.shape[1] + 4) * torch.finfo(torch.float32).eps * (size.x @ size.weight.T + size.bias)
    return exact.x @ exact.weight.T + exact.bias, slack


def require_exact(p: Problem, indices: Tensor, values: Tensor) -> None:
    """The values are the pre-activations of their latents, up to float32 rounding."""
    value, slack = (t.gather(1, indices) for t in pre_activations(p))
    assert values.dtype == p.x.dtype
    assert bool(((values - value).abs() <= slack).all()), "values are not exact"


MEASURES: dict[str, Callable[[Tensor], Tensor]] = {"select_topk": lambda pre: pre, "select_abs_topk": torch.abs}
"""By what the latents of a row are compared."""


def require_topk(name: str, p: Problem, k: int) -> None:
    """The chosen are k different latents a row, and none left out is larger beyond float32 rounding."""
    rows, latents = p.x.shape[0], p.weight.shape[0]
    chosen, values = getattr(kernels, name)(p.x, p.weight, p.bias, k)
    assert chosen.shape == values.shape == (rows, k)
    assert chosen.dtype == torch.int64
    is_chosen = torch.zeros(rows, latents, dtype=torch.bool).scatter(1, chosen, True)
    assert is_chosen.sum(dim=1).eq(k).all(), "a latent was chosen twice"
    value, slack = pre_activations(p)
    value = MEASURES[name](value)
    least = (value + slack).masked_fill(~is_chosen, float("inf")).amin(dim=1)
    most = (value - slack).masked_fill(is_chosen, -float("inf")).amax(dim=1)
    wrong = least < most
    assert not wrong.any(), f"{int(wrong.sum())} of {rows} rows chose another set"
    require_exact(p, chosen, values)


@pytest.mark.usefixtures("low_precision_selection")
@pytest.mark.parametrize("name", MEASURES)
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
    def test_chooses_what_float64_chooses(self, name: str, rows: int, width: int, latents: int, k: int, layout: str):
        require_topk(name, problem(rows, width, latents, 0.1, layout=layout), k)

    @given(
        st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 200)),
        st.integers(1, 24),
        st.integers(0, 999),
    )
    @settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_chooses_what_float64_chooses_whatever_the_sizes(
        self, name: str, shape: tuple[int, int, int], k: int, seed: int
    ):
        require_topk(name, problem(*shape, 0.1, seed=seed), min(k, shape[2]))

    def test_ties_give_different_latents(self, name: str, generator: torch.Generator):
        x = torch.randint(-1, 2, (50, 6), generator=generator).float()
        weight = torch.randint(-1, 2, (200, 6), generator=generator).float()
        for given_weight in (weight, torch.zeros(200, 6)):
            require_topk(name, plain(x, given_weight, torch.zeros(200)), 9)

    @pytest.mark.parametrize("distance", [1.0, 30.0, 300.0])
    def test_rows_far_from_the_origin_are_chosen_as_well(self, name: str, generator: torch.Generator, distance: float):
        require_topk(name, far_from_the_origin(generator, distance), 32)

    @pytest.mark.parametrize("bias", [1000.0, -1000.0])
    def test_a_bias_common_to_all_latents_changes_nothing(self, name: str, generator: torch.Generator, bias: float):
        x, weight = torch.randn(100, 64, generator=generator), torch.randn(1000, 64, generator=generator)
        require_topk(name, plain(x, weight, torch.full((1000,), bias)), 16)


def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Problem:
    """A problem for selections only."""
    return Problem(x, weight, bias, *(torch.zeros(0),) * 4)


def far_from_the_origin(generator: torch.Generator, distance: float) -> Problem:
    """This is what a saved autoencoder sees: raw rows, and the mean folded into its bias."""
    mean = distance * torch.randn(64, generator=generator)
    x, weight = mean + torch.randn(200, 64, generator=generator), torch.randn(1000, 64, generator=generator)
    return plain(x, weight, -(weight @ mean))


def require_group_max(p: Problem, groups: int) -> None:
    """One latent of each group is chosen, and none of the group is larger beyond float32 rounding."""
    rows, latents = p.x.shape[0], p.weight.shape[0]
    indices, values = kernels.select_group_max(p.x, p.weight, p.bias, groups)
    assert indices.shape == values.shape == (rows, groups)
    assert indices.dtype == torch.int64
    assert torch.equal(indices // (latents // groups), torch.arange(groups).expand(rows, groups))
    value, slack = pre_activations(p)
    most = (value - slack).view(rows, groups, latents // groups).amax(2)
    wrong = (value + slack).gather(1, indices) < most
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()} groups chose another latent"
    require_exact(p, indices, values)


@pytest.mark.usefixtures("low_precision_selection")
class TestSelectGroupMax:
    @pytest.mark.parametrize(
        ("rows", "width", "latents", "groups"),
        [
            (1, 1, 1, 1),
            (63, 100, 1000, 1),
            (100, 63, 1000, 8),
            (63, 100, 999, 27),
            (100, 1, 1000, 20),
            (20, 63, 2048, 256),
            (20, 63, 640, 5),
            (63, 100, 100, 50),
            (7, 1000, 63, 63),
            (0, 63, 1000, 8),
        ],
    )
    @pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced"])
    def test_chooses_what_float64_chooses(self, rows: int, width: int, latents: int, groups: int, layout: str):
        require_group_max(problem(rows, width, latents, 0.1, layout=layout), groups)

    @given(
        st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40)),
        st.integers(1, 20),
        st.integers(0, 999),
    )
    @settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_chooses_what_float64_chooses_whatever_the_sizes(self, shape: tuple[int, int, int], groups: int, seed: int):
        rows, width, size = shape
        require_group_max(problem(rows, width, size * groups, 0.1, seed=seed), groups)

    def test_ties_give_a_latent_of_the_group(self, generator: torch.Generator):
        x = torch.randint(-1, 2, (50, 6), generator=generator).float()
        weight = torch.randint(-1, 2, (200, 6), generator=generator).float()
        for given_weight in (weight, torch.zeros(200, 6)):
            require_group_max(plain(x, given_weight, torch.zeros(200)), 10)

    @pytest.mark.parametrize("distance", [1.0, 30.0, 300.0])
    @pytest.mark.parametrize("groups", [1, 20, 40])
    def test_rows_far_from_the_origin_are_chosen_as_well(
        self, generator: torch.Generator, distance: float, groups: int
    ):
        require_group_max(far_from_the_origin(generator, distance), groups)

    def test_groups_may_differ_a_thousandfold(self, generator: torch.Generator):
        """The errors of a group of small numbers are small, and the margin that the largest one asks for suffices."""
        weight = torch.randn(1000, 64, generator=generator) * torch.logspace(-2, 1, 1000)[:, None]
        require_group_max(plain(torch.randn(100, 64, generator=generator), weight, torch.zeros(1000)), 20)

    def test_a_group_that_is_turned_off_harms_no_other(self, generator: torch.Generator):
        p = far_from_the_origin(generator, 300.0)
        p.bias[:50] = -torch.inf
        indices, values = kernels.select_group_max(p.x, p.weight, p.bias, 20)
        assert values[:, 0].eq(-torch.inf).all()
        assert indices[:, 0].lt(50).all()
        exact = reference.select_group_max(p.x.double(), p.weight.double(), p.bias.double(), 20)[0]
        assert (indices[:, 1:] != exact[:, 1:]).double().mean() < 0.01  # ties in float32, whose error is 0.01 here


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("groups", [-2, 0, 3, 200])
@pytest.mark.parametrize("selection", ["float32", "auto"])
def test_groups_have_to_divide_the_latents(groups: int, selection: str):
    p = problem(5, 6, 100, 0.1)
    message = f"100 latents cannot be cut into {groups} equal groups"
    with kernels.use(selection=selection), pytest.raises(ValueError, match=message):
        kernels.select_group_max(p.x, p.weight, p.bias, groups)
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(ValueError, match=message):
        kernels.select_group_max(p.x, p.weight, p.bias, groups)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["select_topk", "select_abs_topk", "select_group_max"])
def test_other_dtypes_are_selected_by_the_definition(name: str, dtype: torch.dtype):
    p = problem(20, 30, 400, 0.1, dtype=dtype)
    indices, values = SELECTIONS[name](kernels, p)
    exact_indices, exact_values = SELECTIONS[name](reference, p)
    assert values.dtype == dtype
    assert torch.equal(indices, exact_indices)
    tolerance = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(values, exact_values, rtol=tolerance, atol=tolerance)


RAGGED = {
    "smallest": (1, 1, 1),
    "one-row": (1, 100, 1000),
    "few-latents": (100, 63, 20),
    "many": (300, 63, 1000),
    "wide": (63, 1000, 100),
    "no-rows": (0, 63, 100),
}


@pytest.mark.usefixtures("low_precision_selection")
class TestRaggedSelection:
    @pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced"])
    @pytest.mark.parametrize("size", RAGGED)
    def test_above_a_floor_is_what_float64_finds_there(self, size: str, layout: str):
        p = problem(*RAGGED[size], 0.1, layout=layout)
        floor = p.bias.abs() * p.x.shape[1] ** 0.5
        offsets, indices, values = kernels.select_above(p.x, p.weight, p.bias, floor)
        self.require_chosen(p, offsets, indices, values, lambda pre: pre > floor.double(), floor.double())

    @pytest.mark.parametrize("floor", [-1e9, 0.0, 1e9])
    def test_all_half_or_nothing_may_be_above(self, floor: float):
        p = problem(50, 63, 400, 0.1)
        floors = torch.full((400,), floor)
        offsets, indices, values = kernels.select_above(p.x, p.weight, p.bias, floors)
        self.require_chosen(p, offsets, indices, values, lambda pre: pre > floor, floors.double())

    @pytest.mark.parametrize("size", RAGGED)
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.4, 1.0])
    def test_the_largest_of_a_batch_are_those_of_float64(self, size: str, share: float):
        p = problem(*RAGGED[size], 0.1)
        count = round(share * p.x.shape[0] * p.weight.shape[0])
        offsets, indices, values = kernels.select_batch_topk(p.x, p.weight, p.bias, count)
        assert len(values) == count
        pre = p.double().x @ p.double().weight.T + p.double().bias
        cut = pre.view(-1).topk(count, sorted=False).values.amin() if count else torch.tensor(torch.inf)
        self.require_chosen(p, offsets, indices, values, lambda pre: pre >= cut, cut)

    def test_rows_may_differ_a_thousandfold(self, generator: torch.Generator):
        p = problem(200, 64, 1000, 0.1)
        p = dataclasses.replace(p, x=p.x * torch.logspace(-1, 2, 200)[:, None])
        offsets, indices, values = kernels.select_batch_topk(p.x, p.weight, p.bias, 800)
        pre = p.double().x @ p.double().weight.T + p.double().bias
        cut = pre.view(-1).topk(800, sorted=False).values.amin()
        self.require_chosen(p, offsets, indices, values, lambda pre: pre >= cut, cut)

    @staticmethod
    def require_chosen(
        p: Problem, offsets: Tensor, indices: Tensor, values: Tensor, rule: Callable[[Tensor], Tensor], cut: Tensor
    ) -> None:
        """The chosen follow the rule, but for those nearer to the cut than float32 rounding; their values are exact."""
        rows, latents = p.x.shape[0], p.weight.shape[0]
        pre, slack = pre_activations(p)
        codes = SparseCodes(offsets=offsets, indices=indices, values=torch.ones_like(values), latents=latents)
        assert offsets.shape == (rows + 1,)
        chosen = codes.to_dense()
        assert chosen.sum() == len(indices), "a latent was chosen twice"
        wrong = (chosen.bool() != rule(pre)) & ((pre - cut).abs() > slack)
        assert not wrong.any(), f"{int(wrong.sum())} entries wrong"
        row = codes.row_of_entry()
        assert ((values - pre[row, indices]).abs() <= slack[row, indices]).all()


@pytest.mark.usefixtures("low_precision_selection")
@pytest.mark.parametrize("name", SELECTIONS)
def test_values_of_the_selected_have_the_gradients_of_their_definition(name: str):
    p = problem(63, 100, 400, 0.1)
    leaves = ("x", "weight", "bias")
    got_leaves = [vars(p)[leaf].detach().clone().requires_grad_() for leaf in leaves]
    *_, values = SELECTIONS[name](kernels, dataclasses.replace(p, **dict(zip(leaves, got_leaves, strict=True))))
    got = torch.autograd.grad(values.square().sum(), got_leaves)
    exact_leaves = [t.detach().double().requires_grad_() for t in got_leaves]
    double = dataclasses.replace(p.double(), **dict(zip(leaves, exact_leaves, strict=True)))
    *_, values = SELECTIONS[name](reference, double)
    for leaf, a, b in zip(leaves, got, torch.autograd.grad(values.square().sum(), exact_leaves), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5 * float(b.abs().max()), msg=leaf)


@pytest.mark.usefixtures("low_precision_selection")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", SELECTIONS)
def test_numbers_that_are_none_come_out_and_do_no_harm(name: str, bad: float):
    p = problem(20, 100, 400, 0.1)
    p.x[3, 5] = bad
    *_, indices, values = SELECTIONS[name](kernels, p)
    assert indices.ge(0).all()
    assert indices.lt(400).all()
    assert not values.isfinite().all()


@given(
    st.tuples(st.integers(1, 20), st.integers(1, 40), st.integers(1, 300)),
    st.sampled_from(list(SELECTIONS)),
    st.integers(0, 999),
)
def test_low_precision_chooses_what_full_precision_chooses(shape: tuple[int, int, int], name: str, seed: int):
    p = problem(*shape, 0.1, dtype=torch.float32, seed=seed)
    if shape[2] < 5:
        return
    with kernels.use(selection="bfloat16"):
        *_, low = SELECTIONS[name](kernels, p)
    *_, full = SELECTIONS[name](reference, p.double())
    assert low.shape == full.shape
    torch.testing.assert_close(
        low.reshape(-1).sort().values.double(), full.reshape(-1).sort().values, rtol=1e-4, atol=1e-4
    )


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
    @pytest.mark.parametrize("name", SELECTIONS)
    def test_of_a_selection_are_the_same_on_every_call(self, name: str):
        p = problem(300, 64, 1000, 0.05)
        first = SELECTIONS[name](kernels, p)
        for _ in range(4):
            assert all(torch.equal(a, b) for a, b in zip(SELECTIONS[name](kernels, p), first, strict=True))


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

    @pytest.mark.usefixtures("low_precision_selection", "path", "poisoned")
    @pytest.mark.parametrize("size", ["sparse", "half", "no-entries", "all"])
    def test_is_not_read(self, size: str):
        p = problem(*SIZES[size])
        for name, run in PRIMITIVES.items():
            for tensor in with_gradients(run, kernels, p, LEAVES[name]):
                assert tensor.isfinite().all(), name
        for name in MEASURES:
            require_topk(name, p, min(3, p.weight.shape[0]))
        require_group_max(p, few_groups(p.weight.shape[0]))

    @pytest.mark.usefixtures("poisoned", "low_precision_selection")
    def test_is_not_read_by_an_autoencoder(self, trained: SparseAutoencoder, rows: Tensor):
        loss = trained.loss(rows, moment=Moment(dead=torch.arange(9)))
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
