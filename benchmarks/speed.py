"""Time of a training step and of encoding, and peak memory, of ours and of other libraries on the same rows.

`python -m benchmarks.speed` makes what is missing, lets the libraries take turns in processes of their own, prints
one table and adds its lines to `results/speed.csv`. There are no ratios, and the exit status is 1, while the parity
tests of the kernels fail.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from benchmarks import parity, sheet, timings
from benchmarks.contest import DEFAULTS, GRID, MEASURES, Contest, How, Setting, everyone, grid, hold, parse
from benchmarks.environments import HERE
from benchmarks.jobs import code
from benchmarks.processes import OURS
from benchmarks.turns import thread_variables

RESULTS = HERE / "results" / "speed.csv"
ROUNDS = 5
Parsed = TypeVar("Parsed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 unless parity or a library failed, 130 after an interrupt."""
    options = _parser().parse_args(arguments)
    how = How(rounds=options.rounds, device=options.device, threads=options.threads, seed=options.seed)
    for library in options.libraries:
        code(library, "speed")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else workers would outlive this program
    contests: list[Contest] = []
    passed, status = True, 0
    try:
        passed = parity.holds()
        if options.run:
            _overhead(options, how, passed=passed)
            return int(not passed)
        measure = _grid if options.grid else _settings
        measure(options, how, contests, passed=passed)
    except KeyboardInterrupt:
        print("interrupted; the settings that ended are kept", flush=True)
        status = 130
    if contests:
        print("\n" + timings.table(contests, parity=passed), flush=True)
        if options.grid:
            print("\n" + timings.exponents(contests), flush=True)
    failed = any(outcome.failure for contest in contests for outcome in contest.outcomes.values())
    return status or int(failed or not passed)


def _settings(options: argparse.Namespace, how: How, contests: list[Contest], *, passed: bool) -> None:
    """Hold one contest per setting."""
    run = _now()
    for setting in options.settings:
        chosen = replace(setting, measures=tuple(options.measures)) if options.measures else setting
        _hold(contests, chosen, options, options.libraries, how, run=run, passed=passed, floor=True)


def _grid(options: argparse.Namespace, how: How, contests: list[Contest], *, passed: bool) -> None:
    """Hold the first setting with all libraries, and the others with ours and the peer that was fastest."""
    run = _now()
    base = replace(options.settings[0], measures=("step",))
    first = _hold(contests, base, options, options.libraries, how, run=run, passed=passed, floor=False)
    fastest = timings.fastest_peer(first)
    print(f"fastest peer: {fastest}", flush=True)
    libraries = [name for name in (OURS, fastest) if name in options.libraries and name is not None]
    for setting in grid(base, options.vary):
        _hold(contests, setting, options, libraries, how, run=run, passed=passed, floor=False)


def _hold(
    contests: list[Contest],
    setting: Setting,
    options: argparse.Namespace,
    libraries: Sequence[str],
    how: How,
    *,
    run: str,
    passed: bool,
    floor: bool,
) -> Contest:
    """Hold a contest and keep its figures."""
    contest = hold(setting, libraries, how, floor=floor)
    contests.append(contest)
    for entry in timings.entries(contest, how, run=run, parity=passed):
        sheet.append(options.results, entry)
    return contest


def _overhead(options: argparse.Namespace, how: How, *, passed: bool) -> None:
    """Compare whole runs with isolated steps."""
    os.environ |= thread_variables(how.threads)
    from benchmarks import whole_run  # imports torch, which reads them

    setting = options.settings[0]
    found = whole_run.measure(setting, how)
    entry = timings.overhead_entry(setting, found, how, run=_now(), parity=passed)
    sheet.append(options.results, entry)
    print("\n" + timings.overhead_line(setting, found, parity=passed), flush=True)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S")


def _argument(read: Callable[[str], Parsed]) -> Callable[[str], Parsed]:
    """Let argparse print what a ValueError says."""

    def convert(text: str) -> Parsed:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is no number of at least 1")
    return int(text)


def _device(text: str) -> str:
    if text != "cpu" and text != "cuda" and not text.startswith("cuda:"):
        raise ValueError(f"{text!r} is neither cpu, nor cuda, nor cuda:NUMBER")
    return text


def _parser() -> argparse.ArgumentParser:
    known = "; ".join(f"{name} = {setting} ({', '.join(setting.measures)})" for name, setting in DEFAULTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        epilog=f"Settings: {known}.",
    )
    parser.add_argument(
        "--settings",
        nargs="+",
        type=_argument(parse),
        default=list(DEFAULTS.values()),
        metavar="SETTING",
        help="names of settings (below), or ARCHITECTURE:BATCH,WIDTH,LATENTS,K; default: all that have names",
    )
    parser.add_argument(
        "--measures",
        nargs="+",
        choices=MEASURES,
        help="instead of what the settings have; your own: step encode",
    )
    libraries = everyone()
    parser.add_argument(
        "--libraries",
        nargs="+",
        choices=libraries,
        default=libraries,
        metavar="LIBRARY",
        help=f"among {', '.join(libraries)}; default: all",
    )
    parser.add_argument("--rounds", type=_argument(_positive), default=ROUNDS, help=f"default {ROUNDS}")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--grid",
        action="store_true",
        help="vary one size of the first setting at a time, ours and its fastest peer, and fit exponents",
    )
    kind.add_argument(
        "--run", action="store_true", help="a whole gs.train at the first setting against its isolated steps"
    )
    parser.add_argument("--vary", nargs="+", choices=list(GRID), default=list(GRID), help="sizes of the grid")
    parser.add_argument("--device", type=_argument(_device), default="cpu", help="cpu (default), cuda or cuda:NUMBER")
    parser.add_argument("--threads", type=_argument(_positive), help="threads of each worker; default: torch's choice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file that grows")
    return parser


if __name__ == "__main__":
    sys.exit(main())
