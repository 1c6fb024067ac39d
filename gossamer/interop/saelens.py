"""SAELens's folders: `cfg.json` and `sae_weights.safetensors` (https://github.com/decoderesearch/SAELens).

Weights are stored `W_enc (d_in, d_sae)`, `W_dec (d_sae, d_out)`. `apply_b_dec_to_input` is the encoder 'centered'; the
normalisations that happen at inference are the scalings 'layer-norm' and 'constant-norm'. The others are done by its
trainer, which folds them in before it saves: at inference, its classes and what is read here leave rows as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.centered import Centered
from gossamer.autoencoder.encoders import Linear, Tied
from gossamer.autoencoder.provenance import Provenance
from gossamer.autoencoder.row_scaling import ConstantNorm, LayerNorm
from gossamer.autoencoder.scaling import Scaling, Unscaled
from gossamer.autoencoder.sparsity import AbsTopK, BatchTopK, Gated, MatchingPursuit, ReLU, Sparsity, Threshold, TopK
from gossamer.autoencoder.tasks import Task, Transcode
from gossamer.interop.affine import AffineParts, assembled
from gossamer.interop.format import Format, Loaded
from gossamer.interop.memory import remembered, to_remember
from gossamer.interop.saelens_writing import PREFIX, written
from gossamer.interop.tensors import Config, naming, require_finite, require_tensors
from gossamer.spec import nearest
from gossamer.storage import read_tensors, write_tensors

__all__ = ["FORMAT", "SAELens", "read", "write"]

CONFIG, WEIGHTS, SPARSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"

Rule = tuple[Sparsity, dict[str, Tensor]]
"""What stands between the two maps, and its own tensors."""


def _relu(tensors: Mapping[str, Tensor], config: Config) -> Rule:
    return ReLU(), {}


def _topk(tensors: Mapping[str, Tensor], config: Config) -> Rule:
    return TopK(k=config.size("k", 100)), {}


def _abs_topk(tensors: Mapping[str, Tensor], config: Config) -> Rule:
    return AbsTopK(k=config.size("k", 100)), {}


def _jump(tensors: Mapping[str, Tensor], config: Config) -> Rule:
    threshold = tensors["threshold"] if "threshold" in tensors else tensors["log_threshold"].exp()
    return Threshold(), {"threshold": threshold.clamp_min(0)}  # it has a ReLU as well


def _batch_topk(tensors: Mapping[str, Tensor], config: Config) -> Rule:
    k = max(1, round(config.number("k", 100.0)))
    return BatchTopK(k=k), {"threshold": tensors["topk_threshold"].to(tensors["b_enc"].dtype).clamp_min(0)}


def _gated(tensors: Mapping[str, Tensor], config: Config) -> Rule:
    gain, gate, magnitude = (tensors[name].double() for name in ("r_mag", "b_gate", "b_mag"))
    bias = magnitude - gain.exp() * gate
    return Gated(), {"log_gain": tensors["r_mag"], "bias": bias.to(tensors["r_mag"].dtype)}


def _pursuit(tensors: Mapping[str, Tensor], config: Config) -> Rule:
    stops = config.number("residual_threshold", 1e-2) > 0 or config.flag("stop_on_duplicate_support", default=True)
    if stops or not config.has("max_iterations") or not config.flag("apply_b_dec_to_input", default=True):
        raise ValueError(
            f"{config.path}: a matching_pursuit that stops when the residual is small or the support stays the same "
            "cannot be computed here; one of max_iterations steps can (residual_threshold 0, stop_on_duplicate_support "
            "false, apply_b_dec_to_input true)"
        )
    return MatchingPursuit(k=config.size("max_iterations")), {}


@dataclass(frozen=True)
class _Kind:
    """An architecture. bias: the encoder's bias; more: its further tensors of one number per latent; scalars: those of
    one number; transcodes: whether it gives another site than it reads; skips: with a linear map of the row beside."""

    rule: Callable[[Mapping[str, Tensor], Config], Rule]
    bias: str = "b_enc"
    more: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()
    transcodes: bool = False
    skips: bool = False


_KINDS = {
    "standard": _Kind(_relu),
    "topk": _Kind(_topk),
    "abstopk": _Kind(_abs_topk),
    "jumprelu": _Kind(_jump, more=("threshold",)),
    "gated": _Kind(_gated, bias="b_gate", more=("b_mag", "r_mag")),
    "batchtopk": _Kind(_batch_topk, scalars=("topk_threshold",)),
    "matryoshka_batchtopk": _Kind(_batch_topk, scalars=("topk_threshold",)),
    "matching_pursuit": _Kind(_pursuit, bias=""),
    "transcoder": _Kind(_relu, transcodes=True),
    "skip_transcoder": _Kind(_relu, transcodes=True, skips=True),
    "jumprelu_transcoder": _Kind(_jump, more=("threshold",), transcodes=True),
    "jumprelu_skip_transcoder": _Kind(_jump, more=("threshold",), transcodes=True, skips=True),
}

_SCALINGS: dict[str, Scaling] = {
    "none": Unscaled(),
    "expected_average_only_in": Unscaled(),
    "covariance_whitening": Unscaled(),
    "layer_norm": LayerNorm(),
    "constant_norm_rescale": ConstantNorm(),
}


class SAELens(Format):
    """Folders with `cfg.json` and `sae_weights.safetensors`."""

    name: ClassVar[str] = "saelens"
    title: ClassVar[str] = "SAELens"
    files: ClassVar[frozenset[str]] = frozenset({CONFIG, WEIGHTS, SPARSITY})

    def recognizes(self, place: Path) -> bool:
        """Say whether there are both files."""
        return (place / WEIGHTS).is_file() and (place / CONFIG).is_file()

    def read(self, place: str | Path) -> Loaded:
        """Read one autoencoder; raises ValueError, naming the file, for what is damaged or cannot be computed here."""
        folder = Path(place)
        given = Config.read(folder / CONFIG)
        config = _today(given)
        name = config.text("architecture", "standard")
        if name not in _KINDS:
            raise ValueError(f"{config.path}: the architecture {name!r} is not known here; {nearest(name, _KINDS)}")
        kind = _KINDS[name]
        tensors, metadata = _tensors(kind, config, folder / WEIGHTS)
        notes = _remarks(config)
        parts = _parts(kind, tensors, config)
        if config.flag("rescale_acts_by_decoder_norm", default=name in ("batchtopk", "matryoshka_batchtopk")):
            parts = _by_norms(parts)
            notes.append("decoder rows are divided by their norms, encoder rows and biases multiplied by them")
        rule, own = kind.rule(tensors, config)
        centered = not kind.transcodes and config.flag("apply_b_dec_to_input", default=True)
        encoder = Tied() if not kind.bias else Centered() if centered else Linear()
        with naming(folder):
            sae = assembled(
                parts,
                name=name,
                sparsity=rule,
                thresholds=own,
                encoder=encoder,
                scaling=_scaling(kind, config),
                task=_task(kind, config),
            )
        require_finite(sae.state_dict(), folder)
        sae.provenance = _provenance(config, folder)
        exact = remembered(metadata, sae, given.values, tensors, written)
        return Loaded(exact, tuple(notes) if exact is sae else ())

    def fill(self, sae: SparseAutoencoder, folder: Path) -> tuple[str, ...]:
        """Write an autoencoder; raises ValueError, with the reason, for what SAELens cannot compute."""
        config, tensors, notes = written(sae)
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_tensors(folder / WEIGHTS, tensors, to_remember(sae))
        return notes


def _today(config: Config) -> Config:
    """Return a configuration in the words of version 6; earlier ones had everything in one table."""
    values = dict(config.values)
    for old, new in {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}.items():
        if old in values:
            values.setdefault(new, values[old])
    if "metadata" in values:
        return Config(config.path, values)
    activation = values.get("activation_fn") or "relu"
    if activation == "topk":
        options = Config(config.path, values).table("activation_fn_kwargs")
        values |= {"architecture": "topk", "k": options.size("k", 100)}
    elif activation != "relu":
        raise ValueError(f"{config.path}: the activation function {activation!r} is not known here")
    if isinstance(values.get("normalize_activations"), bool):
        values["normalize_activations"] = "expected_average_only_in" if values["normalize_activations"] else "none"
    known = {name: values[name] for name in _METADATA if values.get(name) is not None}
    return Config(config.path, {**values, "metadata": known})


_METADATA = (
    *("model_name", "hook_name", "hook_layer", "hook_head_index", "hook_name_out", "context_size", "dataset_path"),
    *("prepend_bos", "exclude_special_tokens", "neuronpedia_id", "seqpos_slice", "model_from_pretrained_kwargs"),
    *("model_class_name", "sae_lens_version", "sae_lens_training_version", "hf_hook_name", "hf_hook_name_out"),
)
"""What version 5 kept beside the architecture and version 6 keeps under `metadata`."""


def _tensors(kind: _Kind, config: Config, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    width, latents = config.size("d_in"), config.size("d_sae")
    out = config.size("d_out", 768) if kind.transcodes else width
    shapes: dict[str, tuple[int, ...]] = {"W_dec": (latents, out), "b_dec": (out,)}
    if kind.bias:
        shapes |= {"W_enc": (width, latents), kind.bias: (latents,)}
    if kind.skips:
        shapes["W_skip"] = (out, width)
    shapes |= dict.fromkeys(kind.more, (latents,)) | dict.fromkeys(kind.scalars, ())
    tensors, metadata = read_tensors(path)
    if "threshold" in shapes and "log_threshold" in tensors:
        shapes["log_threshold"] = shapes.pop("threshold")
    factor = tensors.pop("scaling_factor", None)
    if factor is not None and not bool((factor == 1).all()):
        raise ValueError(f"{path}: a scaling_factor that was fine-tuned is not known here")
    require_tensors(tensors, shapes, path)
    return tensors, metadata


def _parts(kind: _Kind, tensors: Mapping[str, Tensor], config: Config) -> AffineParts:
    decoder = tensors["W_dec"]
    if not kind.bias:  # tied: there is nothing of its own but a bias that plays no part
        return AffineParts(decoder, torch.zeros(len(decoder), dtype=decoder.dtype), decoder, tensors["b_dec"])
    skip = tensors["W_skip"] if kind.skips else None
    return AffineParts(tensors["W_enc"].T, tensors[kind.bias], decoder, tensors["b_dec"], skip)


def _by_norms(parts: AffineParts) -> AffineParts:
    """Return parts that compute the same codes, p ‖d‖, and the same rows, with decoder rows of norm 1."""
    norms = torch.linalg.vector_norm(parts.decoder, dim=1)
    norms = torch.where(norms > 0, norms, torch.ones_like(norms))
    encoder, decoder = parts.encoder * norms[:, None], parts.decoder / norms[:, None]
    return replace(parts, encoder=encoder, encoder_bias=parts.encoder_bias * norms, decoder=decoder)


def _scaling(kind: _Kind, config: Config) -> Scaling:
    name = config.text("normalize_activations", "none")
    if name not in _SCALINGS:
        raise ValueError(f"{config.path}: normalize_activations is {name!r}; {nearest(name, _SCALINGS)}")
    return _SCALINGS[name]


def _remarks(config: Config) -> list[str]:
    notes = []
    if config.text("normalize_activations") in ("expected_average_only_in", "covariance_whitening"):
        notes.append(
            f"trained with {config.text('normalize_activations')}, which is not in the file and which SAELens does not "
            "apply at inference either: give it rows that are scaled as in training"
        )
    if config.text("reshape_activations", "none") != "none":
        notes.append("it reads the heads of attention side by side: rows are flattened, heads first")
    return notes


def _task(kind: _Kind, config: Config) -> Task | None:
    if not kind.transcodes:
        return None
    metadata = config.table("metadata")
    site = metadata.text("hook_name", "input")
    target = metadata.text("hook_name_out") or "output"
    width = config.size("d_out", 768)
    return Transcode(site=site, target=target, width=None if width == config.size("d_in") else width)


def _provenance(config: Config, folder: Path) -> Provenance:
    metadata = config.table("metadata")
    version = metadata.values.get("sae_lens_training_version") or metadata.values.get("sae_lens_version")
    return Provenance(
        model=metadata.text("model_name"),
        site=metadata.text("hook_name"),
        target=metadata.text("hook_name_out"),
        data=metadata.text("dataset_path"),
        version=f"sae_lens {version}" if version else "",
        metrics=_l0(folder / SPARSITY, config.size("d_sae")),
        other=_other(config, metadata),
    )


def _other(config: Config, metadata: Config) -> dict[str, str]:
    """Return what is written again if the autoencoder is, as JSON texts."""
    values = dict(metadata.values)
    if config.text("reshape_activations", "none") == "hook_z":
        values["reshape_activations"] = "hook_z"
    return {f"{PREFIX}{name}": json.dumps(value) for name, value in values.items() if _plain(value)}


def _plain(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _l0(path: Path, latents: int) -> dict[str, float]:
    """Return the L0 of a file with the logarithm to base 10 of how often each latent is active, if there is one."""
    if not path.is_file():
        return {}
    tensors, _ = read_tensors(path)
    require_tensors(tensors, {"sparsity": (latents,)}, path)
    l0 = float((10 ** tensors["sparsity"].double()).sum())
    return {"l0": l0} if 0 <= l0 <= latents else {}


FORMAT = SAELens()
read, write = FORMAT.read, FORMAT.write
