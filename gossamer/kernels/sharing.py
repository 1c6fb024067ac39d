"""What several models that are given the same rows compute from them only once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["once", "shared_inputs"]

Known: TypeAlias = list[tuple[str, Tensor, tuple[Tensor, ...], Tensor]]
_known: ContextVar[Known | None] = ContextVar("known", default=None)


@contextmanager
def shared_inputs() -> Iterator[None]:
    """Remember what is computed by `once`, until the context ends. The rows must not change meanwhile."""
    before = _known.set([])
    try:
        yield
    finally:
        _known.reset(before)


def once(what: str, x: Tensor, constants: tuple[Tensor, ...], compute: Callable[[], Tensor]) -> Tensor:
    """Return `compute()`, or what it returned for the same rows and equal constants in this context."""
    known = _known.get()
    if known is None:
        return compute()
    for name, rows, numbers, result in known:
        if name == what and _same(rows, x) and all(map(torch.equal, numbers, constants)):
            return result
    result = compute()
    known.append((what, x, tuple(number.clone() for number in constants), result))
    return result


def _same(a: Tensor, b: Tensor) -> bool:
    return (a.data_ptr(), a.shape, a.stride(), a.dtype) == (b.data_ptr(), b.shape, b.stride(), b.dtype)
