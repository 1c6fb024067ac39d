"""Held-out error of ours and of other libraries on the same stored activations.

`python -m benchmarks.quality` makes the rows and the environments where they are missing, trains every
library with every learning rate and seed, and prints one table. Runs that an earlier call finished are read
from `results/quality.csv`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import ledger, rows, sheet
from benchmarks.environments import HERE, ensure, peers
from benchmarks.jobs import Data, FailedRunError, Job, Settings, code, plan, run
from benchmarks.processes import OURS, our_interpreter

RESULTS = HERE / "results" / "quality.csv"
CACHE = HERE / ".data"
LEARNING_RATES = (1e-3, 3e-3, 1e-2)

Outcome = tuple[Job, ledger.Entry | None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 unless a run failed, 130 after an interrupt."""
    options = _parser().parse_args(arguments)
    data = _data(options)
    settings = Settings(latents=options.latents, k=options.k, batch=options.batch, epochs=options.epochs)
    for library in options.only:
        code(library)
    jobs = list(plan(options.only, options.learning_rates, options.seeds))
    known = [] if options.fresh else sheet.read(options.results, ledger.Entry)
    finished = {job: found for job in jobs if (found := _known(known, job, data, settings))}
    print(
        f"{data.shape[0]} rows of width {data.shape[1]} ({data.digest}), {data.validation_rows} held out; "
        f"latents {settings.latents}, k {settings.k}, batch {settings.batch}, epochs {settings.epochs}; "
        f"{len(jobs)} runs, {len(finished)} of them finished before",
        flush=True,
    )
    outcomes: list[Outcome] = list(finished.items())
    status = 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else a run would outlive this program
    try:
        for job in jobs:
            if job not in finished:
                outcomes.append((job, _attempt(job, data, settings, options.results)))
    except KeyboardInterrupt:
        print("interrupted; the runs that ended are kept, and the same command goes on from here", flush=True)
        status = 130
    print("\n" + ledger.table(ledger.lines(outcomes)), flush=True)
    return status or int(any(entry is None for _, entry in outcomes))


def _attempt(job: Job, data: Data, settings: Settings, results: Path) -> ledger.Entry | None:
    """Run one job and keep its figures; None where it failed."""
    started = time.perf_counter()
    log = CACHE / "logs" / f"{job.name}.log"
    try:
        python = our_interpreter() if job.library == OURS else ensure(job.library)
        result = run(job, data, settings, python=python, log=log)
    except RuntimeError as error:
        where = f" (all of it in {log.relative_to(HERE.parent)})" if isinstance(error, FailedRunError) else ""
        print(f"{job.name}: failed, {error}{where}", flush=True)
        sheet.append(results, ledger.Entry.of(job, data, settings, None))
        return None
    entry = ledger.Entry.of(job, data, settings, result)
    sheet.append(results, entry)
    print(f"{job.name}: FVU {entry.fvu:.4f} in {time.perf_counter() - started:.0f} s", flush=True)
    return entry


def _known(entries: Sequence[ledger.Entry], job: Job, data: Data, settings: Settings) -> ledger.Entry | None:
    matching = (entry for entry in reversed(entries) if entry.answers(job, data, settings))
    return next(matching, None)


def _data(options: argparse.Namespace) -> Data:
    folder = options.data
    if folder is None:
        folder = CACHE / f"{options.hook}-{options.rows}"
        rows.ensure(folder, rows=options.rows, validation=rows.VALIDATION, hook=options.hook)
    return Data.in_folder(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to this, less one")
    parser.add_argument("--rows", type=int, default=rows.ROWS)
    parser.add_argument("--hook", default=rows.HOOK, help="module path in SmolLM2")
    parser.add_argument("--data", type=Path, help="a folder with rows.npy and validation.npy instead")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--latents", type=int, default=4608)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=LEARNING_RATES, help="for the peers")
    libraries = [OURS, *peers("train")]
    parser.add_argument("--only", nargs="+", choices=libraries, default=libraries, metavar="LIBRARY")
    parser.add_argument("--fresh", action="store_true", help="repeat runs that are finished")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
