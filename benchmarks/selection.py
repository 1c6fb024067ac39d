"""How often low-precision selection chooses another set of latents than float64, and what that costs.

`python -m benchmarks.selection` trains each preset for a moment on stored activations of SmolLM2, encodes held-out rows
in both precisions and by a float64 product, and prints a table: rows whose set differs from that of float64 (a float32
product beside it), latents that had to be computed in full precision per row, and the difference in FVU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

import gossamer as gs
from benchmarks import rows as stored
from benchmarks.inputs import CACHE
from gossamer import kernels
from gossamer.codes import SparseCodes

PRESETS: dict[str, dict[str, float]] = {"topk": {"l0": 32}, "vanilla-l1": {}, "jumprelu": {}}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection", description=__doc__)
    parser.add_argument("--rows", type=int, default=8192, help="held-out rows (default: 8192)")
    parser.add_argument("--latents", type=int, default=4608)
    parser.add_argument("--steps", type=int, default=100, help="training steps of 2048 rows before (default: 100)")
    options = parser.parse_args(arguments)
    folder = CACHE / f"{stored.HOOK}-{stored.ROWS}"
    stored.ensure(folder, rows=stored.ROWS, validation=stored.VALIDATION, hook=stored.HOOK)
    training = gs.Arrays(np.load(folder / "rows.npy", mmap_mode="r"))
    held_out = torch.from_numpy(np.load(folder / "validation.npy")[: options.rows])
    print("| preset | L0 | rows | low precision ≠ float64 | float32 ≠ float64 | FVU | difference in FVU |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, dial in PRESETS.items():
        sae = gs.preset(name, input_width=held_out.shape[1], latents=options.latents, **dial).build()
        gs.train(sae, training, gs.TrainSpec(rows=options.steps * 2048, batch=2048), quiet=True)
        codes = {}
        for precision in ("bfloat16", "float32"):
            with kernels.use(selection=precision), torch.no_grad():
                codes[precision] = sae.encode(held_out)
        exact = _exact(sae, held_out)
        different = {precision: _rows_that_differ(found, exact) for precision, found in codes.items()}
        fvu = {precision: _fvu(sae, found, held_out) for precision, found in codes.items()}
        figures = [f"{codes['bfloat16'].l0:.1f}", len(held_out), different["bfloat16"], different["float32"]]
        figures += [f"{fvu['bfloat16']:.4f}", f"{abs(fvu['bfloat16'] - fvu['float32']):.1e}"]
        print(f"| {name} | " + " | ".join(map(str, figures)) + " |", flush=True)


@torch.no_grad()
def _exact(sae: gs.SparseAutoencoder, rows: Tensor) -> SparseCodes:
    """Encode by the definitions, in float64."""
    double = gs.AutoencoderSpec.build(sae.spec).double()
    double.load_state_dict(sae.state_dict())
    with kernels.use(backend="reference"):
        return gs.concatenate_codes(double.eval().encode_chunks(rows, chunk=512))


def _rows_that_differ(found: SparseCodes, exact: SparseCodes) -> int:
    """Count the rows in which another set of latents is active."""
    a, b = (codes.to_scipy() for codes in (found, exact))
    parts = [slice(start, start + 512) for start in range(0, found.rows, 512)]
    return sum(int(((a[part].toarray() != 0) != (b[part].toarray() != 0)).any(axis=1).sum()) for part in parts)


@torch.no_grad()
def _fvu(sae: gs.SparseAutoencoder, codes: SparseCodes, rows: Tensor) -> float:
    error = (sae.decode(codes).double() - rows.double()).square().sum()
    return (error / (rows.double() - rows.double().mean(0)).square().sum()).item()


if __name__ == "__main__":
    main()
