"""Runs that start from files: a recipe, or the folder of a run that was stopped."""

from __future__ import annotations

import sys
from pathlib import Path

from gossamer.sources.source import Source, SourceSpec
from gossamer.training.devices import resolve_device
from gossamer.training.loop import plan, require_unused, train
from gossamer.training.recipe import Recipe
from gossamer.training.run import Run, RunSpec, take_weights

__all__ = ["resume_run", "run_source", "start"]


def start(recipe: Recipe, *, dry_run: bool = False, measured: bool = False) -> Run | None:
    """Build what a recipe describes and train it; with dry_run only print the plan, and return None.

    measured: the run is to be measured, so that rows have to be held out. Raises ValueError, before anything is
    trained, for what cannot be.
    """
    require_unused(Path(recipe.out))
    device = str(resolve_device(recipe.train.device))
    source = _build(recipe.source, device)
    models = [spec.build(seed=recipe.train.seed + number) for number, spec in enumerate(recipe.resolve(source))]
    if measured and not source.validation_rows:
        raise ValueError(
            f"of {source.rows:,} rows none can be held out to measure with; give more files, or cut them into smaller "
            "pieces (--size)"
        )
    if dry_run:
        if recipe.start_from is not None:
            take_weights(models, source, recipe.start_from)
        print(plan(models, source, recipe.train, out=recipe.out))
        return None
    return train(models, source, recipe.train, out=recipe.out, described=recipe.source, start_from=recipe.start_from)


def resume_run(folder: str | Path) -> Run:
    """Go on with a run whose source is described in its run.toml.

    Raises ValueError if there is no such run, or if its source was made in Python.
    """
    spec = RunSpec.read(folder)
    source = run_source(spec)
    models = [model.build() for model in spec.models]
    start_from = spec.start_from
    return train(models, source, spec.train, out=folder, resume=True, described=spec.source, start_from=start_from)


def run_source(spec: RunSpec) -> Source:
    """Build the source of a run again, on the run's device."""
    return _build(spec.source, str(resolve_device(spec.train.device)))


def _build(source: SourceSpec, device: str) -> Source:
    print(f"opening the source: {source.kind}", file=sys.stderr, flush=True)
    return source.build(device=device)
