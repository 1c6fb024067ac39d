"""gossamer compare."""

from __future__ import annotations

from typing import Annotated

import tyro

__all__ = ["compare"]


def compare(
    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")],
    *,
    out: Annotated[str | None, tyro.conf.arg(aliases=["-o"])] = None,
    latents: int | None = None,
    l0: int | None = None,
    rows: int | None = None,
    seconds: float | None = None,
    seed: int | None = None,
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Compare methods on the same rows, at equal parameters and at equal training time: tables, pictures, a page.

    Args:
        recipe: A TOML file, such as recipes/compare-ecg.toml. The flags below replace what it says.
        out: The folder of the comparison; a rerun goes on with what is not finished there.
        latents: Entries of the sparse codes, which set the number of parameters of all methods.
        l0: Numbers that describe a row.
        rows: Rows that each method sees where rows are equal.
        seconds: Of processor time that each method trains where time is equal.
        seed: Of the initial weights and of the order of rows.
        dry_run: Say what would happen, and stop.
    """
    from gossamer.compare.recipe import Comparison
    from gossamer.compare.run import compare as run

    changes = {"out": out, "latents": latents, "l0": l0, "rows": rows, "seconds": seconds, "seed": seed}
    run(Comparison.read(recipe).override(**changes), dry_run=dry_run)
