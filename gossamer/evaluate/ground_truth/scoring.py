"""score: every score of one autoencoder or control against the known features of a source."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.codes import SparseCodes, active_rows, concatenate_codes, is_active, keep_entries
from gossamer.evaluate.ground_truth.controls import Coder, Trained
from gossamer.evaluate.ground_truth.pairs import Pairs, best, feature_recovery, matching, mcc
from gossamer.evaluate.ground_truth.patterns import Firing, absorption, firing_f1, hedging
from gossamer.evaluate.reconstruction import Reconstruction, ReconstructionScore
from gossamer.sources.hooks import evaluating
from gossamer.sources.synthetic import Synthetic

__all__ = ["GroundTruthScore", "score"]


@dataclass(frozen=True, eq=False, kw_only=True)
class GroundTruthScore:
    """What an autoencoder found of the features of a source, measured on `rows` held-out rows.

    mcc: mean |cosine| of the matched pairs of latents and features. f1, precision, recall: of the firing pattern, mean
    over the matched pairs whose feature fires; scored: how many those are. best_f1: the same where every latent takes
    the feature nearest to it. recovery: share of all features with a latent of |cosine| ≥ 0.9. absorption: share of
    a parent's firings for which a child's latent stands in; hedging: what latents contain of features without one (both
    NaN where there is nothing to look at). fvu, l0: as everywhere. dead: share of the latents active on none of the
    rows. pairs, firing: the matched pairs, and their scores one by one.
    """

    name: str
    mcc: float
    f1: float
    precision: float
    recall: float
    best_f1: float
    recovery: float
    absorption: float
    hedging: float
    fvu: float
    l0: float
    dead: float
    scored: int
    rows: int
    pairs: Pairs
    firing: Firing

    def summary(self) -> dict[str, float]:
        """Return the figures as plain numbers, without the name and the arrays."""
        left_out = ("name", "pairs", "firing")
        return {key: value for key, value in vars(self).items() if key not in left_out}


@torch.no_grad()
def score(
    coder: SparseAutoencoder | Coder, source: Synthetic, *, rows: int = 20_000, batch: int = 4096
) -> GroundTruthScore:
    """Score an autoencoder or a control on the held-out rows of a source whose features are known.

    rows: at most so many; their codes are held in memory. batch: rows at a time.

    Raises ValueError if the source holds no rows out, if its width does not fit, if the autoencoder has no direction
    per latent in the space of the rows, or without scipy.
    """
    if isinstance(coder, SparseAutoencoder):
        source.require(coder.spec)
        coder = Trained(coder)
    if coder.directions.shape[1] != source.spec.input_width:
        raise ValueError(
            f"{coder.name} has directions of width {coder.directions.shape[1]}, the rows are "
            f"{source.spec.input_width} wide"
        )
    if not source.validation_rows:
        raise ValueError("the source holds no rows out; make it with validation_rows above 0")
    with evaluating(coder.sae) if isinstance(coder, Trained) else nullcontext():
        seen = _encoded(coder, source, rows=rows, batch=batch)
    pairs = matching(coder.directions, source.directions)
    fired = firing_f1(seen.codes, seen.truth, pairs)
    return GroundTruthScore(
        name=coder.name,
        mcc=mcc(pairs),
        f1=fired.mean_f1,
        precision=fired.mean_precision,
        recall=fired.mean_recall,
        best_f1=firing_f1(seen.codes, seen.truth, best(coder.directions, source.directions)).mean_f1,
        recovery=feature_recovery(coder.directions, source.directions),
        absorption=absorption(seen.codes, seen.truth, pairs, source.parents).mean,
        hedging=hedging(coder.directions, source.directions, seen.truth, pairs).mean,
        fvu=seen.reconstruction.fvu,
        l0=seen.codes.l0,
        dead=(active_rows(seen.codes) == 0).double().mean().item(),
        scored=fired.scored,
        rows=seen.codes.rows,
        pairs=pairs,
        firing=fired,
    )


@dataclass(frozen=True, eq=False)
class _Seen:
    """The codes of some rows, the true codes of the same rows, and how well they were reconstructed."""

    codes: SparseCodes
    truth: SparseCodes
    reconstruction: ReconstructionScore


def _encoded(coder: Coder, source: Synthetic, *, rows: int, batch: int) -> _Seen:
    codes, truth, reconstruction, missing = [], [], Reconstruction(), min(rows, source.validation_rows)
    for held_out in source.validation(batch=batch):
        some = held_out[:missing]
        encoded = coder.codes(some)
        reconstruction.update(some.rows[""], coder.decode(encoded).cpu())
        codes.append(keep_entries(encoded, is_active(encoded)))
        truth.append(source.codes(some.origins))
        missing -= len(some)
        if not missing:
            break
    return _Seen(concatenate_codes(codes).to("cpu"), concatenate_codes(truth), reconstruction.score())
