"""Activations of encoder–decoders: rows at the positions of one side, the encoder's or the decoder's.

An encoder–decoder reads one sequence and writes another, and the two have different lengths: a module has one row per
position of its own side. `SequenceActivations` is the source; what goes into the model (sound, pairs of texts) is a
`Sequences`, one class per kind of input. Language models, which have one side, are the business of `activations`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gossamer.sources.activations import model_fingerprint
from gossamer.sources.hooks import capture, evaluating, resolve
from gossamer.sources.source import Batch, Source

__all__ = ["SequenceActivations", "SequenceBatch", "Sequences", "Side", "side_of"]

Side = Literal["encoder", "decoder"]


@dataclass(frozen=True, eq=False)
class SequenceBatch:
    """Some sequences, ready for a forward pass.

    arguments: what the model is called with. keep: `(sequences, length)` booleans, the positions of the side that give
    rows. documents, positions: of the same shape, the origin of each.
    """

    arguments: Mapping[str, Tensor]
    keep: np.ndarray
    documents: np.ndarray
    positions: np.ndarray


class Sequences(ABC):
    """What an encoder–decoder reads and writes.

    model: the encoder–decoder. train, validation: indices of the sequences of either part; no document is in both, and
    validation is shuffled. at_once: sequences per forward pass. noun: what a sequence is called.
    """

    noun: ClassVar[str]
    model: nn.Module
    train: np.ndarray
    validation: np.ndarray
    at_once: int

    @abstractmethod
    def batch(self, which: np.ndarray, side: Side) -> SequenceBatch:
        """Return some sequences; the decoder's part is only there if its side is asked for."""

    @abstractmethod
    def count(self, which: np.ndarray, side: Side) -> int:
        """Return how many rows some sequences have on a side."""

    @abstractmethod
    def tokens(self, sequence: int, side: Side) -> tuple[str, ...] | None:
        """Return what stands at each position of a side, to be read; None if that is nothing written."""

    @abstractmethod
    def place(self, document: int, position: int, side: Side) -> str:
        """Return in words where a row comes from."""

    @abstractmethod
    def fingerprint(self) -> dict[str, str]:
        """Return what distinguishes these sequences from others."""

    @abstractmethod
    def describe(self, side: Side) -> dict[str, str]:
        """Return what a person should know, by topic: what is read, and what gives no rows."""


class SequenceActivations(Source):
    """The output of modules of an encoder–decoder, one row per position of the side that they are on.

    inputs: what the model reads. hook: a module path such as `"model.encoder.layers.2"`, a pattern, or several of them,
    all on one side: a row of every site is the same place. Cross-attention (`"….encoder_attn"`) is the decoder's.
    buffer_rows: rows shuffled at a time.

    Raises ValueError for an unknown hook point (naming the nearest), sites of both sides, a site that has no row per
    position of its side, or inputs that leave no row.
    """

    def __init__(self, inputs: Sequences, *, hook: str | Sequence[str], buffer_rows: int = 65_536) -> None:
        self.inputs, self.model = inputs, inputs.model
        self.sites = resolve(self.model, hook)
        self.side: Side = side_of(self.sites)
        self.buffer_rows = buffer_rows
        self.rows = inputs.count(inputs.train, self.side)
        self.validation_rows = inputs.count(inputs.validation, self.side)
        if not self.rows:
            raise ValueError(f"no row is left to train on: no {inputs.noun} has anything on the {self.side}'s side")
        probe = inputs.batch(inputs.train[:1], self.side)
        outputs = self._outputs(probe)
        for site, output in outputs.items():
            if output.shape[:-1] != probe.keep.shape:
                raise ValueError(
                    f"{site} gives {tuple(output.shape[:-1])} rows where the {self.side} has {probe.keep.shape} "
                    "positions; hook the module around it"
                )
        self.widths = {site: output.shape[-1] for site, output in outputs.items()}
        self._rows_per_unit = self.rows / len(inputs.train)

    @property
    def units(self) -> int:
        """Number of sequences to train on."""
        return len(self.inputs.train)

    @property
    def units_per_buffer(self) -> int:
        """Sequences that fill the shuffle buffer, on average."""
        return max(1, round(self.buffer_rows / self._rows_per_unit))

    def read(self, units: np.ndarray) -> Batch:
        """Run the model on these sequences of the training part and return the rows that are kept."""
        return Batch.concatenate([rows for _, rows in self.passes(self.inputs.train[units])])

    def validation(self, *, batch: int) -> Iterator[Batch]:
        """Iterate over the held-out rows; the sequences are in a fixed random order."""
        held, parts, size = self.inputs.validation, [], 0
        for _, rows in self.passes(held):
            parts.append(rows)
            size += len(rows)
            if size >= batch:
                yield Batch.concatenate(parts)
                parts, size = [], 0
        if parts:
            yield Batch.concatenate(parts)

    def passes(self, which: np.ndarray) -> Iterator[tuple[SequenceBatch, Batch]]:
        """Iterate over forward passes: some sequences and the rows kept of them."""
        for start in range(0, len(which), self.inputs.at_once):
            given = self.inputs.batch(which[start : start + self.inputs.at_once], self.side)
            keep = torch.from_numpy(given.keep)
            rows = {site: out[keep.to(out.device)] for site, out in self._outputs(given).items()}
            origins = np.stack([given.documents[given.keep], given.positions[given.keep]], axis=1)
            yield given, Batch(rows, torch.from_numpy(origins.astype(np.int64)))

    @torch.no_grad()
    def _outputs(self, given: SequenceBatch) -> dict[str, Tensor]:
        with evaluating(self.model):
            return capture(self.model, self.sites, lambda: self.model(**given.arguments))

    def fingerprint(self) -> dict[str, str]:
        """Return the model, the sites and what it reads."""
        sites = {"kind": "sequences", "sites": ", ".join(self.sites)}
        return {**model_fingerprint(self.model), **sites, **self.inputs.fingerprint()}

    def describe(self) -> dict[str, str]:
        """Return the model and its sites, what it reads, the number of rows, and what is dropped."""
        parameter = next(self.model.parameters())
        dtype = str(parameter.dtype).removeprefix("torch.")
        name = type(self.model).__name__
        return {
            "model": f"{name} on {parameter.device}, {dtype}, read at {', '.join(self.sites)} ({self.side})",
            "rows": f"{self.rows:,} an epoch, {self.validation_rows:,} held out for validation, by document",
            **self.inputs.describe(self.side),
        }


def side_of(sites: Sequence[str]) -> Side:
    """Return the side that sites are on, from their module paths.

    Raises ValueError for sites of both sides or of neither.
    """
    sides: dict[str, Any] = {site: _side(site) for site in sites}
    found = set(sides.values())
    if found == {"encoder"} or found == {"decoder"}:
        return found.pop()
    if None in found:
        lost = ", ".join(site for site, side in sides.items() if side is None)
        raise ValueError(f"{lost} belongs to no side: name a module inside the encoder or the decoder")
    listed = "; ".join(f"{side}: {', '.join(s for s in sites if sides[s] == side)}" for side in sorted(found))
    raise ValueError(
        f"the sites are on both sides ({listed}), whose positions are not the same places; make one source for each"
    )


def _side(site: str) -> str | None:
    return next((part for part in site.split(".") if part in ("encoder", "decoder")), None)
