"""One setting of `speed`: libraries in processes of their own that take turns, so that only one ever computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import inputs
from benchmarks.environments import HERE, ensure, peers
from benchmarks.processes import OURS, our_interpreter
from benchmarks.turns import DiedError, Worker

MACHINE = "machine"
MEASURES = ("step", "encode", "memory")
TURN = {"step": 3, "encode": 3}
"""How often a library does it each time it has the turn."""
WARM_UP = {"step": 2, "encode": 1}
WARM_UP_STARTED = {"step": 18, "encode": 1}
"""From given weights: ours asks every 16 steps whether codes are sparse, and takes the dense path until then."""
STARTED_RATE = 1e-7
"""Learning rate from given weights: low, so that L0 stays what it was set to; the time of a step does not know it."""
LOGS = HERE / ".data" / "logs"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is trained, and what is measured of it."""

    architecture: str
    batch: int
    width: int
    latents: int
    k: int
    """Active latents per row; where the architecture does not fix it, what the weights to start from give."""
    measures: tuple[str, ...] = ("step", "encode")

    def __str__(self) -> str:
        return f"{self.architecture}:{self.batch},{self.width},{self.latents},{self.k}"


DEFAULTS = {
    "topk-768": Setting(architecture="topk", batch=4096, width=768, latents=12_288, k=32),
    "topk-576": Setting(architecture="topk", batch=2048, width=576, latents=4608, k=32),
    "memory": Setting(architecture="topk", batch=4096, width=768, latents=49_152, k=32, measures=("memory",)),
    "relu": Setting(architecture="relu", batch=4096, width=768, latents=12_288, k=50),
    "jumprelu": Setting(architecture="jumprelu", batch=4096, width=768, latents=12_288, k=50),
}
ARCHITECTURES = {"topk": None, "relu": (OURS, "saelens"), "jumprelu": (OURS, "saelens")}
"""Each architecture and who is measured in it; None is everybody."""


def parse(text: str) -> Setting:
    """Read the name of a default setting or ARCHITECTURE:BATCH,WIDTH,LATENTS,K; raises ValueError."""
    if text in DEFAULTS:
        return DEFAULTS[text]
    architecture, colon, sizes = text.partition(":")
    parts = sizes.split(",")
    if not colon or architecture not in ARCHITECTURES or len(parts) != 4 or not all(p.isdecimal() for p in parts):
        raise ValueError(
            f"{text!r} is neither a setting ({', '.join(DEFAULTS)}) nor ARCHITECTURE:BATCH,WIDTH,LATENTS,K "
            f"with an architecture among {', '.join(ARCHITECTURES)}, such as topk:4096,768,12288,32"
        )
    batch, width, latents, k = map(int, parts)
    if not (batch >= 1 and width >= 1 and 1 <= k <= latents):
        raise ValueError(f"{text!r}: sizes are at least 1, and K is at most LATENTS")
    return Setting(architecture=architecture, batch=batch, width=width, latents=latents, k=k)


def everyone() -> list[str]:
    """Name the libraries that have a worker."""
    return [OURS, *peers("speed")]


@dataclass(frozen=True, kw_only=True)
class How:
    """How a contest is held."""

    rounds: int
    device: str
    threads: int | None
    seed: int


@dataclass(kw_only=True)
class Outcome:
    """What is known of one library in one setting."""

    library: str
    about: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    """Milliseconds of each step and each encoding; MiB of memory."""
    note: dict[str, str] = field(default_factory=dict)
    score: dict[str, float] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """All outcomes in one setting."""

    setting: Setting
    digest: str
    outcomes: dict[str, Outcome]
    floor: dict[str, list[float]]
    """What the `machine` worker measured; empty if nobody asked."""


def hold(setting: Setting, libraries: Sequence[str], how: How, *, floor: bool) -> Contest:
    """Measure a setting. A library that fails is noted, and the others go on."""
    allowed = ARCHITECTURES[setting.architecture]
    libraries = [name for name in libraries if allowed is None or name in allowed]
    given = inputs.ensure(
        setting.architecture, batch=setting.batch, width=setting.width, latents=setting.latents, k=setting.k
    )
    outcomes = {name: Outcome(library=name) for name in libraries}
    setup = _setup(setting, given, how)
    found: dict[str, list[float]] = {}
    if set(setting.measures) & set(TURN):
        with ExitStack() as stack:
            workers = {name: w for name in libraries if (w := _start(stack, setup, outcomes[name], how))}
            machine = Outcome(library=MACHINE)
            referee = _start(stack, setup, machine, how) if floor else None
            for number in range(-1, how.rounds):
                _round(number, setting, workers, outcomes)
                if referee is not None and number >= 0:
                    for name, values in (_ask(machine, referee, "floor") or {}).items():
                        found.setdefault(name, []).extend(values)
            for name, worker in workers.items():
                if answer := _ask(outcomes[name], worker, "score"):
                    outcomes[name].score = answer
    if "memory" in setting.measures:
        for name in libraries:
            _memory(setup, outcomes[name], how)
    return Contest(setting=setting, digest=given.digest, outcomes=outcomes, floor=found)


def _round(number: int, setting: Setting, workers: Mapping[str, Worker], outcomes: Mapping[str, Outcome]) -> None:
    """Give each worker the turn, another one first each time; round -1 warms up and is not kept."""
    names = list(workers)
    start = max(number, 0) % max(len(names), 1)
    warm_up = WARM_UP_STARTED if setting.architecture in inputs.THRESHOLDS else WARM_UP
    print(f"  {setting}: " + ("warming up" if number < 0 else f"round {number + 1}"), flush=True)
    for measure in TURN:
        if measure not in setting.measures:
            continue
        for name in names[start:] + names[:start]:
            times = warm_up[measure] if number < 0 else TURN[measure]
            answer = None if outcomes[name].failure else _ask(outcomes[name], workers[name], measure, times)
            if answer and number >= 0:
                outcomes[name].samples.setdefault(measure, []).extend(1000 * s for s in answer["seconds"])


def _memory(setup: dict[str, Any], outcome: Outcome, how: How) -> None:
    """Measure one library in a fresh process, with no other there."""
    with ExitStack() as stack:
        worker = _start(stack, setup, outcome, how)
        if worker is None or not (answer := _ask(outcome, worker, "memory", 3)):
            return
        outcome.samples["memory"] = [answer["bytes"] / 2**20]
        outcome.note["memory"] = f"{answer['method']}; {answer['before'] / 2**20:.0f} MiB before"
        if not outcome.score:
            outcome.score = _ask(outcome, worker, "score") or {}


def _start(stack: ExitStack, setup: dict[str, Any], outcome: Outcome, how: How) -> Worker | None:
    """Start a worker and wait until it is built; None where it fails."""
    name = outcome.library
    log = LOGS / f"speed-{name}.log"
    try:
        python = ensure(name) if name in peers() else our_interpreter()
        worker = Worker(name, setup, python=python, log=log, threads=how.threads)
    except RuntimeError as error:
        _failed(outcome, error, log)
        return None
    stack.callback(worker.close)
    outcome.about = worker.about
    return worker


def _ask(outcome: Outcome, worker: Worker, command: str, times: int = 1) -> dict[str, Any] | None:
    if outcome.failure:
        return None
    try:
        return worker.ask(command, times)
    except DiedError as error:
        _failed(outcome, error, LOGS / f"speed-{outcome.library}.log")
        return None


def _failed(outcome: Outcome, error: Exception, log: Path) -> None:
    outcome.failure = str(error)
    print(f"  {outcome.library}: failed, {error} (all of it in {log.relative_to(HERE.parent)})", flush=True)


def _setup(setting: Setting, given: inputs.Inputs, how: How) -> dict[str, Any]:
    sizes = {name: getattr(setting, name) for name in ("architecture", "batch", "width", "latents", "k")}
    return sizes | {
        "rows": str(given.rows),
        "validation": str(given.validation),
        "weights": None if given.weights is None else str(given.weights),
        "learning_rate": None if given.weights is None else STARTED_RATE,
        "device": how.device,
        "seed": how.seed,
    }


GRID = {
    "width": (384, 768, 1536, 3072, 4096),
    "latents": (4096, 12_288, 32_768, 65_536, 131_072),
    "k": (16, 32, 64, 128),
    "batch": (1024, 2048, 4096, 8192, 16_384),
}


def grid(base: Setting, names: Sequence[str]) -> Iterator[Setting]:
    """Give the settings that differ from one in one of the sizes named."""
    for name in names:
        for value in GRID[name]:
            if value != getattr(base, name):
                yield replace(base, **{name: value}, measures=("step",))
