"""How the loops of the CPU kernels are compiled.

What a compiled loop calls has to be in the loop's own file: numba renews what it keeps on disk when that file changes,
and does not look at others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

__all__ = ["compiled"]

ANY_ORDER = {"reassoc", "contract", "nsz", "arcp"}
"""Sums may be taken in any order and products fused into them; NaN and infinity keep their meaning."""


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a loop on its first call; kept on disk between processes, if there is a place for it."""
    options = {"nogil": True, "fastmath": ANY_ORDER, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return njit(**options)(function)
