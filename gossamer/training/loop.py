"""train: the one loop, for one model or a list of them that share every batch: autoencoders, or transformers."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from gossamer import kernels
from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.kernels.sharing import shared_inputs
from gossamer.kernels.threads import one_thread
from gossamer.progress import Progress
from gossamer.sources.source import Batch, Feed, Source, SourceSpec
from gossamer.training import checkpoint as checkpoints
from gossamer.training.checkpoint import Checkpoint
from gossamer.training.devices import resolve_device
from gossamer.training.interrupt import Interrupted, StopRequest
from gossamer.training.learner import Learner
from gossamer.training.learners import learner_of, precision, require
from gossamer.training.metrics import MetricsLog
from gossamer.training.plan import Plan, make_plan
from gossamer.training.provenance import provenance_of
from gossamer.training.run import Model, PythonSource, Run, RunSpec, differences, take_weights
from gossamer.training.spec import TrainSpec, derive
from gossamer.transformer.model import Transformer
from gossamer.version import VERSION

__all__ = ["DivergedError", "Watch", "plan", "require_unused", "train"]

Watch: TypeAlias = Callable[[int, Sequence[Mapping[str, float]]], bool]
"""Told the step and the figures of every model at each log line, says whether training shall come to its end."""

SAMPLE_ROWS = 16_384
"""Rows that scaling and biases are measured on."""


SMALL = 2**27
"""Multiplications of a step's largest product below which one thread is as fast as two, and faster beside others."""


class DivergedError(FloatingPointError):
    """The loss became NaN or infinite."""


def train(
    models: Model | Sequence[Model],
    source: Source,
    spec: TrainSpec | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    described: SourceSpec | None = None,
    start_from: str | Path | None = None,
    watch: Watch | None = None,
    quiet: bool = False,
) -> Run:
    """Train autoencoders, or transformers, on a source and return the run; the models are trained in place.

    All of them see the same batches, so that a sweep pays for its rows once. With `out`, the folder receives
    run.toml, metrics.jsonl, checkpoints/ and at the end sae/; without it nothing is kept.

    resume: go on from the newest checkpoint in `out`, with the same arguments again; with none there, start. The
    continued run equals the uninterrupted one bit for bit on the same machine. Of a finished run, the models
    take the weights.
    described: the spec that `source` was built from, so that run.toml can rebuild it (`gossamer train --resume`).
    start_from: the folder of a finished run; the models start with the weights of its models, to be trained for longer
    or on other data. The optimizer starts anew.
    watch: called with the step and the figures of every model at each log line. When it returns True, the learning rate
    falls as at the end of a run, and the run is over; without `out` only, since a resumed run would not know of it.
    quiet: print neither plan nor progress.

    Ctrl-C and SIGTERM save a checkpoint, say how to go on, and raise Interrupted.

    Raises ValueError for what cannot be trained (width mismatch, unknown device, a folder that holds another run,
    other arguments on resuming), DivergedError when the loss is no longer finite (the last good checkpoint stays),
    StorageError when the disk is full (likewise).
    """
    spec = spec or TrainSpec()
    if watch is not None and out is not None:
        raise ValueError("a run that is watched keeps no folder; leave out either `watch` or `out`")
    with kernels.use(backend=spec.kernels.backend, selection=spec.kernels.selection):
        session = _prepare(models, source, spec, described, out=out, resume=resume, start_from=start_from)
        if isinstance(session, Run):
            _say(f"{session.folder} is finished; nothing to do", quiet=quiet)
            return session
        with torch.random.fork_rng(devices=_cuda_devices(session.device)):
            session.begin(quiet=quiet)
            try:
                session.loop(watch, quiet=quiet)
            finally:
                session.log.close()
        return session.finish(quiet=watch is not None)


def plan(
    models: Model | Sequence[Model],
    source: Source,
    spec: TrainSpec | None = None,
    *,
    out: str | Path | None = None,
) -> Plan:
    """Return what `train` would do with these arguments, without doing it (`--dry-run`)."""
    spec = spec or TrainSpec()
    with kernels.use(backend=spec.kernels.backend, selection=spec.kernels.selection):
        session = _prepare(models, source, spec, None, out=out, resume=False, start_from=None)
        assert isinstance(session, _Session)
        return session.plan()


@dataclass
class _Session:
    """A run while it is going on: what the loop reads and changes."""

    run: RunSpec
    source: Source
    learners: list[Learner]
    feed: Feed
    folder: Path | None
    device: torch.device
    log: MetricsLog
    step: int = 0
    resumed: bool = False

    def begin(self, *, quiet: bool) -> None:
        """Start from data, or from the newest checkpoint; say what will happen; only then touch the folder."""
        place = checkpoints.newest(self.folder) if self.folder and self.resumed else None
        torch.manual_seed(self.run.train.seed)
        saved = checkpoints.read(place) if place else None
        if saved:
            self._restore(saved)
        else:
            self._start_from_data()
        plan = self.plan()
        _say(str(plan), quiet=quiet)
        if saved:
            _say(f"resume   from step {self.step:,} of {self.run.train.steps:,}", quiet=quiet)
        if self.folder is not None:
            plan.check_disk(self.folder)
            self.run.write(self.folder)
            self.source.keep(self.folder)
            self.log = MetricsLog(self.folder / "metrics.jsonl")
            self.log.truncate(saved.log_bytes if saved else 0)

    def loop(self, watch: Watch | None, *, quiet: bool) -> None:
        """Batch → step of every model → log → checkpoint, until the rows are used up or somebody stops it."""
        spec = self.run.train
        end, ending = spec.steps, False
        began = time.monotonic()
        progress = Progress(spec.steps, done=self.step, quiet=quiet)
        with StopRequest() as stop, progress, one_thread() if self._is_small() else nullcontext():
            while self.step < end:
                batch = self.feed.next()
                rows = _on_device(batch, self.device)
                with shared_inputs() if len(self.learners) > 1 else nullcontext():
                    for learner in self.learners:
                        learner.step(rows, self.step)
                self.step += 1
                last = self.step == end
                figures = self._log(began) if self.step % spec.log_every == 0 or last else None
                if watch is not None and figures is not None and watch(self.step, figures) and not ending:
                    ending, end = True, self._wind_down()
                progress.advance(self.step, None if figures is None else _shown(figures[0]))
                if self.step % spec.checkpoint_every == 0 or last or stop.signal:
                    self._save()
                if stop.signal and not last:
                    raise Interrupted(self._stopped(stop.signal), stop.signal)

    def finish(self, *, quiet: bool) -> Run:
        """Write the models, as they are to be used; quiet: somebody else tells of a missed L0."""
        for learner in self.learners:
            if learner.verdict():
                _say(learner.verdict(), quiet=quiet)
            learner.finish()
        run = Run.of(self.folder, [learner.model for learner in self.learners])
        for number, sae in enumerate(run.autoencoders):
            sae.provenance = provenance_of(self.run, self.source, number, self.folder)
        run.save()
        return run

    def plan(self) -> Plan:
        """Return the plan, measured."""
        sample = self.feed.sample(self.run.train.batch)
        with torch.random.fork_rng(devices=_cuda_devices(self.device)):  # a step that is timed may draw numbers, too
            return make_plan(self.source, self.learners, sample, self.run.train, self.folder, done=self.step)

    def _start_from_data(self) -> None:
        sample = self.source.measured_on(self.feed.sample(SAMPLE_ROWS))
        rows = _on_device(sample, self.device)
        for learner in self.learners:
            learner.start(rows)

    def _is_small(self) -> bool:
        """Say whether a step is so little work that several threads would only wait for each other."""
        batch = self.run.train.batch
        largest = max(learner.needs(batch).largest_product for learner in self.learners)
        return self.device.type == "cpu" and largest < SMALL

    def _wind_down(self) -> int:
        """Let the learning rates fall from here on; return the step where the run ends.

        Where an L0 is steered to, all steps are needed: the path that leads to it is as long as the run.
        """
        steps = self.run.train.steps
        if any(learner.steered for learner in self.learners):
            return steps
        end = min(steps, self.step + max(learner.derived.decay_steps for learner in self.learners))
        for learner in self.learners:
            learner.end = end
        return end

    def _log(self, began: float) -> list[dict[str, float]]:
        """Write a line per model, and return their figures."""
        self._require_finite()
        figures = []
        for number, learner in enumerate(self.learners):
            values = learner.log(last=self.step == self.run.train.steps)
            rate = learner.derived.learning_rate_at(self.step - 1, learner.end)
            record = {"step": self.step, "rows": self.step * self.run.train.batch, "model": number}
            timing = {"seconds": round(time.monotonic() - began, 3)}
            self.log.write({**record, "learning_rate": rate, **values, **timing})
            figures.append(values)
        return figures

    def _require_finite(self) -> None:
        for number, learner in enumerate(self.learners):
            bad = int(learner.first_bad_step)
            if bad >= 0:
                batch = self.run.train.batch
                place = checkpoints.newest(self.folder) if self.folder else None
                raise DivergedError(
                    f"the loss of model {number} ({learner.name}) stopped being finite in batch {bad:,} "
                    f"(rows {bad * batch:,} to {(bad + 1) * batch:,} of the run); the learning rate was "
                    f"{learner.derived.learning_rate:.2g}: try a third of it. "
                    f"The last good checkpoint is {place or 'none'}"
                )

    def _save(self) -> None:
        """Write a checkpoint, unless the loss has gone bad: the last good one must stay."""
        if self.folder is None:
            return
        self._require_finite()
        self.log.sync()
        tensors: dict[str, Tensor] = {"rng.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        tensors |= {f"feed.{name}": t for name, t in self.feed.state_dict().items()}
        for number, learner in enumerate(self.learners):
            tensors |= {f"{number}.{name}": t for name, t in learner.state_dict().items()}
        checkpoints.write(self.folder, Checkpoint(self.step, self.log.bytes, tensors))

    def _restore(self, saved: Checkpoint) -> None:
        self.step = saved.step
        torch.set_rng_state(saved.tensors["rng.cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(saved.tensors["rng.cuda"], self.device)
        self.feed.load_state_dict(saved.part("feed"))
        for number, learner in enumerate(self.learners):
            learner.load_state_dict(saved.part(str(number)))

    def _stopped(self, number: int) -> str:
        name = signal.Signals(number).name
        if self.folder is None:
            return f"stopped by {name} at step {self.step:,}; nothing was kept, because no folder was given"
        again = f"gossamer train --resume {shlex.quote(str(self.folder))}"
        if isinstance(self.run.source, PythonSource):
            again = f"gs.train(..., out={str(self.folder)!r}, resume=True) with the same arguments"
        return f"stopped by {name}, saved at step {self.step:,} of {self.run.train.steps:,}. Go on with: {again}"


def _prepare(
    models: Model | Sequence[Model],
    source: Source,
    spec: TrainSpec,
    described: SourceSpec | None,
    *,
    out: str | Path | None,
    resume: bool,
    start_from: str | Path | None,
) -> _Session | Run:
    """Check everything that can be wrong, and set up a session; or open the run that is finished already."""
    listed = [models] if isinstance(models, SparseAutoencoder | Transformer) else list(models)
    if not listed:
        raise ValueError("no autoencoder to train")
    if len({id(model) for model in listed}) < len(listed):
        raise ValueError("the same autoencoder is in the list twice; build each with a seed of its own")
    device = resolve_device(spec.device)
    derived = [derive(spec, model.spec) for model in listed]
    for model in listed:
        require(model, source)
    run = RunSpec.of(
        [model.spec for model in listed],
        source=described or PythonSource(),
        train=spec,
        fingerprint=source.fingerprint() | precision(listed, spec, device),
        derived=tuple(derived),
        version=VERSION,
        start_from=None if start_from is None else str(start_from),
    )
    folder = None if out is None else Path(out)
    if folder is not None:
        if resume and (folder / "run.toml").is_file():
            run = _saved_run(folder, run)
            if Run.is_finished(folder, run):
                return _finished(folder, listed)
        else:
            require_unused(folder)
    if start_from is not None and not (resume and folder is not None and checkpoints.newest(folder)):
        take_weights(listed, source, start_from)
    learners = [
        learner_of(model.to(device).train(), source, spec, numbers)
        for model, numbers in zip(listed, run.derived, strict=True)
    ]
    feed = Feed(source, batch=spec.batch, seed=spec.seed)
    return _Session(run, source, learners, feed, folder, device, MetricsLog(None), resumed=resume)


def _finished(folder: Path, models: Sequence[Model]) -> Run:
    """Return a finished run, its weights in these models."""
    saved = Run.open(folder)
    for model, other in zip(models, (*saved.autoencoders, *saved.transformers), strict=True):
        model.load_state_dict(other.state_dict())
        if isinstance(model, SparseAutoencoder) and isinstance(other, SparseAutoencoder):
            model.provenance = other.provenance
        model.eval()
    return Run.of(folder, models)


def require_unused(folder: Path) -> None:
    """Raise ValueError unless a new run can be started in a folder."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; the run needs a folder")
    if (folder / "run.toml").exists():
        raise ValueError(
            f"{folder} already holds a run; continue it with resume=True (gossamer train --resume {folder}), "
            "or choose another folder"
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no run; choose another folder")


def _saved_run(folder: Path, run: RunSpec) -> RunSpec:
    """Return the run that a folder holds; raises ValueError if it is another one than the one given."""
    saved = RunSpec.read(folder)
    different = differences(saved, run.replace(derived=saved.derived, version=saved.version))
    if different:
        raise ValueError(
            f"{folder} holds a run with other arguments; resuming needs the same ones again:\n  "
            + "\n  ".join(different)
        )
    return saved


def _on_device(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    return {
        site: x.to(device, torch.float32) if x.is_floating_point() else x.to(device) for site, x in batch.rows.items()
    }


def _shown(figures: Mapping[str, float]) -> dict[str, float]:
    """Pick what is worth showing beside a progress bar."""
    return {name: figures[name] for name in ("loss", "reconstruction", "l0", "dead") if name in figures}


def _cuda_devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _say(text: str, *, quiet: bool) -> None:
    if not quiet:
        print(text, file=sys.stderr, flush=True)
