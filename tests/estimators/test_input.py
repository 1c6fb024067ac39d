"""What may be given to an estimator, what may not, and what a file or a sparse matrix costs."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import scipy.sparse

from gossamer import SAE

pytestmark = pytest.mark.filterwarnings("error")


def small(**parameters) -> SAE:
    return SAE(**{"n_components": 16, "l0": 3, "max_iter": 3, "tol": 0, "random_state": 0, **parameters})


@pytest.mark.parametrize("kind", ["csr_matrix", "csr_array", "csc_matrix", "csc_array", "coo_array", "lil_matrix"])
def test_sparse_matrices_give_what_dense_ones_give(digits, kind):
    rows = digits[:300]
    sparse = getattr(scipy.sparse, kind)(rows)
    one, other = small().fit(rows), small().fit(sparse)
    np.testing.assert_array_equal(other.transform(sparse), one.transform(rows))
    np.testing.assert_allclose(other.score(sparse), one.score(rows), rtol=1e-12)
    np.testing.assert_array_equal(
        small().partial_fit(sparse).transform(sparse), small().partial_fit(rows).transform(rows)
    )


def test_sparse_codes_hold_what_dense_ones_do(digits):
    sae = small(output="csr").fit(digits)
    codes = sae.transform(digits)
    assert isinstance(codes, scipy.sparse.csr_array)
    assert codes.dtype == np.float32 and codes.shape == (1797, 16)
    np.testing.assert_array_equal(codes.toarray(), sae.set_params(output="dense").transform(digits))
    assert codes.nnz <= 3 * 1797
    np.testing.assert_array_equal(sae.inverse_transform(codes), sae.inverse_transform(codes.toarray()))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("f8", "f8"), ("f4", "f4"), ("f2", "f4"), ("i8", "f4"), ("u1", "f4"), ("?", "f4"), (">f4", "f4")],
)
def test_types_of_numbers(digits, dtype, expected):
    rows = (digits[:100] > 8 if dtype == "?" else digits[:100]).astype(dtype)
    sae = small().fit(rows)
    codes = sae.transform(rows)
    assert codes.dtype == sae.inverse_transform(codes).dtype == np.dtype(expected)
    np.testing.assert_array_equal(codes, small().fit(rows.astype("f4")).transform(rows.astype("f4")))


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "u1", "i4", ">f4"])
def test_a_mapped_file_of_any_type_gives_what_the_array_gives(digits, tmp_path, dtype):
    rows = digits[:200].astype(dtype)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    sae, of_array = small().fit(mapped), small().fit(rows)
    np.testing.assert_array_equal(sae.transform(mapped), sae.transform(rows))
    assert sae.transform(mapped).dtype == of_array.transform(rows).dtype
    assert sae.score(mapped) == pytest.approx(of_array.score(rows), abs=0.02)  # files are shuffled in blocks
    small().partial_fit(mapped)


def test_read_only_rows(digits):
    rows = digits[:100].copy()
    rows.flags.writeable = False
    sae = small().fit(rows)
    sae.partial_fit(rows).transform(rows)
    sae.inverse_transform(sae.transform(rows))
    assert np.array_equal(rows, digits[:100])


OBJECTS = np.array([["a", "b"], ["c", "d"]], dtype=object)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (OBJECTS, ValueError, "could not convert string"),
        (np.ones((3, 2), complex), ValueError, "[Cc]omplex"),
        (np.ones(5), ValueError, "1D array"),
        (np.ones((2, 2, 2)), ValueError, "dim"),
        (np.ones((0, 3)), ValueError, "0 sample"),
        (np.ones((3, 0)), ValueError, "0 feature"),
        (np.array([[1.0, np.nan]]), ValueError, "NaN"),
        (np.array([[1.0, -np.inf]]), ValueError, "infinity"),
        (scipy.sparse.csr_array(np.array([[1.0, np.nan]])), ValueError, "NaN"),
        (np.array([[1.0, -1e20]]), ValueError, r"-1e\+20.*divide X"),
        (scipy.sparse.csr_array(np.array([[0.0, 1e200]])), ValueError, r"1e\+200.*divide X"),
    ],
)
def test_what_cannot_be_coded_is_refused(rows, error, message):
    for train in (small(l0=1).fit, small(l0=1).partial_fit):
        with pytest.raises(error, match=message):
            train(rows)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_mapped_file_with_holes_is_refused_by_its_rows(tmp_path, bad):
    rows = np.ones((5000, 4), np.float32)
    rows[4500, 2] = bad
    np.save(tmp_path / "rows.npy", rows)
    with pytest.raises(ValueError, match="NaN or infinity in rows 4096 to 4999"):
        small().fit(np.load(tmp_path / "rows.npy", mmap_mode="r"))


def test_widths_must_agree(digits, tmp_path):
    sae = small().fit(digits[:50])
    np.save(tmp_path / "rows.npy", digits[:50, :60])
    for rows in (
        digits[:50, :60],
        scipy.sparse.csr_array(digits[:50, :60]),
        np.load(tmp_path / "rows.npy", mmap_mode="r"),
    ):
        for use in (sae.transform, sae.score, sae.partial_fit):
            with pytest.raises(ValueError, match=r"60 features.*expecting 64"):
                use(rows)


@pytest.mark.parametrize("value", [0.0, 3.0, -1e6])
def test_rows_that_do_not_differ_are_reconstructed(value):
    rows = np.full((40, 6), value)
    sae = small().fit(rows)
    assert np.isfinite(sae.transform(rows)).all()
    np.testing.assert_allclose(sae.inverse_transform(sae.transform(rows)), rows, rtol=1e-5, atol=1e-6)
    assert sae.score(rows) == 1
    assert sae.score(rows + 1) == 0


def test_constant_columns_and_zero_rows_do_no_harm(digits):
    rows = digits[:400].copy()
    rows[:, 5] = 7
    rows[::4] = 0
    sae = small(max_iter=20, n_components=64, l0=8).fit(rows)
    codes = sae.transform(rows)
    assert np.isfinite(codes).all()
    assert sae.score(rows) > 0.75
    assert (codes[::4] == codes[0]).all()
    assert np.isfinite(sae.transform(np.zeros((2, 64)))).all()


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("sparsity", ["topk", "batch-topk", "l1", "winner-take-all", "matching-pursuit"])
def test_fewer_rows_than_a_batch(digits, rows, sparsity):
    sae = small(sparsity=sparsity, batch_size=256).fit(digits[:rows])
    assert sae.transform(digits[:rows]).shape == (rows, 16)
    assert np.isfinite(sae.score(digits[:rows]))


def test_units_do_not_matter(digits):
    score = small().fit(digits).score(digits)
    for factor in (1e-20, 1e13):
        assert small().fit(digits * factor).score(digits * factor) == pytest.approx(score, abs=1e-3)
    far = digits.astype(np.float64) + 1e4
    assert small().fit(far).score(far) == pytest.approx(score, abs=0.02)


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_importing_the_estimators_imports_no_torch():
    loaded = run("""
        import sys
        from gossamer import SAE, SAECV
        from sklearn.base import clone
        clone(SAECV(8)), repr(SAE(8)), SAE(8).get_params()
        print([name for name in ("torch", "numba", "matplotlib", "PIL", "transformers") if name in sys.modules])
    """)
    assert loaded == "[]"


def test_a_mapped_file_of_200_mb_stays_on_disk(tmp_path):
    """Resident memory that a file cannot take back: 200 MB of rows are trained on, coded and scored with far less."""
    file = tmp_path / "rows.npy"
    grown = run(f"""
        import os
        os.environ["OMP_NUM_THREADS"] = "1"
        import numpy as np
        from gossamer import SAE

        def anonymous():
            fields = dict(line.split(":") for line in open("/proc/self/status"))
            return int(fields["RssAnon"].split()[0]) / 1024

        out = np.lib.format.open_memmap({str(file)!r}, mode="w+", dtype=np.float32, shape=(51_200, 1024))
        rng = np.random.default_rng(0)
        for start in range(0, 51_200, 6400):
            out[start : start + 6400] = rng.integers(0, 9, (6400, 1024), dtype=np.uint8)
        out.flush()
        del out
        rows = np.load({str(file)!r}, mmap_mode="r")
        sae = SAE(16, l0=2, max_iter=1, tol=0, batch_size=4096, random_state=0).fit(np.ones((100, 1024)))
        import threading
        peak, done = [anonymous()], threading.Event()
        def watch():
            while not done.wait(0.002):
                peak.append(anonymous())
        watcher = threading.Thread(target=watch)
        watcher.start()
        sae.partial_fit(rows), sae.transform(rows), sae.score(rows)
        done.set()
        watcher.join()
        print(max(peak) - peak[0])
    """)
    assert 5 < float(grown) < 150
