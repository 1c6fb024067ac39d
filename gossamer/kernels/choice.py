"""Which implementation serves a device, and in which precision latents are selected.

The automatic choice takes the fastest that is installed. An implementation asked for by name either serves or raises.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType

import torch
from torch import Tensor

from gossamer.kernels.capability import fast_bfloat16
from gossamer.kernels.threads import torch_on_one_thread

__all__ = [
    "BACKENDS",
    "SELECTIONS",
    "backend",
    "implementation",
    "own_threads",
    "products",
    "require_known",
    "selection",
    "use",
]

BACKENDS = {
    "numba": ("cpu", "gossamer.kernels.numba_cpu", "numba"),
    "triton": ("cuda", "gossamer.kernels.triton_gpu", "triton"),
    "torch": ("cpu", "gossamer.kernels.torch_cpu", "torch"),
    "reference": ("", "gossamer.kernels.reference", "torch"),
}
"""Name: the kind of device that it serves (empty: any), its module, and the package that it needs; fastest first."""

LOW_PRECISION = ("numba", "triton")
"""Which of them can select by a low-precision product."""

SELECTIONS = ("auto", "bfloat16", "float32")

_wanted = {"backend": "auto", "selection": "auto"}


@contextmanager
def use(*, backend: str = "auto", selection: str = "auto") -> Iterator[None]:
    """Choose implementation and precision of selection by name while the context lasts, in the whole process.

    backend: "numba", "triton", "torch", "reference", or "auto", the fastest that is installed for the device.
    selection: "bfloat16" takes candidates from a low-precision product and chooses among them by full-precision
    values; "float32" computes every pre-activation in full precision; "auto" is the first where a measurement
    shows that it is faster. "auto" leaves what an outer context has chosen.

    Raises ValueError for an unknown name, a package that is not installed, and an implementation that has no
    low-precision selection.
    """
    before, serving = dict(_wanted), _wanted["backend"] if backend == "auto" else backend
    require_known(serving, selection)
    if serving != "auto" and not _installed(BACKENDS[serving][2]):
        raise ValueError(f"the {serving!r} kernels need a package: pip install {BACKENDS[serving][2]}")
    if (serving, selection) == ("auto", "bfloat16") and not any(_installed(BACKENDS[n][2]) for n in LOW_PRECISION):
        raise ValueError("selection in bfloat16 needs a package: pip install numba, or triton for a GPU")
    given = {"backend": backend, "selection": selection}
    _wanted.update({what: name for what, name in given.items() if name != "auto"})
    try:
        yield
    finally:
        _wanted.update(before)


def backend(device: torch.device | str) -> str:
    """Return the name of the implementation that serves this device."""
    kind = torch.device(device).type
    name = _wanted["backend"]
    if name == "auto":
        return next(name for name, (serves, _, needs) in BACKENDS.items() if serves in (kind, "") and _installed(needs))
    if BACKENDS[name][0] not in (kind, ""):
        raise ValueError(f"the {name!r} kernels run on {BACKENDS[name][0]} devices, not on {kind}")
    return name


def selection(device: torch.device | str) -> str:
    """Return the precision in which candidates are chosen on this device; it decides the last bits of a run."""
    wanted = _wanted["selection"]
    if backend(device) not in LOW_PRECISION:
        return "float32"
    if wanted != "auto":
        return wanted
    return "bfloat16" if fast_bfloat16(device) else "float32"


def products(device: torch.device | str, wanted: str = "auto") -> str:
    """Return the precision of a transformer's dense products, and of Muon's; it decides the last bits of a run."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if fast_bfloat16(device) else "float32"


def own_threads(device: torch.device | str) -> AbstractContextManager[None]:
    """Return a context in which the cores are left to our own loops, if it is these that do the work on this device."""
    if torch.compiler.is_compiling():
        return nullcontext()
    ours = backend(device) == "numba" and selection(device) == "bfloat16"
    return torch_on_one_thread() if ours else nullcontext()


def implementation(tensor: Tensor, purpose: str = "products") -> ModuleType:
    """Return the module that serves a tensor; purpose "select" asks for one of the wanted precision."""
    name = backend(tensor.device)
    if purpose == "select" and selection(tensor.device) == "float32" and name != "reference":
        name = "torch" if tensor.device.type == "cpu" else "reference"
    return importlib.import_module(BACKENDS[name][1])


def require_known(backend: str, selection: str) -> None:
    """Raise ValueError for an unknown name, and for two that do not go together."""
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"unknown kernels {backend!r}; there are auto, {', '.join(BACKENDS)}")
    if selection not in SELECTIONS:
        raise ValueError(f"unknown selection {selection!r}; there are {', '.join(SELECTIONS)}")
    if selection == "bfloat16" and backend not in ("auto", *LOW_PRECISION):
        raise ValueError(f"the {backend!r} kernels select in full precision only; choose numba or triton for bfloat16")


@functools.cache  # every operator asks, on every call, and a package that is missing is looked for on the whole path
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
