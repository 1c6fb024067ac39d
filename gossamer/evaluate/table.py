"""What every figure of a measurement is called, means and looks like: one list for the terminal and the report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gossamer.autoencoder.files import note_metrics
from gossamer.evaluate.measure import Measurement, measure, write_measurements
from gossamer.sources.source import Source
from gossamer.training.run import Run, RunSpec, model_folders
from gossamer.training.start import run_source

__all__ = ["FIGURES", "Figure", "figures", "measure_run", "print_table"]


@dataclass(frozen=True)
class Figure:
    """One line of the table. key: its name in `Measurement.summary()`; rests_on: the key that counts its rows."""

    key: str
    name: str
    meaning: str
    format: str
    group: str = "Reconstruction"
    rests_on: str = "rows"
    headline: bool = False


def _language(key: str, name: str, meaning: str, style: str, *, headline: bool = False) -> Figure:
    return Figure(key, name, meaning, style, "Language model", "predictions", headline)


FIGURES = (
    Figure("fvu", "FVU", "fraction of variance unexplained; 0 is perfect", ".4f", headline=True),
    Figure("cosine", "Cosine", "mean cosine of row and reconstruction; 1 is perfect", ".4f"),
    Figure("l0", "L0", "mean number of active latents per row", ".1f", group="Sparsity", headline=True),
    Figure("target_l0", "L0 asked for", "what training steered to", ".1f", group="Sparsity"),
    Figure(
        "shared", "Shared", "share of latents that no site has to itself", ".1%", group="Sparsity", rests_on="latents"
    ),
    Figure("dead", "Dead", "share of latents active on none of the rows", ".1%", group="Sparsity", headline=True),
    _language(
        "recovered_from_mean",
        "Loss recovered",
        "share of what mean ablation costs that the reconstruction keeps; 100% is perfect",
        ".1%",
        headline=True,
    ),
    _language("recovered_from_zero", "… against zero", "the same against zero ablation", ".1%"),
    _language("clean", "Cross-entropy", "of the model as it is, in nats", ".4f"),
    _language("spliced", "… spliced", "with the reconstruction in place of the activation", ".4f"),
    _language("mean", "… mean", "with the mean activation in place", ".4f"),
    _language("zero", "… zero", "with zero in place", ".4f"),
    _language("kl", "KL", "KL(clean ‖ spliced) of the next token, in nats; 0 is perfect", ".4f"),
)
"""In the order of the table."""


def figures(measurement: Measurement) -> Iterator[tuple[Figure, float, int]]:
    """Iterate over the figures that a measurement has: what it is, its value, the rows it rests on."""
    summary = measurement.summary()
    values = summary | summary.get("language_model", {})
    return ((figure, values[figure.key], values[figure.rests_on]) for figure in FIGURES if figure.key in values)


def print_table(measurement: Measurement, *, title: str) -> None:
    """Print the figures of a measurement."""
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "value", "rows", "meaning", title=title)
    for figure, value, rows in figures(measurement):
        table.add_row(figure.name, format(value, figure.format), f"{rows:,}", figure.meaning)
    Console().print(table)


def measure_run(folder: str | Path, *, rows: int, predictions: int) -> tuple[Run, Source, list[Measurement]]:
    """Measure every autoencoder of a finished run, print the figures, write evaluation.json.

    Returns what it opened beside what it found. Raises ValueError if the run is not finished, trained no autoencoder,
    or its source cannot be built again.
    """
    run = Run.open(folder)
    if not run.autoencoders:
        raise ValueError(f"{folder} holds a transformer; measure it with: gossamer seq2seq evaluate {folder}")
    source = run_source(RunSpec.read(folder))
    measurements = [measure(sae, source, rows=rows, predictions=predictions, quiet=False) for sae in run.autoencoders]
    for measurement in measurements:
        print_table(measurement, title=f"{folder}: {measurement.name}")
    places = model_folders(Path(folder), [sae.spec for sae in run.autoencoders])
    for place, measurement in zip(places, measurements, strict=True):
        note_metrics(place, {figure.key: value for figure, value, _ in figures(measurement)})
    print(f"written to {write_measurements(measurements, Path(folder))}")
    return run, source, measurements
