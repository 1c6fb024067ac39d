"""One training run of one library, as a process of its own.

Which runs there are, in which order, and how one is started. What a run does is in `peers/NAME/train.py`,
what becomes of its figures in `ledger`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environments import HERE, PEERS
from benchmarks.processes import OURS, end, environment, last_words

RUNNERS = {
    "train": ("score", "task"),
    "speed": ("absent", "score", "worker"),
    "architectures": ("absent", "matched", "score", "task"),
}
"""Each kind of runner and what it uses of what runners share."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Stored rows, and what tells them from others."""

    rows: Path
    validation: Path
    shape: tuple[int, int]
    validation_rows: int
    digest: str
    """First 12 hexadecimal digits of the SHA-256 of both files."""

    @classmethod
    def in_folder(cls, folder: Path) -> Data:
        """Describe `rows.npy` and `validation.npy` of a folder."""
        paths = (folder / "rows.npy", folder / "validation.npy")
        digest = hashlib.sha256()
        shapes = []
        for path in paths:
            array = np.load(path, mmap_mode="r")
            if array.ndim != 2 or array.dtype != np.float32:
                raise ValueError(f"{path}: expected a float32 matrix, got {array.dtype} of shape {array.shape}")
            shapes.append(array.shape)
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        if shapes[0][1] != shapes[1][1]:
            raise ValueError(f"{folder}: rows are {shapes[0][1]} wide, validation rows {shapes[1][1]}")
        rows, validation = paths
        return cls(
            rows=rows,
            validation=validation,
            shape=shapes[0],
            validation_rows=shapes[1][0],
            digest=digest.hexdigest()[:12],
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every library is given alike."""

    latents: int
    k: int
    batch: int
    epochs: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run to make."""

    library: str
    learning_rate: float | None
    """None for ours: it derives its own."""
    seed: int

    @property
    def name(self) -> str:
        """What to call it in progress lines and file names."""
        rate = "derived" if self.learning_rate is None else f"{self.learning_rate:g}"
        return f"{self.library}-{rate}-seed{self.seed}"


class FailedRunError(RuntimeError):
    """A runner ended without a result; carries the last line that it printed."""


def plan(libraries: Sequence[str], learning_rates: Sequence[float], seeds: int) -> Iterator[Job]:
    """Give every run, libraries taking turns, so that a machine that slows down slows them all alike."""
    for seed in range(seeds):
        if OURS in libraries:
            yield Job(library=OURS, learning_rate=None, seed=seed)
        for rate in learning_rates:
            for library in libraries:
                if library != OURS:
                    yield Job(library=library, learning_rate=rate, seed=seed)


def run(job: Job, data: Data, settings: Settings, *, python: Path, log: Path) -> dict[str, Any]:
    """Run a job to its end and return what it wrote; its output goes to `log`.

    Raises FailedRunError. An interrupt ends the run before it goes on to the caller.
    """
    return result_of(lambda output: _command(job, data, settings, python, output), library=job.library, log=log)


def result_of(command: Callable[[Path], list[str]], *, library: str, log: Path) -> dict[str, Any]:
    """Run a program of a library to its end and return what it wrote to the path that its command was made with.

    Raises FailedRunError. An interrupt ends the program before it goes on to the caller.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        with log.open("w") as sink:
            process = subprocess.Popen(
                command(output),
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=environment(library),
            )
            try:
                status = process.wait()
            except BaseException:
                end(process)
                raise
        if status != 0 or not output.exists():
            raise FailedRunError(f"ended with {status}: {last_words(log)}")
        return json.loads(output.read_text())


@functools.cache
def code(library: str, runner: str = "train") -> str:
    """Give 12 hexadecimal digits that change with what a run depends on: runner, pins, for ours the library.

    Kept from the first call on, so that an edit made during a run does not pass for what ran.
    """
    files = [PEERS / f"{name}.py" for name in RUNNERS[runner]]
    files += [path for name in (f"{runner}.py", "requirements.txt") if (path := PEERS / library / name).exists()]
    if library == OURS:
        files += (HERE.parent / "gossamer").rglob("*.py")
    return digest(files)


def digest(files: Iterable[Path]) -> str:
    """Give 12 hexadecimal digits that change with the names and contents of files of this repository."""
    found = hashlib.sha256()
    for path in sorted(files):
        found.update(f"{path.relative_to(HERE.parent).as_posix()}\n".encode() + path.read_bytes())
    return found.hexdigest()[:12]


def arguments(values: Mapping[str, Any]) -> list[str]:
    """Write values as `--name value`; what is None is left out."""
    given = {name: value for name, value in values.items() if value is not None}
    return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def _command(job: Job, data: Data, settings: Settings, python: Path, output: Path) -> list[str]:
    values = vars(settings) | {
        "rows": data.rows,
        "validation": data.validation,
        "seed": job.seed,
        "output": output,
        "learning_rate": job.learning_rate,
    }
    return [str(python), str(PEERS / job.library / "train.py"), *arguments(values)]
