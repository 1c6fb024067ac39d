"""Small files laid out as Gemma Scope's, and what they are to make of rows.

No library writes these, so this states what they mean, after their model card
(https://huggingface.co/google/gemma-scope): with p = x W_enc + b_enc,

    codes = p · (p > threshold) · (p > 0)        x̂ = codes W_dec + b_dec

and for the transcoders of Gemma Scope 2, whose names are in small letters, + x affine_skip_connection. SAELens, which
has a loader for them, is asked as well (`with_saelens.py`).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from exchange import LATENTS, WIDTH, Case, Run, draw, main
from torch import Tensor


def weights() -> dict[str, Tensor]:
    """Draw weights by the names that the files have."""
    return {
        "W_enc": draw(1, WIDTH, LATENTS, deviation=WIDTH**-0.5),
        "W_dec": draw(2, LATENTS, WIDTH, deviation=WIDTH**-0.5),
        "b_enc": draw(3, LATENTS, deviation=0.3),
        "b_dec": draw(4, WIDTH, deviation=0.3),
        "threshold": draw(5, LATENTS, mean=0.5, deviation=0.3),  # a few are below zero
    }


def reference(own: dict[str, Tensor], skip: Tensor | None = None) -> Run:
    """Return what a file does, by the equations above."""

    def run(rows: Tensor) -> tuple[Tensor, Tensor]:
        pre = rows @ own["W_enc"] + own["b_enc"]
        codes = pre * (pre > own["threshold"]) * (pre > 0)
        out = codes @ own["W_dec"] + own["b_dec"]
        return codes, out if skip is None else out + rows @ skip

    return run


def arrays(folder: Path) -> Run:
    """Save a file of the first Gemma Scope, which is not compressed."""
    own = weights()
    place = folder / "layer_12" / "width_16k" / "average_l0_82"
    place.mkdir(parents=True, exist_ok=True)
    np.savez(place / "params.npz", **{name: tensor.numpy() for name, tensor in own.items()})
    return reference(own)


def compressed(folder: Path) -> Run:
    """Save a compressed file."""
    own = weights()
    np.savez_compressed(folder / "params.npz", **{name: tensor.numpy() for name, tensor in own.items()})
    return reference(own)


def second(folder: Path) -> Run:
    """Save a transcoder of Gemma Scope 2."""
    from safetensors.torch import save_file

    own, skip = weights(), draw(6, WIDTH, WIDTH, deviation=0.1)
    small = {name.lower(): tensor for name, tensor in own.items()} | {"affine_skip_connection": skip}
    save_file(small, folder / "params.safetensors")
    config = {
        "hf_hook_point_in": "model.layers.7.pre_feedforward_layernorm.output",
        "hf_hook_point_out": "model.layers.7.post_feedforward_layernorm.output",
        "width": LATENTS,
        "model_name": "gemma-v3-270m",
        "architecture": "jump_relu",
        "l0": 20,
        "affine_connection": True,
        "type": "transcoder",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return reference(own, skip)


CASES: dict[str, Case] = {"arrays": arrays, "compressed": compressed, "second": second}

if __name__ == "__main__":
    main(CASES)
