"""What the machine can do fast, found out by measuring it once per process."""

from __future__ import annotations

import functools
import time

import torch

__all__ = ["fast_bfloat16"]

ROUNDS = 12
"""Timings of either product, taken in turn: only the best of each counts, so that a busy moment cannot decide."""


def fast_bfloat16(device: torch.device | str) -> bool:
    """Say whether bfloat16 products are clearly faster than float32 ones on this device.

    CUDA devices are asked whether they have it in hardware; a CPU is measured, because some multiply bfloat16 ten
    times as fast as float32 and others emulate it.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "cpu" and _cpu_speedup() > 1.3


@functools.cache
def _cpu_speedup() -> float:
    """Return the time of a float32 product over that of the same product in bfloat16."""
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    factors = {dtype: (torch.ones(128, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)) for dtype in best}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # beside other work, several threads wait for each other longer than they compute
    try:
        for _ in range(ROUNDS):
            for dtype, (a, b) in factors.items():
                start = time.perf_counter()
                torch.mm(a, b)
                best[dtype] = min(best[dtype], time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return best[torch.float32] / best[torch.bfloat16]
