"""gossamer bench."""

from __future__ import annotations

from typing import Annotated, Literal

import tyro

__all__ = ["bench"]


def bench(
    benchmark: Annotated[Literal["ground-truth"], tyro.conf.Positional],
    *,
    presets: tuple[str, ...] = (),
    l0: int | None = None,
    latents: int = 128,
    features: int = 512,
    width: int = 64,
    true_l0: float = 4.0,
    rows: int = 500_000,
    learning_rate: float | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    out: str | None = None,
) -> None:
    """Train presets on rows made of known features, and print how much of the features each found, beside controls.

    Args:
        benchmark: Which one.
        presets: Their names; none means all that give back the rows they read as sums of directions.
        l0: Active latents per row; by default what a perfect autoencoder of these latents would have.
        latents: Entries of a code.
        features: Known features.
        width: Entries of a row.
        true_l0: Features that fire per row, in the mean.
        rows: Rows to train on.
        learning_rate: Of all presets; by default derived, as in any run.
        seeds: Each is a world of features, initial weights and an order of rows.
        out: A folder for ground-truth.csv and pictures; none writes nothing.
    """
    from gossamer.evaluate.ground_truth.bench import GroundTruthBench, bench_ground_truth

    spec = GroundTruthBench(
        presets=presets,
        latents=latents,
        l0=l0,
        features=features,
        input_width=width,
        true_l0=true_l0,
        rows=rows,
        learning_rate=learning_rate,
        seeds=seeds,
    )
    bench_ground_truth(spec, out=out)
