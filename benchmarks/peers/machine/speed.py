"""What the machine itself needs for the parts of a training step that cannot be avoided; see `worker`.

Answers `floor N`: N times in turn, the bare encoder product of the setting in bfloat16 and in float32, each into
memory that is there already; a large square float32 product, which gives operations per second; and a copy of a large
tensor, which gives bytes per second, read and written.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from worker import Setup, claim_output, serve, surroundings, timed

ANSWERS = claim_output()

import torch  # noqa: E402

SQUARE = 2048
COPIED = 256 << 20
"""Bytes; far beyond any cache."""


class Machine:
    """Buffers for all of it."""

    def __init__(self, setup: Setup) -> None:
        torch.manual_seed(setup.seed)
        self.device = setup.device
        x = torch.randn(setup.batch, setup.width, device=setup.device)
        weight = torch.randn(setup.latents, setup.width, device=setup.device)
        self.products = {}
        for kind in (torch.bfloat16, torch.float32):
            out = torch.zeros(setup.batch, setup.latents, device=setup.device, dtype=kind)
            self.products[str(kind).removeprefix("torch.")] = (x.to(kind), weight.to(kind).T, out)
        self.square = torch.randn(SQUARE, SQUARE, device=setup.device)
        self.square_out = torch.zeros_like(self.square)
        self.source = torch.ones(COPIED // 4, device=setup.device)
        self.target = torch.zeros_like(self.source)

    def floor(self, times: int) -> dict[str, list[float]]:
        """Measure each part."""
        found = {name: [] for name in (*self.products, "operations", "bytes")}
        for _ in range(times):
            for name, (a, b, out) in self.products.items():
                found[name].append(timed(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), self.device))
            squared = timed(lambda: torch.mm(self.square, self.square, out=self.square_out), self.device)
            found["operations"].append(2 * SQUARE**3 / squared)
            found["bytes"].append(2 * COPIED / timed(lambda: self.target.copy_(self.source), self.device))
        return found


if __name__ == "__main__":
    machine = Machine(Setup.from_arguments())
    serve(ANSWERS, surroundings(machine.device), {"floor": machine.floor})
