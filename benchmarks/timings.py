"""The figures of `speed`: lines of its CSV file, the table, the roofline, and exponents fitted over a grid."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import sheet
from benchmarks.contest import GRID, MACHINE, Contest, How, Outcome, Setting
from benchmarks.jobs import code
from benchmarks.processes import OURS

UNITS = {"step": "ms", "encode": "ms", "memory": "MiB"}
OVERHEAD_BAR = 1.10
BYTES_PER_PARAMETER = 28
"""An optimizer step reads weight, both moments and gradient, and writes weight and both moments, in float32."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One figure of one library in one run of the benchmark; a line of the file, its fields the columns."""

    date: str
    cpu: str
    cores: int
    python: str
    run: str
    """The same for all that ran in turns."""
    parity: str
    """`passed` or `failed`: where it failed there is no ratio."""
    device: str
    threads: int | None
    architecture: str
    batch: int
    width: int
    latents: int
    k: int
    rows: str
    """Digest of the rows."""
    measure: str
    """`step`, `encode`, `memory`, `floor` (the roofline) or `run` (a whole training run)."""
    library: str
    version: str
    torch: str
    code: str
    status: str
    """`done` or `failed`."""
    samples: int
    unit: str
    median: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    iqr: float | None = None
    ratio: float | None = None
    """Peer over ours; of `floor`, ours over it; of `run`, the run over its isolated steps."""
    steps: int | None = None
    fvu: float | None = None
    l0: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median and spread of repeated measurements."""

    median: float
    minimum: float
    maximum: float
    iqr: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up."""
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
        return cls(median=float(median), minimum=min(values), maximum=max(values), iqr=float(high - low))


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """Milliseconds that the machine needs for what a training step cannot avoid."""

    product: float
    """The encoder's product, in the faster of bfloat16 and float32."""
    kind: str
    sparse: float
    """8 · batch · L0 · width operations at the rate of a large float32 product."""
    optimizer: float
    """28 bytes per parameter of both weights at the rate of a large copy."""

    @property
    def total(self) -> float:
        """One after the other."""
        return self.product + self.sparse + self.optimizer

    @classmethod
    def of(cls, contest: Contest) -> Roofline | None:
        """Compute it from what the machine worker measured."""
        if not contest.floor:
            return None
        found = {name: statistics.median(values) for name, values in contest.floor.items()}
        kind = min(("bfloat16", "float32"), key=found.__getitem__)
        s = contest.setting
        ours = contest.outcomes.get(OURS)
        l0 = ours.score.get("l0", s.k) if ours else s.k
        return cls(
            product=1000 * found[kind],
            kind=kind,
            sparse=1000 * 8 * s.batch * l0 * s.width / found["operations"],
            optimizer=1000 * BYTES_PER_PARAMETER * 2 * s.latents * s.width / found["bytes"],
        )

    def __str__(self) -> str:
        return (
            f"encoder product in {self.kind} {self.product:.1f} ms + sparse {self.sparse:.1f} ms "
            f"+ optimizer {self.optimizer:.1f} ms = {self.total:.1f} ms"
        )


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """Milliseconds per step, one value per round, and what they were computed with."""

    whole: list[float]
    isolated: list[float]
    about: dict[str, Any]

    @property
    def ratio(self) -> float:
        """Median of the rounds' ratios."""
        return statistics.median(w / i for w, i in zip(self.whole, self.isolated, strict=True))


def ratio(contest: Contest, library: str, measure: str) -> float | None:
    """Give the peer's median over ours; None for ours, and where one is missing."""
    ours, peer = (_spread(contest.outcomes.get(name), measure) for name in (OURS, library))
    return peer.median / ours.median if ours and peer and library != OURS and ours.median > 0 else None


def entries(contest: Contest, how: How, *, run: str, parity: bool) -> list[Entry]:
    """Give the lines of a contest."""
    shared = _shared(contest.setting, how, run=run, parity=parity) | {"rows": contest.digest}
    made = []
    for outcome in contest.outcomes.values():
        for measure in contest.setting.measures:
            spread = _spread(outcome, measure)
            figures: dict[str, Any] = shared | _library(outcome) | outcome.score
            made.append(
                Entry(
                    **figures | (vars(spread) if spread else {}),
                    measure=measure,
                    status="done" if spread else "failed",
                    samples=len(outcome.samples.get(measure, ())),
                    unit=UNITS[measure],
                    ratio=ratio(contest, outcome.library, measure) if parity else None,
                    note=outcome.note.get(measure, "") if spread else outcome.failure,
                )
            )
    return made + _floor_entries(contest, shared, parity=parity)


def overhead_entry(setting: Setting, found: Overhead, how: How, *, run: str, parity: bool) -> Entry:
    """Give the line of a whole training run."""
    outcome = Outcome(library=OURS, about=found.about)
    return Entry(
        **_shared(setting, how, run=run, parity=parity) | _library(outcome) | vars(Spread.of(found.whole)),
        rows="synthetic",
        measure="run",
        status="done",
        samples=len(found.whole),
        unit="ms",
        ratio=found.ratio if parity else None,
        note=f"isolated step {statistics.median(found.isolated):.2f} ms",
    )


def table(contests: Sequence[Contest], *, parity: bool) -> str:
    """Write all contests as one Markdown table, and the rooflines under it."""
    header = ["setting", "library", "step ms", "min–max", "IQR", "ratio", "encode ms", "min–max", "IQR", "ratio"]
    header += ["peak MiB", "ratio", "FVU", "L0"]
    rows = [_row(contest, outcome, parity=parity) for contest in contests for outcome in contest.outcomes.values()]
    text = sheet.table(header, rows)
    for contest in contests:
        roofline, ours = Roofline.of(contest), _spread(contest.outcomes.get(OURS), "step")
        if roofline:
            step = f"; our step {ours.median:.1f} ms" if ours else ""
            step += f", {ours.median / roofline.total:.2f} times that" if ours and parity else ""
            text += ["", f"Roofline of {contest.setting}: {roofline}{step}."]
    if not parity:
        text += ["", "The parity tests fail, so there are no ratios: fix `pytest tests/parity` first."]
    return "\n".join(text)


def exponents(contests: Sequence[Contest]) -> str:
    """Fit time = c · size^exponent to median steps, for each size over the settings that differ only in it."""
    base = contests[0].setting
    lines = []
    for library in contests[-1].outcomes:
        fitted = []
        for name in GRID:
            others = [other for other in GRID if other != name]
            points = [
                (getattr(contest.setting, name), spread.median)
                for contest in contests
                if all(getattr(contest.setting, other) == getattr(base, other) for other in others)
                and (spread := _spread(contest.outcomes.get(library), "step"))
            ]
            if len(points) > 1:
                x, y = np.log(np.array(points)).T
                fitted.append(f"{name} {np.polyfit(x, y, 1)[0]:.2f} ({len(points)} points)")
        lines.append(f"Exponents of the step of {library}: {', '.join(fitted)}.")
    return "\n".join(lines)


def overhead_line(setting: Setting, found: Overhead, *, parity: bool) -> str:
    """Say in one sentence what a run costs beside its steps."""
    whole, isolated = statistics.median(found.whole), statistics.median(found.isolated)
    text = f"gs.train at {setting}: {whole:.1f} ms per step, the isolated step {isolated:.1f} ms"
    if not parity:
        return text + "; no ratio, because the parity tests fail."
    word = "reached" if found.ratio < OVERHEAD_BAR else "missed"
    return f"{text}: overhead {found.ratio - 1:+.1%} (median of {len(found.whole)} rounds); the bar of 10 % is {word}."


def fastest_peer(contest: Contest) -> str | None:
    """Name the peer with the smallest median step."""
    peers = {name: s.median for name, o in contest.outcomes.items() if name != OURS and (s := _spread(o, "step"))}
    return min(peers, key=peers.__getitem__, default=None)


def _spread(outcome: Outcome | None, measure: str) -> Spread | None:
    values = outcome.samples.get(measure) if outcome else None
    return Spread.of(values) if values else None


def _row(contest: Contest, outcome: Outcome, *, parity: bool) -> list[str]:
    cells = [str(contest.setting), outcome.library]
    for measure in UNITS:
        spread = _spread(outcome, measure)
        against = ratio(contest, outcome.library, measure) if parity else None
        if spread is None:
            word = "failed" if outcome.failure and measure in contest.setting.measures else "–"
            cells += [word, *["–"] * (1 if measure == "memory" else 3)]
            continue
        cells.append(_number(spread.median))
        if measure != "memory":
            cells += [f"{_number(spread.minimum)}–{_number(spread.maximum)}", _number(spread.iqr)]
        cells.append(f"{against:.2f}" if against else "–")
    score = outcome.score
    return [*cells, f"{score['fvu']:.4f}" if score else "–", f"{score['l0']:.1f}" if score else "–"]


def _number(value: float) -> str:
    """Write three or more significant digits."""
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{min(digits, 3)}f}"


def _floor_entries(contest: Contest, shared: dict[str, Any], *, parity: bool) -> list[Entry]:
    roofline, ours = Roofline.of(contest), _spread(contest.outcomes.get(OURS), "step")
    if roofline is None:
        return []
    return [
        Entry(
            **shared | _library(Outcome(library=MACHINE)),
            measure="floor",
            status="done",
            samples=len(contest.floor["bytes"]),
            unit="ms",
            median=roofline.total,
            ratio=ours.median / roofline.total if ours and parity else None,
            note=str(roofline),
        )
    ]


def _shared(setting: Setting, how: How, *, run: str, parity: bool) -> dict[str, Any]:
    sizes = {name: getattr(setting, name) for name in ("architecture", "batch", "width", "latents", "k")}
    state = {"run": run, "parity": "passed" if parity else "failed", "device": how.device, "threads": how.threads}
    return sheet.machine() | sizes | state


def _library(outcome: Outcome) -> dict[str, Any]:
    about = outcome.about
    found = {
        "library": outcome.library,
        "version": next(iter(about.get("versions", {}).values()), ""),
        "torch": about.get("torch", ""),
        "code": code(outcome.library, "speed"),
    }
    return found | {name: about[name] for name in ("device", "threads") if name in about}
