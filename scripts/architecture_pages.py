"""Fill the parts, the measured figures and the table into docs/architectures; tests/structure checks that it was done.

Text between `<!-- NAME -->` and `<!-- /NAME -->` is written here, the rest of a page by hand. Figures come from
benchmarks/results/pareto.csv and step_times.csv; what was not measured is a dash.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import gossamer as gs  # noqa: E402 - the benchmarks are found only now
from benchmarks import pareto, sheet, step_times  # noqa: E402
from gossamer.autoencoder.presets import PRESETS  # noqa: E402
from gossamer.autoencoder.sparsity import Identity  # noqa: E402
from gossamer.training.sparsity_control import SparsityControl  # noqa: E402

PAGES = ROOT / "docs" / "architectures"
L0 = 32
NOTHING = "–"
COLUMNS = ("asked L0", "L0", "FVU", "FVU of `topk`", "dead", "CPU ms/step", "KL", "KL of `topk`", "loss recovered")
PLAIN = gs.AutoencoderSpec(input_width=1, latents=1, sparsity=Identity())
"""What an autoencoder is made of unless something else is chosen."""


class Figures:
    """What the benchmarks measured."""

    def __init__(self) -> None:
        runs = pareto.newest(sheet.read(pareto.RESULTS, pareto.Entry)).values()
        self.runs = [run for run in runs if run.status == "done"]
        times = sheet.read(step_times.RESULTS, step_times.Entry)
        wanted = [time for time in times if (time.batch, time.width, time.latents) == (2048, 576, 4608)]
        self.times = {time.preset: time for time in wanted}

    def of(self, preset: str, data: str, l0: int) -> list[pareto.Entry]:
        """Give the runs of a preset on some rows, a seed each."""
        return [run for run in self.runs if (run.preset, run.data, run.l0_wanted) == (preset, data, l0)]


def case_of(preset: str) -> pareto.Case:
    """Give the case that the page of a preset shows: for topk the first of several."""
    return next(case for case in pareto.CASES if case.preset == preset)


def spec_of(preset: str) -> gs.AutoencoderSpec:
    """Give the spec whose parts the page shows."""
    case = case_of(preset)
    return gs.preset(preset, input_width=case.data.width, latents=1152, l0=L0, **case.options)


def compact(spec: gs.AutoencoderSpec) -> str:
    """Write a spec as TOML, a line for each part, leaving out what is no choice of this architecture."""
    plain = PLAIN.to_dict()
    always = ("input_width", "latents", "encoder", "sparsity", "decoder", "name")
    given = spec.to_dict()
    names = [*always[:-1], *(name for name in given if name not in always and given[name] != plain[name]), "name"]
    return "\n".join(f"{name} = {_toml(given[name])}" for name in names)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items() if item != []) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def parts(preset: str) -> str:
    """Give the block with the parts."""
    return f"```toml\n{compact(spec_of(preset))}\n```"


def measured(preset: str, figures: Figures) -> str:
    """Give the block with the Pareto table and the step time."""
    case = case_of(preset)
    runs = [run for run in figures.runs if (run.preset, run.data) == (preset, case.data.name)]
    if not runs:
        return "Not measured.\n\n" + step_time(preset, figures)
    columns = [_row(figures.of(preset, case.data.name, l0)) for l0 in sorted({run.l0_wanted for run in runs})]
    for l0, column in zip(sorted({run.l0_wanted for run in runs}), columns, strict=True):
        column |= _beside(figures.of("topk", case.data.name, l0)) if preset != "topk" else {}
    header = [name for name in COLUMNS if any(column.get(name, NOTHING) != NOTHING for column in columns)]
    rows = [[column.get(name, NOTHING) for name in header] for column in columns]
    run = runs[0]
    setting = (
        f"Held-out rows of {_place(case)}: {run.rows:,} rows to train on, batch {run.batch}, {run.latents} latents, "
        f"learning rate {run.learning_rate:.2g} (derived), one thread; {_seeds(runs)}."
    )
    return "\n".join([*sheet.table(header, rows), "", setting, "", step_time(preset, figures)])


def _place(case: pareto.Case) -> str:
    places = {
        "layer 8": "the output of layer 8 of SmolLM2-135M",
        "layer 8, 0 to 1": "the output of layer 8 of SmolLM2-135M, each column mapped to 0 … 1",
        "MLP 8": "what goes into the MLP of layer 8 of SmolLM2-135M and what comes out of it",
        "layers 7 and 9": "the outputs of layers 7 and 9 of SmolLM2-135M",
        "MLPs 8 and 9": "what goes into the MLPs of layers 8 and 9 of SmolLM2-135M and what comes out of them",
        "layer 8 of the model": "the output of layer 8 of SmolLM2-135M, the model run on at every step",
    }
    return places[case.data.name]


def _seeds(runs: Sequence[pareto.Entry]) -> str:
    counts = {}
    for run in runs:
        counts[run.l0_wanted] = counts.get(run.l0_wanted, 0) + 1
    if len(set(counts.values())) == 1:
        count = next(iter(counts.values()))
        return "one seed" if count == 1 else f"means of {count} seeds"
    return "means of " + ", ".join(f"{count} seeds at L0 {l0}" for l0, count in sorted(counts.items()) if count > 1)


def _row(runs: Sequence[pareto.Entry]) -> dict[str, str]:
    return {
        "asked L0": str(runs[0].l0_wanted),
        "L0": _l0(runs),
        "FVU": _mean(runs, "fvu", ".4f"),
        "dead": _mean(runs, "dead", ".1%"),
        "CPU ms/step": _mean(runs, "cpu_ms_per_step", ".1f"),
        "KL": _mean(runs, "kl", ".3f"),
        "loss recovered": _mean(runs, "recovered", ".1%"),
    }


def _beside(runs: Sequence[pareto.Entry]) -> dict[str, str]:
    """Give what `topk` has on the same rows at the same L0, where it was measured."""
    return {"FVU of `topk`": _mean(runs, "fvu", ".4f"), "KL of `topk`": _mean(runs, "kl", ".3f")}


def _l0(runs: Sequence[pareto.Entry]) -> str:
    found = statistics.fmean(run.l0 for run in runs if run.l0 is not None)
    off = abs(found / runs[0].l0_wanted - 1) > SparsityControl.REACHED
    return f"{found:.1f}" + (" (off)" if off else "")


def _mean(runs: Sequence[pareto.Entry], name: str, style: str) -> str:
    values = [value for run in runs if (value := getattr(run, name)) is not None]
    return format(statistics.fmean(values), style) if values else NOTHING


def step_time(preset: str, figures: Figures) -> str:
    """Say how long a training step takes beside one of TopK."""
    time = figures.times.get(preset)
    if time is None:
        return "Step time beside TopK's: not measured."
    sizes = f"{time.batch} rows of width {time.width}, {time.latents} latents, L0 {time.l0:.1f}"
    return (
        f"A training step takes **{time.ratio:.2f}** times as long as one of `topk`, {time.ratio_of_cpu:.2f} times its "
        f"processor time ({time.median_ms:.0f} ms; {sizes}; {time.entries:.0f} entries of the code held per row)."
    )


def table(figures: Figures) -> str:
    """Give the table of the index, in the order of the presets."""
    header = ("architecture", "year", "parts", "rows", "L0", "FVU", "dead", "step")
    rows = []
    for preset in PRESETS:
        case, time = case_of(preset), figures.times.get(preset)
        runs = figures.of(preset, case.data.name, L0)
        rows.append(
            [
                f"[`{preset}`]({preset}.md)",
                year(preset),
                summary(spec_of(preset)),
                case.data.name,
                _l0(runs) if runs else NOTHING,
                _mean(runs, "fvu", ".4f"),
                _mean(runs, "dead", ".1%"),
                f"{time.ratio:.2f}" if time else NOTHING,
            ]
        )
    return "\n".join(sheet.table(header, rows))


def summary(spec: gs.AutoencoderSpec) -> str:
    """Name the parts that make up an architecture, those that nearly all have left out."""
    names = [spec.sparsity.kind]
    for role in ("encoder", "decoder", "scaling", "reconstruction", "task", "corruption"):
        kind = getattr(spec, role).kind
        if kind != getattr(PLAIN, role).kind:
            names.append(f"{role} {kind}" if role in ("encoder", "decoder") else kind)
    if spec.decoder.linear and getattr(getattr(spec.decoder, "constraint", None), "kind", "unit-rows") != "unit-rows":
        names.append("free rows")
    return " · ".join([*names, *(part.kind for part in (*spec.penalties, *spec.auxiliaries))])


def year(preset: str) -> str:
    """Give the year of the first source that the page names."""
    text = (PAGES / f"{preset}.md").read_text(encoding="utf-8")
    found = re.search(r"\b(19|20)\d\d\b", text.partition("## Source")[2])
    return found[0] if found else NOTHING


def filled(text: str, blocks: dict[str, str]) -> str:
    """Return a page with its blocks written anew; raises ValueError for one that has no place."""
    for name, block in blocks.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if text.count(start) != 1 or text.count(end) != 1:
            raise ValueError(f"a page needs {start} and {end} once each")
        text = text[: text.index(start) + len(start)] + f"\n{block}\n" + text[text.index(end) :]
    return text


def pages() -> dict[Path, str]:
    """Return every page as it should be."""
    figures = Figures()
    wanted = {PAGES / f"{name}.md": {"parts": parts(name), "measured": measured(name, figures)} for name in PRESETS}
    wanted[PAGES / "index.md"] = {"table": table(figures)}
    return {path: filled(path.read_text(encoding="utf-8"), blocks) for path, blocks in wanted.items()}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
