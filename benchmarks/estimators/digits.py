"""The digits of scikit-learn: `python -m benchmarks.estimators.digits` measures and fills in docs/results/digits.md."""

from __future__ import annotations

import statistics
import warnings

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.svm import LinearSVC

from benchmarks import sheet
from benchmarks.estimators.dictionaries import Contest, code_again, learn_dictionary, table, train
from benchmarks.estimators.entries import Recorder, active, one_thread, processor_seconds, shown
from benchmarks.estimators.pages import DOCS, fill
from gossamer import SAE

SEEDS = (0, 1, 2)
SETTINGS = {(64, 5): 0.793, (256, 5): 0.882, (256, 10): 0.954}
"""Components and k, with the published test R²."""
SPARSITIES = ("topk", "lista-matryoshka", "matching-pursuit", "orthogonal-matching-pursuit", "batch-topk", "jumprelu")
WINNERS = 1024
WINNER_SHARE = 0.05
"""Share of components that are active, as in the paper."""


def main() -> None:
    """Measure everything once and write the tables."""
    recorder = Recorder.to("estimators_digits")
    pixels, labels = map(np.asarray, load_digits(return_X_y=True))
    pixels = (pixels / 16).astype(np.float32)
    train_rows, test_rows = _split(len(pixels), 0)
    contest = Contest("reconstruction", pixels[train_rows], pixels[test_rows], recorder)
    with one_thread(), warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        for sparsity in (*SPARSITIES, "winner-take-all"):  # what is compiled at first use is compiled here
            SAE(n_components=64, sparsity=sparsity, l0=5, max_iter=2).fit(contest.train)
        for seed in SEEDS:
            _reconstruct(contest, seed)
            _classify(pixels, labels, recorder, seed)
    write(recorder, contest)


def write(recorder: Recorder, contest: Contest) -> None:
    """Fill in the tables of the page."""
    blocks = {f"r2-{components}-{k}": table(contest, components, k) for components, k in SETTINGS}
    fill(DOCS / "digits.md", {**blocks, "winners": _accuracies(recorder), "machine": _machine(recorder)})


def _reconstruct(contest: Contest, seed: int) -> None:
    for top in (16, 1):
        learn_dictionary(contest, 64, [5], seed=seed, top=top)
        learn_dictionary(contest, 256, [5, 10], seed=seed, top=top)
    for components, k in SETTINGS:
        for sparsity in SPARSITIES:
            sae = train(contest, sparsity, components, k, seed=seed)
            if sparsity in ("topk", "matching-pursuit"):
                code_again(contest, sae, k, seed=seed)


def _classify(pixels: np.ndarray, labels: np.ndarray, recorder: Recorder, seed: int) -> None:
    """Train a linear classifier on pixels and on codes; the seed is that of the split as well."""
    train_rows, test_rows = _split(len(pixels), seed)
    train_x, test_x, train_y, test_y = pixels[train_rows], pixels[test_rows], labels[train_rows], labels[test_rows]
    l0 = round(WINNER_SHARE * WINNERS)
    sae = SAE(n_components=WINNERS, sparsity="winner-take-all", l0=l0, random_state=seed)
    seconds = processor_seconds(lambda: sae.fit(train_x))
    for method, fit_seconds, codes in (
        ("raw pixels", None, [train_x, test_x]),
        ("SAE winner-take-all", seconds, [np.asarray(sae.transform(rows)) for rows in (train_x, test_x)]),
    ):
        accuracy = LinearSVC(random_state=seed, max_iter=10_000).fit(codes[0], train_y).score(codes[1], test_y)
        recorder.add(
            task="classification",
            method=method,
            components=codes[0].shape[1],
            k=None if fit_seconds is None else l0,
            seed=seed,
            train_rows=len(train_y),
            test_rows=len(test_y),
            accuracy=float(accuracy),
            l0=active(codes[1]),
            fit_seconds=fit_seconds,
        )


def _split(rows: int, seed: int) -> list[np.ndarray]:
    """Return which rows to train on, and the 30 % to test on."""
    return list(map(np.asarray, train_test_split(np.arange(rows), test_size=0.3, random_state=seed)))


def _accuracies(recorder: Recorder) -> str:
    published = {"raw pixels": "96.7 %", "SAE winner-take-all": "about 99 %"}
    rows = [
        [
            name,
            str(runs[0].components),
            shown(runs, "accuracy", ".1%"),
            published[name],
            shown(runs, "fit_seconds", ".1f"),
        ]
        for name, runs in recorder.of("classification").items()
    ]
    return "\n".join(sheet.table(["", "inputs", "accuracy", "published", "training of the codes, s"], rows))


def _machine(recorder: Recorder) -> str:
    first = recorder.entries[0]
    longest = statistics.median(e.fit_seconds for e in recorder.entries if e.method == "SAE topk" and e.fit_seconds)
    return (
        f"Measured {first.date[:10]} on {first.cpu}, one thread, processor time; Python {first.python}, "
        f"torch {first.torch}, scikit-learn {first.sklearn}, seeds {', '.join(map(str, SEEDS))}: median (least – "
        f'largest). Median training of `SAE(sparsity="topk")`: {longest:.1f} s.'
    )


if __name__ == "__main__":
    main()
