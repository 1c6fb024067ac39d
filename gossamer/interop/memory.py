"""What a file of another library's form remembers of the autoencoder that it was written from.

Other libraries know no penalties, no budgets of prefixes, no logarithms of thresholds. The metadata of a safetensors
file has room for a text, which they pass over: it holds our spec, provenance and vectors, so that a file that nobody
has changed comes back as exactly what it was. It is believed only if it would be written to the very same file again.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder
from gossamer.autoencoder.files import as_folded, assemble
from gossamer.autoencoder.provenance import Provenance
from gossamer.interop.tensors import require_finite

__all__ = ["remembered", "to_remember"]

KEY = "gossamer"
MATRICES = frozenset({"encoder.weight", "decoder.weight", "decoder.skip"})
"""What the file itself holds, exactly; all else is small."""


def to_remember(sae: SparseAutoencoder) -> dict[str, str]:
    """Return the metadata that make a file come back as this autoencoder; none if it holds matrices of other kinds."""
    state = {name: tensor for name, tensor in as_folded(sae).state_dict().items() if not _is_scaling(name)}
    if any(
        (tensor.dim() > 1 and name not in MATRICES) or not tensor.is_floating_point() for name, tensor in state.items()
    ):
        return {}
    vectors = {name: _text(tensor) for name, tensor in state.items() if name not in MATRICES}
    about = {"spec": sae.spec.to_dict(), "provenance": sae.provenance.to_dict(), "vectors": vectors}
    return {KEY: json.dumps(about, separators=(",", ":"))}


def remembered(
    metadata: Mapping[str, str],
    read: SparseAutoencoder,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    rewrite: Callable[[SparseAutoencoder], tuple[Mapping[str, Any], Mapping[str, Tensor], object]],
) -> SparseAutoencoder:
    """Return the autoencoder that a file was written from, or what was read of it if it remembers none.

    read: what the file says in its own words. config, tensors: what it holds. rewrite: returns what would be written.
    """
    if KEY not in metadata:
        return read
    try:
        sae = _recalled(json.loads(metadata[KEY]), read)
        settings, again, _ = rewrite(sae)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return read
    same = (
        settings == config
        and again.keys() == tensors.keys()
        and all(torch.equal(again[name], tensors[name]) for name in again)
    )
    return sae if same else read


def _recalled(about: Any, read: SparseAutoencoder) -> SparseAutoencoder:
    spec = AutoencoderSpec.from_dict(about["spec"])
    if (spec.input_width, spec.latents, spec.output_width) != (
        read.spec.input_width,
        read.spec.latents,
        read.spec.output_width,
    ):
        raise ValueError("another size")
    found = read.state_dict()
    with torch.device("meta"):
        wanted = SparseAutoencoder(spec).state_dict()
    state = {name: found[name] for name in MATRICES & wanted.keys()}
    for name, text in about["vectors"].items():
        state[name] = _numbers(text, wanted[name], found["decoder.weight"].dtype)
    sae = assemble(spec, state)
    require_finite({name: tensor for name, tensor in state.items() if name not in MATRICES}, "")
    sae.provenance = Provenance.from_dict(about["provenance"])
    return sae


def _is_scaling(name: str) -> bool:
    return name.startswith(("scaler.", "target_scaler."))


def _text(tensor: Tensor) -> str:
    return base64.b64encode(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).decode(
        "ascii"
    )


def _numbers(text: str, like: Tensor, dtype: torch.dtype) -> Tensor:
    data = bytearray(base64.b64decode(text, validate=True))
    if len(data) != like.numel() * dtype.itemsize:
        raise ValueError("another number of entries")
    return torch.frombuffer(data, dtype=dtype).reshape(like.shape)
