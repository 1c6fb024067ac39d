"""Attention: every position asks all others, and takes a weighted mean of what they answer.

    Attention(Q, K, V) = softmax(Q Kᵀ / √head width + mask) V

Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762), section 3.2. Here live self-attention, cross-attention, and the
cache of keys and values that makes generation cost one position a step.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from gossamer.transformer.positions import Order

__all__ = ["Attention", "CrossAttention", "KeyValues", "SelfAttention"]


class KeyValues:
    """Keys and values of the positions seen so far, each `(batch, heads, longest, head width)`.

    The room for `longest` positions is taken once; a step writes one position and copies nothing.
    """

    def __init__(self, keys: Tensor, values: Tensor, length: int) -> None:
        self._keys, self._values, self.length = keys, values, length

    @classmethod
    def empty(cls, attention: Attention, *, batch: int, longest: int) -> KeyValues:
        """Return a cache without positions, with room for `longest`."""
        weight = attention.output.weight
        shape = (batch, attention.heads, longest, attention.head_width)
        return cls(weight.new_empty(shape), weight.new_empty(shape), 0)

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add positions, and return keys and values of all that there are."""
        end = self.length + keys.shape[2]
        self._keys[:, :, self.length : end] = keys
        self._values[:, :, self.length : end] = values
        self.length = end
        return self.seen()

    def seen(self) -> tuple[Tensor, Tensor]:
        """Return keys and values of the positions seen so far, `(batch, heads, length, head width)`."""
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]

    def room(self) -> tuple[Tensor, Tensor]:
        """Return keys and values of all positions that there is room for; what lies beyond `length` means nothing."""
        return self._keys, self._values

    def rows(self, which: Tensor) -> None:
        """Keep these rows of the batch, in this order, at most as many as there are; one may be taken several times."""
        for room in (self._keys, self._values):
            room[: len(which), :, : self.length] = room[which, :, : self.length]
        self._keys, self._values = self._keys[: len(which)], self._values[: len(which)]


class Attention(nn.Module):
    """What self- and cross-attention share: heads, and the map back to the width of the sequence."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width must be a multiple of heads, got width {width} and {heads} heads")
        self.heads, self.head_width = heads, width // heads
        self.output = nn.Linear(width, width)

    def _split(self, x: Tensor) -> Tensor:
        """`(batch, length, width)` → `(batch, heads, length, head width)`, heads of all parts side by side."""
        return x.view(*x.shape[:2], -1, self.head_width).transpose(1, 2)

    def _weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """Return softmax(Q Kᵀ / √head width), which the fused kernel below does not give out."""
        scores = queries @ keys.transpose(-2, -1) / self.head_width**0.5
        return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(dim=-1)

    def _mixed(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor:
        """Return the heads' answers, side by side and mapped back."""
        # The backward pass of torch's bfloat16 kernel takes ten times as long as float32's on short sequences.
        precise = queries.device.type == "cpu" and torch.is_grad_enabled() and queries.dtype.itemsize < 4
        with torch.autocast("cpu", enabled=False) if precise else nullcontext():
            if precise:
                queries, keys, values = queries.float(), keys.float(), values.float()
            mixed = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=causal)
        return self.output(mixed.transpose(1, 2).flatten(2).to(self.output.weight.dtype))


class SelfAttention(Attention):
    """Attention of a sequence to itself. causal: a position sees only itself and earlier ones.

    Queries, keys and values are one product: rows of `projection.weight` 0…width−1 are the queries', and so on.
    """

    def __init__(self, *, width: int, heads: int, order: Order | None = None, causal: bool = False) -> None:
        super().__init__(width=width, heads=heads)
        self.projection = nn.Linear(width, 3 * width)
        self.order, self.causal = order, causal

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: KeyValues | None = None) -> Tensor:
        """Return `(batch, length, width)`.

        mask: True where a position may be seen, broadcast to `(batch, heads, length, positions)`; causal attention
        needs none for what is padded on the right, as that lies in the future of all that counts.
        cache: of the earlier positions; those of x are added to it.
        """
        earlier = 0 if cache is None else cache.length
        queries, keys, values = self._projected(x, earlier)
        if cache is not None:
            keys, values = cache.append(keys, values)
        # The kernel takes a triangle or a mask, and its triangle would start at the first key.
        if self.causal and x.shape[1] > 1 and (earlier or mask is not None):
            mask = _triangle(x, keys, mask)
        return self._mixed(queries, keys, values, mask, causal=self.causal and mask is None and x.shape[1] > 1)

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what each position attends to, `(batch, heads, length, length)`; rows sum to 1."""
        queries, keys, _ = self._projected(x, 0)
        return self._weights(queries, keys, _triangle(x, keys, mask) if self.causal else mask)

    def _projected(self, x: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, `(batch, heads, length, head width)`, positions applied."""
        both, values = self._split(self.projection(x)).split([2 * self.heads, self.heads], dim=1)
        queries, keys = (both if self.order is None else self.order.turn(both, first)).chunk(2, dim=1)
        return queries, keys, values


class CrossAttention(Attention):
    """Attention of one sequence (queries) to another, the memory (keys and values)."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__(width=width, heads=heads)
        self.queries = nn.Linear(width, width)
        self.keys_values = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, memory: Tensor | KeyValues, mask: Tensor | None = None) -> Tensor:
        """Return `(batch, length, width)`.

        memory: `(sources, source length, width)`, or its keys and values. Where the batch has more rows than there are
        sources, as many rows in turn, the hypotheses of a beam, share each of them.
        """
        keys, values = memory.seen() if isinstance(memory, KeyValues) else self._remembered(memory)
        together = x.reshape(len(keys), -1, x.shape[2])  # for this attention, positions have no order
        return self._mixed(self._split(self.queries(together)), keys, values, mask, causal=False).view_as(x)

    def weights(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what each position attends to, `(batch, heads, length, source length)`; rows sum to 1."""
        return self._weights(self._split(self.queries(x)), self._remembered(memory)[0], mask)

    def remember(self, memory: Tensor) -> KeyValues:
        """Return keys and values of a memory: they are the same for all steps of a generation."""
        keys, values = (part.contiguous() for part in self._remembered(memory))
        return KeyValues(keys, values, memory.shape[1])

    def _remembered(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = (self._split(part) for part in self.keys_values(memory).chunk(2, dim=-1))
        return keys, values


def _triangle(x: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    """True where a position of x, the last ones of the keys, may look: at itself and earlier ones, if masked in."""
    length, seen = x.shape[1], keys.shape[2]
    triangle = torch.ones(length, seen, dtype=torch.bool, device=x.device).tril(seen - length)
    return triangle if mask is None else mask & triangle
