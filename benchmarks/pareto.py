"""Held-out error of every preset at several L0, on activations of SmolLM2, with what Gossamer derives by itself.

`python -m benchmarks.pareto` trains what `results/pareto.csv` does not hold yet, adds a line per run, and prints one
table. A run counts as known by its settings, whatever the code was: after a change of the library, `--fresh` repeats it
(the newest line of a run is the one that counts). `scripts/architecture_pages.py` puts them into the documentation.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import gossamer as gs
from benchmarks import rows as stored
from benchmarks import sheet, sites
from benchmarks.environments import HERE
from benchmarks.jobs import code
from benchmarks.processes import OURS
from gossamer.autoencoder.presets import PRESETS
from gossamer.sources.source import Source
from gossamer.training.spec import derive

RESULTS = HERE / "results" / "pareto.csv"
ROWS = 131_072
HELD_OUT = 16_384
MODEL_ROWS = 32_768
MODEL_HELD_OUT = 8_192
PREDICTIONS = 2_048
L0 = (32, 16, 8, 64)
"""In the order of what is most worth knowing."""

READ = tuple(f"model.layers.{layer}.post_attention_layernorm" for layer in (8, 9))
WRITTEN = tuple(f"model.layers.{layer}.mlp" for layer in (8, 9))
AROUND = ("model.layers.7", "model.layers.9")


@dataclass(frozen=True, kw_only=True)
class Data:
    """Rows that some presets are trained on: how the table calls them, how many, and how wide what is read is.

    make: gives the source for so many rows to train on and so many held out.
    """

    name: str
    make: Callable[[int, int], Source]
    width: int = 576
    rows: int = ROWS
    held_out: int = HELD_OUT

    def source(self) -> Source:
        """Give the source; the same one each time."""
        return _made(self.make, self.rows, self.held_out)


@cache
def _made(make: Callable[[int, int], Source], rows: int, held_out: int) -> Source:
    return make(rows, held_out)


RESIDUAL = Data(name="layer 8", make=sites.one_site)
UNIT = Data(name="layer 8, 0 to 1", make=sites.one_site_between_0_and_1)
MLP = Data(name="MLP 8", make=partial(sites.several_sites, (READ[0], WRITTEN[0])))
TWO_LAYERS = Data(name="layers 7 and 9", make=partial(sites.several_sites, AROUND), width=2 * 576)
TWO_MLPS = Data(name="MLPs 8 and 9", make=partial(sites.several_sites, (*READ, *WRITTEN)), width=2 * 576)
MODEL = Data(name="layer 8 of the model", make=sites.model_windows, rows=MODEL_ROWS, held_out=MODEL_HELD_OUT)
"""Few rows, because every step runs the model forward twice and backward once."""
MODEL_ROWS_ONLY = replace(MODEL, make=sites.model_activations)
"""The same rows for what needs no model in training."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A preset, the rows that it needs, and what it is given beside sizes and L0.

    l0: at which it is measured. `--l0` takes a part of them.
    """

    preset: str
    data: Data
    options: Mapping[str, Any] = field(default_factory=dict)
    l0: tuple[int, ...] = L0


SPECIAL = (
    Case(preset="dense-100-64", data=UNIT),
    Case(preset="topk", data=UNIT),
    Case(preset="transcoder", data=MLP, options={"site": READ[0], "target": WRITTEN[0]}),
    Case(preset="skip-transcoder", data=MLP, options={"site": READ[0], "target": WRITTEN[0]}),
    Case(preset="crosscoder", data=TWO_LAYERS, options={"sites": AROUND, "widths": (576, 576)}),
    Case(preset="clt", data=TWO_MLPS, options={"sites": READ, "targets": WRITTEN}),
    Case(preset="end-to-end", data=MODEL, options={"site": stored.HOOK}, l0=(32,)),
    Case(preset="topk", data=MODEL_ROWS_ONLY, l0=(32,)),
    Case(preset="matching-pursuit", data=RESIDUAL, l0=(8, 16, 32)),
    Case(preset="orthogonal-matching-pursuit", data=RESIDUAL, l0=(8, 16, 32)),
    Case(preset="deep-autoencoder", data=RESIDUAL, l0=(32,)),
    Case(preset="transformer-autoencoder", data=RESIDUAL, l0=(32,)),
)
"""What is not every L0 on the residual stream: other rows, or too slow for all of them."""

PLAIN = tuple(
    Case(preset=name, data=RESIDUAL)
    for name in PRESETS
    if name == "topk" or name not in {case.preset for case in SPECIAL}
)
CASES = (*PLAIN, *SPECIAL)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One run; a line of the file, its fields the columns."""

    date: str
    cpu: str
    cores: int
    python: str
    threads: int
    version: str
    code: str
    """12 hexadecimal digits that change with the library."""
    torch: str
    data: str
    width: int
    rows: int
    batch: int
    latents: int
    preset: str
    l0_wanted: int
    seed: int
    status: str
    """`done`, or what was raised."""
    learning_rate: float | None = None
    l0: float | None = None
    fvu: float | None = None
    dead: float | None = None
    held_out: int | None = None
    cpu_ms_per_step: float | None = None
    """Processor time, which other programs on the machine disturb less than the clock on the wall."""
    kl: float | None = None
    """KL(clean ‖ spliced) of the language model in nats, where the source has one."""
    recovered: float | None = None
    """Loss recovered from zero ablation, likewise."""

    @property
    def key(self) -> tuple[object, ...]:
        """What makes two lines the same run."""
        return (self.data, self.preset, self.l0_wanted, self.seed, self.rows, self.batch, self.latents)


def newest(entries: Sequence[Entry]) -> dict[tuple[object, ...], Entry]:
    """Give the last line of each run."""
    return {entry.key: entry for entry in entries}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 unless a run failed, 130 after an interrupt."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    known = {} if options.fresh else newest(sheet.read(options.results, Entry))
    found: list[Entry] = []
    status = 0
    try:
        for case, l0, seed in _plan(options):
            planned = _described(case, l0, seed, options)
            entry = known.get(planned.key)
            if entry is None or entry.status != "done":
                entry = _attempt(case, planned)
                sheet.append(options.results, entry)
            found.append(entry)
    except KeyboardInterrupt:
        print("interrupted; the runs that ended are kept, and the same command goes on from here", flush=True)
        status = 130
    print("\n" + table(found), flush=True)
    return status or int(any(entry.status != "done" for entry in found))


def table(entries: Sequence[Entry]) -> str:
    """Write the runs as one Markdown table."""
    header = ("preset", "rows of", "asked L0", "L0", "FVU", "dead", "CPU ms/step", "seed")
    return "\n".join(sheet.table(header, [_cells(entry) for entry in entries]))


def _cells(entry: Entry) -> list[str]:
    figures = [f"{entry.preset}", entry.data, str(entry.l0_wanted)]
    if entry.l0 is None or entry.fvu is None or entry.dead is None:
        return [*figures, entry.status, "–", "–", "–", str(entry.seed)]
    return [
        *figures,
        f"{entry.l0:.1f}",
        f"{entry.fvu:.4f}",
        f"{entry.dead:.1%}",
        f"{entry.cpu_ms_per_step:.1f}",
        str(entry.seed),
    ]


def _plan(options: argparse.Namespace) -> list[tuple[Case, int, int]]:
    """Give the runs, all presets at one L0 before the next."""
    return [
        (case, l0, seed)
        for seed in range(options.seeds)
        for l0 in options.l0
        for case in CASES
        if case.preset in options.presets and l0 in case.l0
    ]


def _described(case: Case, l0: int, seed: int, options: argparse.Namespace) -> Entry:
    """Give the line of a run before it is known how it ends."""
    return Entry(
        **sheet.machine(),
        threads=torch.get_num_threads(),
        version=gs.__version__,
        code=_code(),
        torch=torch.__version__,
        data=case.data.name,
        width=case.data.width,
        rows=case.data.rows,
        batch=options.batch,
        latents=options.latents,
        preset=case.preset,
        l0_wanted=l0,
        seed=seed,
        status="planned",
    )


@cache
def _code() -> str:
    """Take the digest once, so that an edit made during a run does not pass for what ran."""
    return code(OURS, "train")


def _attempt(case: Case, planned: Entry) -> Entry:
    """Train and measure; a run that fails leaves a line that says why."""
    started = time.perf_counter()
    name = f"{planned.preset} on {planned.data}, L0 {planned.l0_wanted}, seed {planned.seed}"
    try:
        figures = _figures(case, planned)
    except (ValueError, TypeError, ArithmeticError, RuntimeError, AttributeError) as error:
        print(f"{name}: failed, {error}", flush=True)
        return replace(planned, status=f"{type(error).__name__}: {error}".splitlines()[0])
    entry = replace(planned, status="done", **figures)
    seconds = time.perf_counter() - started
    print(f"{name}: FVU {entry.fvu:.4f} at L0 {entry.l0:.1f} in {seconds:.0f} s", flush=True)
    return entry


def _figures(case: Case, planned: Entry) -> dict[str, Any]:
    sizes = {"input_width": planned.width, "latents": planned.latents, "l0": planned.l0_wanted}
    sae = gs.preset(planned.preset, **sizes, **case.options).build(seed=planned.seed)
    how = gs.TrainSpec(rows=planned.rows, batch=planned.batch, seed=planned.seed)
    ticks: list[float] = []
    clock = register_optimizer_step_post_hook(lambda *_: ticks.append(time.process_time()))
    try:
        gs.train(sae, case.data.source(), how, quiet=True)
    finally:
        clock.remove()
    measured = gs.measure(sae, case.data.source(), rows=case.data.held_out, predictions=PREDICTIONS)
    language = measured.language_model
    return {
        "learning_rate": derive(how, sae.spec).learning_rate,
        "l0": measured.sparsity.l0,
        "fvu": measured.reconstruction.fvu,
        "dead": measured.sparsity.dead,
        "held_out": measured.reconstruction.rows,
        "cpu_ms_per_step": 1000 * (ticks[-1] - ticks[0]) / (len(ticks) - 1),
        "kl": language.kl if language else None,
        "recovered": language.recovered_from_zero if language else None,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pareto", description=__doc__)
    names = sorted(PRESETS)
    parser.add_argument("--presets", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--l0", type=int, nargs="+", default=L0)
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 to this, less one")
    parser.add_argument("--latents", type=int, default=1152)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--fresh", action="store_true", help="repeat runs that are finished")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
