"""One run of `benchmarks.architectures` and the line of the file that keeps its figures."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import sheet
from benchmarks.environments import HERE, PEERS, ensure
from benchmarks.jobs import Data, arguments, code, result_of
from benchmarks.processes import OURS, our_interpreter

RUNNER = "architectures"
CACHE = HERE / ".data" / RUNNER


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What every library is given alike."""

    train_rows: int
    latents: int
    l0: int
    batch: int
    epochs: int


@dataclass(frozen=True, kw_only=True)
class MatchedJob:
    """One run to make."""

    architecture: str
    library: str
    learning_rate: float | None
    """None for ours: it derives its own."""
    coefficient: float | None
    """None where L0 is asked for as such."""
    seed: int

    @property
    def name(self) -> str:
        """What to call it in progress lines and file names."""
        rate = "derived" if self.learning_rate is None else f"{self.learning_rate:g}"
        weight = "" if self.coefficient is None else f"-{self.coefficient:g}"
        return f"{self.architecture}-{self.library}-{rate}{weight}-seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One run; a line of the file, its fields the columns."""

    date: str
    cpu: str
    cores: int
    threads: str
    """What the environment limited torch to; empty is torch's own choice."""
    python: str
    library: str
    version: str
    code: str
    """What the figures depend on beside data and sizes, see `jobs.code`."""
    torch: str
    data: str
    """Digest of the stored rows."""
    width: int
    validation_rows: int
    train_rows: int
    latents: int
    l0_wanted: int
    batch: int
    epochs: int
    architecture: str
    asked_learning_rate: float | None
    learning_rate: float | None
    coefficient: float | None
    seed: int
    status: str
    """`done`, `failed`, or `spliced`: the figures of a run that is done, with those of the language model."""
    steps: int | None = None
    fvu: float | None = None
    l0: float | None = None
    dead: float | None = None
    final_loss: float | None = None
    ms_per_step: float | None = None
    seconds: float | None = None
    predictions: int | None = None
    recovered_from_zero: float | None = None
    recovered_from_mean: float | None = None
    kl: float | None = None

    @classmethod
    def of(cls, job: MatchedJob, data: Data, sizes: Sizes, result: dict[str, Any] | None) -> Entry:
        """Make the entry of a run that ended; `result` is None where it failed."""
        figures: dict[str, Any] = {"learning_rate": job.learning_rate, "version": "", "torch": "", "status": "failed"}
        if result is not None:
            versions = dict(result["versions"])
            figures = {
                "torch": versions.pop("torch"),
                "version": next(iter(versions.values())),
                "status": "done",
                "ms_per_step": 1000 * result["seconds_per_step"],
                **{name: result[name] for name in ("learning_rate", "steps", "final_loss", "seconds")},
                **result["score"],
            }
        return cls(
            **sheet.machine(),
            threads=os.environ.get("OMP_NUM_THREADS", ""),
            library=job.library,
            code=code(job.library, RUNNER),
            data=data.digest,
            width=data.shape[1],
            validation_rows=data.validation_rows,
            train_rows=sizes.train_rows,
            latents=sizes.latents,
            l0_wanted=sizes.l0,
            batch=sizes.batch,
            epochs=sizes.epochs,
            architecture=job.architecture,
            asked_learning_rate=job.learning_rate,
            coefficient=job.coefficient,
            seed=job.seed,
            **figures,
        )

    @property
    def job(self) -> MatchedJob:
        """The run that this is the entry of."""
        return MatchedJob(
            architecture=self.architecture,
            library=self.library,
            learning_rate=self.asked_learning_rate,
            coefficient=self.coefficient,
            seed=self.seed,
        )

    @property
    def sizes(self) -> Sizes:
        """What it was given beside the job."""
        return Sizes(
            train_rows=self.train_rows,
            latents=self.latents,
            l0=self.l0_wanted,
            batch=self.batch,
            epochs=self.epochs,
        )

    def answers(self, job: MatchedJob, data: Data, sizes: Sizes) -> bool:
        """Tell whether this is a finished run of that job."""
        return (
            self.status in ("done", "spliced")
            and (self.job, self.sizes) == (job, sizes)
            and (self.data, self.code) == (data.digest, code(job.library, RUNNER))
            and (self.cpu, self.cores) == (sheet.cpu(), os.cpu_count())
        )

    def spliced(self, *, predictions: int, from_zero: float, from_mean: float, kl: float) -> Entry:
        """Give the entry with the figures of the language model."""
        return replace(
            self,
            date=sheet.machine()["date"],
            status="spliced",
            predictions=predictions,
            recovered_from_zero=from_zero,
            recovered_from_mean=from_mean,
            kl=kl,
        )


def weights(entry: Entry) -> Path:
    """Name the folder that the weights of a run are in."""
    return _folder(entry.job, entry.sizes, data=entry.data, made_by=entry.code)


def train(job: MatchedJob, data: Data, sizes: Sizes) -> dict[str, Any]:
    """Run a job in the library's own interpreter; give what it wrote. Raises FailedRunError, RuntimeError."""
    python = our_interpreter() if job.library == OURS else ensure(job.library)
    place = _folder(job, sizes, data=data.digest, made_by=code(job.library, RUNNER))
    place.mkdir(parents=True, exist_ok=True)

    def command(output: Path) -> list[str]:
        values = vars(sizes) | vars(job) | {"rows": data.rows, "validation": data.validation, "weights": place}
        del values["library"]
        return [str(python), str(PEERS / job.library / f"{RUNNER}.py"), *arguments(values | {"output": output})]

    return result_of(command, library=job.library, log=log(job))


def log(job: MatchedJob) -> Path:
    """Name the file that a run prints to."""
    return HERE / ".data" / "logs" / f"{RUNNER}-{job.name}.log"


def _folder(job: MatchedJob, sizes: Sizes, *, data: str, made_by: str) -> Path:
    """Name a folder that differs where the weights may."""
    size = "-".join(str(value) for value in vars(sizes).values())
    return CACHE / f"{data}-{size}" / f"{job.name}-{made_by}"
