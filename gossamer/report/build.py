"""From a finished run to its report: measure, choose latents, collect contexts, write the page."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.evaluate.measure import Measurement
from gossamer.evaluate.table import figures, measure_run
from gossamer.report.contexts import choose_latents, collect
from gossamer.report.data import Curve, FeatureCard, Metric, ReportData, Setting, SettingGroup
from gossamer.report.figures import INSTALL
from gossamer.report.logit_lens import logit_lens
from gossamer.report.pictures import pictures
from gossamer.report.render import write
from gossamer.report.surroundings import Surroundings, surroundings
from gossamer.sources.source import Source
from gossamer.training.metrics import read_metrics
from gossamer.training.run import RunSpec
from gossamer.training.spec import Derived
from gossamer.version import VERSION

__all__ = ["describe", "report_run"]

TOP, RANDOM = 10, 5
"""Contexts shown per latent."""


def report_run(
    folder: str | Path, *, features: int = 50, rows: int = 50_000, predictions: int = 8192, seed: int = 0
) -> list[Path]:
    """Measure a finished run, and write evaluation.json and one page per autoencoder into its folder.

    Raises ValueError if the run is not finished, its source cannot be built again, or a package is missing.
    """
    if features < 0:
        raise ValueError(f"features must not be negative, got {features}")
    if any(importlib.util.find_spec(package) is None for package in ("matplotlib", "jinja2")):
        raise ValueError(INSTALL)
    spec, log, folder = RunSpec.read(folder), read_metrics(folder), Path(folder)
    run, source, measurements = measure_run(folder, rows=rows, predictions=predictions)
    paths = []
    for number, (sae, measurement) in enumerate(zip(run.autoencoders, measurements, strict=True)):
        name = "report.html" if len(measurements) == 1 else f"report-{number}-{measurement.name}.html"
        around = surroundings(source)
        cards, sampling = _cards(sae, source, measurement, around, features=features, seed=seed)
        lines = [line for line in log if line["model"] == number]
        data = describe(spec, spec.derived[number], source, sae, measurement, lines, cards, sampling)
        data = dataclasses.replace(data, pictures=pictures(sae, source), sounds=around.sounds)
        paths.append(write(data, folder / name))
        print(f"written to {paths[-1]}")
    return paths


def describe(
    spec: RunSpec,
    derived: Derived,
    source: Source,
    sae: SparseAutoencoder,
    measurement: Measurement,
    log: Sequence[dict[str, Any]],
    cards: tuple[FeatureCard, ...],
    sampling: str,
) -> ReportData:
    """Return what the page shows."""
    metrics = tuple(
        Metric(
            name=figure.name,
            value=value,
            explanation=figure.meaning,
            format=figure.format,
            group=figure.group,
            rows=rows,
            headline=figure.headline,
        )
        for figure, value, rows in figures(measurement)
    )
    site = ", ".join(filter(None, sae.spec.task.inputs))
    return ReportData(
        title=f"{sae.spec.name}, {sae.spec.input_width} → {sae.spec.latents:,} latents",
        subtitle=f"Trained on {spec.train.steps * spec.train.batch:,} rows" + (f" of {site}." if site else "."),
        created=f"{datetime.datetime.now():%d %B %Y, %H:%M}, gossamer {VERSION}",
        settings=_settings(spec, derived, source, sae),
        metrics=metrics,
        curves=_curves(log),
        densities=measurement.sparsity.densities,
        density_rows=measurement.sparsity.rows,
        features=cards,
        sampling=sampling,
    )


def _cards(
    sae: SparseAutoencoder,
    source: Source,
    measurement: Measurement,
    around: Surroundings,
    *,
    features: int,
    seed: int,
) -> tuple[tuple[FeatureCard, ...], str]:
    score = measurement.sparsity
    latents, sampling = choose_latents(score.densities, features, seed=seed)
    activity, _ = collect(sae, source, latents, rows=score.rows)
    in_stream = sae.spec.decoder.linear and len(sae.spec.task.targets) == 1
    lens = logit_lens(source, sae.decoder.directions().detach()[latents]) if in_stream else None
    lens = lens or [(None, None)] * len(latents)
    rng = np.random.default_rng(seed)
    cards = []
    for latent, (promoted, suppressed) in zip(latents.tolist(), lens, strict=True):
        seen = activity[latent]
        cards.append(
            FeatureCard(
                latent=latent,
                density=float(score.densities[latent]),
                mean_activation=float(score.mean_activation[latent]),
                max_activation=float(score.max_activation[latent]),
                histogram=seen.histogram(),
                top_contexts=tuple(seen.context(entry, around) for entry in seen.strongest(TOP, span=around.span)),
                random_contexts=tuple(seen.context(entry, around) for entry in seen.random(RANDOM, rng)),
                promoted=promoted,
                suppressed=suppressed,
            )
        )
    return tuple(cards), sampling


def _settings(spec: RunSpec, derived: Derived, source: Source, sae: SparseAutoencoder) -> tuple[SettingGroup, ...]:
    train, parts = spec.train, sae.spec
    model = [
        Setting("input width", f"{parts.input_width:,}", "entries of a row"),
        Setting("latents", f"{parts.latents:,}", f"{parts.latents / parts.input_width:.3g} times the width"),
        Setting("encoder", repr(parts.encoder)),
        Setting("sparsity", repr(parts.sparsity)),
        Setting("decoder", repr(parts.decoder)),
        Setting("scaling", repr(parts.scaling)),
        Setting("task", repr(parts.task)),
        *(Setting("loss", repr(part)) for part in (parts.reconstruction, *parts.penalties, *parts.auxiliaries)),
    ]
    data = [Setting(topic, text) for topic, text in source.describe().items()]
    files = spec.source.to_dict().get("texts")
    data += [Setting("files", ", ".join(files))] if files else []
    training = [
        Setting("rows", f"{train.steps * train.batch:,}", f"{train.steps * train.batch / source.rows:.2f} epochs"),
        Setting("batch", f"{train.batch:,}", f"{train.steps:,} steps"),
        Setting("learning rate", f"{derived.learning_rate:.2g}", "at its plateau"),
        Setting("warm-up, decay", f"{derived.warmup_steps:,}, {derived.decay_steps:,}", "steps"),
        Setting("dead after", f"{derived.dead_after:,}", "rows without activity"),
        Setting("seed", str(train.seed)),
    ]
    groups = {"Autoencoder": model, "Data": data, "Training": training}
    return tuple(SettingGroup(name, tuple(settings)) for name, settings in groups.items())


def _curves(log: Sequence[dict[str, Any]]) -> tuple[Curve, ...]:
    shown: dict[str, tuple[str, Literal["linear", "log"], str]] = {
        "reconstruction": ("Reconstruction error", "log", "mean square in training units; 1 is the mean row"),
        "l0": ("L0", "linear", "active latents per row"),
        "strength": ("Weight of the penalty", "log", "steered until L0 is what was asked for"),
        "dead": ("Dead latents", "linear", "share silent for longer than the dead window"),
        "learning_rate": ("Learning rate", "linear", "warm-up, plateau, decay"),
    }
    rows = [line["rows"] for line in log]
    return tuple(
        Curve(name=name, steps=rows, values=[line[key] for line in log], scale=scale, explanation=explanation)
        for key, (name, scale, explanation) in shown.items()
        if all(key in line for line in log)
    )
