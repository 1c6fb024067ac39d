"""Gossamer: sparse autoencoders for transformers and for raw data.

A dense vector goes in, a handful of named directions come out. The public names are below; each is imported from its
room on first use, so that `import gossamer` costs nothing and the command line answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gossamer.version import VERSION

if TYPE_CHECKING:
    from gossamer.autoencoder.autoencoder import AutoencoderSpec as AutoencoderSpec
    from gossamer.autoencoder.autoencoder import SparseAutoencoder as SparseAutoencoder
    from gossamer.autoencoder.autoencoder import with_l0 as with_l0
    from gossamer.autoencoder.files import load_codes as load_codes
    from gossamer.autoencoder.files import save as save
    from gossamer.autoencoder.files import save_codes as save_codes
    from gossamer.autoencoder.presets import preset as preset
    from gossamer.codes import SparseCodes as SparseCodes
    from gossamer.codes import concatenate_codes as concatenate_codes
    from gossamer.estimators.sae import SAE as SAE
    from gossamer.estimators.sae_cv import SAECV as SAECV
    from gossamer.evaluate.measure import measure as measure
    from gossamer.interop.reading import from_pretrained as from_pretrained
    from gossamer.interop.reading import load as load
    from gossamer.sources.activations import Activations as Activations
    from gossamer.sources.arrays import Arrays as Arrays
    from gossamer.sources.documents import Documents as Documents
    from gossamer.sources.embeddings import Embeddings as Embeddings
    from gossamer.sources.frames import Frames as Frames
    from gossamer.sources.images import Images as Images
    from gossamer.sources.model_windows import ModelWindows as ModelWindows
    from gossamer.sources.pair_activations import PairSequences as PairSequences
    from gossamer.sources.patches import Patches as Patches
    from gossamer.sources.sequences import SequenceActivations as SequenceActivations
    from gossamer.sources.signals import Signals as Signals
    from gossamer.sources.speech import Speech as Speech
    from gossamer.sources.synthetic import Synthetic as Synthetic
    from gossamer.sources.tables import Table as Table
    from gossamer.sources.text_sequences import TextSequences as TextSequences
    from gossamer.spec import Spec as Spec
    from gossamer.training.loop import plan as plan
    from gossamer.training.loop import train as train
    from gossamer.training.run import Run as Run
    from gossamer.training.spec import TrainSpec as TrainSpec

__version__ = VERSION

_HOMES = {
    "Activations": "gossamer.sources.activations",
    "Arrays": "gossamer.sources.arrays",
    "AutoencoderSpec": "gossamer.autoencoder.autoencoder",
    "ModelWindows": "gossamer.sources.model_windows",
    "Documents": "gossamer.sources.documents",
    "Embeddings": "gossamer.sources.embeddings",
    "Frames": "gossamer.sources.frames",
    "Images": "gossamer.sources.images",
    "Patches": "gossamer.sources.patches",
    "Run": "gossamer.training.run",
    "SAE": "gossamer.estimators.sae",
    "SAECV": "gossamer.estimators.sae_cv",
    "SparseAutoencoder": "gossamer.autoencoder.autoencoder",
    "SparseCodes": "gossamer.codes",
    "PairSequences": "gossamer.sources.pair_activations",
    "SequenceActivations": "gossamer.sources.sequences",
    "Signals": "gossamer.sources.signals",
    "Spec": "gossamer.spec",
    "Speech": "gossamer.sources.speech",
    "Synthetic": "gossamer.sources.synthetic",
    "Table": "gossamer.sources.tables",
    "TextSequences": "gossamer.sources.text_sequences",
    "TrainSpec": "gossamer.training.spec",
    "concatenate_codes": "gossamer.codes",
    "measure": "gossamer.evaluate.measure",
    "from_pretrained": "gossamer.interop.reading",
    "load": "gossamer.interop.reading",
    "load_codes": "gossamer.autoencoder.files",
    "plan": "gossamer.training.loop",
    "preset": "gossamer.autoencoder.presets",
    "save": "gossamer.autoencoder.files",
    "save_codes": "gossamer.autoencoder.files",
    "train": "gossamer.training.loop",
    "with_l0": "gossamer.autoencoder.autoencoder",
}

_ROOMS = ("interop", "transformer")
"""Rooms that are used by their name: gs.interop.saelens.write(sae, folder), gs.transformer.Transformer(spec)."""

__all__ = ["__version__", *_ROOMS, *sorted(_HOMES)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"gossamer.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'gossamer' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
