"""What a run knows about where its autoencoders come from."""

from __future__ import annotations

from pathlib import Path

from gossamer.autoencoder.provenance import Provenance
from gossamer.sources.source import Source
from gossamer.training.metrics import read_metrics
from gossamer.training.run import RunSpec
from gossamer.version import VERSION

__all__ = ["provenance_of"]

KEPT = ("l0", "dead", "loss")
"""What is kept of the last line of a training's log."""


def provenance_of(run: RunSpec, source: Source, number: int, folder: Path | None) -> Provenance:
    """Return the provenance of one autoencoder of a run; folder: where its metrics.jsonl is, if anywhere.

    Figures are those of the last log line; measuring the run adds those on held-out rows.
    """
    spec, described = run.autoencoders[number], dict(source.describe())
    model = described.pop("model", "")
    return Provenance(
        model=getattr(run.source, "model", "") or model,
        site=_named(source, spec.task.inputs),
        target="" if spec.task.same_rows else _named(source, spec.task.targets),
        data="; ".join(f"{topic}: {text}" for topic, text in described.items()),
        rows=run.train.steps * run.train.batch,
        seed=run.train.seed,
        version=f"gossamer {VERSION}",
        metrics={} if folder is None else _last_figures(folder, number),
    )


def _named(source: Source, sites: tuple[str, ...]) -> str:
    return ", ".join(site or (next(iter(source.widths)) if len(source.widths) == 1 else "") for site in sites)


def _last_figures(folder: Path, number: int) -> dict[str, float]:
    records = [record for record in read_metrics(folder) if record["model"] == number]
    return {name: float(records[-1][name]) for name in KEPT if name in records[-1]} if records else {}
