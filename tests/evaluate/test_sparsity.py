"""L0, densities and activations are those of the dense matrix, however the rows were cut into batches."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gossamer.codes import SparseCodes
from gossamer.evaluate.sparsity import Sparsity, SparsityScore


def dense(rows: int, latents: int, density: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(rows, latents, generator=generator) < density
    return torch.rand(rows, latents, generator=generator) * kept


def score_of(x: Tensor, cuts: list[int]) -> SparsityScore:
    accumulated = Sparsity(x.shape[1])
    for part in x.tensor_split(cuts):
        accumulated.update(SparseCodes.from_dense(part))
    return accumulated.score()


def require_numpy(score: SparsityScore, x: Tensor) -> None:
    a = x.double().numpy()
    active = a != 0
    count = active.sum(axis=0)
    assert score.rows == len(a)
    assert score.l0 == pytest.approx(active.sum(axis=1).mean())
    assert score.dead == pytest.approx((count == 0).mean())
    np.testing.assert_allclose(score.densities, active.mean(axis=0))
    np.testing.assert_allclose(score.mean_activation, a.sum(axis=0) / np.maximum(count, 1))
    greatest = np.where(active, a, -np.inf).max(axis=0, initial=-np.inf)
    np.testing.assert_allclose(score.max_activation, np.where(count > 0, greatest, 0))


@given(
    st.integers(1, 30),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.2, 1.0]),
    st.integers(0, 99),
    st.lists(st.integers(0, 30), max_size=4).map(sorted),
)
def test_any_batches_give_what_numpy_gives_for_the_whole(
    rows: int, latents: int, density: float, seed: int, cuts: list[int]
):
    x = dense(rows, latents, density, seed)
    require_numpy(score_of(x, cuts), x)


def test_codes_of_either_sign_are_measured_as_they_are():
    x = torch.tensor([[-1.0, 2.0, 0.0], [-3.0, -4.0, 0.0]])
    require_numpy(score_of(x, [1]), x)


def test_stored_zeros_are_not_active():
    codes = SparseCodes.from_topk(torch.tensor([[2, 0], [1, 2]]), torch.tensor([[5.0, 0], [0, 1]]), latents=4)
    accumulated = Sparsity(4)
    accumulated.update(codes)
    score = accumulated.score()
    assert (score.l0, score.dead) == (1.0, 0.75)
    assert score.densities.tolist() == [0, 0, 1, 0]
    assert score.mean_activation.tolist() == [0, 0, 3, 0]


def test_without_rows_everything_is_zero_and_dead():
    score = Sparsity(3).score()
    assert (score.l0, score.dead, score.rows) == (0, 1, 0)
    assert score.densities.tolist() == [0, 0, 0]


def test_a_score_does_not_change_when_more_is_added():
    accumulated = Sparsity(2)
    accumulated.update(SparseCodes.from_dense(torch.tensor([[1.0, 0.0]])))
    score = accumulated.score()
    accumulated.update(SparseCodes.from_dense(torch.tensor([[5.0, 5.0]])))
    assert score.max_activation.tolist() == [1, 0]
    assert score.densities.tolist() == [1, 0]


def test_measuring_needs_no_graph():
    codes = SparseCodes.from_dense(torch.ones(2, 3, requires_grad=True))
    accumulated = Sparsity(3)
    accumulated.update(codes)
    assert accumulated.score().mean_activation.tolist() == [1, 1, 1]


def test_a_user_sees_no_warning():
    """Torch warns once per process of what it calls beta: the package must not lean on it, or must say so itself."""
    script = (
        "import torch\n"
        "from gossamer.codes import SparseCodes\n"
        "from gossamer.evaluate.sparsity import Sparsity\n"
        "codes = SparseCodes.from_dense(torch.ones(2, 3))\n"
        "codes.to_csr()\n"
        "Sparsity(3).update(codes)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == ""
