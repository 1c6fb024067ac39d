"""What the machine can do fast, found out by measuring it once per process."""

from __future__ import annotations

import functools
import time

import torch

__all__ = ["fast_bfloat16"]

ROUNDS = 12
"""Timings of either product, taken in turn: only the best of each counts, so that a busy moment cannot decide."""


def fast_bfloat16(device: torch.device | str) -> bool:
    """Say whether bfloat16 products are clearly faster than float32 ones on this device."""
    return _measured(torch.device(device).type)


@functools.cache
def _measured(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_bf16_supported()
    if kind != "cpu":
        return False
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    factors = {dtype: (torch.ones(512, 512, dtype=dtype), torch.ones(512, 1024, dtype=dtype)) for dtype in best}
    for _ in range(ROUNDS):
        for dtype, (a, b) in factors.items():
            start = time.perf_counter()
            torch.mm(a, b)
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return best[torch.float32] > 1.3 * best[torch.bfloat16]
