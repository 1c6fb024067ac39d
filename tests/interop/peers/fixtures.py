"""Our side of the exchange: the rows, and a peer's script run in its environment.

`python tests/interop/peers/fixtures.py` lets every peer save its models anew, and keeps them in the folder `fixtures`
with what the peer makes of `KEPT` of the rows. `make test-interop` does the same in a temporary folder, with all rows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
FIXTURES = HERE.parent / "fixtures"
PEERS = {
    "dictionary_learning": "dictionary_learning",
    "gemma_scope": "saelens",
    "llamascopium": "llamascopium",
    "openai": "saelens",
    "saelens": "saelens",
    "sparsify": "sparsify",
}
"""Whose environment each script runs in; the two that have no library borrow one."""

RANDOM, REAL = 1000, 1000
KEPT = [*range(50), *range(RANDOM, RANDOM + 50)]


def exchange_rows() -> np.ndarray:
    """Return `(2000, 32)` float32 rows: 1,000 normal ones, and the middle columns of 1,000 scanned digits."""
    from sklearn.datasets import load_digits

    digits = load_digits().data[:REAL].reshape(REAL, 8, 8)[:, :, 2:6].reshape(REAL, 32) / 8
    normal = np.random.default_rng(0).standard_normal((RANDOM, 32))
    return np.concatenate([normal, digits]).astype(np.float32)


def ask(peer: str, verb: str, folder: Path) -> None:
    """Let a peer "make" its models in a folder, or "read" those that are there; raises RuntimeError if it cannot."""
    sys.path.insert(0, str(ROOT))
    from benchmarks.environments import ensure

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, exchange_rows())
        file.flush()
        command = [
            str(ensure(PEERS[peer])),
            "-W",
            "ignore",
            str(HERE / f"with_{peer}.py"),
            verb,
            file.name,
            str(folder),
        ]
        # A hash seed, because SAELens writes its configuration in the order of a set.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")


def main() -> None:
    """Make all fixtures anew."""
    for peer in PEERS:
        place = FIXTURES / peer
        shutil.rmtree(place, ignore_errors=True)
        ask(peer, "make", place)
        for expected in place.glob("*.npz"):
            kept = {name: array[KEPT] for name, array in np.load(expected, allow_pickle=False).items()}
            np.savez_compressed(expected, **kept)
    size = sum(path.stat().st_size for path in FIXTURES.rglob("*") if path.is_file())
    print(f"{size:,} bytes in {FIXTURES.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
