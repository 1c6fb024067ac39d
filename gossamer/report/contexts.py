"""Where the chosen latents are active in held-out data: strongest and random places, and their histograms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.codes import is_active
from gossamer.report.data import Context, Histogram
from gossamer.report.surroundings import Place, Surroundings
from gossamer.sources.activations import Activations
from gossamer.sources.sequences import SequenceActivations
from gossamer.sources.source import Batch, Source

__all__ = ["Activity", "choose_latents", "collect"]

STRATA = 10
BINS = 20


def choose_latents(densities: np.ndarray, count: int, *, seed: int) -> tuple[np.ndarray, str]:
    """Return latents to show, and in words how they were chosen.

    The living latents are ordered by density and cut into ten groups of equal size; an equal number is drawn at
    random from each, so that rare and common ones are both seen.
    """
    living = np.flatnonzero(densities)
    rng = np.random.default_rng(seed)
    if len(living) <= count:
        return living, f"All {len(living)} latents that were active at all."
    ordered = living[np.argsort(densities[living], kind="stable")]
    strata = np.array_split(ordered, STRATA)
    sizes = [len(part) for part in np.array_split(np.arange(count), STRATA)]
    picked = [rng.choice(part, size, replace=False) for part, size in zip(strata, sizes, strict=True)]
    chosen = rng.permutation(np.concatenate(picked))
    words = (
        f"{count} latents drawn at random (seed {seed}) from the {len(living):,} that were active: ordered by "
        f"density and cut into {STRATA} groups of equal size, {sizes[0]} from each, then shuffled. Nobody picked "
        "them for being clear."
    )
    return chosen, words


@dataclass
class Activity:
    """Every activation of one latent that was seen, one entry per active row.

    values: activations; windows, offsets: where in the held-out windows (for arrays: the row, and 0); documents,
    positions: origins.
    """

    values: np.ndarray
    windows: np.ndarray
    offsets: np.ndarray
    documents: np.ndarray
    positions: np.ndarray

    def histogram(self) -> Histogram | None:
        """Return the activations in bins from 0 to the largest, or from the smallest if that is less; None if none."""
        if not len(self.values):
            return None
        counts, edges = np.histogram(
            self.values, bins=BINS, range=(min(0.0, float(self.values.min())), max(0.0, float(self.values.max())))
        )
        return Histogram(counts=counts.tolist(), edges=edges.tolist())

    def strongest(self, count: int, *, span: int = 0) -> np.ndarray:
        """Return the entries with the largest activations, at most one per window, or per `span` offsets of one."""
        order = np.argsort(-np.abs(self.values), kind="stable")
        stretches = np.stack([self.windows, self.offsets // span if span else 0 * self.offsets], axis=1)
        _, first = np.unique(stretches[order], axis=0, return_index=True)
        return order[np.sort(first)[:count]]

    def random(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return entries drawn at random from all of them."""
        return rng.permutation(len(self.values))[:count]

    def context(self, entry: int, around: Surroundings) -> Context:
        """Return what surrounds an entry."""
        here = self.windows == self.windows[entry]
        activations = np.zeros(int(self.offsets[here].max()) + 1, np.float32)
        activations[self.offsets[here]] = self.values[here]
        origin = int(self.documents[entry]), int(self.positions[entry])
        place = Place(int(self.windows[entry]), int(self.offsets[entry]), *origin)
        return around.context(place, float(self.values[entry]), activations)


@torch.no_grad()
def collect(
    sae: SparseAutoencoder, source: Source, latents: np.ndarray, *, rows: int
) -> tuple[dict[int, Activity], int]:
    """Return the activity of some latents over the first `rows` held-out rows, and how many rows there were."""
    weight = sae.decoder.bias
    slot = torch.full((sae.spec.latents,), -1, dtype=torch.int64)
    slot[torch.from_numpy(latents)] = torch.arange(len(latents))
    parts: list[np.ndarray] = []
    seen = 0
    for places, batch in _held_out(source):
        batch = batch[: rows - seen]
        x, _ = sae.spec.task.rows(batch.rows)
        codes = sae.encode(x.to(weight)).to("cpu")
        wanted = (slot[codes.indices] >= 0) & is_active(codes)
        row = codes.row_of_entry()[wanted].numpy()
        columns = (slot[codes.indices[wanted]].numpy(), codes.values[wanted].numpy(), *places[row].T)
        parts.append(np.stack([column.astype(np.float64) for column in (*columns, *batch.origins.numpy()[row].T)]))
        seen += len(batch)
        if seen == rows:
            break
    table = np.concatenate(parts, axis=1)
    return {int(latent): _activity(table[:, table[0] == number]) for number, latent in enumerate(latents)}, seen


def _held_out(source: Source) -> Iterator[tuple[np.ndarray, Batch]]:
    """Iterate over held-out rows with the window and offset of each, `(rows, 2)`."""
    if isinstance(source, Activations):
        windows = source.windows.validation
    elif isinstance(source, SequenceActivations):
        windows = source.inputs.validation
    else:
        for batch in source.validation(batch=4096):
            yield np.stack([batch.origins[:, 1].numpy(), np.zeros(len(batch), np.int64)], axis=1), batch
        return
    done = 0
    for given, batch in source.passes(windows):
        window, offset = np.nonzero(given.keep)
        yield np.stack([windows[done + window], offset], axis=1), batch
        done += len(given.keep)


def _activity(table: np.ndarray) -> Activity:
    _, values, *places = table
    return Activity(values.astype(np.float32), *(place.astype(np.int64) for place in places))
