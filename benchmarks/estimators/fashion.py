"""Fashion-MNIST: `python -m benchmarks.estimators.fashion` measures and fills in docs/results/fashion-mnist.md."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import partial

import numpy as np
from scipy.special import gammaln
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from benchmarks import sheet
from benchmarks.estimators.dictionaries import Contest, code_again, learn_dictionary, table, train
from benchmarks.estimators.entries import (
    Entry,
    Recorder,
    active,
    explained,
    one_thread,
    processor_seconds,
    shown,
    squared_errors,
)
from benchmarks.estimators.pages import DOCS, fill
from gossamer import SAE
from gossamer.sources.datasets import dataset
from gossamer.sources.images import read_idx

SEED = 0
TRAIN, TEST = 10_000, 10_000
"""Rows that shallow models see; more would take longer than a page is worth."""
DEEP_TRAIN = 20_000
COMPONENTS, K = 256, 10
SPARSITIES = ("topk", "lista-matryoshka", "matching-pursuit", "orthogonal-matching-pursuit", "batch-topk", "jumprelu")
FEW_EPOCHS = 6
KS = (3, 10, 25, 70, 200)
UNITS = 1000
"""Of the k-sparse features, as in the paper."""
NARROW = 30
HIDDEN = (1000, 500, 250)
SHARED_L0, VALUE_BITS = 20, 8


class Pictures:
    """Pixels from 0 to 1 and labels, the first rows of the published halves."""

    def __init__(self, train: int, test: int) -> None:
        folder = dataset("fashion-mnist")
        pixels = [read_idx(folder / f"{half}-images-idx3-ubyte.gz") for half in ("train", "t10k")]
        labels = [read_idx(folder / f"{half}-labels-idx1-ubyte.gz") for half in ("train", "t10k")]
        rows = (train, test)
        self.train, self.test = (
            (x[:n].reshape(n, -1) / 255).astype(np.float32) for x, n in zip(pixels, rows, strict=True)
        )
        self.train_labels, self.test_labels = (y[:n] for y, n in zip(labels, rows, strict=True))


def main() -> None:
    """Measure everything once and write the tables."""
    recorder = Recorder.to("estimators_fashion")
    few, many = Pictures(TRAIN, TEST), Pictures(DEEP_TRAIN, TEST)
    contest = Contest("reconstruction", few.train, few.test, recorder)
    with one_thread(), warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        for sparsity in SPARSITIES:  # what is compiled at first use is compiled here
            SAE(n_components=64, sparsity=sparsity, l0=5, max_iter=1).fit(few.train[:512])
        learn_dictionary(contest, COMPONENTS, [K], seed=SEED, top=1)
        for sparsity in SPARSITIES:
            sae = train(contest, sparsity, COMPONENTS, K, seed=SEED)
            if sparsity in ("topk", "matching-pursuit"):
                code_again(contest, sae, K, seed=SEED)
        for sparsity in ("topk", "orthogonal-matching-pursuit"):
            train(contest, sparsity, COMPONENTS, K, seed=SEED, max_iter=FEW_EPOCHS)
        compare_bits(few, recorder)
        compare_k(few, recorder)
        compare_narrow(many, recorder)
    write(recorder, contest)


def write(recorder: Recorder, contest: Contest) -> None:
    """Fill in the tables of the page."""
    blocks = {
        "r2": table(contest, COMPONENTS, K),
        "k": _k_table(recorder),
        "narrow": _narrow_table(recorder),
        "bits": _bits_table(recorder),
        "machine": _machine(recorder.entries),
    }
    fill(DOCS / "fashion-mnist.md", blocks)


def compare_k(data: Pictures, recorder: Recorder) -> None:
    """Logistic regression on k-sparse features, k by k, and on pixels."""
    _classify("raw pixels", data, recorder, [data.train, data.test], units=data.train.shape[1], k=None, seconds=None)
    for k in KS:
        sae = SAE(UNITS, sparsity="k-sparse", l0=k, max_iter=10, random_state=SEED, output="csr")
        seconds = processor_seconds(lambda sae=sae: sae.fit(data.train))
        codes = [sae.transform(rows) for rows in (data.train, data.test)]
        _classify("SAE k-sparse", data, recorder, codes, units=UNITS, k=k, seconds=seconds)


def _classify(
    method: str,
    data: Pictures,
    recorder: Recorder,
    codes: Sequence[object],
    *,
    units: int,
    k: int | None,
    seconds: float | None,
) -> None:
    model = LogisticRegression(max_iter=100).fit(codes[0], data.train_labels)  # pyright: ignore[reportArgumentType]
    recorder.add(
        task="k",
        method=method,
        components=units,
        k=k,
        seed=SEED,
        train_rows=len(data.train),
        test_rows=len(data.test),
        accuracy=float(model.score(codes[1], data.test_labels)),  # pyright: ignore[reportArgumentType]
        fit_seconds=seconds,
    )


def compare_narrow(data: Pictures, recorder: Recorder) -> None:
    """Reconstruct from few units: PCA, one layer with a logistic output, and a deep autoencoder."""
    logistic = partial(
        SAE, NARROW, sparsity="none", loss="binary_cross_entropy", output_activation="logistic", random_state=SEED
    )
    for method, model in {
        "PCA": PCA(NARROW, random_state=SEED),
        "logistic PCA": logistic(max_iter=30),
        "deep autoencoder": logistic(hidden_layer_sizes=HIDDEN, max_iter=15),
    }.items():
        seconds = processor_seconds(lambda model=model: model.fit(data.train))
        back = model.inverse_transform(model.transform(data.test))
        recorder.add(
            task="narrow",
            method=method,
            components=NARROW,
            k=None,
            seed=SEED,
            train_rows=len(data.train),
            test_rows=len(data.test),
            squared_error=squared_errors(data.test, back),
            r2=explained(data.test, back),
            fit_seconds=seconds,
            epochs=getattr(model, "n_iter_", None),
        )


def compare_bits(data: Pictures, recorder: Recorder) -> None:
    """Give every row of every code the same bits: which of the components, and some bits for each value."""
    places = (gammaln(COMPONENTS + 1) - gammaln(SHARED_L0 + 1) - gammaln(COMPONENTS - SHARED_L0 + 1)) / math.log(2)
    bits = float(places) + SHARED_L0 * VALUE_BITS
    for sparsity in ("none", "l1", "l2", "kl", "topk"):
        plain = sparsity == "none"
        components = int(bits) // VALUE_BITS if plain else COMPONENTS
        l0 = None if plain else SHARED_L0
        sae = SAE(components, sparsity=sparsity, l0=l0, max_iter=20, random_state=SEED)
        seconds = processor_seconds(lambda sae=sae: sae.fit(data.train))
        train_codes, codes = (np.asarray(sae.transform(rows)) for rows in (data.train, data.test))
        spent = components * VALUE_BITS if plain else bits
        cut = quantized(train_codes, codes, keep=components if plain else SHARED_L0, bits=VALUE_BITS)
        for task, kept, size in (("as trained", codes, None), ("bits", cut, float(spent))):
            recorder.add(
                task=task,
                method=f"SAE {sparsity}",
                components=components,
                k=l0,
                seed=SEED,
                train_rows=len(data.train),
                test_rows=len(data.test),
                r2=explained(data.test, sae.inverse_transform(kept)),
                l0=active(kept),
                bits=size,
                fit_seconds=seconds,
                converged=int(sae.converged_),
            )


def quantized(train_codes: np.ndarray, codes: np.ndarray, *, keep: int, bits: int) -> np.ndarray:
    """Return what comes back of codes that are cut to equal size.

    Of each row the `keep` values are kept that are farthest from what their component is at rest, rounded to 2^bits
    levels between the least and the largest of the training codes. At rest a component is what it is most often: 0
    if it is off on half of the rows or more, else its median.
    """
    rest = np.median(train_codes, axis=0)
    low, high = train_codes.min(axis=0), train_codes.max(axis=0)
    step = np.where(high > low, high - low, 1.0) / (2**bits - 1)
    far = np.abs(codes - rest)
    last = np.partition(far, -keep, axis=1)[:, -keep, None]
    rounded = low + np.clip(np.round((codes - low) / step), 0, 2**bits - 1) * step
    return np.where((far >= last) & (far > 0), rounded, rest).astype(np.float32)


def _k_table(recorder: Recorder) -> str:
    rows = [
        [entry.method, "–" if entry.k is None else str(entry.k), shown([entry], "accuracy", ".1%"), _seconds(entry)]
        for runs in recorder.of("k").values()
        for entry in runs
    ]
    return "\n".join(sheet.table(["", "k", "accuracy", "training of the codes, s"], rows))


def _narrow_table(recorder: Recorder) -> str:
    published = {"PCA": "13.87", "logistic PCA": "8.01", "deep autoencoder": "3.00"}
    rows = [
        [name, *(shown(runs, figure, ".2f") for figure in ("squared_error", "r2")), published[name], _seconds(runs[0])]
        for name, runs in recorder.of("narrow").items()
    ]
    return "\n".join(sheet.table(["", "squared error", "R²", "published, MNIST", "training, s"], rows))


def _bits_table(recorder: Recorder) -> str:
    before = recorder.of("as trained")
    rows = [
        [
            name,
            str(runs[0].components),
            shown(before[name], "l0", ".1f"),
            shown(before[name], "r2"),
            shown(runs, "bits", ".0f"),
            shown(runs, "r2"),
            _seconds(runs[0]),
        ]
        for name, runs in recorder.of("bits").items()
    ]
    header = ["", "components", "L0 as trained", "R² as trained", "bits per row", "R² from these bits", "training, s"]
    return "\n".join(sheet.table(header, rows))


def _seconds(entry: Entry) -> str:
    return shown([entry], "fit_seconds", ".1f")


def _machine(entries: Sequence[Entry]) -> str:
    first = entries[0]
    return (
        f"Measured {first.date[:10]} on {first.cpu}, one thread, processor time; Python {first.python}, "
        f"torch {first.torch}, scikit-learn {first.sklearn}; seed {SEED}."
    )


if __name__ == "__main__":
    main()
