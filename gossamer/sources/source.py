"""Source and Feed: where rows come from, and in which order they are handed out.

A source knows *units* that it can read (a row, a block of rows, a window of tokens) and which of them are held out.
A feed turns any source into an endless, shuffled, resumable stream of batches; it is the only shuffle buffer there is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gossamer.autoencoder.autoencoder import AutoencoderSpec
from gossamer.spec import Spec

__all__ = ["Batch", "Feed", "Source", "SourceSpec", "held_out"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of one or several sites, and where each row comes from.

    rows: `(batch, width)` per site; the same row index is the same place of the data at every site.
    origins: `(batch, 2)` int64: document and position in it (for plain arrays: document and row).
    """

    rows: dict[str, Tensor]
    origins: Tensor

    def __len__(self) -> int:
        return self.origins.shape[0]

    def __getitem__(self, which: slice | Tensor) -> Batch:
        return Batch({site: rows[which] for site, rows in self.rows.items()}, self.origins[which])

    @staticmethod
    def concatenate(parts: Sequence[Batch]) -> Batch:
        """Return one batch that holds the rows of all."""
        sites = parts[0].rows
        rows = {site: torch.cat([part.rows[site] for part in parts]) for site in sites}
        return Batch(rows, torch.cat([part.origins for part in parts]))


class Source(ABC):
    """Something that rows come from.

    widths: input width per site. rows, validation_rows: how many there are to train on (an epoch) and how many are
    held out, by document. buffer_rows: how many rows a feed shuffles at a time; this bounds its memory. block: rows
    that stay together and in order when a feed shuffles.
    """

    block: int = 1
    widths: dict[str, int]
    rows: int
    validation_rows: int
    buffer_rows: int

    @property
    @abstractmethod
    def units(self) -> int:
        """How many units there are to train on."""

    @property
    @abstractmethod
    def units_per_buffer(self) -> int:
        """How many units fill the shuffle buffer."""

    @abstractmethod
    def read(self, units: np.ndarray) -> Batch:
        """Return the rows of some units, in order."""

    @abstractmethod
    def validation(self, *, batch: int) -> Iterator[Batch]:
        """Iterate over the held-out rows in a fixed random order, so that the first ones are a fair sample.

        batch: about how many rows at a time.
        """

    def measured_on(self, batch: Batch) -> Batch:
        """Return the rows of every site for a batch of training rows, if those are something else."""
        return batch

    def keep(self, folder: Path) -> None:  # noqa: B027 - most sources learn nothing
        """Write into a run's folder what was learned from the data and new data will need; by default nothing."""

    @abstractmethod
    def fingerprint(self) -> dict[str, str]:
        """Return what distinguishes this source from others, for comparing runs."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Return what a person should know before a run, by topic: what is read, how many rows, what is dropped."""

    @property
    def bytes_per_row(self) -> int:
        """Bytes that one row takes in the shuffle buffer, all sites together."""
        sample = self.read(np.zeros(1, dtype=np.int64))
        return sum(rows.element_size() * rows.shape[1] for rows in sample.rows.values()) + 16

    def site(self, wanted: str) -> str:
        """Return the name of the site that an autoencoder asks for; empty means the only one."""
        if wanted in self.widths:
            return wanted
        if not wanted and len(self.widths) == 1:
            return next(iter(self.widths))
        sites = ", ".join(map(repr, self.widths))
        raise ValueError(f"the autoencoder reads site {wanted!r}, but the source has {sites}")

    def width(self, sites: Sequence[str]) -> int:
        """Return the width of several sites side by side; raises ValueError for one that does not exist."""
        return sum(self.widths[self.site(site)] for site in sites)

    def require(self, autoencoder: AutoencoderSpec) -> None:
        """Raise ValueError unless there are the sites that an autoencoder reads and gives back, in its widths."""
        task = autoencoder.task
        for sites, name in ((task.inputs, "input_width"), (task.targets, "output_width")):
            total = getattr(autoencoder, name)
            widths = getattr(task, "widths", (total // len(sites),) * len(sites))  # of one width, if none are stated
            for site, width in zip(sites, widths, strict=True):
                found = self.width((site,))
                if found != width:
                    place = f"at {site}, " if site else ""
                    part = f"{width} of its " if len(sites) > 1 else ""
                    raise ValueError(
                        f"{autoencoder.name} expects {place}{part}{name} {total}, but the rows there are {found} wide"
                    )


class SourceSpec(Spec):
    """The family of sources that a file can describe: `build(device=)` makes the Source."""

    def build(self, *, device: str = "cpu") -> Source:
        """Return the source; raises ValueError for what is missing or wrong."""
        raise NotImplementedError


class Feed:
    """Hand out a source's rows in batches, shuffled, epoch after epoch.

    Each epoch visits the units in a new random order. Units are read a buffer at a time and the rows of a buffer are
    shuffled; what is left at its end (less than a batch) comes first in the next one, so that no row is lost
    and every epoch holds each row once. The
    stream is a pure function of the seed: a saved feed needs its place and those left-over rows, and reads its
    buffer again on loading.

    Memory: `buffer_rows + batch` rows.
    """

    def __init__(self, source: Source, *, batch: int, seed: int) -> None:
        if source.rows < 1:
            raise ValueError("the source holds no rows to train on")
        if batch % source.block:
            raise ValueError(f"{source.block} rows of this source stay together, so batch = {batch} must be a multiple")
        self.source, self.batch, self.seed = source, batch, seed
        self.epoch, self.buffer, self.offset = 0, 0, 0
        self._carry: Batch | None = None
        self._rows: Batch | None = None
        self._order = torch.empty(0, dtype=torch.int64)

    def next(self) -> Batch:
        """Return the next batch."""
        rows = self._filled()
        while len(rows) - self.offset < self.batch:
            rest = rows[self._order[self.offset :]]
            self._carry = rest if len(rest) else None
            self._advance()
            self._rows = None
            del rows, rest  # nobody may hold the old buffer while the next one is read
            rows = self._filled()
        picked = self._order[self.offset : self.offset + self.batch]
        self.offset += self.batch
        return rows[picked]

    def sample(self, rows: int) -> Batch:
        """Return up to `rows` rows of the current buffer without moving on."""
        return self._filled()[self._order[: rows - rows % self.source.block]]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the place in the stream as tensors."""
        state = {"place": torch.tensor([self.epoch, self.buffer, self.offset])}
        if self._carry is not None:
            state |= {f"carry.{site}": rows for site, rows in self._carry.rows.items()}
            state["origins"] = self._carry.origins
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved place."""
        self.epoch, self.buffer, self.offset = (int(n) for n in state["place"])
        self._rows = self._carry = None
        if "origins" in state:
            prefix = "carry."
            rows = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
            self._carry = Batch(rows, state["origins"])

    def _filled(self) -> Batch:
        """Return the current buffer, read if it is not in memory."""
        if self._rows is None:
            per_buffer = self.source.units_per_buffer
            units = np.random.default_rng([self.seed, self.epoch]).permutation(self.source.units)
            units = units[self.buffer * per_buffer : (self.buffer + 1) * per_buffer]
            read = self.source.read(units)
            _require_finite(read)
            together = np.arange(len(read)).reshape(-1, self.source.block)
            order = np.random.default_rng([self.seed, self.epoch, self.buffer, 1]).permutation(together).ravel()
            carry = self._carry
            left_over = 0 if carry is None else len(carry)
            self._rows = read if carry is None else Batch.concatenate([_like(carry, read), read])
            self._order = torch.from_numpy(np.concatenate([np.arange(left_over), left_over + order]))
        return self._rows

    def _advance(self) -> None:
        self.offset = 0
        self.buffer += 1
        if self.buffer * self.source.units_per_buffer >= self.source.units:
            self.epoch, self.buffer = self.epoch + 1, 0


def held_out(documents: int, share: float) -> np.ndarray:
    """Return `(documents,)` booleans: which are held out for validation; the same ones on every run.

    At least one is held out if share > 0 and there are two, and at least one is not.
    """
    if not 0 <= share < 1:
        raise ValueError(f"validation is the share of documents held out, from 0 to below 1; got {share}")
    count = min(max(1, round(share * documents)), documents - 1) if share > 0 else 0
    mask = np.zeros(documents, dtype=bool)
    mask[np.random.default_rng(0).permutation(documents)[: max(count, 0)]] = True
    return mask


def _like(carry: Batch, read: Batch) -> Batch:
    return Batch({site: rows.to(read.rows[site]) for site, rows in carry.rows.items()}, carry.origins)


def _require_finite(batch: Batch) -> None:
    for site, rows in batch.rows.items():
        if rows.sum(dim=1, dtype=torch.float32).isfinite().all():  # a sixth of the time of asking every entry
            continue
        finite = rows.isfinite().all(dim=1)
        if not finite.all():
            bad = (~finite).nonzero()[0, 0]
            document, position = batch.origins[bad].tolist()
            raise ValueError(
                f"{int((~finite).sum())} rows{f' of {site}' if site else ''} hold NaN or infinity, the first at "
                f"document {document}, position {position}; drop or repair them"
            )
