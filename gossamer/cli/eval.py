"""gossamer eval."""

from __future__ import annotations

from typing import Annotated

import tyro

__all__ = ["evaluate"]


def evaluate(
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    *,
    rows: int = 50_000,
    predictions: int = 8192,
) -> None:
    """Measure a finished run on its held-out rows; prints a table and writes evaluation.json into the folder.

    Args:
        run: The folder of a run.
        rows: Held-out rows for reconstruction and sparsity, at most.
        predictions: Next-token predictions for what the language model loses, at most; 0 leaves that out.
    """
    from gossamer.evaluate.table import measure_run

    measure_run(run, rows=rows, predictions=predictions)
