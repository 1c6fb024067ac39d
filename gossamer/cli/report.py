"""gossamer report."""

from __future__ import annotations

from typing import Annotated

import tyro

__all__ = ["report"]


def report(
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    *,
    features: int = 50,
    rows: int = 50_000,
    predictions: int = 8192,
    seed: int = 0,
) -> None:
    """Write report.html, one self-contained page, into the folder of a finished run.

    Args:
        run: The folder of a run.
        features: Latents to show, sampled over the range of densities.
        rows: Held-out rows that the figures rest on, at most.
        predictions: Next-token predictions for what the language model loses, at most; 0 leaves that out.
        seed: Of the sample of latents and of the random contexts.
    """
    from gossamer.report.build import report_run

    report_run(run, features=features, rows=rows, predictions=predictions, seed=seed)
