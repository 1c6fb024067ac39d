"""What the machine can do fast, found out by measuring it once per process."""

from __future__ import annotations

import functools
import time

import torch

__all__ = ["fast_bfloat16"]


def fast_bfloat16(device: torch.device | str) -> bool:
    """Say whether bfloat16 products are clearly faster than float32 ones on this device."""
    return _measured(torch.device(device).type)


@functools.cache
def _measured(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_bf16_supported()
    if kind != "cpu":
        return False
    return _seconds(torch.float32) > 1.3 * _seconds(torch.bfloat16)


def _seconds(dtype: torch.dtype) -> float:
    """Return the best of a few timings of a product of a few milliseconds."""
    a, b = torch.ones(512, 512, dtype=dtype), torch.ones(512, 1024, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return best
