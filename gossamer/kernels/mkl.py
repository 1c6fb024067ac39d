"""MKL, which torch's wheels for x86-64 bring along: its products of matrices for loops that call them themselves."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch

__all__ = ["product_address", "stay_on_this_thread"]

SYMBOLS = {torch.float32: "sgemm_", torch.bfloat16: "cblas_gemm_bf16bf16f32"}
"""Names of products by the dtype of the factors; what comes out is float32."""


def product_address(dtype: torch.dtype) -> int:
    """Return where the product for factors of a dtype begins; 0 if there is none, as where torch has no MKL."""
    library = _library()
    if library is None or dtype not in SYMBOLS:
        return 0
    return ctypes.cast(getattr(library, SYMBOLS[dtype]), ctypes.c_void_p).value or 0


def stay_on_this_thread() -> None:
    """From now on, compute products that are called from this thread on this thread alone."""
    library = _library()
    if library is not None:
        library.MKL_Set_Num_Threads_Local(1)


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Return torch's library; None where it does not bring all of what is used here."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not path.is_file():
        return None
    library = ctypes.CDLL(str(path))
    return library if all(hasattr(library, name) for name in (*SYMBOLS.values(), "MKL_Set_Num_Threads_Local")) else None
