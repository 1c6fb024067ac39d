"""The data-dependent start: what an autoencoder takes from a sample of rows before its first step."""

from __future__ import annotations

import torch
from torch import Tensor

from gossamer.autoencoder.autoencoder import SparseAutoencoder

__all__ = ["start_from_data"]


@torch.no_grad()
def start_from_data(sae: SparseAutoencoder, sample: Tensor) -> None:
    """Set the scaling, and for a fresh autoencoder the biases, from `(rows, input_width)` sample rows.

    A fresh autoencoder starts by predicting the mean row, and its encoder looks at the distance from it:
    b_dec = mean, b_enc = −W_enc · mean. One that has been trained keeps its function, in new training units.
    """
    if sample.dim() != 2 or sample.shape[1] != sae.spec.input_width or not len(sample):
        raise ValueError(f"expected sample rows of width {sae.spec.input_width}, got shape {tuple(sample.shape)}")
    sample = sample.to(sae.encoder.weight)
    mean, scale = sae.spec.scaling.measure(sample)
    if sae.is_fresh:
        sae.scaler.mean.copy_(mean)
        sae.scaler.scale.copy_(scale)
        center = sae.scaler(sample).mean(dim=0)
        sae.decoder.bias.copy_(center)
        sae.encoder.bias.copy_(-(sae.encoder.weight @ center))
    else:
        sae.rescale(mean, scale)
