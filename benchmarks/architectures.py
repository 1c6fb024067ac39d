"""Held-out error and loss recovered of each architecture, ours against the library that trains it, at the same L0.

`python -m benchmarks.architectures` makes the rows and the environments where they are missing, finds for each peer the
learning rate and the coefficient that give the L0 wanted, repeats the best with further seeds, splices the models into
the language model, and prints one table. Ours is asked for the L0 and derives its learning rate. Runs that an earlier
call finished are read from `results/architectures.csv`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import comparison, matched_runs, rows, sheet
from benchmarks.environments import HERE
from benchmarks.jobs import Data, FailedRunError, code
from benchmarks.matched_runs import Entry, MatchedJob, Sizes
from benchmarks.matching import best_rate, match_l0, matches, next_rate
from benchmarks.processes import OURS

RESULTS = HERE / "results" / "architectures.csv"
CACHE = HERE / ".data"
LEARNING_RATES = (3e-4, 1e-3, 3e-3, 5e-3, 1e-2, 2e-2)
FIRST_RATE = 3e-3
"""Runs are short: at 1e-3 all peers are far from done."""
PREDICTIONS = 4096


@dataclass(frozen=True, kw_only=True)
class Contest:
    """An architecture, the peer that trains it, and where the search for its coefficient starts."""

    architecture: str
    peer: str
    coefficient: float | None
    """None where the number of active latents is asked for as such."""


CONTESTS = (
    Contest(architecture="batch-topk", peer="saelens", coefficient=None),
    Contest(architecture="jumprelu", peer="saelens", coefficient=5.0),
    Contest(architecture="vanilla-l1", peer="saelens", coefficient=5.0),
    Contest(architecture="gated", peer="saelens", coefficient=5.0),
    Contest(architecture="p-anneal", peer="dictionary_learning", coefficient=0.05),
    Contest(architecture="matryoshka-batch-topk", peer="saelens", coefficient=None),
)


@dataclass
class Study:
    """All runs of one library with one architecture."""

    architecture: str
    library: str
    start: float | None
    tried: dict[float | None, Entry | None] = field(default_factory=dict)
    """With seed 0: the nearest run to the L0 wanted at each learning rate; None where it failed."""
    repeats: list[Entry | None] = field(default_factory=list)
    """The other seeds, at the best learning rate."""

    @property
    def best(self) -> Entry | None:
        """The run of seed 0 that was chosen."""
        rates = {rate: run for rate, run in self.tried.items() if rate is not None}
        return self.tried[best_rate(rates)] if rates else self.tried.get(None)

    def forget_failures(self) -> None:
        """Leave out what is None."""
        self.tried = {rate: run for rate, run in self.tried.items() if run is not None}
        self.repeats = [run for run in self.repeats if run is not None]

    def line(self) -> comparison.Line:
        """Give what the table says of it."""
        runs = [self.best, *self.repeats] if self.tried else []
        return comparison.Line(
            architecture=self.architecture,
            library=self.library,
            runs=[run for run in runs if run],
            failures=runs.count(None),
        )


class Bench:
    """Runs jobs unless the file knows their figures, and writes them to the file."""

    def __init__(self, *, data: Data, sizes: Sizes, results: Path, fresh: bool, known_only: bool) -> None:
        self.data, self.sizes, self._results, self._known_only = data, sizes, results, known_only
        self._known = [] if fresh else sheet.read(results, Entry)

    def attempt(self, job: MatchedJob) -> Entry | None:
        """Give the figures of a job; None where it failed."""
        known = next((entry for entry in reversed(self._known) if entry.answers(job, self.data, self.sizes)), None)
        if known is not None or self._known_only:
            return known
        started = time.perf_counter()
        try:
            result = matched_runs.train(job, self.data, self.sizes)
        except RuntimeError as error:
            where = f" (see {matched_runs.log(job).relative_to(HERE.parent)})"
            print(f"{job.name}: failed, {error}{where if isinstance(error, FailedRunError) else ''}", flush=True)
            sheet.append(self._results, Entry.of(job, self.data, self.sizes, None))
            return None
        entry = Entry.of(job, self.data, self.sizes, result)
        self.keep(entry)
        seconds = time.perf_counter() - started
        print(f"{job.name}: FVU {entry.fvu:.4f} at L0 {entry.l0:.2f} in {seconds:.0f} s", flush=True)
        return entry

    def keep(self, entry: Entry) -> None:
        """Add a line to the file."""
        sheet.append(self._results, entry)
        self._known.append(entry)

    def matched(self, study: Study, rate: float | None, seed: int, start: float | None) -> Entry | None:
        """Give the run that comes nearest to the L0 wanted."""
        job = MatchedJob(
            architecture=study.architecture,
            library=study.library,
            learning_rate=rate,
            coefficient=start,
            seed=seed,
        )
        if start is None:
            return self.attempt(job)
        known = {
            entry.coefficient: entry
            for entry in self._known
            if entry.coefficient and entry.answers(replace(job, coefficient=entry.coefficient), self.data, self.sizes)
        }
        found = match_l0(
            lambda coefficient: self.attempt(replace(job, coefficient=coefficient)),
            start=start,
            target=self.sizes.l0,
            known=list(known.items()),
        )
        if found is not None and not matches(found.l0, self.sizes.l0) and not self._known_only:
            print(f"{found.job.name}: no coefficient gave an L0 near enough to {self.sizes.l0}", flush=True)
        return found


def explore(bench: Bench, study: Study, ladder: Sequence[float], *, most: int) -> None:
    """Try learning rates with seed 0, at most so many; ours derives its own."""
    for _ in range(most):
        if study.library == OURS:
            rate = None
            if rate in study.tried:
                return
        else:
            tried = {rate: run for rate, run in study.tried.items() if rate is not None}
            rate = next_rate(ladder, tried, FIRST_RATE)
            if rate is None:
                return
        nearest = study.best
        start = nearest.coefficient if nearest is not None and nearest.coefficient else study.start
        study.tried[rate] = bench.matched(study, rate, 0, start)


def repeat(bench: Bench, study: Study, seeds: int) -> None:
    """Train with the other seeds what was best with seed 0."""
    best = study.best
    if best is not None:
        for seed in range(1, seeds):
            study.repeats.append(bench.matched(study, best.asked_learning_rate, seed, best.coefficient))


def splice(bench: Bench, studies: Sequence[Study], *, hook: str, stored_rows: int, predictions: int) -> None:
    """Measure loss recovered of the chosen runs of seed 0."""
    waiting = [study for study in studies if study.best is not None and study.best.predictions is None]
    if not waiting:
        return
    from benchmarks.splicing import Splicer

    splicer = Splicer(hook=hook, stored_rows=stored_rows, validation=bench.data.validation, predictions=predictions)
    for study in waiting:
        entry = study.best
        assert entry is not None
        try:
            found = splicer.measure(entry)
        except ValueError as error:
            print(f"not spliced: {error}", flush=True)
            continue
        spliced = entry.spliced(
            predictions=found.predictions,
            from_zero=found.recovered_from_zero,
            from_mean=found.recovered_from_mean,
            kl=found.kl,
        )
        study.tried[entry.asked_learning_rate] = spliced
        bench.keep(spliced)
        print(f"{entry.job.name}: loss recovered {found.recovered_from_zero:.4f}", flush=True)


def phases(bench: Bench, studies: Sequence[Study], options: argparse.Namespace) -> Iterator[str]:
    """Do the work, what is most worth knowing first; give the name of each part as it begins."""
    yield f"learning rate {FIRST_RATE:g}, seed 0"
    for study in studies:
        explore(bench, study, options.learning_rates, most=1)
    yield "the other learning rates"
    for study in studies:
        explore(bench, study, options.learning_rates, most=len(options.learning_rates))
    yield "the other seeds"
    for study in studies:
        repeat(bench, study, options.seeds)
    if options.data is None and options.predictions:
        yield "the language model"
        splice(bench, studies, hook=options.hook, stored_rows=options.rows, predictions=options.predictions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 unless a run failed, 130 after an interrupt."""
    options = _parser().parse_args(arguments)
    studies = list(_studies(options))
    for library in {study.library for study in studies}:
        code(library, matched_runs.RUNNER)
    data = _data(options)
    sizes = Sizes(
        train_rows=min(options.train_rows, data.shape[0]),
        latents=options.latents,
        l0=options.l0,
        batch=options.batch,
        epochs=options.epochs,
    )
    print(
        f"{sizes.train_rows} of {data.shape[0]} rows of width {data.shape[1]} ({data.digest}), {data.validation_rows} "
        f"held out; latents {sizes.latents}, L0 {sizes.l0}, batch {sizes.batch}, epochs {sizes.epochs}",
        flush=True,
    )
    bench = Bench(data=data, sizes=sizes, results=options.results, fresh=options.fresh, known_only=options.known_only)
    status = 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else a run would outlive this program
    try:
        for phase in phases(bench, studies, options):
            print(f"— {phase}", flush=True)
    except KeyboardInterrupt:
        print("interrupted; the runs that ended are kept, and the same command goes on from here", flush=True)
        status = 130
    if options.known_only:
        for study in studies:
            study.forget_failures()
    lines = [study.line() for study in studies]
    print("\n" + comparison.table(lines), flush=True)
    return status or int(any(line.failures for line in lines))


def _studies(options: argparse.Namespace) -> Iterator[Study]:
    for contest in CONTESTS:
        if contest.architecture in options.architectures:
            if contest.peer in options.only:
                yield Study(contest.architecture, contest.peer, contest.coefficient)
            if OURS in options.only:
                yield Study(contest.architecture, OURS, None)


def _data(options: argparse.Namespace) -> Data:
    folder = options.data
    if folder is None:
        folder = CACHE / f"{options.hook}-{options.rows}"
        rows.ensure(folder, rows=options.rows, validation=rows.VALIDATION, hook=options.hook)
    return Data.in_folder(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.architectures", description=__doc__)
    libraries = [OURS, *dict.fromkeys(contest.peer for contest in CONTESTS)]
    names = [contest.architecture for contest in CONTESTS]
    parser.add_argument("--only", nargs="+", choices=libraries, default=libraries, metavar="LIBRARY")
    parser.add_argument("--architectures", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to this, less one")
    parser.add_argument("--learning-rates", type=float, nargs="+", default=LEARNING_RATES, help="for the peers")
    parser.add_argument("--rows", type=int, default=rows.ROWS, help="rows that are stored")
    parser.add_argument("--train-rows", type=int, default=262_144, help="how many of them to train on")
    parser.add_argument("--hook", default=rows.HOOK, help="module path in SmolLM2")
    parser.add_argument("--data", type=Path, help="a folder with rows.npy and validation.npy instead")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--latents", type=int, default=2304)
    parser.add_argument("--l0", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--predictions", type=int, default=PREDICTIONS, help="for loss recovered; 0 leaves it out")
    parser.add_argument("--fresh", action="store_true", help="repeat runs that are finished")
    parser.add_argument("--known-only", action="store_true", help="train nothing; go by what the file holds")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
