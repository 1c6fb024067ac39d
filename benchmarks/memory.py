"""How much memory an estimator takes for rows that are larger than it may hold.

`python -m benchmarks.memory` writes 1,000,000 × 784 float32 rows (3.1 GB) to a temporary file, and fits and applies an
SAE of 1,024 components to it, memory-mapped, in a process of its own; then one to a CSR matrix of 11,000 × 30,000. It
prints the peak of the resident memory and what the process took before it had seen a row.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import our_interpreter


def write_rows(path: Path, rows: int, width: int) -> None:
    """Write rows of rank 64 with noise, a part at a time."""
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((64, width), dtype=np.float32)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, width))
    for start in range(0, rows, 50_000):
        count = min(50_000, rows - start)
        codes = rng.exponential(size=(count, 64)).astype(np.float32) * (rng.random((count, 64)) < 0.1)
        out[start : start + count] = codes @ basis + 0.1 * rng.standard_normal((count, width), dtype=np.float32)
    out.flush()


def peak() -> float:
    """Return the largest resident memory of this process so far, in GB, files that it maps included."""
    status = Path("/proc/self/status").read_text()  # getrusage would begin with the peak of the parent
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def child(kind: str, path: str, epochs: int) -> None:
    """Fit and apply an SAE, and print the peaks."""
    import torch  # noqa: F401 - counts as what the process takes anyway
    from sklearn.exceptions import ConvergenceWarning  # noqa: F401

    from gossamer import SAE

    start = peak()
    x: Any
    if kind == "memmap":
        x = np.load(path, mmap_mode="r")
    else:
        import scipy.sparse

        x = scipy.sparse.random_array((11_000, 30_000), density=0.002, format="csr", rng=0, dtype=np.float32)
    loaded = peak()
    began = time.perf_counter()
    sae = SAE(1024, l0=16, max_iter=epochs, tol=0, batch_size=1024, output="csr", random_state=0).fit(x)
    fitted, seconds = peak(), time.perf_counter() - began
    codes: Any = sae.transform(x)
    print(
        f"{kind}: {x.shape[0]:,} × {x.shape[1]:,}: {start:.2f} GB before, {loaded:.2f} with the data open, "
        f"{fitted:.2f} after fit ({epochs} epochs, {seconds:.0f} s), {peak():.2f} after transform to "
        f"{codes.nnz:,} entries"
    )


def main() -> int:
    """Run both cases, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=784)
    parser.add_argument("--child", nargs=3, metavar=("KIND", "PATH", "EPOCHS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], options.child[1], int(options.child[2]))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        write_rows(path, options.rows, options.width)
        for kind, epochs in (("memmap", 1), ("csr", 2)):
            command = [str(our_interpreter()), "-m", "benchmarks.memory", "--child", kind, str(path), str(epochs)]
            subprocess.run(command, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
