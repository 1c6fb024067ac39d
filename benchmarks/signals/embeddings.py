"""Sentence embeddings: how many of the true neighbors are found from few bytes per text.

`python -m benchmarks.signals.embeddings` needs the `hf` extra and the packaged assets, and takes some minutes.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy.sparse import csr_array
from sklearn.decomposition import PCA

from benchmarks.signals import page
from gossamer import SAE
from gossamer.sources.assets import locate
from gossamer.sources.embeddings import Embedding, embed
from gossamer.sources.models import load_model

STORED, QUERIES = 3000, 400
TOKENS, NEIGHBORS, LATENTS = 32, 10, 1024
BYTES = (24, 48, 96, 192)
ENTRY_BYTES = 3
"""Of a CSR entry: two for the latent, one for the value."""


def main() -> None:
    rows = embedded()
    stored, queries = rows[:STORED], rows[STORED:]
    truth = nearest(queries @ stored.T)
    measured: dict[str, dict[int, float]] = {
        "first dimensions, 1 byte each": {},
        "PCA, 1 byte each": {},
        "PCA, half a byte each": {},
        "SAE, topk, CSR": {},
        "SAE, matching-pursuit, CSR": {},
    }
    pca = PCA(random_state=0).fit(stored)
    coordinates = np.asarray(pca.transform(stored))
    for size in BYTES:
        measured["first dimensions, 1 byte each"][size] = recall(
            truth, nearest(queries[:, :size] @ unit(quantized(stored[:, :size])).T)
        )
        for name, width, levels in (("PCA, 1 byte each", size, 127), ("PCA, half a byte each", 2 * size, 7)):
            kept = quantized(coordinates[:, :width], levels=levels)
            restored = pca.mean_ + kept @ np.asarray(pca.components_)[:width]
            measured[name][size] = recall(truth, nearest(queries @ unit(restored).T))
        for sparsity in ("topk", "matching-pursuit"):
            measured[f"SAE, {sparsity}, CSR"][size] = recall(truth, from_codes(sparsity, stored, queries, size))
    lines = [
        {"method": name, "bytes": size, "recall": value}
        for name, found in measured.items()
        for size, value in found.items()
    ]
    page.publish("embeddings", title="Sentence embeddings", measurements=lines, parts=report(measured))


def embedded() -> np.ndarray:
    """Return embeddings `(texts, 384)` of the beginnings of newsgroup documents, length 1."""
    path = locate("orangecontrib.text", "datasets/20newsgroups-train.tab")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines()[3:] if line.strip()]
    places = np.random.default_rng(0).choice(len(lines), STORED + QUERIES, replace=False)
    texts = [lines[place].split("\t", 1)[1][:600] for place in places]
    return embed(load_model("minilm", dtype="float32"), texts, Embedding(max_tokens=TOKENS)).rows


def from_codes(sparsity: str, stored: np.ndarray, queries: np.ndarray, size: int) -> np.ndarray:
    """Return neighbors by the reconstructions of stored codes; the query is not compressed.

    What is compared is q · x̂ = q · b + Σ_j z_j (q · d_j), so that a product with the CSR matrix is all it takes.
    """
    k = size // ENTRY_BYTES
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sae = SAE(LATENTS, sparsity=sparsity, l0=k, max_iter=15, tol=0, random_state=0, output="csr").fit(stored)
    codes = csr_array(sae.transform(stored))
    assert codes.nnz <= k * len(stored)
    codes.data = quantized(codes.data[:, None])[:, 0]
    bias = sae.inverse_transform(np.zeros((1, LATENTS), np.float32))[0]
    products = (codes @ (sae.components_ @ queries.T)).T + (queries @ bias)[:, None]
    lengths = np.linalg.norm(codes @ sae.components_ + bias, axis=1)
    return nearest(products / lengths)


def quantized(values: np.ndarray, *, levels: int = 127) -> np.ndarray:
    """Return columns rounded to 2 · levels + 1 values; a column has a scale of its own, four standard deviations."""
    scale = np.minimum(4 * np.sqrt(np.square(values).mean(axis=0)), np.abs(values).max(axis=0)) / levels
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    return np.clip(np.rint(values / scale), -levels, levels) * scale


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of length 1."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def nearest(similarities: np.ndarray) -> np.ndarray:
    """Return the nearest stored texts of each query, `(queries, NEIGHBORS)`."""
    return np.argpartition(-similarities, NEIGHBORS, axis=1)[:, :NEIGHBORS]


def recall(truth: np.ndarray, found: np.ndarray) -> float:
    """Return the share of true neighbors that were found."""
    return float(np.mean([len(set(a) & set(b)) for a, b in zip(truth, found, strict=True)]) / NEIGHBORS)


def report(measured: dict[str, dict[int, float]]) -> list[str]:
    """Return the paragraphs and tables of the page."""
    table = [[name, *(f"{found[size]:.3f}" for size in BYTES)] for name, found in measured.items()]
    saes = [name for name in measured if name.startswith("SAE")]
    others = [name for name in measured if name not in saes]
    gaps = [
        f"{max(measured[name][size] for name in saes) - max(measured[name][size] for name in others):+.3f} at {size}"
        for size in BYTES
    ]
    return [
        f"all-MiniLM-L6-v2 on the first {TOKENS} tokens of {STORED + QUERIES:,} newsgroup documents, drawn at random: "
        f"{STORED:,} are stored, {QUERIES} ask. The truth is the {NEIGHBORS} nearest in the full embedding (384 "
        "numbers of 4 bytes, 1,536 bytes); PCA and autoencoders are fitted to the stored ones. Queries are not "
        "compressed; what is compared with them is the reconstruction.",
        f"Recall of the {NEIGHBORS} nearest at bytes per stored text.",
        "\n".join(page.table(["method", *(f"{size} bytes" for size in BYTES)], table)),
        f"A CSR entry takes {ENTRY_BYTES} bytes (the latent of {LATENTS:,}, and the value), a dense number one or half "
        f"of one; row offsets are not counted. The better autoencoder less the best other: {', '.join(gaps)}.",
    ]


if __name__ == "__main__":
    main()
