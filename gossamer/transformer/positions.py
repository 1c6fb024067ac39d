"""Positions: how a transformer, whose attention sees a set, is told the order of a sequence.

Sinusoids and learned vectors are added to the embeddings; rotary positions turn queries and keys inside attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gossamer.spec import Spec

__all__ = ["Learned", "NoPositions", "Order", "Positions", "Rotary", "RotaryOrder", "Sinusoidal"]


class Positions(Spec):
    """The family of positions. longest: entries of the table; a longer sequence is refused."""

    longest: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.longest < 1:
            raise ValueError(f"longest must be at least 1 position, got {self.longest}")

    def build(self, *, width: int, heads: int) -> Order:
        """Return the module; raises ValueError for a width that these positions cannot fill."""
        raise NotImplementedError


class Order(nn.Module):
    """Tell a sequence's order; by default nothing.

    `forward` is for embeddings `(batch, length, width)`, `turn` for queries and keys `(batch, heads, length,
    head width)`; `first` is the position of the first entry, above 0 when earlier ones are cached.
    """

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.longest = longest

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """Return embeddings that know their position."""
        self._require(first + x.shape[1])
        return x

    def turn(self, x: Tensor, first: int = 0) -> Tensor:
        """Return queries or keys that know their position."""
        return x

    def _require(self, length: int) -> None:
        if length > self.longest:
            raise ValueError(
                f"a sequence of {length} is longer than the table of {self.longest} positions; shorten it, or build "
                f"the model with positions that have longest = {length}"
            )


class Added(Order):
    """x_t + p_t, with p `(longest, width)` fixed or learned."""

    table: Tensor

    def __init__(self, table: Tensor, *, learned: bool) -> None:
        super().__init__(len(table))
        if learned:
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """Return the sum."""
        self._require(first + x.shape[1])
        return x + self.table[first : first + x.shape[1]].to(x.dtype)


class RotaryOrder(Order):
    """Turn each pair (x_i, x_{i + n/2}) of a head by the angle t · base^(−2i/n): ⟨q_s, k_t⟩ then depends on s − t."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, longest: int, head_width: int, base: float) -> None:
        super().__init__(longest)
        frequencies = base ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
        angles = torch.arange(longest, dtype=torch.float64)[:, None] * frequencies
        self.register_buffer("cosine", torch.cat([angles.cos(), angles.cos()], dim=1).float(), persistent=False)
        self.register_buffer("sine", torch.cat([-angles.sin(), angles.sin()], dim=1).float(), persistent=False)

    def turn(self, x: Tensor, first: int = 0) -> Tensor:
        """Return the turned vectors."""
        cosine, sine = (table[first : first + x.shape[2]].to(x.dtype) for table in (self.cosine, self.sine))
        return torch.addcmul(x * cosine, x.roll(x.shape[3] // 2, dims=3), sine)


@dataclass(frozen=True, kw_only=True)
class NoPositions(Positions):
    """Say nothing of the order: attention then treats its input as a set. For comparison."""

    kind: ClassVar[str] = "none"
    longest: int = 1024

    def build(self, *, width: int, heads: int) -> Order:
        """Return a module that adds nothing."""
        return Order(self.longest)


@dataclass(frozen=True, kw_only=True)
class Sinusoidal(Positions):
    """p_{t, 2i} = sin(t / 10000^(2i/width)), p_{t, 2i+1} = cos of the same.

    Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762), section 3.5.
    """

    kind: ClassVar[str] = "sinusoidal"
    longest: int = 1024

    def build(self, *, width: int, heads: int) -> Order:
        """Return the module, which has no weights."""
        if width % 2:
            raise ValueError(f"sines and cosines come in pairs: width must be even, got {width}")
        angles = torch.arange(self.longest, dtype=torch.float64)[:, None]
        angles = angles * 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
        return Added(table.float(), learned=False)


@dataclass(frozen=True, kw_only=True)
class Learned(Positions):
    """A learned vector for each position, as in BERT, GPT-2 and BART."""

    kind: ClassVar[str] = "learned"
    longest: int = 1024

    def build(self, *, width: int, heads: int) -> Order:
        """Return the module, its vectors drawn from N(0, 0.02²)."""
        return Added(0.02 * torch.randn(self.longest, width), learned=True)


@dataclass(frozen=True, kw_only=True)
class Rotary(Positions):
    """Turn queries and keys by angles that grow with the position. base: of the angles.

    Su et al. 2021 (https://arxiv.org/abs/2104.09864), with the halves of a head as pairs.
    """

    kind: ClassVar[str] = "rotary"
    longest: int = 1024
    base: float = 10_000.0

    def build(self, *, width: int, heads: int) -> Order:
        """Return the module, which has no weights."""
        if (width // heads) % 2:
            raise ValueError(f"rotary positions turn pairs: width / heads must be even, got {width} / {heads}")
        return RotaryOrder(self.longest, width // heads, self.base)
