"""The path: held-out figures of autoencoders of rising strength, cross-validated in one training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder
from gossamer.codes import SparseCodes, concatenate_codes, is_active
from gossamer.selection.folds import FoldedRows, HoldOut
from gossamer.sources.arrays import is_sparse
from gossamer.training.loop import train
from gossamer.training.spec import TrainSpec

__all__ = ["Path", "cross_validate", "description_length", "matched", "started"]

WARM = 0.25
"""Share of the training that the models of a fold have in common."""
CHUNK, ENTRIES = 4096, 2**21
"""Most rows and, where rows are wide, most entries that are dense at a time."""
EPS = 4 * float(np.finfo(np.float32).eps)
SURE = 32


@dataclass(frozen=True, eq=False)
class Path:
    """What cross-validation found; arrays are `(values, folds)`.

    parameter: what was varied, "l0" or "alpha"; values: `(values,)`, from dense to sparse. error: share of the variance
    of held-out rows that is not reconstructed. l0: active components per held-out row. dead: share of the components
    that no held-out row has. bits: description length per row (`description_length`). probe: accuracy on held-out rows
    of a linear classifier of their codes, if labels were given. stability: mean cosine of the directions of two folds,
    matched one to one, `(values, pairs)`; None for decoders with hidden layers, which have no directions.
    """

    parameter: str
    values: np.ndarray
    error: np.ndarray
    l0: np.ndarray
    dead: np.ndarray
    bits: np.ndarray
    stability: np.ndarray | None
    probe: np.ndarray | None = None


def cross_validate(
    make: Callable[[float], AutoencoderSpec],
    values: Sequence[float],
    x: Any,
    folds: np.ndarray,
    spec: TrainSpec,
    *,
    parameter: str,
    labels: np.ndarray | None = None,
    precision: float = 0.1,
    quiet: bool = True,
) -> Path:
    """Train an autoencoder for each value and fold, all of them on shared batches, and measure them.

    make: gives the spec for a value. values: from dense to sparse. x: `(rows, input_width)`, an array or a scipy.sparse
    matrix. folds: `(rows,)`, the fold of each row, 0, 1, …. labels: `(rows,)` classes for the probe. precision: for
    `description_length`. The models of a fold have the first quarter of the training in common: one of middle
    strength, whose weights all start from.
    """
    source, count = FoldedRows(x, folds), int(folds.max()) + 1
    sizes = np.bincount(folds)
    if count < 2 or sizes.min() < 2:
        raise ValueError(
            f"cross-validation needs two folds or more, of two rows or more each; got {sizes.tolist()} rows"
        )
    spec = spec.replace(batch=_batch(spec.batch, sizes))
    specs = [make(value) for value in values]
    common = [_for_fold(specs[len(specs) // 2], fold).build(seed=spec.seed + fold) for fold in range(count)]
    warm = max(spec.batch, round(WARM * spec.rows))
    train(common, source, spec.replace(rows=warm, decay_steps=0), watch=_go_on, quiet=quiet)
    models = [[started(_for_fold(one, fold), common[fold]) for fold in range(count)] for one in specs]
    rest = spec.replace(rows=max(spec.batch, spec.rows - warm), seed=spec.seed + 1)
    train([model for row in models for model in row], source, rest, watch=_go_on, quiet=quiet)
    found = [[_measured(model, x, folds, labels, precision) for model in row] for row in models]
    figures = {name: np.array([[one[name] for one in row] for row in found]) for name in found[0][0]}
    pairs = [(i, j) for i in range(count) for j in range(i)]
    stability = None
    if specs[0].decoder.linear:
        stability = np.array([[matched(row[i], row[j]) for i, j in pairs] for row in models])
    return Path(parameter, np.array(values, dtype=float), stability=stability, **figures)


@torch.no_grad()
def matched(one: SparseAutoencoder, other: SparseAutoencoder) -> float:
    """Return the mean cosine of the directions of two autoencoders, matched one to one by the best assignment."""
    from scipy.optimize import linear_sum_assignment

    directions = [torch.nn.functional.normalize(sae.decoder.directions(), dim=1) for sae in (one, other)]
    cosines = (directions[0] @ directions[1].T).cpu().numpy()
    return float(cosines[linear_sum_assignment(-cosines)].mean())


def description_length(codes: SparseCodes, residual: np.ndarray, variance: float, precision: float) -> float:
    """Return the bits that a row takes when code and residual are written down.

        Σ_i H(p_i) + L0 · ½ log₂(2πe σ_z² / δ²) + Σ_j ½ log₂(2πe σ_j² / δ²)

    p_i: share of rows on which latent i is active, H the entropy of a coin; σ_z²: variance of the active values; σ_j²:
    of the residual's column j; no term is below 0. δ: `precision` times the root mean square of the centered rows.
    After Ayonrinde et al. 2024 (https://arxiv.org/abs/2410.11179), who do not count the residual.

    residual: `(width,)`, σ_j². variance: mean square of the entries of the centered rows.
    """
    step = precision * variance**0.5 or 1.0
    active = is_active(codes)
    share = torch.bincount(codes.indices[active], minlength=codes.latents).double().numpy() / codes.rows
    share = share[(share > 0) & (share < 1)]
    which = float(-(share * np.log2(share) + (1 - share) * np.log2(1 - share)).sum())
    values = codes.values[active].double().numpy()
    value_bits = _gaussian_bits(values.var() if len(values) else 0.0, step)
    rest = sum(_gaussian_bits(float(square), step) for square in residual)
    return which + len(values) / codes.rows * value_bits + rest


def _gaussian_bits(variance: float, step: float) -> float:
    return max(0.0, 0.5 * float(np.log2(2 * np.pi * np.e * max(variance, 1e-300) / step**2)))


def _for_fold(spec: AutoencoderSpec, fold: int) -> AutoencoderSpec:
    return spec.replace(task=HoldOut(fold=fold))


def _go_on(step: int, figures: object) -> bool:
    """Never end a training; models that are watched don't say that they missed an L0, which the path shows."""
    return False


def _batch(batch: int, sizes: np.ndarray) -> int:
    """Return a batch so large that no model is ever left without rows (by chance, e^−`SURE`)."""
    share = 1 - sizes.max() / sizes.sum()
    return int(min(sizes.sum(), max(batch, np.ceil(SURE / share))))


def started(spec: AutoencoderSpec, start: SparseAutoencoder) -> SparseAutoencoder:
    """Return an autoencoder that has the weights of another one, wherever it has the same."""
    sae = SparseAutoencoder(spec)
    sae.reset(seed=0)
    mine, theirs = sae.state_dict(), start.state_dict()
    shared = {name: tensor for name, tensor in theirs.items() if name in mine and mine[name].shape == tensor.shape}
    sae.load_state_dict({**mine, **shared})
    return sae


@torch.no_grad()
def _measured(
    sae: SparseAutoencoder, x: Any, folds: np.ndarray, labels: np.ndarray | None, precision: float
) -> dict[str, float]:
    """Return the figures of one model on the rows that it has not seen."""
    task = sae.spec.task
    assert isinstance(task, HoldOut)
    held_out = np.flatnonzero(folds == task.fold)
    parts, shift = [], None
    squares, sums, lost = np.zeros((3, sae.spec.input_width))
    rounding = 0.0
    for rows in _chunks(x, held_out):
        codes = sae.encode(torch.from_numpy(rows).to(sae.device))
        back = sae.decode(codes, torch.from_numpy(rows).to(sae.device)).cpu().numpy()
        parts.append(codes.to("cpu"))
        shift = rows.mean(axis=0, dtype=np.float64) if shift is None else shift
        sums += (rows - shift).sum(axis=0)
        squares += np.square(rows - shift).sum(axis=0)
        lost += np.square(rows - back, dtype=np.float64).sum(axis=0)
        rounding += float(np.square(EPS * rows, dtype=np.float64).sum())
    codes, count = concatenate_codes(parts), len(held_out)
    variance = float((squares - np.square(sums) / count).sum())
    active = is_active(codes)
    figures = {
        "error": lost.sum() / variance if variance > rounding else float(lost.sum() > rounding),
        "l0": active.count_nonzero().item() / count,
        "dead": 1 - len(codes.indices[active].unique()) / codes.latents,
        "bits": description_length(codes, lost / count, max(variance, 0.0) / (count * len(lost)), precision),
    }
    if labels is not None:
        figures["probe"] = _probed(sae, x, folds, labels, codes)
    return figures


def _probed(sae: SparseAutoencoder, x: Any, folds: np.ndarray, labels: np.ndarray, held_out: SparseCodes) -> float:
    """Return the accuracy on held-out codes of a logistic regression on the codes of the other rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler

    seen = folds != sae.spec.task.fold  # pyright: ignore[reportAttributeAccessIssue]
    parts = [sae.encode(torch.from_numpy(rows).to(sae.device)).to("cpu") for rows in _chunks(x, np.flatnonzero(seen))]
    train_codes = concatenate_codes(parts).to_scipy()
    probe = make_pipeline(MaxAbsScaler(), LogisticRegression(max_iter=200)).fit(train_codes, labels[seen])
    return float(probe.score(held_out.to_scipy(), labels[~seen]))


def _chunks(x: Any, which: np.ndarray) -> Iterator[np.ndarray]:
    """Iterate over some rows, a few dense ones at a time."""
    size = max(1, min(CHUNK, ENTRIES // x.shape[1]))
    for start in range(0, len(which), size):
        rows = x[which[start : start + size]]
        yield (rows.toarray() if is_sparse(rows) else np.asarray(rows)).astype(np.float32)
