"""Weights of other libraries, read and written: one module per format, `format.py` says how to add one.

`gossamer.load` reads any of them; `gossamer.interop.saelens.write(sae, folder)` writes one by name.
"""

from __future__ import annotations

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
