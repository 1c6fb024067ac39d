"""llamascopium's folders: `config.json` and `sae_weights.safetensors` (https://github.com/OpenMOSS/Language-Model-SAEs).

Autoencoders and transcoders, crosscoders, and cross-layer transcoders. It trains on rows that are scaled to a mean norm
of √width, and says which with `norm_activation`:

    p = (s x) W_E + b_E        z = act(p · n) / n        x̂ = (z W_D + b_D) / s'

with s = √width / mean norm of the rows that are read, s' the same of those that are given, and n the norms of the
decoder's rows, or 1. s goes into the encoder and s' into the decoder, so that codes are the same numbers as there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from gossamer.autoencoder.autoencoder import AutoencoderSpec
from gossamer.autoencoder.constraints import Free
from gossamer.autoencoder.cross_layer import LaterLayers, PerLayer
from gossamer.autoencoder.files import assemble
from gossamer.autoencoder.provenance import Provenance
from gossamer.autoencoder.row_scaling import ConstantNorm
from gossamer.autoencoder.scaling import Unscaled
from gossamer.autoencoder.sparsity import ReLU, Sparsity, Threshold, TopK
from gossamer.autoencoder.tasks import Crosscode, CrossLayer, Reconstruct, Transcode
from gossamer.interop.affine import AffineParts, assembled
from gossamer.interop.format import Format, Loaded
from gossamer.interop.tensors import LARGEST_SIZE, Config, naming, require_finite, require_tensors, same_dtype
from gossamer.interop.torch_files import read_torch_file
from gossamer.spec import nearest
from gossamer.storage import read_tensors

__all__ = ["FORMAT", "Llamascopium", "read"]

CONFIG = "config.json"
WEIGHTS = ("sae_weights", "checkpoints/pruned", "checkpoints/final")
"""Where weights are looked for, in its own order, each as `.safetensors` and `.pt`."""

THRESHOLDS = "activation_function.log_jumprelu_threshold"
NORM = "dataset_average_activation_norm."

REFUSED = {
    "lorsa": "a low-rank attention reads the whole sequence, not one row",
    "molt": "a mixture of linear transforms has no decoder rows",
}


class Llamascopium(Format):
    """Folders with `config.json`, whose `sae_type` says which kind of dictionary, and a file of weights."""

    name: ClassVar[str] = "llamascopium"
    title: ClassVar[str] = "llamascopium"
    files: ClassVar[frozenset[str]] = frozenset({CONFIG, "sae_weights.safetensors", "sae_weights.pt"})

    def recognizes(self, place: Path) -> bool:
        """Say whether there is a configuration with a `sae_type`."""
        return "sae_type" in Config.peek(place / CONFIG)

    def read(self, place: str | Path) -> Loaded:
        """Read one dictionary; raises ValueError, naming the file, for what is damaged or cannot be computed here."""
        folder = Path(place)
        config = Config.read(folder / CONFIG)
        kind = config.text("sae_type")
        if kind not in _KINDS:
            reason = f": {REFUSED[kind]}" if kind in REFUSED else f"; {nearest(kind, _KINDS)}"
            raise ValueError(f"{config.path}: a dictionary of sae_type {kind!r} cannot be computed here{reason}")
        with naming(folder):
            loaded = _KINDS[kind](_Stored(config, folder))
        require_finite(loaded.sae.state_dict(), folder)  # what was multiplied may have become too large
        return loaded


class _Stored:
    """What a folder holds: its configuration, its tensors, and what the configuration says of all kinds."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config = config
        self.path, tensors = _weights(folder)
        self.norms = {name.removeprefix(NORM): t for name, t in tensors.items() if name.startswith(NORM)}
        self.tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(NORM)}
        self.width = config.size("d_model")
        self.latents = int(min(self.width * config.number("expansion_factor"), LARGEST_SIZE))
        self.by_norm = config.flag("sparsity_include_decoder_norm", default=True)
        self.activation = config.text("act_fn", "relu").lower()

    def check(self, shapes: Mapping[str, tuple[int, ...]], thresholds: tuple[int, ...]) -> None:
        """Raise ValueError unless there are exactly the tensors of these shapes, all finite."""
        jump = {THRESHOLDS: thresholds} if self.activation == "jumprelu" else {}
        require_tensors(self.tensors, {**shapes, **jump}, self.path)
        require_finite(self.tensors, self.path)

    def names(self, entry: str) -> tuple[str, ...]:
        """Return a list of hook points."""
        value = self.config.values.get(entry)
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise ValueError(f"{self.config.path}: {entry} is a list of hook points, got {value!r}")
        return tuple(value)

    def scale(self, hook_point: str) -> float:
        """Return what rows of a hook point are multiplied with before they are read, 1 if nothing.

        Norms are looked at only where they are used: elsewhere llamascopium writes what happened to be in memory.
        """
        mode = self.config.text("norm_activation", "dataset-wise")
        if mode == "inference":
            return 1.0
        if mode != "dataset-wise":
            raise ValueError(
                f"{self.config.path}: rows are scaled {mode!r}, by {_MODES.get(mode, 'nothing that is known here')}"
            )
        if hook_point not in self.norms:
            raise ValueError(f"{self.path} lacks the mean norm of the rows of {hook_point!r}, {NORM}{hook_point}")
        norm = float(self.norms[hook_point])
        if not 0 < norm < float("inf"):
            raise ValueError(f"{self.path}: the mean norm of the rows of {hook_point!r} is {norm}; it is damaged")
        return self.width**0.5 / norm

    def require(self, *activations: str) -> None:
        """Raise ValueError unless the activation is one of these, which can be computed here."""
        if self.activation not in activations:
            reason = _ACTIVATIONS.get(self.activation, f"is not known here; {nearest(self.activation, activations)}")
            raise ValueError(f"{self.config.path}: act_fn {self.activation!r} {reason}")

    def rule(self, norms: Tensor) -> _Between:
        """Return what stands between the two maps; norms: `(latents,)`, of the decoder's rows as they are stored.

        Where latents are chosen by p · n, a threshold is divided by n; the k largest are those of an encoder that is
        multiplied with n, whose codes then are, too.
        """
        if self.activation == "relu":
            return _Between(ReLU(), {})
        if self.activation == "jumprelu":
            thresholds = self.tensors[THRESHOLDS].flatten().exp()
            return _Between(Threshold(), {"threshold": _bounded(thresholds / norms) if self.by_norm else thresholds})
        weights = norms if self.by_norm and bool((norms != norms[0]).any()) else None
        return _Between(TopK(k=self.config.size("top_k", 50)), {}, weights)

    def provenance(self, site: str, target: str = "") -> Provenance:
        """Return what the configuration says about where the dictionary comes from."""
        other = {name: json.dumps(value) for name, value in self.config.values.items()}
        return Provenance(site=site, target=target, version="llamascopium", other=other)


@dataclass(frozen=True, eq=False)
class _Between:
    """A sparsity, its own tensors, and what pre-activations are multiplied with and decoder rows divided by."""

    sparsity: Sparsity
    thresholds: dict[str, Tensor]
    weights: Tensor | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader has to know about the codes."""
        if self.weights is None:
            return ()
        return ("codes are those of llamascopium times the norms of its decoder rows, by which it chooses",)


_MODES = {
    "batch-wise": "the mean norm of the batch: a row's code would depend on its neighbours",
    "token-wise": "their own norm, and a target by its own: that is not known when it is reconstructed",
}
_ACTIVATIONS = {
    "topk": "chooses the latents of each layer or site by itself, and here they are chosen of all",
    "batchtopk": "chooses from the whole batch, and a row's code would depend on its neighbours; llamascopium can "
    "convert it to 'jumprelu'",
    "batchlayertopk": "chooses from the whole batch, and a row's code would depend on its neighbours",
    "layertopk": "is known for cross-layer transcoders only",
}


def _weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """Return the file of weights and what it holds."""
    for name in WEIGHTS:
        if (path := folder / f"{name}.safetensors").is_file():
            return path, read_tensors(path)[0]
        if (path := folder / f"{name}.pt").is_file():
            tensors = read_torch_file(path).get("sae")
            if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
                raise ValueError(f"{path} holds no table of tensors named 'sae'")
            return path, tensors
        if (path := folder / f"{name}.dcp").is_dir():
            raise ValueError(f"{path} is a checkpoint in pieces; let llamascopium save it as one file first")
    raise ValueError(f"{folder} has no weights: expected {WEIGHTS[0]}.safetensors or .pt")


def _times(tensor: Tensor, factor: float) -> Tensor:
    """Multiply in float32 at least; a factor of 1 leaves the tensor as it is, mapped from its file."""
    return tensor if factor == 1 else tensor.to(torch.promote_types(tensor.dtype, torch.float32)) * factor


def _weighted(parts: AffineParts, weights: Tensor | None) -> AffineParts:
    """Return parts whose pre-activations are multiplied with `(latents,)` weights, and decoder rows divided by them."""
    if weights is None:
        return parts
    return replace(
        parts,
        encoder=parts.encoder * weights[:, None],
        encoder_bias=parts.encoder_bias * weights,
        decoder=parts.decoder / weights.where(weights > 0, 1)[:, None],  # a row without length is never chosen
    )


def _bounded(thresholds: Tensor) -> Tensor:
    """Return thresholds in which infinity, of a row without length, is the largest number there is."""
    return thresholds.clamp_max(torch.finfo(thresholds.dtype).max)


def _norms(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=-1, dtype=torch.promote_types(rows.dtype, torch.float32))


def _autoencoder(stored: _Stored) -> Loaded:
    """Read an autoencoder or a transcoder."""
    stored.require("relu", "jumprelu", "topk")
    config, width, latents, own = stored.config, stored.width, stored.latents, stored.tensors
    if config.flag("use_glu_encoder", default=False):
        raise ValueError(
            f"{config.path}: pre-activations are multiplied with a second encoder's, which is not known here"
        )
    biased = config.flag("use_decoder_bias", default=True)
    bias = {"b_D": (width,)} if biased else {}
    stored.check({"W_E": (width, latents), "b_E": (latents,), "W_D": (latents, width), **bias}, (latents,))
    site, target = config.text("hook_point_in"), config.text("hook_point_out")
    same = site == target
    by_row = same and config.text("norm_activation") == "token-wise"
    read, given = (1.0, 1.0) if by_row else (stored.scale(site), stored.scale(target))
    between = stored.rule(_norms(own["W_D"]))
    parts = AffineParts(
        encoder=_times(own["W_E"].T, read),
        encoder_bias=own["b_E"],
        decoder=_times(own["W_D"], 1 / given),
        decoder_bias=_times(own["b_D"], 1 / given) if biased else own["W_D"].new_zeros(width),
    )
    sae = assembled(
        _weighted(parts, between.weights),
        name="transcoder" if not same else "autoencoder",
        sparsity=between.sparsity,
        thresholds=between.thresholds,
        scaling=ConstantNorm() if by_row else Unscaled(),
        task=Reconstruct() if same else Transcode(site=site, target=target),
    )
    sae.provenance = stored.provenance(site, "" if same else target)
    return Loaded(sae, between.notes)


def _crosscoder(stored: _Stored) -> Loaded:
    """Read a crosscoder: a row is its sites side by side.

    It chooses for each site by the norms of the decoder rows there. With ReLU that is no difference; with JumpReLU a
    latent may be active at one site and not at another, so it becomes one latent for each site, with directions that
    reach that site alone.
    """
    width, latents, own = stored.width, stored.latents, stored.tensors
    stored.require("relu", "jumprelu")
    sites = stored.names("hook_points")
    shapes = {"W_E": (len(sites), width, latents), "b_E": (len(sites), latents)}
    stored.check(shapes | {"W_D": (len(sites), latents, width), "b_D": (len(sites), width)}, (latents,))
    scales = torch.tensor([stored.scale(site) for site in sites])[:, None]
    encoder = (own["W_E"] * scales[:, :, None]).permute(2, 0, 1).flatten(1)
    encoder_bias = own["b_E"].sum(dim=0)
    decoder = own["W_D"] / scales[:, :, None]
    norms, notes = _norms(own["W_D"]), ()
    if stored.activation == "relu":
        between = stored.rule(norms.sum(dim=0))
        decoder = decoder.permute(1, 0, 2).flatten(1)
    else:
        between = _Between(Threshold(), {"threshold": _bounded(own[THRESHOLDS].exp() / norms).flatten()})
        encoder, encoder_bias = encoder.repeat(len(sites), 1), encoder_bias.repeat(len(sites))
        decoder = torch.block_diag(*decoder)
        notes = (f"each latent is {len(sites)} here, one for each site, because each has a threshold of its own",)
    parts = AffineParts(encoder, encoder_bias, decoder, (own["b_D"] / scales).flatten())
    task = Crosscode(sites=sites, widths=(width,) * len(sites))
    sae = assembled(parts, name="crosscoder", sparsity=between.sparsity, thresholds=between.thresholds, task=task)
    sae.provenance = stored.provenance(", ".join(sites))
    return Loaded(sae, notes)


def _cross_layer(stored: _Stored) -> Loaded:
    """Read a cross-layer transcoder: `W_D.m` holds what the latents of layers 0 to m write to layer m."""
    width, latents, own = stored.width, stored.latents, stored.tensors
    stored.require("relu", "jumprelu", "layertopk")
    sites, targets = stored.names("hook_points_in"), stored.names("hook_points_out")
    layers = range(len(sites))
    if len(targets) != len(sites):
        raise ValueError(f"{stored.config.path}: {len(sites)} hook_points_in, but {len(targets)} hook_points_out")
    shapes = {"W_E": (len(sites), width, latents), "b_E": (len(sites), latents)}
    written = {f"W_D.{to}": (to + 1, latents, width) for to in layers} | {f"b_D.{to}": (width,) for to in layers}
    stored.check(shapes | written, (len(sites), latents))
    norms = [_norms(torch.cat([own[f"W_D.{to}"][layer] for to in layers[layer:]], dim=1)) for layer in layers]
    between = stored.rule(torch.cat(norms))
    given = [1 / stored.scale(target) for target in targets]
    tensors = {f"sparsity.{name}": tensor for name, tensor in between.thresholds.items()}
    tensors["decoder.bias"] = torch.cat([_times(own[f"b_D.{to}"], given[to]) for to in layers])
    for layer in layers:
        reached = [_times(own[f"W_D.{to}"][layer], given[to]) for to in layers[layer:]]
        encoder = _times(own["W_E"][layer].T, stored.scale(sites[layer]))
        weights = None if between.weights is None else norms[layer]
        part = _weighted(AffineParts(encoder, own["b_E"][layer], torch.cat(reached, dim=1), own["b_D.0"]), weights)
        tensors[f"encoder.layers.{layer}.weight"] = part.encoder
        tensors[f"encoder.layers.{layer}.bias"] = part.encoder_bias
        tensors[f"decoder.weights.{layer}"] = part.decoder
    spec = AutoencoderSpec(
        name="clt",
        input_width=width * len(sites),
        latents=latents * len(sites),
        sparsity=between.sparsity,
        encoder=PerLayer(layers=len(sites)),
        decoder=LaterLayers(layers=len(sites), constraint=Free()),
        scaling=Unscaled(),
        task=CrossLayer(sites=sites, destinations=targets, width=width),
    )
    sae = assemble(spec, same_dtype(tensors))
    sae.provenance = stored.provenance(", ".join(sites), ", ".join(targets))
    return Loaded(sae, between.notes)


_KINDS = {"sae": _autoencoder, "crosscoder": _crosscoder, "clt": _cross_layer}

FORMAT = Llamascopium()
read = FORMAT.read
