"""gossamer fit."""

from __future__ import annotations

from typing import Annotated, Literal

import tyro

__all__ = ["fit"]


def fit(
    kind: Annotated[Literal["images", "text", "signals", "table"], tyro.conf.Positional],
    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH ...")],
    *,
    out: Annotated[str, tyro.conf.arg(aliases=["-o"])],
    preset: str = "topk",
    latents: int = 512,
    l0: int = 16,
    rows: int = 500_000,
    size: int | None = None,
    model: str | None = None,
    rate: int | None = None,
    seed: int = 0,
    device: str = "auto",
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Train a sparse autoencoder of files, and write its report, with pictures of what it learned.

    Args:
        kind: What the files hold.
        paths: Files, folders or globs; asset:NAME for packaged texts.
        out: The folder of the run.
        preset: The architecture, such as topk, jumprelu or matching-pursuit.
        latents: Entries of a code.
        l0: Active latents per row.
        rows: Rows to train on; more than there are means further epochs.
        size: Images: side of a patch in pixels, whole pictures if it is left out. Signals: samples of a frame, 256.
        model: Text: an encoder whose sentence embeddings are the rows (minilm, a folder, a hub id) instead of tf-idf.
        rate: Signals: samples per second, where files do not say it; the others are resampled to it.
        seed: Of the initial weights and of the order of rows.
        device: cpu, cuda, cuda:1, ...; auto is the GPU if there is one.
        dry_run: Say what would happen, and stop.
    """
    from gossamer.training.fitting import recipe_for
    from gossamer.training.start import start

    recipe = recipe_for(
        kind,
        paths,
        out=out,
        preset=preset,
        latents=latents,
        l0=l0,
        rows=rows,
        size=size,
        model=model,
        rate=rate,
        seed=seed,
        device=device,
    )
    start(recipe, dry_run=dry_run, measured=True)
    if not dry_run:
        from gossamer.report.build import report_run

        report_run(out, predictions=0)
