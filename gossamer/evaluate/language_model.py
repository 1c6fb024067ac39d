"""What a language model loses when its activations are replaced by their reconstructions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.progress import Progress
from gossamer.sources.activations import Activations
from gossamer.sources.hooks import evaluating, replaced
from gossamer.sources.windows import TokenBatch

__all__ = [
    "LanguageModelScore",
    "cross_entropy",
    "is_language_model",
    "kl_divergence",
    "loss_recovered",
    "splice",
]

WINDOWS_AT_ONCE = 4
"""Windows per forward pass: the logits of a large vocabulary are what fills the memory here."""


@dataclass(frozen=True)
class LanguageModelScore:
    """Mean over `predictions` next-token predictions, in nats.

    clean, spliced, zero, mean: cross-entropy of the model as it is, with the reconstruction in place of the
    activation, with zero, with the mean activation. kl: KL(clean ‖ spliced). recovered_from_zero,
    recovered_from_mean: (ablated − spliced) / (ablated − clean), 1 is perfect.
    """

    clean: float
    spliced: float
    zero: float
    mean: float
    kl: float
    recovered_from_zero: float
    recovered_from_mean: float
    predictions: int


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return `(predictions,)` float64: −log softmax(logits)[target]; logits `(predictions, vocabulary)`."""
    return -log_softmax(logits.float(), dim=-1).gather(1, targets[:, None])[:, 0].double()


def kl_divergence(logits: Tensor, other: Tensor) -> Tensor:
    """Return `(predictions,)` float64: KL(p ‖ q) = Σ p (log p − log q) with p, q the softmax of logits and other."""
    log_p, log_q = log_softmax(logits.float(), dim=-1), log_softmax(other.float(), dim=-1)
    terms = log_p.exp() * (log_p - log_q)
    return terms.where(log_p > -torch.inf, 0.0).sum(dim=-1).double()  # 0 · log 0 = 0


def loss_recovered(*, clean: float, spliced: float, ablated: float) -> float:
    """Return (ablated − spliced) / (ablated − clean); NaN if the ablation costs nothing."""
    return (ablated - spliced) / (ablated - clean) if ablated != clean else float("nan")


def is_language_model(model: nn.Module) -> bool:
    """Say whether the model predicts next tokens: it has output embeddings and is causal."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    config = getattr(model, "config", None)
    return head is not None and not getattr(config, "is_encoder_decoder", False) and _is_causal(model)


@torch.no_grad()
def splice(
    sae: SparseAutoencoder, source: Activations, *, mean: Tensor, windows: np.ndarray, site: str, quiet: bool = True
) -> LanguageModelScore:
    """Measure what replacing the activations of a site costs the language model on some windows.

    Only positions that the source keeps are replaced, and only predictions made at those positions count. mean:
    `(input_width,)`, the row that mean ablation puts in place.
    """
    device = sae.device

    def reconstruct(x: Tensor) -> Tensor:
        return sae(x.to(device)).reconstruction

    changes: dict[str, Callable[[Tensor], Tensor] | None] = {
        "clean": None,
        "spliced": reconstruct,
        "zero": torch.zeros_like,
        "mean": lambda x: mean.to(x).expand_as(x),
    }
    sums, predictions = dict.fromkeys([*changes, "kl"], 0.0), 0
    with Progress(len(windows), quiet=quiet, unit="window") as progress:
        for start in range(0, len(windows), WINDOWS_AT_ONCE):
            tokens = source.windows.batch(windows[start : start + WINDOWS_AT_ONCE])
            targets = torch.from_numpy(tokens.ids[:, 1:][_predicting(tokens)]).long()
            predictions += len(targets)
            logits = {name: _logits(source, tokens, site, change) for name, change in changes.items()}
            for name, values in logits.items():
                sums[name] += cross_entropy(values, targets.to(values.device)).sum().item()
            sums["kl"] += kl_divergence(logits["clean"], logits["spliced"]).sum().item()
            progress.advance(start + len(tokens.ids), {})
    losses = {name: total / predictions if predictions else float("nan") for name, total in sums.items()}
    clean_spliced = {"clean": losses["clean"], "spliced": losses["spliced"]}
    return LanguageModelScore(
        **losses,
        recovered_from_zero=loss_recovered(**clean_spliced, ablated=losses["zero"]),
        recovered_from_mean=loss_recovered(**clean_spliced, ablated=losses["mean"]),
        predictions=predictions,
    )


def _predicting(tokens: TokenBatch) -> np.ndarray:
    """Return `(windows, length − 1)` booleans: kept positions that are followed by a real token."""
    return tokens.keep[:, :-1] & tokens.real[:, 1:]


def _logits(source: Activations, tokens: TokenBatch, site: str, change: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Return `(predictions, vocabulary)` logits with the kept positions of the site changed."""
    keep = torch.from_numpy(tokens.keep)

    def put(x: Tensor) -> Tensor:
        assert change is not None
        new = x.clone()
        new[keep.to(x.device)] = change(x[keep.to(x.device)]).to(x)
        return new

    with evaluating(source.model), nullcontext() if change is None else replaced(source.model, site, put):
        logits = source.model(**source.arguments(tokens)).logits
    return logits[:, :-1][torch.from_numpy(_predicting(tokens)).to(logits.device)]


def _is_causal(model: nn.Module) -> bool:
    """Ask the model's class: transformers names its causal language models so."""
    return "CausalLM" in type(model).__name__ or type(model).__name__.endswith("LMHeadModel")
