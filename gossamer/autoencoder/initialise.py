"""The data-dependent start: what an autoencoder takes from a sample of rows before its first step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gossamer.autoencoder.autoencoder import SparseAutoencoder

__all__ = ["start_from_data"]

QUANTILE_ROWS = 4096
"""Rows on which it is measured how often a latent would be active."""


@torch.no_grad()
def start_from_data(sae: SparseAutoencoder, sample: Tensor, target: Tensor | None = None) -> None:
    """Set the scaling, and for a fresh autoencoder the biases, from `(rows, input_width)` sample rows.

    A fresh autoencoder starts by predicting the mean row, and its encoder looks at the distance from it:
    b_dec = mean, b_enc = −W_enc · mean. One that has been trained keeps its function, in new training units.
    target: `(rows, output_width)`, if the task gives back something else than it reads.
    """
    spec, given = sae.spec, [sample] if sae.target_scaler is None else [sample, target]
    for rows, width in zip(given, (spec.input_width, spec.output_width), strict=False):
        if rows is None or rows.dim() != 2 or rows.shape[1] != width or not len(rows):
            shape = None if rows is None else tuple(rows.shape)
            raise ValueError(f"expected sample rows of width {width}, got shape {shape}")
    given = [rows.to(sae.decoder.bias) for rows in given if rows is not None]
    measured = [spec.scaling.measure(rows) for rows in given]
    if not sae.is_fresh:
        sae.rescale(*measured)
        return
    sae.scaler.set(*measured[0])
    x = wanted = sae.scaler(given[0])
    if sae.target_scaler is not None:
        sae.target_scaler.set(*measured[1])
        wanted = sae.target_scaler(given[1])
    sae.decoder.start(wanted)
    if not sae.decoder.bias.requires_grad:
        sae.decoder.bias.zero_()
    if sae.decoder.from_data:
        sae.encoder.reset(normalize(sae.decoder.directions(), dim=1), torch.Generator())
    sae.encoder.center(x.mean(dim=0))
    if spec.target_l0 is not None and spec.sparsity.ragged:
        _start_sparse(sae, x[:QUANTILE_ROWS], spec.target_l0)


def _start_sparse(sae: SparseAutoencoder, x: Tensor, l0: float) -> None:
    """Let every latent be active on about the share of rows that is wanted, l0 / latents.

    Where the number of active latents is to be reached by a penalty, it starts near it: codes are sparse from the
    first step, and the penalty's weight has less to correct.
    """
    share = min(0.5, l0 / sae.spec.latents)
    pre = sae.encoder(x, sae.decoder).dense()
    floor = pre.kthvalue(max(1, round((1 - share) * len(pre))), dim=0).values
    if not sae.sparsity.start(floor):
        sae.encoder.lower(floor)
