"""OpenAI's checkpoints: one `.pt` file for each autoencoder (https://github.com/openai/sparse_autoencoder).

    z = act((x − pre_bias) W_encᵀ + latent_bias)        x̂ = z W_decᵀ + pre_bias

act is ReLU or TopK; a checkpoint with TopK reads rows with mean 0 and standard deviation 1, and gives back mean and
deviation of the row that it read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from gossamer.autoencoder.centered import Centered
from gossamer.autoencoder.provenance import Provenance
from gossamer.autoencoder.row_scaling import LayerNorm
from gossamer.autoencoder.scaling import Unscaled
from gossamer.autoencoder.sparsity import Identity, LinearTopK, ReLU, Sparsity, TopK
from gossamer.interop.affine import AffineParts, assembled
from gossamer.interop.format import Format, Loaded
from gossamer.interop.tensors import naming, require_finite, require_tensors
from gossamer.interop.torch_files import is_torch_file, read_torch_file
from gossamer.spec import nearest

__all__ = ["FORMAT", "OpenAI", "read"]

WEIGHTS = ("pre_bias", "latent_bias", "encoder.weight", "decoder.weight")
STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
"""What its training counts; not needed to encode, and by its own type."""


class OpenAI(Format):
    """Files of `torch.save` with the state of an `Autoencoder`."""

    name: ClassVar[str] = "openai"
    title: ClassVar[str] = "OpenAI sparse_autoencoder"

    def recognizes(self, place: Path) -> bool:
        """Say whether this is a file of torch.save that holds an encoder and a `pre_bias`."""
        if place.suffix != ".pt" or not is_torch_file(place):
            return False
        try:
            return {"pre_bias", "encoder.weight"} <= set(read_torch_file(place))  # mapped: this reads no weights
        except ValueError:
            return False

    def members(self, place: Path) -> list[str]:
        """Return the files below a folder, as paths relative to it, sorted."""
        return sorted(path.relative_to(place).as_posix() for path in place.rglob("*.pt") if self.recognizes(path))

    def read(self, place: str | Path) -> Loaded:
        """Read one checkpoint; raises ValueError, naming the file, for what is damaged or of an unknown activation."""
        path = Path(place)
        state = read_torch_file(path)
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        if "encoder.weight" not in tensors or tensors["encoder.weight"].dim() != 2:
            raise ValueError(f"{path} holds no matrix named 'encoder.weight'")
        latents, width = tensors["encoder.weight"].shape
        shapes = {"encoder.weight": (latents, width), "decoder.weight": (width, latents)}
        shapes |= {"pre_bias": (width,), "latent_bias": (latents,)}
        require_tensors(tensors, shapes, path, ignored=STATISTICS)
        weights = {name: tensors[name] for name in WEIGHTS}
        require_finite(weights, path)
        activation = state.get("activation", "ReLU")
        with naming(path):
            sae = assembled(
                AffineParts(
                    encoder=weights["encoder.weight"],
                    encoder_bias=weights["latent_bias"],
                    decoder=weights["decoder.weight"].T,
                    decoder_bias=weights["pre_bias"],
                ),
                name="topk" if activation == "TopK" else "autoencoder",
                sparsity=_sparsity(state, latents, path),
                encoder=Centered(),
                scaling=LayerNorm() if activation == "TopK" else Unscaled(),
            )
        plain = {name: value for name, value in state.items() if name.startswith("activation")}
        other = {name: json.dumps(value, default=repr) for name, value in plain.items()}
        sae.provenance = Provenance(version="openai/sparse_autoencoder", other=other)
        return Loaded(sae)


def _sparsity(state: Mapping[str, Any], latents: int, path: Path) -> Sparsity:
    """Return the activation that a checkpoint names."""
    name = state.get("activation", "ReLU")
    simple = {"ReLU": ReLU(), "Identity": Identity()}
    if isinstance(name, str) and name in simple:
        return simple[name]
    if name != "TopK":
        raise ValueError(f"{path}: activation {name!r} is not known here; {nearest(name, [*simple, 'TopK'])}")
    own = state.get("activation_state_dict")
    k = own.get("k") if isinstance(own, Mapping) else None
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= latents:
        raise ValueError(f"{path}: activation_state_dict.k is a whole number from 1 to {latents}, got {k!r}")
    after = own.get("postact_fn") if isinstance(own, Mapping) else None
    rules = {"ReLU": TopK, "Identity": LinearTopK}
    if not isinstance(after, str) or after not in rules:
        raise ValueError(f"{path}: activation_state_dict.postact_fn is {after!r}; {nearest(after, rules)}")
    return rules[after](k=k)


FORMAT = OpenAI()
read = FORMAT.read
