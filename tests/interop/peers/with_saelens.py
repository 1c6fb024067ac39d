"""Small models of SAELens's classes, saved by its own `save_model`, and what it makes of rows; and of what we wrote.

It also reads a Gemma Scope file with the loader that it has for those: where a folder has a `params.npz`, that loader
is handed the file in place of a download.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from exchange import LATENTS, MANY, WIDTH, Case, Run, draw, main, scramble
from torch import Tensor

from absent import stand_in_for, without_init  # isort: skip

# To read activations from models, fetch models, plot, and log to an account.
stand_in_for(
    *("babe", "datasets", "dotenv", "huggingface_hub", "nltk", "pandas", "plotly", "plotly_express", "requests"),
    *("scipy", "tenacity", "transformers", "wandb"),
    *("transformer_lens.ActivationCache", "transformer_lens.components", "transformer_lens.loading_from_pretrained"),
    *("transformer_lens.model_bridge", "transformer_lens.utils", "transformer_lens.utilities"),
)
# Of transformer-lens it uses the hook points; the module that it takes one of them from imports everything else.
without_init("transformer_lens")
import torch  # noqa: E402
from transformer_lens.hook_points import HookedRootModule  # noqa: E402

_module = ModuleType("transformer_lens.HookedTransformer")
_module.HookedRootModule = HookedRootModule  # pyright: ignore[reportAttributeAccessIssue]
for _name in ("HookedTransformer", "Loss", "Output"):
    setattr(_module, _name, type(_name, (), {}))
sys.modules[_module.__name__] = _module

import sae_lens  # noqa: E402
from sae_lens.loading import pretrained_sae_loaders as loaders  # noqa: E402
from sae_lens.saes.sae import SAEMetadata  # noqa: E402

HOOK = "blocks.3.hook_resid_post"


def draw_weights(model: torch.nn.Module) -> None:
    """Draw all weights; thresholds are about half a pre-activation's deviation, decoder rows differ in length."""
    scramble(model)
    for name, parameter in model.named_parameters():
        if name in ("threshold", "log_threshold"):
            parameter.data.copy_(draw(7, *parameter.shape, mean=0.5, deviation=0.1))


def of_heads(rows: Tensor) -> Tensor:
    """Cut rows into four heads."""
    return rows.unflatten(1, (4, WIDTH // 4))


def run_of(model: Any, transform: Any = None) -> Run:
    """Return what a model does; hook_z models read heads side by side."""

    def run(rows: Tensor) -> tuple[Tensor, Tensor]:
        given = rows if transform is None else transform(rows)
        codes = model.encode(given)
        return codes, model(given).flatten(1)

    return run


def case(name: str, *, hook: str = HOOK, transform: Any = None, **options: Any) -> Case:
    """Return what saves an inference class."""

    def make(folder: Path) -> Run:
        metadata = SAEMetadata(hook_name=hook, model_name="gpt2", context_size=128)
        config = getattr(sae_lens, f"{name}Config")(d_in=WIDTH, d_sae=LATENTS, metadata=metadata, **options)
        model = getattr(sae_lens, name)(config)
        draw_weights(model)
        model.save_model(folder)
        return run_of(sae_lens.SAE.load_from_disk(folder), transform)

    return make


def trained(name: str, **options: Any) -> Case:
    """Return what saves a training class as the inference class that it stands for."""

    def make(folder: Path) -> Run:
        config = getattr(sae_lens, f"{name}Config")(d_in=WIDTH, d_sae=LATENTS, **options)
        model = getattr(sae_lens, name)(config)
        draw_weights(model)
        model.topk_threshold.fill_(0.6)
        model.save_inference_model(folder)
        return run_of(sae_lens.SAE.load_from_disk(folder))

    return make


CASES: dict[str, Case] = {
    "standard": case("StandardSAE"),
    "standard_plain": case("StandardSAE", apply_b_dec_to_input=False),
    "standard_expected_average": case("StandardSAE", normalize_activations="expected_average_only_in"),
    "standard_constant_norm": case("StandardSAE", normalize_activations="constant_norm_rescale"),
    "standard_hook_z": case(
        "StandardSAE",
        hook="blocks.3.attn.hook_z",
        reshape_activations="hook_z",
        transform=of_heads,
    ),
    "gated": case("GatedSAE"),
    "topk": case("TopKSAE", k=MANY),
    "topk_rescaled": case("TopKSAE", k=6, rescale_acts_by_decoder_norm=True),
    "topk_layer_norm": case("TopKSAE", k=6, normalize_activations="layer_norm"),
    "abs_topk": case("AbsTopKSAE", k=6),
    "jumprelu": case("JumpReLUSAE", apply_b_dec_to_input=False),
    "jumprelu_centered": case("JumpReLUSAE"),
    "batch_topk": trained("BatchTopKTrainingSAE", k=6),
    "matryoshka_batch_topk": trained("MatryoshkaBatchTopKTrainingSAE", k=6, matryoshka_widths=[16, 64]),
    "transcoder": case("Transcoder", d_out=WIDTH - 8, apply_b_dec_to_input=False),
    "skip_transcoder": case("SkipTranscoder", d_out=WIDTH - 8, apply_b_dec_to_input=False),
    "jumprelu_transcoder": case("JumpReLUTranscoder", d_out=WIDTH - 8, apply_b_dec_to_input=False),
    "jumprelu_skip_transcoder": case("JumpReLUSkipTranscoder", d_out=WIDTH - 8, apply_b_dec_to_input=False),
    "matching_pursuit": case("MatchingPursuitSAE"),
}


def read(folder: Path) -> Run:
    """Load what we wrote, or a Gemma Scope file."""
    if not (folder / "params.npz").exists():
        model = sae_lens.SAE.load_from_disk(folder)
        return run_of(model, of_heads if model.cfg.reshape_activations == "hook_z" else None)
    loaders.hf_hub_download = lambda **_: folder / "params.npz"
    sizes = {"d_in": WIDTH, "d_sae": LATENTS, "normalize_activations": "none"}
    config, weights, _ = loaders.gemma_2_sae_huggingface_loader(
        "google/gemma-scope-2b-pt-res", "layer_3/width_16k/average_l0_20", cfg_overrides=sizes
    )
    model = sae_lens.SAE.from_dict(config)
    model.load_state_dict(weights)
    return run_of(model)


if __name__ == "__main__":
    main(CASES, read)
