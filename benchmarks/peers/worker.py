"""One library in a process of its own, which works only when it is its turn; needs nothing but numpy and torch.

A worker is started as `python speed.py SETUP.json`, builds its model, writes one JSON line, and then answers each
line on its standard input with one: `step 3`, `encode 2`, `memory 3`, `score 1`. It ends when its input does. What a
library prints goes to standard error.

Peak memory is what the process holds at most while it trains, beyond what it holds once weights and the optimizer's
moments are there: on Linux the kernel's own high-water mark (`VmHWM`, reset through `/proc/self/clear_refs`), and
where it cannot be reset, the largest of `/proc/self/statm` read every millisecond by a thread; on a GPU
`torch.cuda.max_memory_allocated`. Gradients count; weights, moments and code do not, which is why a tiny model is
trained first: what a library imports at its first step would count otherwise.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from score import score
from torch import Tensor

KNOWN_LEARNING_RATE = 3e-3
"""For every peer's TopK: the best of the quality benchmark's grid for both peers that are in it."""
STEPS = 1_000_000
"""What schedules are told; none gets far."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a worker is given."""

    architecture: str
    batch: int
    width: int
    latents: int
    k: int
    rows: str
    """`.npy`, (batches · batch, width), float32."""
    validation: str
    """`.npy`, (m, width), float32."""
    weights: str | None
    """`.npz` to start from: `encoder` and `decoder` (latents, width), `encoder_bias`, `decoder_bias`, `threshold`;
    pre-activations are rows @ encoder.T + encoder_bias."""
    learning_rate: float | None
    """None: `KNOWN_LEARNING_RATE` for a peer's, its own for ours."""
    device: str
    seed: int

    @classmethod
    def from_arguments(cls) -> Setup:
        """Read the file named on the command line."""
        return cls(**json.loads(Path(sys.argv[1]).read_text()))

    @property
    def rate(self) -> float:
        """The learning rate of a peer."""
        return KNOWN_LEARNING_RATE if self.learning_rate is None else self.learning_rate

    def start(self) -> dict[str, Tensor]:
        """Read the weights to start from."""
        if self.weights is None:
            raise ValueError(f"{self.architecture} starts from given weights, and there are none")
        return {name: torch.from_numpy(array).to(self.device) for name, array in np.load(self.weights).items()}

    def require(self, *architectures: str) -> None:
        """Raise ValueError unless the worker can do what is asked."""
        if self.architecture not in architectures:
            raise ValueError(f"no {self.architecture} in this library's worker; it has {', '.join(architectures)}")


class Library(ABC):
    """A model and how its library trains it; made with the setup and the rows, on the device."""

    versions: dict[str, str]
    optimizer: torch.optim.Optimizer
    """Has no state until its first step."""

    @abstractmethod
    def step(self, x: Tensor) -> object:
        """Make one training step, with all that the library does for each."""

    @abstractmethod
    def encode(self, x: Tensor) -> object:
        """Give the codes of rows in the library's inference form; called without gradients."""

    @abstractmethod
    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give the reconstruction of rows and which latents are active, boolean (n, latents)."""

    def before_encoding(self) -> None:  # noqa: B027 - most have nothing to prepare
        """Prepare the inference form; not timed."""

    def settle(self) -> None:
        """Have the optimizer allocate its state, by a step without gradients that changes nothing."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for state in self.optimizer.state.values():
            if "step" in state:
                state["step"] = state["step"] * 0


class Bench:
    """Answers the commands for one library."""

    def __init__(self, setup: Setup, make: Callable[[Setup, Tensor], Library]) -> None:
        self.setup = setup
        self.make = make
        torch.manual_seed(setup.seed)
        rows = torch.from_numpy(np.load(setup.rows)).to(setup.device)
        self.batches = rows.split(setup.batch)
        self.library = make(setup, rows)
        self.done = 0

    def commands(self) -> dict[str, Callable[[int], dict[str, Any]]]:
        """Name what can be asked for."""
        return {"step": self.step, "encode": self.encode, "memory": self.memory, "score": self.score}

    def about(self) -> dict[str, Any]:
        """Say what was built."""
        return {"versions": self.library.versions} | surroundings(self.setup.device)

    def step(self, times: int) -> dict[str, Any]:
        """Time training steps, each alone."""
        return {"seconds": [timed(self._step, self.setup.device) for _ in range(times)]}

    def encode(self, times: int) -> dict[str, Any]:
        """Time encoding of a batch, each alone."""
        self.library.before_encoding()
        with torch.no_grad():
            return {"seconds": [timed(self._encode, self.setup.device) for _ in range(times)]}

    def memory(self, times: int) -> dict[str, Any]:
        """Measure the peak over some steps, once all code that a step needs is loaded."""
        take_small_step(self.setup, self.make)
        self.library.settle()
        watch = GpuMemory(self.setup.device) if self.setup.device != "cpu" else ProcessMemory()
        for _ in range(times):
            self._step()
        return watch.stop()

    def score(self, _: int) -> dict[str, Any]:
        """Score the model as it is on the held-out rows."""

        @torch.no_grad()
        def reconstruct(given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            reconstruction, on = self.library.reconstruct(torch.from_numpy(given).to(self.setup.device))
            return reconstruction.float().cpu().numpy(), on.cpu().numpy()

        found = score(np.load(self.setup.validation), reconstruct, latents=self.setup.latents, chunk=256)
        return {"fvu": found.fvu, "l0": found.l0, "steps": self.done}

    def _encode(self) -> None:
        self.library.encode(self.batches[0])

    def _step(self) -> None:
        self.library.step(self.batches[self.done % len(self.batches)])
        self.done += 1


def surroundings(device: str) -> dict[str, Any]:
    """Say what the process computes with."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": name}


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def timed(work: Callable[[], object], device: str) -> float:
    """Give the seconds that a piece of work takes, the device's share included."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def take_small_step(setup: Setup, make: Callable[[Setup, Tensor], Library]) -> None:
    """Train a model of a few kilobytes: what is imported and started on first use is not memory of a step."""
    with tempfile.TemporaryDirectory() as folder:
        weights = None
        if setup.weights is not None:
            weights = f"{folder}/weights.npz"
            matrix, vector = np.ones((64, 16), np.float32), np.ones(64, np.float32)
            vectors = {"encoder_bias": vector, "decoder_bias": vector[:16], "threshold": vector}
            np.savez(weights, encoder=matrix, decoder=matrix, **vectors)
        small = replace(setup, batch=32, width=16, latents=64, k=4, weights=weights)
        x = torch.randn(32, 16, device=setup.device)
        library = make(small, x)
        for _ in range(2):
            library.step(x)


class ProcessMemory:
    """Peak resident memory of this process above what it held when this was made."""

    def __init__(self) -> None:
        ctypes.CDLL(None).malloc_trim(0)
        self._before = self._resident()
        self._peak = self._before
        self._kernel = self._reset()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        if not self._kernel:
            self._thread.start()

    def stop(self) -> dict[str, Any]:
        """Give the bytes and how they were measured."""
        if self._kernel:
            self._peak = _status("VmHWM")
        else:
            self._stopped.set()
            self._thread.join()
        how = "VmHWM" if self._kernel else "statm every 1 ms"
        return {"bytes": self._peak - self._before, "before": self._before, "method": how}

    def _reset(self) -> bool:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return False
        return _status("VmHWM") <= self._before + (8 << 20)

    def _sample(self) -> None:
        while not self._stopped.wait(0.001):
            self._peak = max(self._peak, self._resident())

    @staticmethod
    def _resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class GpuMemory:
    """Peak of the memory that torch has given out on a GPU above what it had when this was made."""

    def __init__(self, device: str) -> None:
        self._device = device
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        self._before = torch.cuda.memory_allocated(device)

    def stop(self) -> dict[str, Any]:
        """Give the bytes and how they were measured."""
        torch.cuda.synchronize(self._device)
        peak = torch.cuda.max_memory_allocated(self._device)
        return {"bytes": peak - self._before, "before": self._before, "method": "max_memory_allocated"}


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def claim_output() -> TextIO:
    """Keep standard output for answers; whatever else is printed goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def serve(answers: TextIO, about: dict[str, Any], commands: dict[str, Callable[[int], dict[str, Any]]]) -> None:
    """Say that everything is built, then answer commands until there are no more."""
    print(json.dumps(about), file=answers, flush=True)
    for line in sys.stdin:
        name, times = line.split()
        print(json.dumps(commands[name](int(times))), file=answers, flush=True)


def main(answers: TextIO, make: Callable[[Setup, Tensor], Library]) -> None:
    """Be the worker of a library."""
    bench = Bench(Setup.from_arguments(), make)
    serve(answers, bench.about(), bench.commands())
