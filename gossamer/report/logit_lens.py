"""The logit lens: which tokens a decoder direction would promote and suppress if it reached the output unchanged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gossamer.evaluate.language_model import is_language_model
from gossamer.report.data import TokenLogit
from gossamer.sources.activations import Activations
from gossamer.sources.source import Source

__all__ = ["Tokens", "logit_lens"]

Tokens = tuple[tuple[TokenLogit, ...], tuple[TokenLogit, ...]]
"""Promoted and suppressed tokens of a latent, strongest first."""

FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm")


@torch.no_grad()
def logit_lens(source: Source, directions: Tensor, *, count: int = 8) -> list[Tokens] | None:
    """Return the tokens that each direction promotes and suppresses; None unless a language model has this width.

    logits = W_U (γ ∘ d), minus their mean over the vocabulary, with W_U the output embeddings, γ the gain of the
    final normalisation and d a row of `directions` `(latents, width)`. nostalgebraist 2020
    (https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens).
    """
    if not isinstance(source, Activations) or not is_language_model(source.model):
        return None
    head: Any = source.model.get_output_embeddings()  # pyright: ignore[reportCallIssue]
    unembedding: Tensor = head.weight.float()
    if unembedding.shape[1] != directions.shape[1]:
        return None
    scaled = directions.to(unembedding) * _final_gain(source.model).to(unembedding)
    logits = scaled @ unembedding.T
    logits -= logits.mean(dim=1, keepdim=True)
    return [(_tokens(source, row, count), _tokens(source, -row, count, sign=-1.0)) for row in logits]


def _tokens(source: Activations, logits: Tensor, count: int, *, sign: float = 1.0) -> tuple[TokenLogit, ...]:
    values, tokens = logits.topk(count)
    texts = [source.tokenizer.decode([token]) for token in tokens.tolist()]
    return tuple(TokenLogit(text, sign * value) for text, value in zip(texts, values.tolist(), strict=True))


def _final_gain(model: nn.Module) -> Tensor:
    """Return the gain of the normalisation before the output embeddings, or ones if none is found."""
    body = getattr(model, "base_model", model)
    for place in (body, getattr(body, "decoder", body)):
        for name in FINAL_NORMS:
            weight = getattr(getattr(place, name, None), "weight", None)
            if isinstance(weight, Tensor):
                return weight
    return torch.ones(1)
