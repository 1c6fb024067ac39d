"""The scores that compare when latents are active with when their features fire: F1, absorption, hedging."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.codes import SparseCodes, active_rows, is_active
from gossamer.evaluate.ground_truth.pairs import FOUND, Pairs, cosines

__all__ = ["CORRELATED", "Absorption", "Firing", "Hedging", "absorption", "firing_f1", "hedging"]

CORRELATED = 0.1
"""Correlation of two features' firing from which hedging looks at them; below, that of a sample is mostly noise."""

TOGETHER = 1024
"""Rows whose firing is held as a matrix at a time."""


@dataclass(frozen=True, eq=False)
class Firing:
    """How well each latent of some pairs tells when its feature fires.

    precision, recall, f1: `(pairs,)` float64, NaN for a feature that fires on none of the rows.
    """

    precision: Tensor
    recall: Tensor
    f1: Tensor

    @property
    def scored(self) -> int:
        """Number of pairs whose feature fires at all; the means are over these."""
        return int((~self.f1.isnan()).sum())

    @property
    def mean_precision(self) -> float:
        """Mean over the scored pairs."""
        return self.precision.nanmean().item()

    @property
    def mean_recall(self) -> float:
        """Mean over the scored pairs."""
        return self.recall.nanmean().item()

    @property
    def mean_f1(self) -> float:
        """Mean over the scored pairs."""
        return self.f1.nanmean().item()


@dataclass(frozen=True, eq=False)
class Absorption:
    """In what share of a parent's firings its children's latents speak for it. parents: which; shares: `(parents,)`."""

    parents: Tensor
    shares: Tensor

    @property
    def mean(self) -> float:
        """Mean over the parents; NaN if there are none."""
        return self.shares.mean().item()


@dataclass(frozen=True, eq=False)
class Hedging:
    """How much of features that have no latent is mixed into latents. features: which latents' features; amounts:
    `(features,)`."""

    features: Tensor
    amounts: Tensor

    @property
    def mean(self) -> float:
        """Mean over the features; NaN if there are none."""
        return self.amounts.mean().item()


def firing_f1(codes: SparseCodes, truth: SparseCodes, pairs: Pairs) -> Firing:
    """Compare, for each pair, on which rows the latent is active with on which the feature fires.

        precision = both / latent active        recall = both / feature fires        F1 = 2 both / (active + fires)

    What counts as active is for the codes to say (`is_active`). A latent that is never active has precision, recall
    and F1 of 0. A feature that fires on none of the rows says nothing, and its pair is NaN and left out of the means.

    Source: SynthSAEBench (https://arxiv.org/abs/2602.14687), which takes the pairs of `best`; `matching` is stricter.
    """
    _require_same_rows(codes, truth)
    active, fires = active_rows(codes).double().cpu(), active_rows(truth).double().cpu()
    pair_of = torch.full((codes.latents,), -1)
    pair_of[pairs.latents] = torch.arange(len(pairs))
    pair = pair_of[codes.indices.cpu()]
    paired = (pair >= 0) & is_active(codes).cpu()
    rows, pair = codes.row_of_entry().cpu()[paired], pair[paired]
    hit = _fires_at(truth, rows, pairs.features[pair])
    both = torch.bincount(pair[hit], minlength=len(pairs)).double()
    active, fires = active[pairs.latents], fires[pairs.features]
    fires = fires.where(fires > 0, torch.nan)
    return Firing(both / active.clamp_min(1) + 0 * fires, both / fires, 2 * both / (active + fires))


def absorption(
    codes: SparseCodes, truth: SparseCodes, pairs: Pairs, parents: Tensor, *, threshold: float = FOUND
) -> Absorption:
    """Measure how often a parent fires without its latent, while the latent of a child that fires stands in for it.

        share(p) = rows on which p fires, latent(p) is silent, and a child c of p fires with latent(c) active
                 / rows on which p fires

    parents: `(features,)`, each feature's parent or −1. Only pairs whose |cosine| reaches the threshold count as
    latents of features: of a latent that is nothing like the parent, silence is no absorption. A parent is scored if
    it fires, has a latent, and so has one of its children.

    Source: the phenomenon is Chanin et al. 2024's (https://arxiv.org/abs/2409.14507); with known features it needs
    no probes.
    """
    _require_same_rows(codes, truth)
    parents, found = parents.cpu(), pairs.found(threshold)
    latent_of = torch.full((truth.latents,), -1)
    latent_of[found.features] = found.latents
    has_latent = latent_of >= 0
    has_child = torch.zeros(truth.latents, dtype=torch.bool)
    has_child[parents[has_latent & (parents >= 0)]] = True
    fires = active_rows(truth).cpu()
    scored = (has_latent & has_child & (fires > 0)).nonzero()[:, 0]

    rows, child = truth.row_of_entry().cpu(), truth.indices.cpu()
    parent = parents[child]
    together = is_active(truth).cpu() & has_latent[child] & (parent >= 0)
    together &= has_latent[parent.clamp_min(0)]
    rows, child, parent = rows[together], child[together], parent[together]
    absorbed = _fires_at(codes, rows, latent_of[child]) & ~_fires_at(codes, rows, latent_of[parent])
    events = (rows * truth.latents + parent)[absorbed].unique() % truth.latents
    counts = torch.bincount(events, minlength=truth.latents).double()
    return Absorption(scored, (counts / fires.double())[scored])


def hedging(
    decoder: Tensor,
    directions: Tensor,
    truth: SparseCodes,
    pairs: Pairs,
    *,
    threshold: float = FOUND,
    correlated: float = CORRELATED,
) -> Hedging:
    """Measure how much latents contain of features that have none of their own but fire along with theirs.

        amount(f) = mean over g of sign(ρ_fg) · (⟨w, g⟩ − ⟨w, f⟩ ⟨f, g⟩)

    w: unit decoder row of f's latent, its sign such that ⟨w, f⟩ > 0. f, g: unit directions; what w has of g only
    because f and g overlap is taken out. g: the features without a latent (no pair whose |cosine| reaches the
    threshold) whose firing has a correlation |ρ_fg| ≥ `correlated` with that of f; ρ is the Pearson correlation of
    the two binary patterns on these rows. 0 is a latent that knows only its feature; positive is what the squared
    error rewards: some of what comes along, and less than nothing of what is excluded. A feature that has no such g
    is left out.

    Source: the phenomenon is Chanin et al. 2025's (https://arxiv.org/abs/2505.11756), who add latents to measure it in
    models; the definition for known features is ours.
    """
    found = pairs.found(threshold)
    external = torch.ones(truth.latents, dtype=torch.bool)
    external[found.features] = False
    others = external.nonzero()[:, 0]
    if not len(found) or not len(others):
        return Hedging(others[:0], torch.zeros(0, dtype=torch.float64))
    overlap = cosines(directions[found.features], directions[others])
    contained = cosines(decoder[found.latents], directions[others])
    excess = (contained - found.cosines[:, None] * overlap) * found.cosines.sign()[:, None]
    correlation = _correlation(truth, found.features, others)
    counted = correlation.abs() >= correlated
    amounts = (excess * correlation.sign() * counted).sum(dim=1) / counted.sum(dim=1)
    kept = counted.any(dim=1)
    return Hedging(found.features[kept], amounts[kept])


def _correlation(truth: SparseCodes, some: Tensor, others: Tensor) -> Tensor:
    """Return `(some, others)` float64: Pearson correlation of the firing; 0 where one of them always or never fires."""
    both = torch.zeros(len(some), len(others), dtype=torch.float64)
    fires = torch.zeros(truth.latents, dtype=torch.float64)
    rows, active = truth.row_of_entry().cpu(), is_active(truth).cpu()
    for start in range(0, truth.rows, TOGETHER):
        entries = slice(*(int(truth.offsets[min(row, truth.rows)]) for row in (start, start + TOGETHER)))
        pattern = torch.zeros(TOGETHER, truth.latents)
        pattern[rows[entries] - start, truth.indices[entries].cpu()] = active[entries].float()
        both += (pattern[:, some].T @ pattern[:, others]).double()
        fires += pattern.sum(dim=0, dtype=torch.float64)
    share = fires / truth.rows
    deviation = (share * (1 - share)).sqrt()
    covariance = both / truth.rows - share[some, None] * share[others]
    scale = deviation[some, None] * deviation[others]
    return torch.where(scale > 0, covariance / scale, 0.0)


def _fires_at(codes: SparseCodes, rows: Tensor, indices: Tensor) -> Tensor:
    """Return, for places (row, index), whether the codes are active there."""
    active = is_active(codes).cpu()
    keys = (codes.row_of_entry().cpu() * codes.latents + codes.indices.cpu())[active]
    return torch.isin(rows * codes.latents + indices, keys)


def _require_same_rows(codes: SparseCodes, truth: SparseCodes) -> None:
    if codes.rows != truth.rows:
        raise ValueError(f"the codes are of {codes.rows} rows, the truth of {truth.rows}")
