"""gossamer train."""

from __future__ import annotations

from typing import Annotated

import tyro

__all__ = ["train"]


def train(
    recipe: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RECIPE]")] = None,
    *,
    resume: str | None = None,
    latents: int | None = None,
    l0: int | None = None,
    rows: int | None = None,
    out: str | None = None,
    seed: int | None = None,
    device: str | None = None,
    start_from: str | None = None,
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Train the autoencoders of a recipe, or go on with a run that was stopped.

    Args:
        recipe: A TOML file, such as recipes/smollm2-topk.toml. The flags below replace what it says.
        resume: The folder of a run to go on with, instead of a recipe.
        latents: Entries of a code.
        l0: Active latents per row.
        rows: Rows to train on; more than the source holds means further epochs.
        out: The folder of the run.
        seed: Of the initial weights and of the order of rows.
        device: cpu, cuda, cuda:1, ...; auto is the GPU if there is one.
        start_from: A finished run whose weights to start with, to train for longer or on other data.
        dry_run: Say what would happen, and stop.
    """
    changes = {"latents": latents, "l0": l0, "rows": rows, "out": out, "seed": seed, "device": device}
    changes |= {"start-from": start_from}
    given = [f"--{name}" for name, value in changes.items() if value is not None] + ["--dry-run"] * dry_run
    if (recipe is None) == (resume is None):
        raise ValueError("give either a recipe or --resume FOLDER")
    if resume is not None and given:
        raise ValueError(f"--resume takes everything from the run; leave out {', '.join(given)}")

    from gossamer.training.recipe import Recipe
    from gossamer.training.start import resume_run, start

    if resume is not None:
        resume_run(resume)
    elif recipe is not None:
        changed = Recipe.read(recipe).override(
            latents=latents, l0=l0, rows=rows, out=out, seed=seed, device=device, start_from=start_from
        )
        start(changed, dry_run=dry_run)
