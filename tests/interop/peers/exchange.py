"""What the scripts of all peers share; numpy and torch only, for they run in environments of their own.

`python with_PEER.py make ROWS.npy FOLDER` lets a library save one small model of each of its classes as `FOLDER/case/`,
and writes what it makes of the rows beside it, `FOLDER/case.npz`: `codes` `(rows, latents)` and `reconstruction`
`(rows, width)`. `python with_PEER.py read ROWS.npy FOLDER` lets it load every folder in FOLDER, which we wrote, and
writes the same. Weights come from numpy's generator, so that they are the same everywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks" / "peers"))  # for `absent`

__all__ = ["LATENTS", "MANY", "WIDTH", "Case", "Run", "draw", "main", "scramble"]

WIDTH, LATENTS = 32, 64

MANY = 40
"""More active latents than there are positive pre-activations, to see what a rule that keeps the largest does then."""

Run = Callable[[Tensor], tuple[Tensor, Tensor]]
"""What a model does to `(rows, WIDTH)`: its codes and its reconstruction."""

Case = Callable[[Path], Run]
"""Save a model in a folder and return what it does."""


def draw(seed: int, *shape: int, mean: float = 0.0, deviation: float = 1.0) -> Tensor:
    """Return seeded normal numbers."""
    return torch.from_numpy(np.random.default_rng(seed).normal(mean, deviation, shape).astype(np.float32))


@torch.no_grad()
def scramble(module: torch.nn.Module, seed: int = 0) -> None:
    """Give every parameter random numbers: matrices keep the size of a row, biases are small but not zero.

    What is drawn depends on the name of the parameter and not on the order.
    """
    for name, parameter in sorted(module.named_parameters()):
        own = seed * 1009 + sum(map(ord, name))
        spread = WIDTH**-0.5 if parameter.dim() > 1 else 0.3
        parameter.copy_(draw(own, *parameter.shape, deviation=spread))


def main(cases: Mapping[str, Case], read: Case | None = None) -> None:
    """Do what the command line asks for."""
    torch.set_num_threads(1)
    verb, rows, folder = sys.argv[1], torch.from_numpy(np.load(sys.argv[2], allow_pickle=False)), Path(sys.argv[3])
    if verb == "make":
        chosen = cases
    else:
        assert read is not None, "this library reads none of our folders"
        chosen = dict.fromkeys(sorted(path.name for path in folder.iterdir() if path.is_dir()), read)
    for name, case in chosen.items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        run = case(place)
        with torch.no_grad():
            codes, reconstruction = run(rows)
        np.savez_compressed(f"{place}.npz", codes=codes.float().numpy(), reconstruction=reconstruction.float().numpy())
