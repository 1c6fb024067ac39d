"""sparsify's folders: `cfg.json` and `sae.safetensors` (https://github.com/EleutherAI/sparsify), one per hook point.

Its autoencoders take the decoder's bias from the row first (the encoder 'centered'), its transcoders do not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.centered import Centered
from gossamer.autoencoder.constraints import UnitRows
from gossamer.autoencoder.encoders import Linear
from gossamer.autoencoder.provenance import Provenance
from gossamer.autoencoder.sparsity import AbsTopK, GroupMax, Sparsity, TopK
from gossamer.autoencoder.tasks import Transcode
from gossamer.interop.affine import AffineParts, assembled, less_center, taken_apart
from gossamer.interop.format import Format, Loaded
from gossamer.interop.memory import remembered, to_remember
from gossamer.interop.tensors import Config, naming, require_finite, require_tensors
from gossamer.spec import nearest
from gossamer.storage import read_tensors, write_tensors

__all__ = ["FORMAT", "Sparsify", "read", "write"]

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


class Sparsify(Format):
    """Folders with `cfg.json` and `sae.safetensors`."""

    name: ClassVar[str] = "sparsify"
    title: ClassVar[str] = "sparsify"
    files: ClassVar[frozenset[str]] = frozenset({CONFIG, WEIGHTS})

    def recognizes(self, place: Path) -> bool:
        """Say whether there are both files."""
        return (place / WEIGHTS).is_file() and (place / CONFIG).is_file()

    def read(self, place: str | Path) -> Loaded:
        """Read one autoencoder; raises ValueError, naming the file, for what is damaged or cannot be computed here."""
        folder = Path(place)
        config = Config.read(folder / CONFIG)
        transcodes, skips = (config.flag(name, default=False) for name in ("transcode", "skip_connection"))
        tensors, metadata = _tensors(config, folder / WEIGHTS, skips=skips)
        bias, notes = tensors["encoder.bias"], []
        if config.flag("multi_topk", default=False):
            notes.append(
                "the 4k largest latents, which its forward decodes where multi_topk is set, are for its training"
            )
        if skips and not transcodes:
            bias = less_center(bias, tensors["encoder.weight"], tensors["b_dec"])
            notes.append("an autoencoder with a skip connection is read as a transcoder: b − W b_dec is its bias")
        skip = tensors["W_skip"] if skips else None
        parts = AffineParts(tensors["encoder.weight"], bias, tensors["W_dec"], tensors["b_dec"], skip)
        task = Transcode(site="input", target="output") if transcodes or skips else None
        with naming(folder):
            sae = assembled(
                parts,
                name="sparsify",
                sparsity=_sparsity(config),
                encoder=Centered() if task is None else Linear(),
                task=task,
            )
        require_finite(sae.state_dict(), folder)
        sae.provenance = Provenance(site=folder.resolve().name if "layers." in folder.resolve().name else "")
        exact = remembered(metadata, sae, config.values, tensors, _written)
        return Loaded(exact, tuple(notes) if exact is sae else ())

    def fill(self, sae: SparseAutoencoder, folder: Path) -> tuple[str, ...]:
        """Write an autoencoder; raises ValueError, with the reason, for what sparsify cannot compute."""
        config, tensors, notes = _written(sae)
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_tensors(folder / WEIGHTS, tensors, {"format": "pt", **to_remember(sae)})
        return notes


def _tensors(config: Config, path: Path, *, skips: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    width = config.size("d_in")
    latents = (
        config.size("num_latents") if config.values.get("num_latents") else width * config.size("expansion_factor")
    )
    matrix = (latents, width)
    shapes = {"encoder.weight": matrix, "encoder.bias": (latents,), "W_dec": matrix, "b_dec": (width,)}
    if skips:
        shapes["W_skip"] = (width, width)
    tensors, metadata = read_tensors(path)
    require_tensors(tensors, shapes, path)
    return tensors, metadata


def _sparsity(config: Config) -> Sparsity:
    k, activation = config.size("k", 32), config.text("activation", "topk")
    if activation not in ("topk", "groupmax"):
        raise ValueError(f"{config.path}: activation is {activation!r}; {nearest(activation, ('topk', 'groupmax'))}")
    if config.flag("signed", default=False):  # of its first versions
        return AbsTopK(k=k)
    return TopK(k=k) if activation == "topk" else GroupMax(k=k)


@torch.no_grad()
def _written(sae: SparseAutoencoder) -> tuple[dict[str, object], dict[str, Tensor], tuple[str, ...]]:
    spec, sparsity = sae.spec, sae.spec.sparsity
    if spec.task.kind not in ("reconstruct", "end-to-end", "transcode") or spec.output_width != spec.input_width:
        raise ValueError(
            f"sparsify reads one site and gives one of the same width, unlike the task {spec.task.kind!r} from "
            f"{spec.input_width} to {spec.output_width}"
        )
    if sparsity.kind not in ("topk", "group-max"):
        raise ValueError(f"sparsify has the sparsities 'topk' and 'group-max', not {sparsity.kind!r}")
    if spec.scaling.wants_rows:
        raise ValueError(f"sparsify does not scale rows as {spec.scaling.kind!r} does")
    apart, transcodes = taken_apart(sae), not spec.task.same_rows
    parts, notes = apart.parts if transcodes else apart.read_centered(), list(apart.notes)
    if not transcodes and not apart.centered:
        notes.append("its encoder reads rows less the decoder's bias, so b + W b_dec is written, rounded once")
    notes += ["the encoder's weights are the decoder's, and are written twice"] * spec.encoder.tied
    tensors = {
        "encoder.weight": parts.encoder,
        "encoder.bias": parts.encoder_bias,
        "W_dec": parts.decoder,
        "b_dec": parts.decoder_bias,
    }
    if parts.skip is not None:
        tensors["W_skip"] = parts.skip
    config = {
        "activation": "topk" if sparsity.kind == "topk" else "groupmax",
        "expansion_factor": max(1, spec.latents // spec.input_width),
        "normalize_decoder": isinstance(getattr(spec.decoder, "constraint", None), UnitRows),
        "num_latents": spec.latents,
        "k": getattr(sparsity, "k", None),
        "multi_topk": False,
        "skip_connection": parts.skip is not None,
        "transcode": transcodes,
        "d_in": spec.input_width,
    }
    return config, tensors, tuple(notes)


FORMAT = Sparsify()
read, write = FORMAT.read, FORMAT.write
