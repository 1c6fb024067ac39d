"""Gemma Scope: `params.npz` (https://huggingface.co/google/gemma-scope), and `params.safetensors` of Gemma Scope 2.

    z = p · H(p − threshold), where p = x W_enc + b_enc is positive        x̂ = z W_dec + b_dec (+ x S)

Folders say the rest: `layer_12/width_16k/average_l0_82`. The second release has a `config.json`, and names in small
letters; S is its `affine_skip_connection`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from gossamer.autoencoder.provenance import Provenance
from gossamer.autoencoder.sparsity import Threshold
from gossamer.autoencoder.tasks import Reconstruct, Transcode
from gossamer.interop.affine import AffineParts, assembled
from gossamer.interop.format import Format, Loaded
from gossamer.interop.npz import Arrays
from gossamer.interop.tensors import Config, naming, require_finite, require_tensors
from gossamer.storage import read_tensors

__all__ = ["FORMAT", "GemmaScope", "read"]

CONFIG, ARRAYS, TENSORS = "config.json", "params.npz", "params.safetensors"
MATRICES = ("w_enc", "w_dec")


class GemmaScope(Format):
    """Folders with `params.npz`, or with `params.safetensors`."""

    name: ClassVar[str] = "gemma_scope"
    title: ClassVar[str] = "Gemma Scope"
    files: ClassVar[frozenset[str]] = frozenset({CONFIG, ARRAYS, TENSORS})

    def recognizes(self, place: Path) -> bool:
        """Say whether there is such a file."""
        return (place / ARRAYS).is_file() or (place / TENSORS).is_file()

    def read(self, place: str | Path) -> Loaded:
        """Read one autoencoder or transcoder; raises ValueError, naming the file, for what is damaged."""
        folder = Path(place)
        tensors = _arrays(folder / ARRAYS) if (folder / ARRAYS).is_file() else _tensors(folder / TENSORS)
        config = Config.read(folder / CONFIG) if (folder / CONFIG).is_file() else Config(folder / CONFIG, {})
        if config.text("architecture", "jump_relu") != "jump_relu":
            raise ValueError(f"{config.path}: architecture {config.text('architecture')!r} is not known here")
        site, target = _sites(config, folder)
        width = tensors["w_dec"].shape[1]
        skip = tensors.get("affine_skip_connection")
        with naming(folder):
            sae = assembled(
                AffineParts(
                    encoder=tensors["w_enc"].T,
                    encoder_bias=tensors["b_enc"],
                    decoder=tensors["w_dec"],
                    decoder_bias=tensors["b_dec"],
                    skip=None if skip is None else skip.T,
                ),
                name="transcoder" if target else "jumprelu",
                sparsity=Threshold(),
                thresholds={"threshold": tensors["threshold"].clamp_min(0)},  # only what is positive counts
                task=Transcode(site=site, target=target, width=width) if target else Reconstruct(),
            )
        sae.provenance = _provenance(config, folder, site, target)
        return Loaded(sae)


def _arrays(path: Path) -> dict[str, Tensor]:
    """Return the arrays of the first release by small names, checked before they are read."""
    arrays = Arrays(path)
    names = {name.lower(): name for name in arrays.outlines()}
    _require({small: arrays.outlines()[name] for small, name in names.items()}, path)
    return _finite({small: arrays.tensor(name) for small, name in names.items()}, path)


def _tensors(path: Path) -> dict[str, Tensor]:
    tensors, _ = read_tensors(path)
    _require(tensors, path)
    return _finite(tensors, path)


def _require(tensors: dict[str, Tensor], path: Path) -> None:
    """Raise ValueError unless these are the tensors of an autoencoder, of shapes that fit."""
    for name in MATRICES:
        if name not in tensors or tensors[name].dim() != 2:
            shape = tuple(tensors[name].shape) if name in tensors else "none"
            raise ValueError(f"{path}: {name} is a matrix, got {shape}")
    width, latents = tensors["w_enc"].shape
    output = tensors["w_dec"].shape[1]
    shapes: dict[str, tuple[int, ...]] = {"w_enc": (width, latents), "w_dec": (latents, output)}
    shapes |= {"b_enc": (latents,), "b_dec": (output,), "threshold": (latents,)}
    for name, shape in {"affine_skip_connection": (width, output), "scaling_factor": (latents,)}.items():
        shapes |= {name: shape} if name in tensors else {}
    require_tensors(tensors, shapes, path)


def _finite(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors if all numbers are finite; a scaling of codes that is not 1 is refused."""
    require_finite(tensors, path)
    scaling = tensors.pop("scaling_factor", torch.ones(1))
    if not torch.equal(scaling, torch.ones_like(scaling)):
        raise ValueError(f"{path}: codes are multiplied with a scaling_factor of fine-tuning, which is not known here")
    return tensors


def _sites(config: Config, folder: Path) -> tuple[str, str]:
    """Return the hook point that is read, and that of a transcoder's target, as far as files or folders say."""
    target = config.text("hf_hook_point_out")
    if not target and "transcoder" in folder.resolve().as_posix():
        target = "the output of the MLP"
    found = re.search(r"layer_(\d+)", folder.resolve().as_posix())
    return config.text("hf_hook_point_in") or (f"layer {found[1]}" if found else ""), target


def _provenance(config: Config, folder: Path, site: str, target: str) -> Provenance:
    """Return what is said by the configuration, and by folders such as `average_l0_82`."""
    place = folder.resolve().as_posix()
    average = re.search(r"average_l0_(\d+)", place)
    l0 = config.number("l0") if config.has("l0") else float(average[1]) if average else None
    return Provenance(
        model=config.text("model_name"),
        site=site,
        target=target,
        version="Gemma Scope",
        metrics={} if l0 is None else {"l0": l0},
        other={name: json.dumps(value) for name, value in config.values.items()},
    )


FORMAT = GemmaScope()
read = FORMAT.read
