"""The ground-truth benchmark: presets and controls on the same known features, at the same L0, over several seeds."""

from __future__ import annotations

import csv
import inspect
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from gossamer.autoencoder.autoencoder import AutoencoderSpec
from gossamer.autoencoder.presets import PRESETS, preset
from gossamer.evaluate.ground_truth.controls import (
    Coder,
    Oracle,
    PermutedDecoder,
    Trained,
    can_be_scored,
    frozen_decoder,
    principal_components,
    require_scorable,
)
from gossamer.evaluate.ground_truth.scoring import GroundTruthScore, score
from gossamer.figures.style import require_matplotlib
from gossamer.sources.source import Feed
from gossamer.sources.synthetic import Synthetic, SyntheticSpec
from gossamer.sources.world import Hierarchy
from gossamer.spec import Spec
from gossamer.training.loop import train
from gossamer.training.spec import TrainSpec

__all__ = ["COLUMNS", "Column", "GroundTruthBench", "Result", "bench_ground_truth", "run_bench"]

TREES = 128
"""Features per tree, as in SynthSAEBench-16k."""

BATCH = 1024
"""Rows per step, as in SynthSAEBench."""


@dataclass(frozen=True)
class Column:
    """One column of the table. key: in `GroundTruthScore.summary()`; format: of its mean and its spread."""

    key: str
    name: str
    format: str = ".3f"


COLUMNS = (
    Column("f1", "F1"),
    Column("mcc", "MCC"),
    Column("fvu", "FVU"),
    Column("l0", "L0", ".1f"),
    Column("recovery", "found"),
    Column("absorption", "absorbed"),
    Column("hedging", "hedged"),
)
"""What the table shows of what the file holds."""


@dataclass(frozen=True, kw_only=True)
class GroundTruthBench(Spec):
    """Say what is compared on what.

    presets: by name; none means every one that gives back the rows it reads as sums of directions, by codes that can
    be 0. latents: of each.
    l0: active latents per row that each is asked for; by default what a perfect autoencoder would have, the mean
    number of the `latents` most frequent features that fire. features, input_width, true_l0: of the world
    (`SyntheticSpec`). rows, learning_rate: of the training (`TrainSpec`). seeds: each is a world, initial weights and
    an order of rows. score_rows: held-out rows to score on.
    """

    presets: tuple[str, ...] = ()
    latents: int = 128
    l0: int | None = None
    features: int = 512
    input_width: int = 64
    true_l0: float = 4.0
    rows: int = 500_000
    learning_rate: float | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    score_rows: int = 20_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds:
            raise ValueError("the benchmark needs at least one seed")
        if self.score_rows < 1:
            raise ValueError(f"score_rows must be at least 1, got {self.score_rows}")

    def source(self, seed: int) -> Synthetic:
        """Make the world of a seed."""
        hierarchy = Hierarchy(roots=self.features // TREES)
        spec = SyntheticSpec(
            features=self.features,
            input_width=self.input_width,
            l0=self.true_l0,
            hierarchy=hierarchy,
            validation_rows=self.score_rows,
            rows=self.rows,
            seed=seed,
        )
        return spec.build()

    def asked_l0(self, source: Synthetic) -> int:
        """Return the L0 that every preset is asked for."""
        if self.l0 is not None:
            return self.l0
        return max(1, round(source.probabilities.sort(descending=True).values[: self.latents].sum().item()))

    def autoencoders(self, l0: int) -> list[AutoencoderSpec]:
        """Return the specs of the presets at an L0."""
        sizes = {"input_width": self.input_width, "latents": self.latents, "l0": l0}
        if self.presets:
            specs = [preset(name, **sizes) for name in self.presets]
            for spec in specs:
                require_scorable(spec)
            return specs
        found = [_of_sizes(name, sizes=sizes) for name in PRESETS]
        # a code that saturates, such as a sigmoid, is never quite off and has no L0 to match
        return [spec for spec in found if spec is not None and can_be_scored(spec) and spec.sparsity.homogeneous]


@dataclass(frozen=True, eq=False)
class Result:
    """The scores of one seed. decoders: of the presets, `(latents, width)` each."""

    seed: int
    source: Synthetic
    presets: tuple[GroundTruthScore, ...]
    controls: tuple[GroundTruthScore, ...]
    decoders: tuple[Tensor, ...]


def run_bench(bench: GroundTruthBench, *, quiet: bool = False) -> list[Result]:
    """Train all presets of a seed on the same batches, score them and the controls, seed by seed.

    The controls: an autoencoder that learns only its encoder (`frozen_decoder`, TopK), the first preset with its
    decoder rows shuffled, principal components, and the true directions and codes.

    Raises ValueError for an unknown preset or numbers that do not fit, or without scipy.
    """
    return [_one_seed(bench, seed, quiet=quiet) for seed in bench.seeds]


def _one_seed(bench: GroundTruthBench, seed: int, *, quiet: bool) -> Result:
    source = bench.source(seed)
    l0 = bench.asked_l0(source)
    specs = bench.autoencoders(l0)
    frozen = frozen_decoder(preset("topk", input_width=bench.input_width, latents=bench.latents, l0=l0))
    if not quiet:
        print(f"seed {seed}: {', '.join(spec.name for spec in specs)} at L0 {l0}", file=sys.stderr, flush=True)
    *trained, control = saes = [spec.build(seed=seed) for spec in (*specs, frozen)]
    batch = min(BATCH, bench.rows)
    training = TrainSpec(rows=bench.rows, batch=batch, seed=seed, learning_rate=bench.learning_rate)
    train(saes, source, training, quiet=quiet)
    sample = Feed(source, batch=BATCH, seed=seed).sample(source.buffer_rows).rows[""]
    controls: list[Coder] = [
        Trained(control),
        PermutedDecoder(trained[0], seed=seed),
        principal_components(sample, l0=min(l0, bench.input_width)),
        Oracle(source),
    ]
    return Result(
        seed,
        source,
        tuple(score(sae, source, rows=bench.score_rows) for sae in trained),
        tuple(score(coder, source, rows=bench.score_rows) for coder in controls),
        tuple(sae.decoder.directions().detach().cpu() for sae in trained),
    )


def bench_ground_truth(bench: GroundTruthBench, *, out: str | Path | None) -> list[Result]:
    """Run the benchmark, print its table, and write ground-truth.csv and pictures into a folder, if one is given.

    Raises ValueError, before the training, for what could not be run or written.
    """
    from gossamer.evaluate.ground_truth import pictures

    folder = None if out is None else Path(out)
    if folder is not None:
        require_matplotlib()
        folder.mkdir(parents=True, exist_ok=True)
    results = run_bench(bench)
    print_table(results)
    if folder is not None:
        write_csv(results, folder / "ground-truth.csv")
        print("written to", folder / "ground-truth.csv", *pictures.draw(results, folder))
    return results


def print_table(results: Sequence[Result]) -> None:
    """Print the mean of the scores over the seeds, and below it their standard deviation."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    rows = results[0].presets[0].rows
    title = f"mean ± standard deviation over {len(results)} seeds, {rows:,} held-out rows each"
    table = Table("", title=title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in COLUMNS:
        table.add_column(column.name, justify="right", no_wrap=True)
    for group in ("presets", "controls"):
        for scores in zip(*(getattr(result, group) for result in results), strict=True):
            summaries = [found.summary() for found in scores]
            cells = [_cell([summary[column.key] for summary in summaries], column.format) for column in COLUMNS]
            table.add_row(scores[0].name, *cells)
        table.add_section()
    Console().print(table)


def write_csv(results: Sequence[Result], path: Path) -> None:
    """Write one line per seed and preset or control, with every figure; NaN where there was nothing to look at."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["seed", "name", "control", *results[0].presets[0].summary()])
        for result in results:
            for found in (*result.presets, *result.controls):
                writer.writerow([result.seed, found.name, int(found in result.controls), *found.summary().values()])


def _cell(values: Sequence[float], style: str) -> str:
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return "–"
    spread = f"\n±{statistics.stdev(values):{style}}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{style}}{spread}"


def _of_sizes(name: str, *, sizes: Mapping[str, int]) -> AutoencoderSpec | None:
    """Return a preset's spec, or None if it needs more than sizes, such as the names of sites."""
    parameters = inspect.signature(PRESETS[name]).parameters.values()
    needed = {parameter.name for parameter in parameters if parameter.default is parameter.empty}
    return preset(name, **sizes) if needed <= sizes.keys() else None
