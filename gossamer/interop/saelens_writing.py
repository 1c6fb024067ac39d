"""What an autoencoder of ours is in SAELens: its architecture, its configuration and its tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.row_scaling import ConstantNorm, LayerNorm
from gossamer.autoencoder.sparsity import AbsTopK, MatchingPursuit, TopK
from gossamer.interop.affine import AffineParts, taken_apart

__all__ = ["PREFIX", "written"]

PREFIX = "saelens."
"""Before the names of SAELens's metadata, among what a provenance knows from other programs."""

FORM = "6.0.0"
"""The version of SAELens that introduced this form; its reader goes by it."""


@dataclass(frozen=True, eq=False)
class _Counterpart:
    """An architecture, the options and tensors that it has beside the two maps, and what a reader should know."""

    architecture: str
    options: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    note: str = ""


Rule = Callable[[SparseAutoencoder, AffineParts], _Counterpart]


def _standard(sae: SparseAutoencoder, parts: AffineParts) -> _Counterpart:
    return _Counterpart("standard", {}, {"b_enc": parts.encoder_bias})


def _topk(sae: SparseAutoencoder, parts: AffineParts) -> _Counterpart:
    assert isinstance(sae.spec.sparsity, TopK)
    name = "abstopk" if isinstance(sae.spec.sparsity, AbsTopK) else "topk"
    options = {"k": sae.spec.sparsity.k, "rescale_acts_by_decoder_norm": False}
    return _Counterpart(name, options, {"b_enc": parts.encoder_bias})


def _threshold(sae: SparseAutoencoder, parts: AffineParts) -> _Counterpart:
    thresholds, note = sae.sparsity.floor(torch.arange(sae.spec.latents, device=sae.device)), ""
    if sae.spec.sparsity.kind not in ("jumprelu", "threshold"):
        note = f"{sae.spec.sparsity.kind!r} is written as what it is at inference: jumprelu with its thresholds"
    tensors = {"b_enc": parts.encoder_bias, "threshold": thresholds.to(parts.encoder_bias)}
    return _Counterpart("jumprelu", {}, tensors, note)


def _gated(sae: SparseAutoencoder, parts: AffineParts) -> _Counterpart:
    own = sae.sparsity.state_dict()  # our bias is the difference of theirs from exp(r) b_gate
    magnitude = own["bias"].double() + own["log_gain"].double().exp() * parts.encoder_bias.double()
    tensors = {"b_gate": parts.encoder_bias, "r_mag": own["log_gain"], "b_mag": magnitude.to(parts.encoder_bias)}
    return _Counterpart("gated", {}, tensors)


def _pursuit(sae: SparseAutoencoder, parts: AffineParts) -> _Counterpart:
    assert isinstance(sae.spec.sparsity, MatchingPursuit)
    stop = {"residual_threshold": 0.0, "stop_on_duplicate_support": False}
    return _Counterpart("matching_pursuit", {"max_iterations": sae.spec.sparsity.k, **stop}, {})


_RULES: dict[str, Rule] = {
    "relu": _standard,
    "topk": _topk,
    "abs-topk": _topk,
    "jumprelu": _threshold,
    "threshold": _threshold,
    "batch-topk": _threshold,
    "winner-take-all": _threshold,
    "gated": _gated,
    "matching-pursuit": _pursuit,
}
"""By the kind of the sparsity."""

_TRANSCODERS = {"standard": "transcoder", "jumprelu": "jumprelu_transcoder"}
_SKIP_TRANSCODERS = {"standard": "skip_transcoder", "jumprelu": "jumprelu_skip_transcoder"}


@torch.no_grad()
def written(sae: SparseAutoencoder) -> tuple[dict[str, Any], dict[str, Tensor], tuple[str, ...]]:
    """Return configuration, tensors and notes; raises ValueError, with the reason, for what SAELens cannot compute."""
    spec = sae.spec
    if spec.task.kind not in ("reconstruct", "end-to-end", "transcode"):
        raise ValueError(f"SAELens has autoencoders and transcoders of one site, none of the task {spec.task.kind!r}")
    if spec.sparsity.kind not in _RULES:
        raise ValueError(
            f"SAELens has no counterpart of the sparsity {spec.sparsity.kind!r}; it has those of {', '.join(_RULES)}"
        )
    apart = taken_apart(sae)
    parts = apart.parts
    found = _RULES[spec.sparsity.kind](apart.folded, parts)
    tensors = {"W_dec": parts.decoder, "b_dec": parts.decoder_bias, **found.tensors}
    notes = [*apart.notes, *([found.note] if found.note else ())]
    if found.architecture != "matching_pursuit":
        tensors["W_enc"] = parts.encoder.T
        notes += ["the encoder's weights are the decoder's, and are written twice"] * spec.encoder.tied
    architecture, options = found.architecture, dict(found.options)
    if not spec.task.same_rows:
        names = _TRANSCODERS if parts.skip is None else _SKIP_TRANSCODERS
        if architecture not in names:
            raise ValueError(
                f"SAELens has transcoders with ReLU and with thresholds, none with {spec.sparsity.kind!r}; sparsify "
                "has them with topk"
            )
        architecture, options = names[architecture], {**options, "d_out": spec.output_width}
    if parts.skip is not None:
        tensors["W_skip"] = parts.skip
    config = {
        "architecture": architecture,
        "d_in": spec.input_width,
        "d_sae": spec.latents,
        "dtype": str(parts.decoder.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": apart.centered,
        "normalize_activations": _normalization(sae),
        **options,
    }
    return config | _about(sae), tensors, tuple(notes)


def _normalization(sae: SparseAutoencoder) -> str:
    scaling = sae.spec.scaling
    if isinstance(scaling, ConstantNorm):
        return "constant_norm_rescale"
    if not isinstance(scaling, LayerNorm):
        return "none"
    if scaling != LayerNorm():
        raise ValueError(f"SAELens adds {LayerNorm().epsilon} to a row's deviation, not {scaling.epsilon}")
    return "layer_norm"


def _about(sae: SparseAutoencoder) -> dict[str, Any]:
    """Return the metadata, and how activations are reshaped, which is kept among it here."""
    known, task = sae.provenance, sae.spec.task
    values = {name.removeprefix(PREFIX): text for name, text in known.other.items() if name.startswith(PREFIX)}
    metadata = {name: json.loads(text) for name, text in values.items()}
    reshape = metadata.pop("reshape_activations", "none")
    sites = {"hook_name": known.site or task.inputs[0]}
    if not task.same_rows:
        sites["hook_name_out"] = known.target or task.targets[0]
    named = {**sites, "model_name": known.model, "dataset_path": known.data}
    metadata |= {name: value for name, value in named.items() if value}
    metadata.setdefault("sae_lens_version", FORM)
    if known.version:
        metadata.setdefault("sae_lens_training_version", known.version)
    return {"reshape_activations": reshape, "metadata": metadata}
