"""What every library of `speed` is given alike: rows, held-out rows, and for some architectures weights to start from.

Files in `.data/speed`, made once; delete them after a change here. Rows of the width of SmolLM2 are its stored
activations (see `rows`); for other widths they are seeded Gaussian rows whose spectrum decays as 1/i. One factor makes
the mean square of the entries 1.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import rows as stored
from benchmarks.environments import HERE

CACHE = HERE / ".data"
FOLDER = CACHE / "speed"
STORED_WIDTH = 576
VALIDATION = 2048
BATCHES = 8
MOST_ROWS = 65_536
THRESHOLDS = {"relu": 0.0, "jumprelu": 0.1}


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Paths, and what tells these rows from others."""

    rows: Path
    validation: Path
    weights: Path | None
    digest: str
    """First 12 hexadecimal digits of the SHA-256 of the rows' file."""


def ensure(architecture: str, *, batch: int, width: int, latents: int, k: int) -> Inputs:
    """Make the files that are missing."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    batches = min(BATCHES, max(2, MOST_ROWS // batch))
    rows = FOLDER / f"rows-{batches}x{batch}-{width}.npy"
    validation = FOLDER / f"validation-{batches}x{batch}-{width}.npy"
    if not (rows.exists() and validation.exists()):
        made = _stored(batches * batch) if width == STORED_WIDTH else _synthetic(batches * batch, width)
        made /= np.sqrt(np.mean(np.square(made, dtype=np.float64)))
        _save(validation, made[-VALIDATION:])
        _save(rows, made[:-VALIDATION])
    weights = None
    if architecture in THRESHOLDS:
        weights = FOLDER / f"weights-{architecture}-{batches}x{batch}-{width}-{latents}-{k}.npz"
        if not weights.exists():
            _save(weights, _weights(np.load(rows), latents, k, THRESHOLDS[architecture]))
    with rows.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    return Inputs(rows=rows, validation=validation, weights=weights, digest=digest)


def synthetic(count: int, width: int) -> np.ndarray:
    """Give seeded rows with a decaying spectrum, mean square 1."""
    made = _synthetic(count, width)[:count]
    return made / np.sqrt(np.mean(np.square(made, dtype=np.float64))).astype(np.float32)


def _stored(count: int) -> np.ndarray:
    folder = CACHE / f"{stored.HOOK}-{stored.ROWS}"
    stored.ensure(folder, rows=stored.ROWS, validation=stored.VALIDATION, hook=stored.HOOK)
    train, held_out = (np.load(folder / name, mmap_mode="r") for name in ("rows.npy", "validation.npy"))
    return np.concatenate([train[:count], held_out[:VALIDATION]])


def _synthetic(count: int, width: int) -> np.ndarray:
    random = np.random.default_rng([0, width])
    mixing = random.standard_normal((width, width), dtype=np.float32)
    mixing *= (np.arange(1, width + 1, dtype=np.float32) ** -0.5)[:, None]
    made = np.empty((count + VALIDATION, width), dtype=np.float32)
    for start in range(0, len(made), 8192):
        part = made[start : start + 8192]
        part[:] = random.standard_normal(part.shape, dtype=np.float32) @ mixing
    return made


def _weights(rows: np.ndarray, latents: int, k: int, threshold: float) -> dict[str, np.ndarray]:
    """Draw directions, and shift each latent's bias so that it is active on its share, k / latents, of the rows."""
    rows = rows[:8192]
    random = np.random.default_rng(0)
    directions = random.standard_normal((latents, rows.shape[1]), dtype=np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    active = max(1, round(len(rows) * k / latents))
    bias = np.empty(latents, dtype=np.float32)
    for start in range(0, latents, 1024):
        products = rows @ directions[start : start + 1024].T
        edges = np.partition(products, (-active - 1, -active), axis=0)[[-active - 1, -active]]
        bias[start : start + 1024] = threshold - edges.mean(axis=0)
    return {
        "encoder": directions,
        "decoder": directions,
        "encoder_bias": bias,
        "decoder_bias": rows.mean(axis=0),
        "threshold": np.full(latents, threshold, dtype=np.float32),
    }


def _save(path: Path, content: np.ndarray | dict[str, np.ndarray]) -> None:
    unfinished = path.with_name(f".{path.name}")
    with unfinished.open("wb") as file:
        if isinstance(content, dict):
            np.savez(file, **content)  # pyright: ignore[reportArgumentType]
        else:
            np.save(file, content)
    os.replace(unfinished, path)
