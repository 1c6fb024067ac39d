"""Rows of scipy.sparse matrices: the same as those of arrays, and never dense all at once."""

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse import csr_array
from sklearn.datasets import load_digits

from gossamer.sources import arrays
from gossamer.sources.arrays import Arrays
from gossamer.sources.source import Feed


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """`(1797, 64)` float32, half of it zeros."""
    return load_digits().data.astype(np.float32)


@pytest.mark.parametrize("kind", ["csr_matrix", "csr_array", "csc_array", "coo_array"])
def test_a_feed_hands_out_what_it_would_of_an_array(digits, kind):
    one, other = Arrays(digits), Arrays(getattr(sparse, kind)(digits))
    assert (one.rows, one.validation_rows, one.widths) == (other.rows, other.validation_rows, other.widths)
    feeds = [Feed(source, batch=100, seed=3) for source in (one, other)]
    for _ in range(25):
        first, second = (feed.next() for feed in feeds)
        assert torch.equal(first.rows[""], second.rows[""])
        assert torch.equal(first.origins, second.origins)
    held = [torch.cat([batch.rows[""] for batch in source.validation(batch=40)]) for source in (one, other)]
    assert torch.equal(*held)


@pytest.mark.parametrize(("dtype", "expected"), [("f8", torch.float64), ("i4", torch.float32), ("?", torch.float32)])
def test_types_are_those_of_arrays(digits, dtype, expected):
    batch = Feed(Arrays(csr_array(digits.astype(dtype)), validation=0), batch=4, seed=0).next()
    assert batch.rows[""].dtype == expected


def test_only_the_rows_in_the_buffer_are_dense(monkeypatch):
    """10,000 × 20,000, 800 MB if it were dense: what is made dense at a time stays under the bound."""
    matrix = sparse.random_array((10_000, 20_000), density=1e-4, format="csr", dtype=np.float32, rng=0)
    largest, dense = [0], csr_array.toarray

    def spy(self, *arguments, **options):
        largest.append(self.shape[0] * self.shape[1])
        return dense(self, *arguments, **options)

    monkeypatch.setattr(csr_array, "toarray", spy)
    monkeypatch.setattr(arrays, "DENSE_ENTRIES", 2**23)
    source = Arrays(matrix, validation=0.01)
    feed = Feed(source, batch=300, seed=0)
    for _ in range(3):
        feed.next()
    source.fingerprint()
    next(source.validation(batch=50))
    assert 0 < max(largest) <= 2**23


def test_every_row_once_though_the_buffer_is_small(monkeypatch):
    monkeypatch.setattr(arrays, "DENSE_ENTRIES", 1000 * 256)
    numbered = np.zeros((3000, 1000), np.float32)
    numbered[:, 7] = np.arange(3000)
    source = Arrays(csr_array(numbered), validation=0)
    assert source.buffer_rows == 256
    feed = Feed(source, batch=100, seed=0)
    seen = torch.cat([feed.next().rows[""][:, 7] for _ in range(30)])
    assert torch.equal(seen.sort().values, torch.arange(3000.0))


def test_fingerprints_tell_matrices_apart(digits):
    changed, moved = digits.copy(), digits.copy()
    changed[changed > 0] += 1
    moved[:, [20, 21]] = moved[:, [21, 20]]
    prints = [str(Arrays(csr_array(rows)).fingerprint()) for rows in (digits, digits.copy(), changed, moved)]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_plan_says_how_full_it_is(digits):
    filled = np.count_nonzero(digits) / len(digits)
    assert f"{filled:.1f} entries per row" in Arrays(csr_array(digits)).describe()["rows"]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_nothing_is_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        Arrays(csr_array(shape))


def test_complex_numbers_are_refused():
    with pytest.raises(TypeError, match="real numbers"):
        Arrays(csr_array(np.ones((3, 2), complex)))
