"""One step of Adam by rows, on a gradient of factors, is `torch.optim.Adam` on that gradient as a matrix."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from gossamer import kernels
from gossamer.autoencoder.decoders import UnitRows
from gossamer.kernels import AdamStep, FactoredGradient, Outer

ROWS, WIDTH, LATENTS = 37, 20, 50
BETAS, EPS, RATE = (0.9, 0.99), 1e-8, 1e-2


@pytest.fixture(params=["numba", "torch", "reference"], autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with kernels.use(backend=request.param):
        yield request.param


def term(generator: torch.Generator, dtype: torch.dtype, *, rows: int = ROWS) -> Outer:
    """Codes in which latent 7 never occurs and the first row is empty."""
    places = torch.rand(rows, LATENTS, generator=generator) < 0.2
    places[:, 7] = False
    places[:1] = False
    offsets = torch.nn.functional.pad(places.sum(1).cumsum(0), (1, 0))
    values = torch.randn(int(offsets[-1]), generator=generator, dtype=dtype)
    matrix = torch.randn(rows, WIDTH, generator=generator, dtype=dtype)
    return Outer(offsets, places.nonzero()[:, 1].contiguous(), values, matrix)


def matrix_of(terms: list[Outer], dense: Tensor | None) -> Tensor:
    with kernels.use(backend="reference"):
        total = sum((kernels.scatter_outer(*t, LATENTS).double() for t in terms), torch.zeros(()).double())
    return total + (0 if dense is None else dense.double()) + torch.zeros(LATENTS, WIDTH).double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("unit_rows", [True, False])
@pytest.mark.parametrize(("terms", "dense"), [(0, False), (1, False), (2, False), (0, True), (2, True)])
def test_is_adam_on_the_gradient_as_a_matrix(
    terms: int, dense: bool, unit_rows: bool, dtype: torch.dtype, generator: torch.Generator
):
    weight = torch.randn(LATENTS, WIDTH, generator=generator, dtype=dtype)
    weight /= weight.norm(dim=1, keepdim=True)
    expected = weight.double().clone().requires_grad_()
    adam = torch.optim.Adam([expected], lr=RATE, betas=BETAS, eps=EPS)
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, 6):
        gradient = FactoredGradient(weight)
        gradient.terms = [term(generator, dtype, rows=ROWS if step < 4 else 1) for _ in range(terms)]
        weight.grad = torch.randn(LATENTS, WIDTH, generator=generator, dtype=dtype) if dense else None
        expected.grad = matrix_of(gradient.terms, weight.grad)
        numbers = AdamStep(RATE, *BETAS, EPS, *(1 - beta**step for beta in BETAS))
        kernels.adam_rows(gradient, first, second, numbers, unit_rows=unit_rows)
        with torch.no_grad():
            if unit_rows:
                UnitRows().before_step(expected, expected.grad)
            adam.step()
            if unit_rows:
                UnitRows().after_step(expected)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(weight.double(), expected.detach(), rtol=tolerance, atol=tolerance)
    state = adam.state[expected]
    torch.testing.assert_close(first.double(), state["exp_avg"], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(second.double(), state["exp_avg_sq"], rtol=tolerance, atol=tolerance)


def test_a_latent_that_never_occurs_goes_on_by_its_momentum(generator: torch.Generator):
    weight = torch.randn(LATENTS, WIDTH, generator=generator)
    first, second = torch.ones_like(weight), torch.ones_like(weight)
    before = weight[7].clone()
    gradient = FactoredGradient(weight)
    gradient.terms = [term(generator, torch.float32)]
    kernels.adam_rows(gradient, first, second, AdamStep(RATE, *BETAS, EPS, 1.0, 1.0), unit_rows=False)
    torch.testing.assert_close(first[7], torch.full((WIDTH,), 0.9))
    torch.testing.assert_close(weight[7], before - RATE * 0.9 / 0.99**0.5)


def test_moments_may_be_stored_in_half_the_memory(generator: torch.Generator):
    weight = torch.randn(LATENTS, WIDTH, generator=generator)
    full = weight.clone()
    moments = {t: [torch.zeros(LATENTS, WIDTH, dtype=t) for _ in range(2)] for t in (torch.bfloat16, torch.float32)}
    for step in range(1, 30):
        one = term(generator, torch.float32)
        for target, dtype in ((weight, torch.bfloat16), (full, torch.float32)):
            gradient = FactoredGradient(target)
            gradient.terms = [one]
            numbers = AdamStep(RATE, *BETAS, EPS, *(1 - beta**step for beta in BETAS))
            kernels.adam_rows(gradient, *moments[dtype], numbers, unit_rows=True)
            assert all(moment.dtype == dtype for moment in moments[dtype])
    assert 0 < (weight - full).norm() < 0.05 * full.norm()


def test_a_zero_row_stays_finite(generator: torch.Generator):
    weight = torch.zeros(LATENTS, WIDTH)
    gradient = FactoredGradient(weight)
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    kernels.adam_rows(gradient, first, second, AdamStep(RATE, *BETAS, EPS, 0.1, 0.01), unit_rows=True)
    assert torch.equal(weight, torch.zeros_like(weight))


def test_the_same_bits_on_any_number_of_threads(generator: torch.Generator):
    one, results = term(generator, torch.float32), []
    start = torch.randn(LATENTS, WIDTH, generator=generator)
    for threads in (1, 2, 3):
        weight = start.clone()
        gradient = FactoredGradient(weight)
        gradient.terms = [one]
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            moments = (torch.zeros_like(weight), torch.zeros_like(weight))
            kernels.adam_rows(gradient, *moments, AdamStep(RATE, *BETAS, EPS, 0.1, 0.01), unit_rows=True)
        finally:
            torch.set_num_threads(before)
        results.append(weight)
    assert all(torch.equal(result, results[0]) for result in results)
