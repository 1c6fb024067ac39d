"""Small models of llamascopium's dictionaries, saved by its own `save_pretrained`, and what it makes of rows.

A crosscoder and a cross-layer transcoder read two sites of half the width, side by side; their codes are put side by
side, too. Where it chooses the k largest by what they add to the reconstruction, codes are given in that measure:
multiplied with the decoder's norms, as it multiplies them before it chooses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from exchange import LATENTS, MANY, WIDTH, Case, Run, draw, main, scramble
from torch import Tensor

from absent import stand_in_for, without_init  # isort: skip

# To run models, fetch them, and log to an account.
stand_in_for(
    "huggingface_hub",
    "llamascopium.backend",
    "transformers",
    "transformer_lens.components",
    "transformer_lens.loading_from_pretrained",
    "transformer_lens.utilities",
    "transformer_lens.utils",
)
without_init("transformer_lens")
without_init("llamascopium")
from llamascopium.models.clt import CLTConfig, CrossLayerTranscoder  # noqa: E402
from llamascopium.models.crosscoder import Crosscoder, CrosscoderConfig  # noqa: E402
from llamascopium.models.sae import SAEConfig, SparseAutoEncoder  # noqa: E402
from llamascopium.models.sparse_dictionary import SparseDictionary  # noqa: E402

IN, OUT = "blocks.3.hook_resid_mid", "blocks.3.hook_mlp_out"
SITES = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
TARGETS = ("blocks.1.hook_mlp_out", "blocks.2.hook_mlp_out")
NORMS = {IN: 7.0, OUT: 3.0, SITES[0]: 5.0, SITES[1]: 9.0, TARGETS[0]: 2.0, TARGETS[1]: 4.0}
"""Mean norms of rows, as its initializer would measure them."""


def save(model: SparseDictionary, folder: Path) -> SparseDictionary:
    """Draw weights, save the model as its trainer does, and return it as it is read again."""
    scramble(model)
    thresholds = getattr(model.activation_function, "log_jumprelu_threshold", None)
    if thresholds is not None:
        with torch.no_grad():
            thresholds.copy_(draw(7, *thresholds.shape, mean=-0.7, deviation=0.3))
    model.set_dataset_average_activation_norm({name: NORMS[name] for name in model.cfg.associated_hook_points})
    model.cfg.save_hyperparameters(folder)
    model.save_pretrained(folder)
    return SparseDictionary.from_pretrained(str(folder))


def run_of(model: SparseDictionary, sites: tuple[str, ...], targets: tuple[str, ...]) -> Run:
    """Return what it does to rows that have these sites side by side: normalize, encode, decode, and back."""

    def run(rows: Tensor) -> tuple[Tensor, Tensor]:
        pieces = dict(zip(sites, rows.chunk(len(sites), dim=1), strict=True))
        # What an output is multiplied with again does not depend on the output: "dataset-wise" and "inference" only.
        labels = {name: torch.ones_like(next(iter(pieces.values()))) for name in targets if name not in pieces}
        batch, scales = model.normalize_activations(pieces | labels, return_scale_factor=True)
        x, encoder, decoder = model.prepare_input(batch)
        codes = model.encode(x, **encoder)
        out = model.decode(codes, **decoder)
        if model.cfg.act_fn in ("topk", "layertopk") and model.cfg.sparsity_include_decoder_norm:
            of_layers = isinstance(model, CrossLayerTranscoder)
            codes = codes * (model.decoder_norm_per_feature() if of_layers else model.decoder_norm())
        if isinstance(model, CrossLayerTranscoder):
            out = out.transpose(0, 1)
        given = [out] if len(targets) == 1 else list(out.unbind(dim=1))
        given = model.denormalize_activations(dict(zip(targets, given, strict=True)), scales)
        return codes.flatten(1), torch.cat([given[name] for name in targets], dim=1)

    return run


def autoencoder(*, target: str = IN, **options: Any) -> Case:
    """Return what saves an autoencoder or, with another target, a transcoder."""

    def make(folder: Path) -> Run:
        config = SAEConfig(
            d_model=WIDTH, expansion_factor=LATENTS / WIDTH, hook_point_in=IN, hook_point_out=target, **options
        )
        return run_of(save(SparseAutoEncoder(config), folder), (IN,), (target,))

    return make


def crosscoder(**options: Any) -> Case:
    """Return what saves a crosscoder of two sites."""

    def make(folder: Path) -> Run:
        width = WIDTH // 2
        config = CrosscoderConfig(d_model=width, expansion_factor=32 / width, hook_points=list(SITES), **options)
        return run_of(save(Crosscoder(config), folder), SITES, SITES)

    return make


def cross_layer(**options: Any) -> Case:
    """Return what saves a cross-layer transcoder of two layers."""

    def make(folder: Path) -> Run:
        width = WIDTH // 2
        config = CLTConfig(
            d_model=width,
            expansion_factor=32 / width,
            hook_points_in=list(SITES),
            hook_points_out=list(TARGETS),
            **options,
        )
        return run_of(save(CrossLayerTranscoder(config), folder), SITES, TARGETS)

    return make


CASES: dict[str, Case] = {
    "relu": autoencoder(act_fn="relu"),
    "relu_without_bias": autoencoder(act_fn="relu", use_decoder_bias=False, norm_activation="inference"),
    "jumprelu": autoencoder(act_fn="jumprelu"),
    "jumprelu_inference": autoencoder(act_fn="jumprelu", norm_activation="inference"),
    "jumprelu_plain": autoencoder(act_fn="jumprelu", sparsity_include_decoder_norm=False),
    "topk": autoencoder(act_fn="topk", top_k=6),
    "topk_plain": autoencoder(act_fn="topk", top_k=MANY, sparsity_include_decoder_norm=False),
    "token_wise": autoencoder(act_fn="topk", top_k=6, norm_activation="token-wise"),
    "transcoder": autoencoder(act_fn="jumprelu", target=OUT),
    "crosscoder": crosscoder(act_fn="relu"),
    "crosscoder_jumprelu": crosscoder(act_fn="jumprelu"),
    "clt": cross_layer(act_fn="jumprelu"),
    "clt_topk": cross_layer(act_fn="layertopk", top_k=6),
    "batch_topk": autoencoder(act_fn="batchtopk", top_k=6),
    "glu": autoencoder(act_fn="relu", use_glu_encoder=True),
}

if __name__ == "__main__":
    main(CASES)
