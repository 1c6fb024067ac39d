"""A run as a folder: run.toml says what it is; RunSpec is that file, Run is the folder with its models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

from torch import nn

from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder
from gossamer.autoencoder.files import SPEC, load, save
from gossamer.sources.pairs import Pairs
from gossamer.sources.source import Source, SourceSpec
from gossamer.spec import Spec
from gossamer.storage import replace_file
from gossamer.training.spec import Derived, TrainSpec
from gossamer.transformer.files import SPEC as TRANSFORMER
from gossamer.transformer.files import load_transformer, load_vocabularies, save_transformer
from gossamer.transformer.model import Transformer, TransformerSpec
from gossamer.transformer.translator import MODEL, VOCABULARIES

__all__ = ["Model", "PythonSource", "Run", "RunSpec", "differences", "model_folders", "take_weights"]

Model: TypeAlias = SparseAutoencoder | Transformer
"""What can be trained."""


@dataclass(frozen=True, kw_only=True)
class PythonSource(SourceSpec):
    """Stand in run.toml for a source that was made in Python: its fingerprint can be compared, not rebuilt."""

    kind: ClassVar[str] = "python"

    def build(self, *, device: str = "cpu") -> Source:
        """Raise ValueError: only the program that made the source can make it again."""
        raise ValueError(
            "the source of this run was made in Python, and so it is by Python that the run goes on (gs.train with the "
            "same arguments and resume=True) or is measured (gs.measure(gs.load(folder), source))"
        )


@dataclass(frozen=True, kw_only=True)
class RunSpec(Spec):
    """All that a run depends on. autoencoders, transformers: what is trained, one of the two. derived: per model, the
    numbers that followed from the rest. start_from: the run whose weights they started with, if any."""

    autoencoders: tuple[AutoencoderSpec, ...] = ()
    transformers: tuple[TransformerSpec, ...] = ()
    source: SourceSpec
    train: TrainSpec
    fingerprint: dict[str, str]
    derived: tuple[Derived, ...]
    version: str
    start_from: str | None = None

    @classmethod
    def of(
        cls,
        models: Sequence[AutoencoderSpec | TransformerSpec],
        *,
        source: SourceSpec,
        train: TrainSpec,
        fingerprint: dict[str, str],
        derived: tuple[Derived, ...],
        version: str,
        start_from: str | None,
    ) -> RunSpec:
        """Return the run of these models; raises ValueError if they are of both kinds."""
        transformers = tuple(model for model in models if isinstance(model, TransformerSpec))
        autoencoders = tuple(model for model in models if isinstance(model, AutoencoderSpec))
        if transformers and autoencoders:
            raise ValueError("a run trains autoencoders or transformers: they learn from other rows")
        return cls(
            autoencoders=autoencoders,
            transformers=transformers,
            source=source,
            train=train,
            fingerprint=fingerprint,
            derived=derived,
            version=version,
            start_from=start_from,
        )

    @property
    def models(self) -> tuple[AutoencoderSpec | TransformerSpec, ...]:
        """What is trained."""
        return (*self.autoencoders, *self.transformers)

    def write(self, folder: Path) -> None:
        """Write run.toml."""
        text = self.to_toml()
        replace_file(folder / "run.toml", lambda temporary: temporary.write_text(text, encoding="utf-8"))

    @classmethod
    def read(cls, folder: str | Path) -> RunSpec:
        """Read run.toml; raises ValueError if there is none or it is damaged."""
        path = Path(folder) / "run.toml"
        if not path.is_file():
            raise ValueError(f"{path} does not exist; is {folder} the folder of a run?")
        try:
            return cls.from_toml(path.read_text(encoding="utf-8"))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged or of another version: {error}") from error


@dataclass(frozen=True)
class Run:
    """A finished run: its folder (None if nothing was to be kept) and its models, scaling folded in."""

    folder: Path | None
    autoencoders: tuple[SparseAutoencoder, ...] = ()
    transformers: tuple[Transformer, ...] = ()

    @classmethod
    def of(cls, folder: Path | None, models: Sequence[nn.Module]) -> Run:
        """Return the run of these models."""
        autoencoders = tuple(model for model in models if isinstance(model, SparseAutoencoder))
        return cls(folder, autoencoders, tuple(model for model in models if isinstance(model, Transformer)))

    @property
    def autoencoder(self) -> SparseAutoencoder:
        """The only autoencoder; raises ValueError if there are none or several."""
        return _only(self.autoencoders, "autoencoder")

    @property
    def transformer(self) -> Transformer:
        """The only transformer; raises ValueError if there are none or several."""
        return _only(self.transformers, "transformer")

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open a finished run; raises ValueError if there is none."""
        folder = Path(folder)
        spec = RunSpec.read(folder)
        if not cls.is_finished(folder, spec):
            raise ValueError(f"{folder} has not finished; go on with it: gossamer train --resume {folder}")
        places = model_folders(folder, spec.models)
        if spec.transformers:
            return cls(folder, transformers=tuple(load_transformer(place) for place in places))
        return cls(folder, tuple(load(place) for place in places))

    @staticmethod
    def is_finished(folder: Path, spec: RunSpec) -> bool:
        """Say whether a folder holds all the models of its run."""
        name = TRANSFORMER if spec.transformers else SPEC
        return all((place / name).is_file() for place in model_folders(folder, spec.models))

    def save(self) -> None:
        """Write the models into the folder."""
        if self.folder is None:
            return
        models = (*self.autoencoders, *self.transformers)
        for model, place in zip(models, model_folders(self.folder, [model.spec for model in models]), strict=True):
            if isinstance(model, Transformer):
                save_transformer(model, place)
            else:
                save(model, place)


M = TypeVar("M")


def _only(models: tuple[M, ...], noun: str) -> M:
    if len(models) != 1:
        raise ValueError(f"the run has {len(models)} {noun}s; choose one of .{noun}s")
    return models[0]


FREE = ("block.dropout:", "label_smoothing:", "positions.longest:")
"""What a transformer may have otherwise than the one whose weights it starts with."""


def take_weights(models: Sequence[Model], source: Source, start_from: str | Path) -> None:
    """Let models start with the weights of those of a finished run, in their order.

    Raises ValueError if the run has not finished, its models have other parts or sizes, or its ids stand for other
    tokens than those of the source. Of a transformer, only what says how it is trained may differ: other heads, norms
    or positions make other sense of weights of the same shape.
    """
    run = Run.open(start_from)
    found = (*run.autoencoders, *run.transformers)
    if len(found) != len(models):
        raise ValueError(f"{start_from} has {len(found)} models to start from, but {len(models)} are to be trained")
    if isinstance(source, Pairs):
        saved = load_vocabularies(Path(start_from) / VOCABULARIES)
        for (side, vocabulary), other in zip(source.vocabularies.items(), saved, strict=True):
            if vocabulary != other:
                raise ValueError(
                    f"the {side}'s ids stand for other tokens in {start_from}; to train on other pairs, let the source "
                    f"take its vocabularies: vocabularies = {str(start_from)!r}"
                )
    for number, (model, other) in enumerate(zip(models, found, strict=True)):
        both = isinstance(model, Transformer) and isinstance(other, Transformer)
        changed = [line for line in differences(other.spec, model.spec) if both and not line.startswith(FREE)]
        if changed:
            raise ValueError(f"model {number} cannot start from that of {start_from}: {'; '.join(changed)}")
        wanted, there = ({name: t.shape for name, t in one.state_dict().items()} for one in (model, other))
        if wanted != there:
            name = next(name for name in (*wanted, *there) if wanted.get(name) != there.get(name))
            raise ValueError(
                f"model {number} cannot start from that of {start_from}, which has other parts or sizes: {name} is "
                f"{tuple(there.get(name, ())) or 'missing'} there and {tuple(wanted.get(name, ())) or 'missing'} here"
            )
        model.load_state_dict(other.state_dict())


def model_folders(folder: Path, specs: Sequence[AutoencoderSpec | TransformerSpec]) -> list[Path]:
    """Return where a run keeps each model: `sae` or `transformer`, or `sae/0-name`, `sae/1-name`, … if several."""
    room = folder / (MODEL if isinstance(specs[0], TransformerSpec) else "sae")
    if len(specs) == 1:
        return [room]
    return [room / f"{number}-{spec.name}" for number, spec in enumerate(specs)]


def differences(saved: Spec, given: Spec) -> list[str]:
    """Return one line for each field in which two specs differ: name, saved value, given value."""
    return _differences(saved.to_dict(), given.to_dict(), "")


def _differences(saved: Any, given: Any, name: str) -> list[str]:
    if isinstance(saved, dict) and isinstance(given, dict):
        keys = [*saved, *(key for key in given if key not in saved)]
        prefix = f"{name}." if name else ""
        return [line for key in keys for line in _differences(saved.get(key), given.get(key), f"{prefix}{key}")]
    if isinstance(saved, list) and isinstance(given, list) and len(saved) == len(given):
        pairs = enumerate(zip(saved, given, strict=True))
        return [line for number, (a, b) in pairs for line in _differences(a, b, f"{name}[{number}]")]
    return [] if saved == given else [f"{name}: saved {saved!r}, given {given!r}"]
