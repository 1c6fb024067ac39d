"""Run a loop over blocks of rows on several threads, without anybody waiting for anybody but at the end.

The loops release the interpreter lock, so that ordinary threads are enough. They take blocks from one iterator until it
is empty: a core that is busy with something else takes fewer. Every row is computed by one thread in a fixed order, so
that results do not depend on how many threads there are. On these threads torch itself uses one thread: what a block
needs of it (a product of matrices) is the block's own work.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from gossamer.kernels.mkl import stay_on_this_thread

__all__ = [
    "block_rows",
    "by_torch",
    "in_blocks",
    "one_thread",
    "thread_count",
    "torch_on_all_threads",
    "torch_on_one_thread",
]

BLOCKS_PER_THREAD = 8
"""Few enough that a block is worth its call, many enough that the last one does not keep the others waiting."""

T = TypeVar("T")


def in_blocks(loop: Callable[..., T], rows: int, *arguments: object, block: int | None = None) -> list[T]:
    """Call `loop(start, stop, *arguments)` until all rows are done, on as many threads as torch uses.

    Returns what the calls returned, in the order of the rows. block: rows per call.
    """
    threads = thread_count()
    block = block or max(1, -(-rows // (threads * BLOCKS_PER_THREAD)))
    starts = range(0, rows, block)
    results: list[Any] = [None] * len(starts)
    left = iter(enumerate(starts))

    def work() -> None:
        for number, start in left:
            results[number] = loop(start, min(start + block, rows), *arguments)

    if threads == 1:
        work()
        return results
    pool = _pool(threads)
    for future in [pool.submit(work) for _ in range(min(threads, len(starts)))]:
        future.result()
    return results


def block_rows(latents: int) -> int:
    """Return for how many rows a thread computes low-precision pre-activations at once.

    32 MB of them, but at most 512 rows, where the product reaches its full speed, and at least 128, where it loses a
    sixth of it.
    """
    return max(128, min(512, 2**24 // max(latents, 1)))


def thread_count() -> int:
    """Return the number of threads that loops run on."""
    return getattr(_ours, "threads", None) or torch.get_num_threads()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute everything on this thread: where there is little to do, handing it out takes longer than doing it."""
    of_torch, before = torch.get_num_threads(), getattr(_ours, "threads", None)
    torch.set_num_threads(1)
    _ours.threads = 1
    try:
        yield
    finally:
        torch.set_num_threads(of_torch)
        _ours.threads = before


@contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """Leave the cores to our loops.

    After each parallel operation torch's threads wait for the next one by spinning, for milliseconds, on the cores that
    our loops want. Between two loops torch has little to do: one thread does it sooner.
    """
    of_torch, before = torch.get_num_threads(), getattr(_ours, "threads", None)
    _ours.threads = thread_count()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(of_torch)
        _ours.threads = before


@contextmanager
def torch_on_all_threads() -> Iterator[None]:
    """Let torch use all threads again for a product of matrices, within `torch_on_one_thread`."""
    before = torch.get_num_threads()
    if before == thread_count():
        yield
        return
    torch.set_num_threads(thread_count())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def by_torch(function: Callable[..., T], *arguments: object) -> T:
    """Call a function that leaves the work to torch, with all threads."""
    with torch_on_all_threads():
        return function(*arguments)


_ours = threading.local()
_pools: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def _pool(threads: int) -> ThreadPoolExecutor:
    with _lock:
        if threads not in _pools:
            pool = ThreadPoolExecutor(threads, thread_name_prefix="gossamer")
            started, before = threading.Barrier(threads + 1), torch.get_num_threads()

            def start() -> None:
                torch.get_num_threads()  # on its first call, a thread takes over the number that is set for all
                torch.set_num_threads(1)  # on this thread, but also for threads that start later ...
                stay_on_this_thread()
                started.wait()

            for _ in range(threads):
                pool.submit(start)
            started.wait()
            torch.set_num_threads(before)  # ... until this
            _pools[threads] = pool
        return _pools[threads]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # threads do not survive a fork
