"""Pairs of texts as what our own transformer reads and writes, for autoencoders inside it.

The pairs themselves are `pairs`; the source of rows is `sequences`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from gossamer.sources.pairs import SOURCE, TARGET, Pairs, SequencesSpec
from gossamer.sources.sequences import SequenceActivations, SequenceBatch, Sequences, Side
from gossamer.sources.source import SourceSpec
from gossamer.transformer.translator import Translator, trimmed
from gossamer.transformer.vocabulary import END, PAD, START

__all__ = ["PairSequences", "TransformerActivationsSpec"]


class PairSequences(Sequences):
    """Pairs for our transformer: their sources for the encoder, their targets for the decoder, as in its training.

    translator: the transformer and its vocabularies. pairs: encoded with the same vocabularies; what they hold out is
    held out here, too.

    There is a row per token of the source on the encoder's side and of the target on the decoder's; padding, the start
    and the end give none.

    Raises ValueError if the pairs are encoded with other vocabularies.
    """

    noun: ClassVar[str] = "pair"

    def __init__(self, translator: Translator, pairs: Pairs) -> None:
        for site, ours in ((SOURCE, translator.source), (TARGET, translator.target)):
            if pairs.vocabularies[site] != ours:
                raise ValueError(f"the {site}s of the pairs are encoded with another vocabulary than the transformer's")
        self.model, self.pairs, self.at_once = translator.model, pairs, 128
        self.train, self.validation = pairs.numbers["train"], pairs.numbers["validation"]

    def batch(self, which: np.ndarray, side: Side) -> SequenceBatch:
        """Return some pairs; the decoder is given the target up to its last token."""
        rows = self.pairs.rows_of(which)
        device = self.model.get_parameter(next(name for name, _ in self.model.named_parameters())).device
        ids = {SOURCE: trimmed(rows.rows[SOURCE]), TARGET: trimmed(rows.rows[TARGET])[:, :-1]}
        read = ids[SOURCE if side == "encoder" else TARGET]
        arguments = {"source": ids[SOURCE].to(device)}
        if side == "decoder":
            arguments["target"] = ids[TARGET].to(device)
        documents = np.broadcast_to(rows.origins[:, :1].numpy(), read.shape)
        return SequenceBatch(arguments, _real(read), documents, np.broadcast_to(np.arange(read.shape[1]), read.shape))

    def count(self, which: np.ndarray, side: Side) -> int:
        """Return how many tokens some pairs have on a side."""
        ids = self.pairs.rows_of(which).rows[SOURCE if side == "encoder" else TARGET]
        return int(_real(ids).sum())

    def tokens(self, sequence: int, side: Side) -> tuple[str, ...] | None:
        """Return the letters, phonemes or other tokens of a side, as they are written."""
        site = SOURCE if side == "encoder" else TARGET
        vocabulary = self.pairs.vocabularies[site]
        ids = self.pairs.rows_of(np.array([sequence])).rows[site][0].tolist()
        return tuple(
            vocabulary.joint + vocabulary.token(index) if _is_real(index) else "" for index in ids if index != PAD
        )

    def place(self, document: int, position: int, side: Side) -> str:
        """Return the position within a pair's document."""
        site = SOURCE if side == "encoder" else TARGET
        noun = self.pairs.vocabularies[site].noun
        place = position + 1 if side == "encoder" else position
        return f"{noun} {place} of the {site}, document {document:,}"

    def fingerprint(self) -> dict[str, str]:
        """Return what distinguishes the pairs."""
        return {f"{name} of the pairs": value for name, value in self.pairs.fingerprint().items() if name != "bucket"}

    def describe(self, side: Side) -> dict[str, str]:
        """Return how many pairs there are, and what gives no rows."""
        what = "a row is a token of the source" if side == "encoder" else "a row is a token of the target"
        return {
            "pairs": f"{len(self.train):,} to train on, {len(self.validation):,} held out; {what}",
            "dropped": "padding, the start and the end give no rows",
        }


@dataclass(frozen=True, kw_only=True)
class TransformerActivationsSpec(SourceSpec):
    """Activations of our own transformer, described in a file.

    model: the folder of its run, such as `runs/g2p`. hook: sites of one side, such as `encoder.layers.1` or
    `decoder.layers.0.cross_attention`. pairs: what it reads; by default the pairs that it was trained on. buffer_rows:
    rows shuffled at a time.
    """

    kind: ClassVar[str] = "transformer"
    model: str
    hook: tuple[str, ...]
    pairs: SequencesSpec | None = None
    buffer_rows: int = 65_536

    def build(self, *, device: str = "cpu") -> SequenceActivations:
        """Open the run, then read the pairs."""
        translator = Translator.open(self.model, device=device)
        inputs = PairSequences(translator, (self.pairs or _trained_on(Path(self.model))).build())
        return SequenceActivations(inputs, hook=self.hook, buffer_rows=self.buffer_rows)


def _trained_on(run: Path) -> SequencesSpec:
    """Return the pairs that a run's file describes."""
    path = run / "run.toml"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; say which pairs are to be read: [source.pairs]")
    try:
        return SequencesSpec.from_dict(tomllib.loads(path.read_text(encoding="utf-8"))["source"], where="source")
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path} does not say which pairs the run was trained on ({error}): add [source.pairs]"
        ) from error


def _real(ids: torch.Tensor) -> np.ndarray:
    return (~torch.isin(ids, torch.tensor([PAD, START, END]))).numpy()


def _is_real(index: int) -> bool:
    return index not in (PAD, START, END)
