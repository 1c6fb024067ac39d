"""Rows of several sites of SmolLM2 on the same tokens, stored, and the source that training reads them from.

`benchmarks.rows` stores one site; transcoders and crosscoders read and give back others beside it. Held-out rows are of
documents that no training row comes from.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

import gossamer as gs
from benchmarks import rows as stored
from benchmarks.environments import HERE
from gossamer.sources.model_windows import ModelWindows
from gossamer.sources.source import Batch, Source

FOLDER = HERE / ".data" / "sites"


class StoredSites(Source):
    """Rows by site, with held-out rows of their own, both in memory or mapped from files."""

    def __init__(self, train: Mapping[str, np.ndarray], held_out: Mapping[str, np.ndarray]) -> None:
        self.train, self.held_out = dict(train), dict(held_out)
        self.widths = {site: rows.shape[1] for site, rows in self.train.items()}
        self.rows = min(len(rows) for rows in self.train.values())
        self.validation_rows = min(len(rows) for rows in self.held_out.values())
        self.buffer_rows = 65_536

    @property
    def units(self) -> int:
        """Number of rows."""
        return self.rows

    @property
    def units_per_buffer(self) -> int:
        """Rows that are read at a time."""
        return self.buffer_rows

    def read(self, units: np.ndarray) -> Batch:
        """Return these rows."""
        return _batch(self.train, np.sort(units))

    def validation(self, *, batch: int) -> Iterator[Batch]:
        """Iterate over the held-out rows, in a random order that is always the same."""
        order = np.random.default_rng(0).permutation(self.validation_rows)
        return (_batch(self.held_out, order[start : start + batch]) for start in range(0, len(order), batch))

    def fingerprint(self) -> dict[str, str]:
        """Return the sites and how many rows there are."""
        return {"kind": "stored-sites", "sites": " ".join(self.widths), "rows": str(self.rows)}

    def describe(self) -> dict[str, str]:
        """Return how many rows there are."""
        return {"rows": f"{' '.join(self.widths)}: {self.rows:,} to train on, {self.validation_rows:,} held out"}


def _batch(rows: Mapping[str, np.ndarray], which: np.ndarray) -> Batch:
    origins = torch.from_numpy(np.stack([which, which], axis=1).astype(np.int64))
    return Batch({site: torch.from_numpy(np.ascontiguousarray(given[which])) for site, given in rows.items()}, origins)


def one_site(rows: int, held_out: int) -> StoredSites:
    """Give the rows that `benchmarks.rows` stores, made where they are missing; their site has no name."""
    folder = HERE / ".data" / f"{stored.HOOK}-{stored.ROWS}"
    stored.ensure(folder, rows=stored.ROWS, validation=stored.VALIDATION, hook=stored.HOOK)
    train, validation = (np.load(folder / name, mmap_mode="r") for name in ("rows.npy", "validation.npy"))
    return StoredSites({"": train[:rows]}, {"": validation[:held_out]})


def one_site_between_0_and_1(rows: int, held_out: int) -> StoredSites:
    """Give the same with each column mapped to 0 … 1 by its smallest and largest training entry, held-out rows clipped.

    For autoencoders whose output is a sigmoid.
    """
    source = one_site(rows, held_out)
    low, high = (edge(source.train[""], axis=0) for edge in (np.min, np.max))
    spread = np.maximum(high - low, np.finfo(np.float32).tiny)
    given = (source.train[""], source.held_out[""])
    return StoredSites(*({"": np.clip((part - low) / spread, 0, 1).astype(np.float32)} for part in given))


def several_sites(sites: Sequence[str], rows: int, held_out: int) -> StoredSites:
    """Give rows of several sites on the same tokens, made where they are missing."""
    folder = FOLDER / f"{rows}-{held_out}"
    parts = {"train": rows, "validation": held_out}
    if not all((folder / part / f"{site}.npy").exists() for part in parts for site in sites):
        source = model_activations(rows, held_out, sites)
        _store(folder / "train", _training(source), rows, source.widths)
        _store(folder / "validation", source.validation(batch=2048), held_out, source.widths)
    return StoredSites(
        *({site: np.load(folder / part / f"{site}.npy", mmap_mode="r") for site in sites} for part in parts)
    )


def model_activations(rows: int, held_out: int, hook: str | Sequence[str] = stored.HOOK) -> gs.Activations:
    """Give rows of some sites, computed as they are needed."""
    return _made(gs.Activations, rows, held_out, hook)


def model_windows(rows: int, held_out: int) -> gs.Activations:
    """Give windows of the same texts with the model itself, which is run on them."""
    return _made(ModelWindows, rows, held_out, stored.HOOK)


def _made(kind: type[gs.Activations], rows: int, held_out: int, hook: str | Sequence[str]) -> gs.Activations:
    base = stored.activations(rows, held_out, stored.HOOK)
    share = 1.5 * held_out / (rows + held_out)
    return kind(base.model, base.tokenizer, hook=hook, texts=base.texts, context=stored.CONTEXT, validation=share)


def _training(source: gs.Activations) -> Iterator[Batch]:
    order = np.random.default_rng(0).permutation(source.units)
    return (source.read(order[start : start + 64]) for start in range(0, len(order), 64))


def _store(folder: Path, batches: Iterable[Batch], wanted: int, widths: Mapping[str, int]) -> None:
    """Write the first rows of the batches, exactly as many as wanted, each file under its name once all are whole."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        site: np.lib.format.open_memmap(folder / f".{site}.npy", mode="w+", dtype=np.float32, shape=(wanted, width))
        for site, width in widths.items()
    }
    done = 0
    for batch in batches:
        given = batch[: wanted - done]
        for site, rows in given.rows.items():
            files[site][done : done + len(given)] = rows.float().numpy()
        done += len(given)
        if done == wanted:
            break
    if done < wanted:
        raise ValueError(f"the texts give {done} rows, {wanted} are wanted")
    for site, array in files.items():
        array.flush()
        os.replace(folder / f".{site}.npy", folder / f"{site}.npy")
