"""Steps of a generation: what the rows of a batch have to say next, given all that they said before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gossamer.transformer.layers import visible
from gossamer.transformer.vocabulary import PAD, START, UNKNOWN

if TYPE_CHECKING:
    from gossamer.transformer.model import Transformer

__all__ = ["NEVER", "JointSteps", "Steps"]

NEVER = [PAD, START, UNKNOWN]
"""Ids that are never said."""


class Steps:
    """The caches of a batch in generation. Hypotheses of a beam share the memory of their source."""

    def __init__(self, model: Transformer, source: Tensor | None, *, batch: int, longest: int) -> None:
        self.decoder, self.output = model.decoding()
        memory = None if source is None else model.encode(source)
        self.mask = None if source is None else visible(source, PAD)
        self.caches = self.decoder.caches(batch=batch, longest=longest, memory=memory)

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits `(rows, target ids)` after some more ids, `(rows, length)`."""
        x = self.decoder(ids, memory_mask=self.mask, caches=self.caches)
        return self.output(x[:, -1]).float()

    def likeliest(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the likeliest id to follow, `(rows,)`, and its log p in float64."""
        gains = self.logits(ids).log_softmax(dim=1)
        gains[:, NEVER] = -torch.inf
        best, chosen = gains.max(dim=1)
        return chosen, best.double()

    def rows(self, which: Tensor, sources: Tensor | None) -> None:
        """Keep these rows, in this order, and these sources; None: the sources stay as they are."""
        for cache in self.caches:
            cache.rows(which, sources)
        if self.mask is not None and sources is not None:
            self.mask = self.mask[sources]


class JointSteps(Steps):
    """Several models that say the same: p(y_t | y_<t, x) is the mean of their probabilities."""

    def __init__(self, members: Sequence[Steps]) -> None:
        self.members = members

    def logits(self, ids: Tensor) -> Tensor:
        """Return log p of each id after some more ids, `(rows, target ids)`."""
        each = torch.stack([member.logits(ids).log_softmax(dim=1) for member in self.members])
        return each.logsumexp(dim=0) - math.log(len(each))

    def rows(self, which: Tensor, sources: Tensor | None) -> None:
        """Keep these rows, in this order, and these sources; None: the sources stay as they are."""
        for member in self.members:
            member.rows(which, sources)
