"""Small checkpoints as OpenAI's sparse_autoencoder saves them, and what they are to make of rows.

The package is installed from its repository only, not from an index, so this states what it does, after its
`model.py` (https://github.com/openai/sparse_autoencoder): a checkpoint is the state of the module with the name of the
activation and its state added,

    latents = activation((x − pre_bias) W_encᵀ + latent_bias)        x̂ = latents W_decᵀ + pre_bias

and where the activation is TopK, x is (x − mean) / (deviation + 1e-5) of the row, and x̂ is multiplied by the deviation
and moved by the mean again.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from exchange import LATENTS, MANY, WIDTH, Case, Run, draw, main
from torch import Tensor


def reference(state: dict[str, Any]) -> Run:
    """Return what a checkpoint does, by the equations above."""
    k = state["activation_state_dict"].get("k")
    clip = torch.nn.functional.relu if "ReLU" in (state["activation"], _after(state)) else torch.nn.Identity()

    def run(rows: Tensor) -> tuple[Tensor, Tensor]:
        mean, deviation, x = torch.zeros(1), torch.ones(1), rows
        if k is not None:
            mean, deviation = rows.mean(dim=1, keepdim=True), rows.std(dim=1, keepdim=True)
            x = (rows - mean) / (deviation + 1e-5)
        pre = (x - state["pre_bias"]) @ state["encoder.weight"].T + state["latent_bias"]
        codes = clip(pre)
        if k is not None:
            top = pre.topk(k, dim=1)
            codes = torch.zeros_like(pre).scatter_(1, top.indices, clip(top.values))
        return codes, (codes @ state["decoder.weight"].T + state["pre_bias"]) * deviation + mean

    return run


def _after(state: dict[str, Any]) -> str | None:
    return state["activation_state_dict"].get("postact_fn")


def case(activation: str, **activation_state: Any) -> Case:
    """Return what saves a checkpoint."""

    def make(folder: Path) -> Run:
        state: dict[str, Any] = OrderedDict(
            {
                "pre_bias": draw(1, WIDTH, deviation=0.3),
                "latent_bias": draw(2, LATENTS, deviation=0.3),
                "stats_last_nonzero": torch.arange(LATENTS),
                "latents_activation_frequency": torch.ones(LATENTS),
                "latents_mean_square": torch.zeros(LATENTS),
                "encoder.weight": draw(3, LATENTS, WIDTH, deviation=WIDTH**-0.5),
                "decoder.weight": draw(4, WIDTH, LATENTS, deviation=WIDTH**-0.5),
                "activation": activation,
                "activation_state_dict": OrderedDict(activation_state),
            }
        )
        torch.save(state, folder / "7.pt")
        return reference(state)

    return make


CASES: dict[str, Case] = {
    "relu": case("ReLU"),
    "topk": case("TopK", k=MANY, postact_fn="ReLU"),
    "topk_identity": case("TopK", k=MANY, postact_fn="Identity"),
}

if __name__ == "__main__":
    main(CASES)
