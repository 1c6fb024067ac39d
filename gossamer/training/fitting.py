"""Recipes for people who have files and want a sparse autoencoder of them: good defaults, one line to start."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gossamer.sources.documents import DocumentsSpec, Words
from gossamer.sources.embeddings import EmbeddingsSpec
from gossamer.sources.frames import Frames
from gossamer.sources.images import ImagesSpec
from gossamer.sources.patches import Patches
from gossamer.sources.signals import SignalsSpec
from gossamer.sources.source import SourceSpec
from gossamer.sources.tables import TableSpec
from gossamer.spec import nearest
from gossamer.training.recipe import PresetSpec, Recipe
from gossamer.training.spec import TrainSpec

__all__ = ["KINDS", "recipe_for"]

WORDS = Words(min_df=5, max_df=0.5, max_features=30_000)


def _images(paths: tuple[str, ...], size: int | None, model: str | None, rate: int | None) -> SourceSpec:
    """Whole pictures if they have one size and none is given; else patches, less their means."""
    if size is None:
        return ImagesSpec(paths=paths)
    stride = max(1, size // 2)
    return ImagesSpec(paths=paths, patches=Patches(size=size, stride=stride, normalization="mean"))


def _signals(paths: tuple[str, ...], size: int | None, model: str | None, rate: int | None) -> SourceSpec:
    """Frames that overlap by half, less their means."""
    length = size or 256
    frames = Frames(length=length, hop=max(1, length // 2), window="hann", normalization="mean")
    return SignalsSpec(paths=paths, frames=frames, rate=rate, file_rate=rate)


def _text(paths: tuple[str, ...], size: int | None, model: str | None, rate: int | None) -> SourceSpec:
    """Words by tf-idf, or the embeddings of a model."""
    if model is None:
        return DocumentsSpec(paths=paths, words=WORDS)
    return EmbeddingsSpec(paths=paths, model=model)


def _table(paths: tuple[str, ...], size: int | None, model: str | None, rate: int | None) -> SourceSpec:
    """Columns, standardized, categories one-hot."""
    return TableSpec(paths=paths)


KINDS: dict[str, Callable[[tuple[str, ...], int | None, str | None, int | None], SourceSpec]] = {
    "images": _images,
    "signals": _signals,
    "text": _text,
    "table": _table,
}


def recipe_for(
    kind: str,
    paths: Sequence[str],
    *,
    out: str,
    preset: str = "topk",
    latents: int = 512,
    l0: int = 16,
    rows: int = 500_000,
    size: int | None = None,
    model: str | None = None,
    rate: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Recipe:
    """Return a recipe for files of a kind: "images", "signals", "text" or "table".

    size: pixels on a side of patches of images (None: whole pictures), or samples of a frame of signals (None: 256).
    model: for text, a Hugging Face encoder whose sentence embeddings are the rows, instead of tf-idf.
    rate: samples per second of signals whose files do not say it; the others are resampled to it.

    Raises ValueError for an unknown kind, or for an option that says nothing of it.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; {nearest(kind, KINDS)}")
    if not paths:
        raise ValueError(f"name the files or folders of the {kind}")
    options = (("size", size, ("images", "signals")), ("model", model, ("text",)), ("rate", rate, ("signals",)))
    for name, value, kinds in options:
        if value is not None and kind not in kinds:
            raise ValueError(f"{name} is for {' and '.join(kinds)}, not for kind {kind!r}")
    return Recipe(
        out=out,
        preset=(PresetSpec(name=preset, latents=latents, l0=l0),),
        source=KINDS[kind](tuple(paths), size, model, rate),
        train=TrainSpec(rows=rows, batch=512, seed=seed, device=device),
    )
