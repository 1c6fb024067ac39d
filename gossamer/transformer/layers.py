"""Layers: attention and a feed-forward network, each around a residual stream; a stack of them reads embeddings.

    pre-norm    x ← x + dropout(f(norm(x)))          Xiong et al. 2020 (https://arxiv.org/abs/2002.04745)
    post-norm   x ← norm(x + dropout(f(x)))          Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762)

with f self-attention, cross-attention (in a decoder), and the feed-forward network, in this order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gossamer.spec import Spec
from gossamer.transformer.attention import CrossAttention, KeyValues, SelfAttention
from gossamer.transformer.positions import Order, Positions

__all__ = ["Block", "Dropout", "FeedForward", "Layer", "LayerCache", "Stack"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "swish": nn.SiLU}


@dataclass(frozen=True, kw_only=True)
class Block(Spec):
    """What a layer is like. norm: where layers are normalized; activation: of the feed-forward network; dropout: share
    of entries of embeddings and of each f(x) that training sets to 0."""

    norm: Literal["pre", "post"] = "pre"
    activation: Literal["relu", "gelu", "swish"] = "relu"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout lies in [0, 1), got {self.dropout}")


class Dropout(nn.Module):
    """Set a share of entries to 0 in training, and scale the rest by 1 / (1 − share).

    16 random bits for an entry, four entries for each number that is drawn: on a CPU the drawing of `nn.Dropout` takes
    longer than a layer's products. The share is thereby a multiple of 2⁻¹⁶.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, some entries 0."""
        if not self.training or not self.share:
            return x
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
        words.random_(torch.iinfo(torch.int64).min, None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        return x * ((bits >= round(self.share * 2**16) - 2**15) * (1 / (1 - self.share))).to(x.dtype)


class FeedForward(nn.Module):
    """W₂ σ(W₁ x + b₁) + b₂, the same for every position."""

    def __init__(self, *, width: int, hidden: int, activation: str = "relu") -> None:
        super().__init__()
        self.wide = nn.Linear(width, hidden)
        self.activation = ACTIVATIONS[activation]()
        self.narrow = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(…, width)`."""
        return self.narrow(self.activation(self.wide(x)))


@dataclass(eq=False)
class LayerCache:
    """What a layer of a decoder remembers between steps: its own positions, and the memory's keys and values."""

    own: KeyValues
    memory: KeyValues | None

    def rows(self, which: Tensor, sources: Tensor | None) -> None:
        """Keep these rows of the batch, in this order, and these sources; None: the sources stay as they are."""
        self.own.rows(which)
        if self.memory is not None and sources is not None:
            self.memory.rows(sources)


class Layer(nn.Module):
    """Self-attention, cross-attention if `cross`, and a feed-forward network, each around the residual stream.

    order: positions that turn queries and keys. causal: a position sees only itself and earlier ones.
    """

    def __init__(
        self,
        *,
        width: int,
        hidden: int,
        heads: int,
        block: Block = Block(),
        order: Order | None = None,
        causal: bool = False,
        cross: bool = False,
    ) -> None:
        super().__init__()
        self.pre = block.norm == "pre"
        self.self_attention = SelfAttention(width=width, heads=heads, order=order, causal=causal)
        self.self_attention_norm = nn.LayerNorm(width)
        self.cross_attention = CrossAttention(width=width, heads=heads) if cross else None
        self.cross_attention_norm = nn.LayerNorm(width) if cross else None
        self.feed_forward = FeedForward(width=width, hidden=hidden, activation=block.activation)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = Dropout(block.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Return `(batch, length, width)`.

        mask, memory_mask: True where a position of x, or of the memory `(batch, source length, width)`, may be seen.
        cache: of earlier positions, and of the memory, which is then not needed.
        """
        own = None if cache is None else cache.own
        x = self._around(self.self_attention_norm, lambda y: self.self_attention(y, mask, own), x)
        cross, cross_norm = self.cross_attention, self.cross_attention_norm
        if cross is not None and cross_norm is not None:
            remembered = memory if cache is None else cache.memory
            if remembered is None:
                raise ValueError("a layer with cross-attention needs a memory to attend to")
            x = self._around(cross_norm, lambda y: cross(y, remembered, memory_mask), x)
        return self._around(self.feed_forward_norm, self.feed_forward, x)

    def cache(self, *, batch: int, longest: int, memory: Tensor | None = None) -> LayerCache:
        """Return a cache with room for `longest` positions, and the memory's keys and values."""
        own = KeyValues.empty(self.self_attention, batch=batch, longest=longest)
        cross = self.cross_attention
        return LayerCache(own, None if cross is None or memory is None else cross.remember(memory))

    def _around(self, norm: nn.Module, part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Add to the residual stream what a part says of it."""
        if self.pre:
            return x + self.dropout(part(norm(x)))
        return norm(x + self.dropout(part(x)))


class Stack(nn.Module):
    """Embeddings and layers: one side of a transformer.

        x₀ = dropout(√width · E[ids] + positions),  xᵢ₊₁ = layerᵢ(xᵢ),  and a last norm if layers are pre-norm

    E is drawn from N(0, 1 / width), so that it can be the output's weight as well.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int,
        hidden: int,
        heads: int,
        layers: int,
        positions: Positions,
        block: Block,
        causal: bool = False,
        cross: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.order = positions.build(width=width, heads=heads)
        self.dropout = Dropout(block.dropout)
        parts = {"block": block, "order": self.order, "causal": causal, "cross": cross}
        self.layers = nn.ModuleList(Layer(width=width, hidden=hidden, heads=heads, **parts) for _ in range(layers))
        self.norm = nn.LayerNorm(width) if block.norm == "pre" else nn.Identity()

    def forward(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        caches: list[LayerCache] | None = None,
    ) -> Tensor:
        """Return `(batch, length, width)` for `(batch, length)` ids; the rest as in `Layer`, a cache for each layer."""
        first = 0 if caches is None else caches[0].own.length
        x = self.dropout(self.order(self.embedding(ids) * self.embedding.embedding_dim**0.5, first))
        for number, layer in enumerate(self.layers):
            x = layer(x, mask, memory, memory_mask, None if caches is None else caches[number])
        return self.norm(x)

    def caches(self, *, batch: int, longest: int, memory: Tensor | None = None) -> list[LayerCache]:
        """Return a cache for each layer, with room for `longest` positions."""
        layers = (layer for layer in self.layers if isinstance(layer, Layer))
        return [layer.cache(batch=batch, longest=longest, memory=memory) for layer in layers]


def visible(ids: Tensor, pad: int) -> Tensor | None:
    """Return where attention may look, `(batch, 1, 1, length)`; None if nothing is padded."""
    padded = ids == pad
    return ~padded[:, None, None, :] if torch.compiler.is_compiling() or bool(padded.any()) else None
