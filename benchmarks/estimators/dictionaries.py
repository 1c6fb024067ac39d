"""SAE beside MiniBatchDictionaryLearning with orthogonal matching pursuit: the same components, the same k, one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from sklearn.decomposition import MiniBatchDictionaryLearning, SparseCoder

from benchmarks import sheet
from benchmarks.estimators.entries import Entry, Recorder, active, explained, median, processor_seconds, shown
from gossamer import SAE

__all__ = ["LEARNER", "Contest", "code_again", "learn_dictionary", "table", "train"]

LEARNER = "scikit-learn, pixels 0 to {top}"
TIME_BAR = 5
"""scikit-learn's training takes at least this many times ours, where the bar is reached."""
L0_SLACK = 0.05
"""Codes that are denser by more than this are not compared."""


@dataclass(frozen=True)
class Contest:
    """One data set. train, test: pixels from 0 to 1, float32. recorder: takes what is measured."""

    task: str
    train: np.ndarray
    test: np.ndarray
    recorder: Recorder

    def record(self, method: str, components: int, k: int, seed: int, **figures: float | None) -> Entry:
        """Write down a measurement."""
        return self.recorder.add(
            task=self.task,
            method=method,
            components=components,
            k=k,
            seed=seed,
            train_rows=len(self.train),
            test_rows=len(self.test),
            **figures,
        )


def learn_dictionary(contest: Contest, components: int, ks: Sequence[int], *, seed: int, top: float) -> None:
    """Fit scikit-learn's dictionary once, and code with each k. top: the brightest pixel; the mean is subtracted.

    What `alpha`, 1 by default, means depends on the range of pixels, and so do time and R².
    """
    mean = contest.train.mean(axis=0, dtype=np.float64)
    train, test = ((rows - mean) * top for rows in (contest.train, contest.test))
    learner = MiniBatchDictionaryLearning(n_components=components, transform_algorithm="omp", random_state=seed)
    seconds = processor_seconds(partial(learner.fit, train))
    for k in ks:
        learner.set_params(transform_n_nonzero_coefs=k)
        figures = _coded(learner, test, k)
        contest.record(
            LEARNER.format(top=f"{top:g}"), components, k, seed, fit_seconds=seconds, epochs=learner.n_iter_, **figures
        )


def train(contest: Contest, sparsity: str, components: int, k: int, *, seed: int, max_iter: int | None = None) -> SAE:
    """Fit an SAE with its defaults, or for so many epochs, and measure it."""
    sae = SAE(n_components=components, sparsity=sparsity, l0=k, random_state=seed)
    if max_iter is not None:
        sae.set_params(max_iter=max_iter)
    seconds = processor_seconds(lambda: sae.fit(contest.train))
    contest.record(
        f"SAE {sparsity}" + ("" if max_iter is None else f", {max_iter} epochs"),
        components,
        k,
        seed,
        r2=sae.score(contest.test),
        train_r2=sae.score(contest.train),
        l0=active(sae.transform(contest.test)),
        fit_seconds=seconds,
        encode_microseconds=_per_row(lambda: sae.transform(contest.test), len(contest.test)),
        epochs=sae.n_iter_,
        converged=int(sae.converged_),
    )
    return sae


def code_again(contest: Contest, sae: SAE, k: int, *, seed: int) -> None:
    """Code with scikit-learn's OMP over the directions of an SAE: what falls short, dictionary or encoder?"""
    directions = sae.components_.astype(np.float64)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    bias = sae.inverse_transform(np.zeros((1, len(directions))))
    coder = SparseCoder(directions, transform_algorithm="omp", transform_n_nonzero_coefs=k)
    figures = _coded(coder, contest.test - bias, k)
    fitted = next(e for e in reversed(contest.recorder.entries) if e.method == f"SAE {sae.sparsity}" and e.k == k)
    contest.record(
        f"{fitted.method}, codes by OMP", len(directions), k, seed, fit_seconds=fitted.fit_seconds, **figures
    )


def table(contest: Contest, components: int, k: int) -> str:
    """Show one setting; bold where R² and training time reach scikit-learn's bar at no larger L0."""
    found = contest.recorder.of(contest.task, components=components, k=k)
    references = {name: runs for name, runs in found.items() if name.startswith("scikit-learn")}
    beside = [f"beside {name.partition(', ')[2]}" for name in references]
    header = ["", "R²", "L0", "training, s", "coding, µs/row", "epochs", *beside]
    return "\n".join(sheet.table(header, [_line(name, runs, references) for name, runs in found.items()]))


def _line(name: str, runs: Sequence[Entry], references: Mapping[str, Sequence[Entry]]) -> list[str]:
    return [
        name,
        shown(runs, "r2"),
        shown(runs, "l0", ".1f"),
        shown(runs, "fit_seconds", ".2f"),
        f"{median(runs, 'encode_microseconds'):.1f}",
        shown(runs, "epochs", ".0f"),
        *(_beside(runs, reference) if name not in references else "" for reference in references.values()),
    ]


def _beside(runs: Sequence[Entry], reference: Sequence[Entry]) -> str:
    """Say how much higher R² is, and how many times as long scikit-learn trains."""
    gain = round(median(runs, "r2") - median(reference, "r2"), 3)
    times = median(reference, "fit_seconds") / median(runs, "fit_seconds")
    text = f"{gain:+.3f}, {times:.1f}×"
    as_sparse = median(runs, "l0") <= median(reference, "l0") + L0_SLACK
    return f"**{text}**" if gain >= 0 and times >= TIME_BAR and as_sparse else text


def _coded(coder: MiniBatchDictionaryLearning | SparseCoder, rows: np.ndarray, k: int) -> dict[str, float]:
    directions = coder.components_ if isinstance(coder, MiniBatchDictionaryLearning) else coder.dictionary
    codes = coder.transform(rows)
    return {
        "r2": explained(rows, codes @ directions),
        "l0": active(codes),
        "encode_microseconds": _per_row(lambda: coder.transform(rows), len(rows)),
    }


def _per_row(work: Callable[[], object], rows: int) -> float:
    return 1e6 * processor_seconds(work, times=3) / rows
