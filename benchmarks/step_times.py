"""What a training step of each preset costs beside TopK's, at equal sizes and an equal number of active latents.

`python -m benchmarks.step_times` trains every preset until its L0 is what was asked for, and then times single steps
(`Trainee.step`) with a learning rate of zero, so that L0 stays. Presets take turns, so that a noisy moment hits all
alike. Lines go to `results/step_times.csv`; those with the same `run` may be compared.

What is left out: batches that are waited for, logging, and AuxK, which acts in a run only where latents are dead.
Presets that need several sites get the halves of the row, so that all read rows of the same width.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gossamer as gs
from benchmarks import inputs, sheet, sites
from benchmarks.environments import HERE
from benchmarks.jobs import code
from benchmarks.processes import OURS
from gossamer.autoencoder.initialise import start_from_data
from gossamer.autoencoder.presets import PRESETS
from gossamer.training.spec import derive
from gossamer.training.trainee import Trainee

RESULTS = HERE / "results" / "step_times.csv"
BASE = "topk"
BAR = 1.5
ASIDE = ("matching-pursuit", "orthogonal-matching-pursuit", "lista-matryoshka")
"""Their cost is stated, the bar is not theirs. `end-to-end` is not here at all: its steps run a language model."""
ROWS = 131_072

OPTIONS: dict[str, dict[str, Any]] = {
    "transcoder": {"target": "other"},
    "skip-transcoder": {"target": "other"},
    "crosscoder": {"sites": ("left", "right")},
    "clt": {"sites": ("left", "right"), "targets": ("right", "left")},
}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What all presets are given alike."""

    batch: int
    width: int
    latents: int
    l0: int

    def __str__(self) -> str:
        return f"{self.batch}×{self.width}×{self.latents}, L0 {self.l0}"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The times of one preset; a line of the file, its fields the columns."""

    date: str
    cpu: str
    cores: int
    python: str
    threads: int
    version: str
    code: str
    torch: str
    run: str
    batch: int
    width: int
    latents: int
    l0_wanted: int
    preset: str
    warm: int
    """Steps of training before the first that is timed."""
    l0: float
    """In the steps that are timed."""
    entries: float
    """That codes hold per row: with JumpReLU also what is near its threshold, with dense codes all latents."""
    steps: int
    median_ms: float
    minimum_ms: float
    cpu_ms: float
    """Median of the processor time, which other programs disturb less."""
    ratio: float
    """Of the medians, to TopK's."""
    ratio_of_minima: float
    ratio_of_cpu: float


@dataclass
class Runner:
    """A preset in training, and the times of its steps."""

    name: str
    trainee: Trainee
    steps: int
    entries: float = 0.0
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def step(self, batch: dict[str, Tensor]) -> None:
        """Take a step at the end of the training, where the learning rate is zero, and time it."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.trainee.step(batch, self.steps)
        self.wall.append(1000 * (time.perf_counter() - wall))
        self.cpu.append(1000 * (time.process_time() - cpu))

    def forget(self) -> None:
        """Forget what was timed so far."""
        self.wall, self.cpu = [], []
        self.trainee.sums = {}


def prepared(name: str, sizes: Sizes, batches: Sequence[dict[str, Tensor]], warm: int) -> Runner:
    """Train a preset until the steps that penalties are steered over are done."""
    options = dict(OPTIONS.get(name, {}))
    if name == "crosscoder":
        options["widths"] = tuple(batches[0][site].shape[1] for site in options["sites"])
    spec = gs.preset(name, input_width=sizes.width, latents=sizes.latents, l0=sizes.l0, **options)
    rows = warm * sizes.batch
    train = gs.TrainSpec(rows=rows, batch=sizes.batch, dead_after=100 * rows)
    sae = spec.build(seed=0)
    sample = {site: torch.cat([batch[site] for batch in batches[:4]]) for site in batches[0]}
    start_from_data(sae, *spec.task.rows(sample))
    trainee = Trainee(sae, spec.task.bind(None), train, derive(train, spec))
    for step in range(warm):
        trainee.step(batches[step % len(batches)], step)
    runner = Runner(name, trainee, warm)
    x, target = spec.task.rows(batches[0])
    codes = sae.loss(x, target, trainee.moment(warm)).codes
    runner.entries = codes.values.numel() / codes.rows
    return runner


def batches_of(sizes: Sizes) -> list[dict[str, Tensor]]:
    """Give batches of rows: the stored activations where they have the width, else rows with a decaying spectrum."""
    count = max(sizes.batch, ROWS // sizes.batch * sizes.batch)
    if sizes.width == inputs.STORED_WIDTH:
        x = next(iter(sites.one_site(count, 1).train.values()))
    else:
        x = inputs.synthetic(count, sizes.width)
    half = sizes.width // 2
    return [
        {"": part, "other": part.flip(1), "left": part[:, :half].contiguous(), "right": part[:, half:].contiguous()}
        for part in torch.tensor(x).split(sizes.batch)
    ]


def measure(names: Sequence[str], sizes: Sizes, *, warm: int, rounds: int, turn: int) -> list[Entry]:
    """Prepare all presets, let them take turns, and give a line for each."""
    batches = batches_of(sizes)
    runners = []
    for name in names:
        started = time.perf_counter()
        runners.append(prepared(name, sizes, batches, warm))
        print(f"  {name}: {warm} steps in {time.perf_counter() - started:.0f} s", flush=True)
    for number in range(rounds + 1):
        for runner in (*runners[number % len(runners) :], *runners[: number % len(runners)]):
            for step in range(turn):
                runner.step(batches[(number * turn + step) % len(batches)])
        if number == 0:
            for runner in runners:
                runner.forget()
    base = next(runner for runner in runners if runner.name == BASE)
    about = {
        **sheet.machine(),
        "threads": torch.get_num_threads(),
        "version": gs.__version__,
        "code": code(OURS, "train"),
        "torch": torch.__version__,
        "run": time.strftime("%Y%m%dT%H%M%S", time.gmtime()),
        "l0_wanted": sizes.l0,
        **{name: value for name, value in vars(sizes).items() if name != "l0"},
    }
    return [_entry(runner, base, about) for runner in runners]


def _entry(runner: Runner, base: Runner, about: dict[str, Any]) -> Entry:
    median, smallest = statistics.median(runner.wall), min(runner.wall)
    cpu = statistics.median(runner.cpu)
    return Entry(
        **about,
        preset=runner.name,
        warm=runner.steps,
        l0=runner.trainee.log()["l0"],
        entries=runner.entries,
        steps=len(runner.wall),
        median_ms=median,
        minimum_ms=smallest,
        cpu_ms=cpu,
        ratio=median / statistics.median(base.wall),
        ratio_of_minima=smallest / min(base.wall),
        ratio_of_cpu=cpu / statistics.median(base.cpu),
    )


def table(entries: Sequence[Entry]) -> str:
    """Write the times as a Markdown table, and name the presets that are over the bar."""
    header = ("preset", "L0", "entries", "median ms", "least ms", "CPU ms", "ratio", "of least", "of CPU")
    rows = [
        [
            entry.preset,
            *(f"{value:.1f}" for value in (entry.l0, entry.entries, entry.median_ms, entry.minimum_ms, entry.cpu_ms)),
            *(f"{value:.2f}" for value in (entry.ratio, entry.ratio_of_minima, entry.ratio_of_cpu)),
        ]
        for entry in sorted(entries, key=lambda entry: entry.ratio)
    ]
    over = [entry.preset for entry in entries if entry.ratio > BAR and entry.preset not in ASIDE]
    verdict = f"over {BAR} times {BASE}: {', '.join(over) or 'none'} (aside: {', '.join(ASIDE)})"
    return "\n".join([*sheet.table(header, rows), "", verdict])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = _parser().parse_args(arguments)
    sizes = Sizes(**dict(zip(("batch", "width", "latents"), options.sizes, strict=True)), l0=options.l0)
    names = [BASE, *(name for name in options.presets if name != BASE)]
    print(f"{sizes}; {torch.get_num_threads()} threads; {len(names)} presets", flush=True)
    entries = measure(names, sizes, warm=options.warm, rounds=options.rounds, turn=options.turn)
    for entry in entries:
        sheet.append(options.results, entry)
    print("\n" + table(entries), flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_times", description=__doc__)
    names = [name for name in PRESETS if name != "end-to-end"]
    parser.add_argument("--presets", nargs="+", choices=names, default=names, metavar="NAME")
    sizes = (2048, 576, 4608)
    parser.add_argument("--sizes", type=int, nargs=3, default=sizes, metavar=("BATCH", "WIDTH", "LATENTS"))
    parser.add_argument("--l0", type=int, default=32)
    parser.add_argument("--warm", type=int, default=128, help="steps of training before the first that is timed")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--turn", type=int, default=3, help="steps that a preset takes in a round")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
