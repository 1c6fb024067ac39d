"""Recipe: a complete run described in a TOML file, before its data is known."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossamer.autoencoder.autoencoder import AutoencoderSpec
from gossamer.autoencoder.presets import options, preset
from gossamer.autoencoder.tasks import Reconstruct
from gossamer.sources.source import Source, SourceSpec
from gossamer.spec import Spec
from gossamer.training.sequences import fitted
from gossamer.training.spec import TrainSpec
from gossamer.transformer.model import TransformerSpec

__all__ = ["PresetSpec", "Recipe"]


@dataclass(frozen=True, kw_only=True)
class PresetSpec(Spec):
    """A preset and its dials; widths come from the source.

    l0: active latents per row. site: what is read; needed only if the source has several. target: what a transcoder
    gives. sites, targets: the same for a crosscoder and a cross-layer transcoder.
    """

    name: str
    latents: int
    l0: int | None = None
    l1: float | None = None
    site: str | None = None
    target: str | None = None
    sites: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None

    def resolve(self, source: Source) -> AutoencoderSpec:
        """Return the autoencoder's spec for this source."""
        accepted = options(self.name)
        dials = {name: getattr(self, name) for name in ("latents", "l0", "l1", "site", "target", "sites", "targets")}
        given: dict[str, Any] = {name: value for name, value in dials.items() if value is not None}
        given["input_width"] = source.width(self.sites or (self.site or "",))
        if "width" in accepted and self.target is not None:
            given["width"] = source.width((self.target,))
        if "widths" in accepted and self.sites is not None:
            given["widths"] = tuple(source.width((site,)) for site in self.sites)
        if "site" in accepted or self.site is None:
            return preset(self.name, **given)
        del given["site"]
        return preset(self.name, **given).replace(task=Reconstruct(site=self.site))


@dataclass(frozen=True, kw_only=True)
class Recipe(Spec):
    """A run that people start from.

    out: the folder. preset, autoencoder: what to train, as named architectures or part by part; all of them share
    every batch. transformer: a transformer instead, for a source of pairs. source: where rows come from. train: how.
    start_from: the folder of a finished run whose weights the models start with.
    """

    out: str
    source: SourceSpec
    train: TrainSpec = TrainSpec()
    preset: tuple[PresetSpec, ...] = ()
    autoencoder: tuple[AutoencoderSpec, ...] = ()
    transformer: tuple[TransformerSpec, ...] = ()
    start_from: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.preset and not self.autoencoder and not self.transformer:
            raise ValueError(
                "the recipe names nothing to train; add a [[preset]], an [[autoencoder]] or a [[transformer]]"
            )
        if self.transformer and (self.preset or self.autoencoder):
            raise ValueError("a recipe trains autoencoders or transformers: they learn from other rows")

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """Read a recipe; raises ValueError naming the file and the place in it."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"there is no recipe {path}{_recipes_near(path)}")
        try:
            return cls.from_toml(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from error

    def override(
        self,
        *,
        latents: int | None = None,
        l0: int | None = None,
        rows: int | None = None,
        out: str | None = None,
        seed: int | None = None,
        device: str | None = None,
        start_from: str | None = None,
    ) -> Recipe:
        """Return the recipe with some numbers replaced; None leaves the file's. latents and l0 go to every preset.

        Raises ValueError for latents or l0 if the recipe has no preset to take them.
        """
        if (latents is not None or l0 is not None) and not self.preset:
            raise ValueError("this recipe has no preset that takes latents and l0; change the file")
        dials = {"latents": latents, "l0": l0}
        train = {"rows": rows, "seed": seed, "device": device}
        return self.replace(
            preset=tuple(p.replace(**_given(dials)) for p in self.preset),
            train=self.train.replace(**_given(train)),
            out=self.out if out is None else out,
            start_from=self.start_from if start_from is None else start_from,
        )

    def resolve(self, source: Source) -> tuple[AutoencoderSpec | TransformerSpec, ...]:
        """Return the models' specs for this source."""
        transformers = (fitted(transformer, source) for transformer in self.transformer)
        return (*(p.resolve(source) for p in self.preset), *self.autoencoder, *transformers)


def _given(values: Mapping[str, int | str | None]) -> dict[str, int | str]:
    return {name: value for name, value in values.items() if value is not None}


def _recipes_near(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("recipes")
    found = sorted(str(p) for p in folder.glob("*.toml"))
    return f"; there are {', '.join(found)}" if found else ""
