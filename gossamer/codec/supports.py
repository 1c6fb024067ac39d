"""Which latents are active in each row: their number, and then which, by how often each has fired so far.

Given that m of the latents that are left are active, latent j is one of them with probability

    w_j E_{m−1} / (w_j E_{m−1} + E_m)        E_m: the m-th elementary symmetric polynomial of the weights after j

where w is the odds of a latent; this is what independent latents become once their number is known (conditional
Bernoulli, Chen, Dempster & Liu 1994, https://doi.org/10.1093/biomet/81.3.457). R_m = E_m / E_{m−1} follows a recursion
of its own, R_m ← R_{m−1} (R_m + w) / (R_{m−1} + w), which is done in integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gossamer.codec.numbers import Decoder, Encoder, Numbers

__all__ = ["Support", "Supports"]

ODDS = 20
"""Bits after the point of a weight."""

LARGEST = 1 << 30
"""Sums of weights stay below this, so that products of two fit 64 bits."""

MOST = 1 << 16
"""After so many rows the counts are halved."""

SCALE = 1 << 24
"""Probabilities are in units of 1 / SCALE."""


@dataclass(frozen=True, eq=False)
class Support:
    """The active latents of a block: counts `(rows,)`, and row and latent of each entry, row by row.

    Within a row, latents stand in the order in which they are coded.
    """

    counts: np.ndarray
    rows: np.ndarray
    latents: np.ndarray


class Supports:
    """Code supports; the model learns after each block, on both sides alike."""

    def __init__(self, latents: int) -> None:
        self._latents = latents
        self._fired = np.zeros(latents, np.int64)
        self._rows = self._usual = 0
        self._counts = Numbers()
        self._seen: Support | None = None
        self.order = np.arange(latents)

    def write(self, coder: Encoder, counts: np.ndarray, rows: np.ndarray, latents: np.ndarray) -> Support:
        """Add the active latents of a block, in any order, each at most once in a row."""
        shift = counts - self._usual
        self._counts.write(coder, np.where(shift < 0, -2 * shift - 1, 2 * shift), np.zeros(len(counts), np.int64))
        rank = np.empty(self._latents, np.int64)
        rank[self.order] = np.arange(self._latents)
        by_latent = np.argsort(rank[latents], kind="stable")
        ends = np.cumsum(np.bincount(rank[latents], minlength=self._latents))
        left = counts.copy()
        for j, probability in enumerate(self._table(counts)):
            remaining = self._latents - j
            if not left.any():
                break
            active = rows[by_latent[ends[j - 1] if j else 0 : ends[j]]]
            open_rows = np.flatnonzero((left > 0) & (left < remaining))
            if len(open_rows):
                flags = np.zeros(len(left), np.int64)
                flags[active] = 1
                coder.flags(flags[open_rows], probability[left[open_rows]])
            left[active] -= 1
        return self._found(counts, rows[by_latent], latents[by_latent])

    def read(self, coder: Decoder, rows: int) -> Support:
        """Return the active latents of the next block."""
        shift = self._counts.read(coder, np.zeros(rows, np.int64))
        counts = np.where(shift & 1, -(shift + 1) // 2, shift // 2) + self._usual
        if len(counts) and not 0 <= int(counts.min()) <= int(counts.max()) <= self._latents:
            raise ValueError("a row with more active latents than there are, or fewer than none")
        left = counts.copy()
        found_rows, found_latents = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for j, probability in enumerate(self._table(counts)):
            remaining = self._latents - j
            if not left.any():
                break
            active = left == remaining
            open_rows = np.flatnonzero((left > 0) & (left < remaining))
            if len(open_rows):
                active[open_rows] = coder.flags(probability[left[open_rows]]) != 0
            places = np.flatnonzero(active)
            left[places] -= 1
            found_rows.append(places)
            found_latents.append(np.full(len(places), self.order[j]))
        return self._found(counts, np.concatenate(found_rows), np.concatenate(found_latents))

    def advance(self) -> None:
        """Learn from the block that ended."""
        if self._seen is None:
            return
        self._counts.advance()
        self._fired += np.bincount(self._seen.latents, minlength=self._latents)
        if not self._rows and len(self._seen.counts):  # once: what the counts are compared with must not move
            self._usual = int(2 * self._fired.sum() + len(self._seen.counts)) // (2 * len(self._seen.counts))
        self._rows += len(self._seen.counts)
        if self._rows > MOST:
            self._fired, self._rows = self._fired >> 1, self._rows >> 1
        self.order = np.argsort(-self._fired, kind="stable")
        self._seen = None

    def _found(self, counts: np.ndarray, rows: np.ndarray, latents: np.ndarray) -> Support:
        order = np.argsort(rows, kind="stable")
        self._seen = Support(counts, rows[order], latents[order])
        return self._seen

    def _weights(self) -> np.ndarray:
        """Return integer odds in the order of coding; a latent leans on the mean of all as if by one row."""
        mean = 64 * int(self._fired.sum()) // max(self._rows * self._latents, 1)
        share = 64 * self._fired[self.order] + max(mean, 1)
        weights = np.clip((share << ODDS) // np.maximum(64 * (self._rows + 1) - share, 1), 1, 1 << 26)
        while int(weights.sum()) >= LARGEST:
            weights = np.maximum(weights >> 1, 1)
        return weights

    def _table(self, counts: np.ndarray) -> np.ndarray:
        """Return `(latents, most + 1)`: the probability of each latent given how many are still to come."""
        most = int(counts.max()) if len(counts) else 0
        table = np.zeros((self._latents, most + 1), np.int32)
        if not most:
            return table[:0]
        ratio = np.zeros(most + 1, np.int64)
        weights = self._weights()
        for j in range(self._latents - 1, -1, -1):
            weight = weights[j]
            table[j] = np.clip(weight * SCALE // (ratio + weight), 1, SCALE - 1)
            after = ratio.copy()
            after[2:] = ratio[1:-1] * (ratio[2:] + weight) // (ratio[1:-1] + weight)
            after[1] = ratio[1] + weight
            ratio = after
        return table
