"""dictionary_learning's folders: `config.json` and `ae.pt` (https://github.com/saprmarks/dictionary_learning).

All of its classes subtract the decoder's bias from the row first, but for JumpReluAutoEncoder and AutoEncoderNew. Read
as its `load_dictionary` reads them: decoder rows of an AutoEncoder get norm 1, and its codes their norms.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from gossamer.autoencoder.centered import Centered
from gossamer.autoencoder.encoders import Encoder, Linear
from gossamer.autoencoder.provenance import Provenance
from gossamer.autoencoder.sparsity import BatchTopK, Gated, ReLU, Sparsity, Threshold, TopK
from gossamer.interop.affine import AffineParts, assembled
from gossamer.interop.format import Format, Loaded
from gossamer.interop.tensors import Config, naming, require_finite, require_tensors
from gossamer.interop.torch_files import read_torch_file
from gossamer.spec import nearest

__all__ = ["FORMAT", "DictionaryLearning", "read"]

CONFIG, WEIGHTS = "config.json", "ae.pt"


@dataclass(frozen=True)
class _Names:
    """How a class calls its tensors; matrices that are stored the other way round than here have a star."""

    encoder: str = "encoder.weight"
    encoder_bias: str = "encoder.bias"
    decoder: str = "decoder.weight*"
    decoder_bias: str = "b_dec"

    def shapes(self, latents: int, width: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the four."""
        shapes = {}
        for name in (self.encoder, self.decoder):
            shapes[name.removesuffix("*")] = (width, latents) if name.endswith("*") else (latents, width)
        return shapes | {self.encoder_bias: (latents,), self.decoder_bias: (width,)}

    def parts(self, tensors: Mapping[str, Tensor]) -> AffineParts:
        """Return the four, matrices with one latent per row."""
        encoder, decoder = (
            tensors[name.removesuffix("*")].T if name.endswith("*") else tensors[name]
            for name in (self.encoder, self.decoder)
        )
        return AffineParts(encoder, tensors[self.encoder_bias], decoder, tensors[self.decoder_bias])


Rule = tuple[Sparsity, dict[str, Tensor]]
"""What stands between the two maps, and its own tensors."""


def _relu(tensors: Mapping[str, Tensor], trainer: Config) -> Rule:
    return ReLU(), {}


def _gated(tensors: Mapping[str, Tensor], trainer: Config) -> Rule:
    gain, gate, magnitude = (tensors[name] for name in ("r_mag", "gate_bias", "mag_bias"))
    return Gated(), {"log_gain": gain, "bias": magnitude - gain.exp() * gate}


def _jump(tensors: Mapping[str, Tensor], trainer: Config) -> Rule:
    return Threshold(), {"threshold": tensors["threshold"].clamp_min(0)}  # it has a ReLU as well


def _topk(tensors: Mapping[str, Tensor], trainer: Config) -> Rule:
    return TopK(k=_k(tensors, trainer)), {}


def _batch_topk(tensors: Mapping[str, Tensor], trainer: Config) -> Rule:
    return BatchTopK(k=_k(tensors, trainer)), {"threshold": tensors["threshold"].clamp_min(0)}


@dataclass(frozen=True)
class _Kind:
    """A class of the library.

    more: its further tensors with one number per latent; scalars: those with one number, integers among them that tests
    of dtypes leave alone.
    """

    rule: Callable[[Mapping[str, Tensor], Config], Rule]
    names: _Names = _Names()
    encoder: Encoder = Centered()
    more: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()


_MATRICES = _Names("W_enc*", "b_enc", "W_dec", "b_dec")
_KINDS = {
    "AutoEncoder": _Kind(_relu, _Names(decoder_bias="bias")),
    "AutoEncoderNew": _Kind(_relu, _Names(decoder_bias="decoder.bias"), Linear()),
    "GatedAutoEncoder": _Kind(
        _gated, _Names(encoder_bias="gate_bias", decoder_bias="decoder_bias"), more=("r_mag", "mag_bias")
    ),
    "JumpReluAutoEncoder": _Kind(_jump, _MATRICES, Linear(), more=("threshold",)),
    "AutoEncoderTopK": _Kind(_topk),
    "BatchTopKSAE": _Kind(_batch_topk, scalars=("threshold",)),
    "MatryoshkaBatchTopKSAE": _Kind(_batch_topk, _MATRICES, scalars=("threshold",)),
}
_COUNTS = ("k", "group_sizes")
"""Tensors of whole numbers that only some versions save."""


class DictionaryLearning(Format):
    """Folders with `config.json` and `ae.pt`."""

    name: ClassVar[str] = "dictionary_learning"
    title: ClassVar[str] = "dictionary_learning"
    files: ClassVar[frozenset[str]] = frozenset({CONFIG, WEIGHTS})

    def recognizes(self, place: Path) -> bool:
        """Say whether there are both files, and a trainer in the configuration."""
        return (place / WEIGHTS).is_file() and isinstance(Config.peek(place / CONFIG).get("trainer"), dict)

    def read(self, place: str | Path) -> Loaded:
        """Read one autoencoder; raises ValueError, naming the file, for what is damaged or of an unknown class."""
        folder = Path(place)
        config = Config.read(folder / CONFIG)
        trainer = config.table("trainer")
        kind = _kind(trainer)
        tensors = _tensors(kind, trainer, folder / WEIGHTS)
        rule, own = kind.rule(tensors, trainer)
        parts, notes = kind.names.parts(tensors), ()
        if trainer.text("dict_class") == "AutoEncoder":
            parts, notes = _normalized(parts)
        with naming(folder):
            name = trainer.text("dict_class")
            sae = assembled(parts, name=name, sparsity=rule, thresholds=own, encoder=kind.encoder)
        require_finite(sae.state_dict(), folder)  # what was multiplied may have become too large
        sae.provenance = _provenance(config, tensors)
        return Loaded(sae, notes)


def _kind(trainer: Config) -> _Kind:
    name = trainer.text("dict_class")
    if name not in _KINDS:
        raise ValueError(
            f"{trainer.path}: trainer.dict_class is {name!r}, which is not known here; {nearest(name, _KINDS)}"
        )
    return _KINDS[name]


def _tensors(kind: _Kind, trainer: Config, path: Path) -> dict[str, Tensor]:
    """Return the tensors by their own names, all that the class needs and nothing else, finite."""
    values = read_torch_file(path)
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    odd = [name for name in values if name not in tensors]
    if odd:
        raise ValueError(f"{path} holds {odd[0]!r}, which is no tensor")
    latents, width = trainer.size("dict_size"), trainer.size("activation_dim")
    shapes = kind.names.shapes(latents, width) | dict.fromkeys(kind.more, (latents,)) | dict.fromkeys(kind.scalars, ())
    ignored = tuple(name for name in (*_COUNTS, "threshold") if name not in shapes)
    require_tensors(tensors, shapes, path, ignored=ignored)
    require_finite(tensors, path)
    return tensors


def _k(tensors: Mapping[str, Tensor], trainer: Config) -> int:
    k = trainer.size("k")
    if "k" in tensors and tensors["k"].tolist() != k:
        raise ValueError(f"{trainer.path}: trainer.k is {k}, but {WEIGHTS} says {tensors['k'].tolist()}")
    return k


def _normalized(parts: AffineParts) -> tuple[AffineParts, tuple[str, ...]]:
    """Return the parts with decoder rows of norm 1, unless they have it."""
    norms = torch.linalg.vector_norm(parts.decoder, dim=1)
    if torch.allclose(norms, torch.ones_like(norms)):
        return parts, ()
    scaled = AffineParts(
        encoder=parts.encoder * norms[:, None],
        encoder_bias=parts.encoder_bias * norms,
        decoder=parts.decoder / norms[:, None],
        decoder_bias=parts.decoder_bias,
    )
    note = "norms of the decoder's rows are folded into the encoder, as dictionary_learning does when it loads"
    return scaled, (note,)


def _provenance(config: Config, tensors: Mapping[str, Tensor]) -> Provenance:
    trainer, buffer = config.table("trainer"), config.table("buffer")
    site = trainer.text("submodule_name") or (f"layer {trainer.values['layer']}" if trainer.has("layer") else "")
    other: dict[str, Any] = {name: value for name, value in config.values.items() if name != "trainer"}
    seed = trainer.values.get("seed")
    return Provenance(
        model=trainer.text("lm_name"),
        site=site,
        data=buffer.text("dataset_name"),
        seed=seed if type(seed) is int else None,
        version="dictionary_learning",
        other={name: json.dumps(value) for name, value in {**other, **trainer.values}.items()},
    )


FORMAT = DictionaryLearning()
read = FORMAT.read
