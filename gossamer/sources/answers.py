"""Sequences whose decoder is read at what the model writes about them itself."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gossamer.progress import Progress
from gossamer.sources.generation import end_ids, written
from gossamer.sources.sequences import SequenceBatch, Sequences
from gossamer.transformer.generate import Decoding

__all__ = ["Answered"]


class Answered(Sequences):
    """What an encoder–decoder reads, and what it writes about it itself.

    On the decoder's side there is a row per token of an answer; special tokens give none.

    tokenizer: of the answers. decoding: how they are searched for.
    """

    tokenizer: Any
    decoding: Decoding

    @abstractmethod
    def given(self, which: np.ndarray) -> dict[str, Tensor]:
        """Return what the model's encoder is called with for some sequences."""

    @cached_property
    def answers(self) -> list[list[int]]:
        """What the model writes about each sequence: ids, what its decoder starts from first, without the end."""
        count, found = len(self.train) + len(self.validation), []
        with Progress(count, quiet=False, unit="sequence") as progress:
            for start in range(0, count, self.at_once):
                which = np.arange(start, min(start + self.at_once, count))
                found += written(self.model, self.given(which), self.decoding.after(start))
                progress.advance(len(found), {})
        return found

    def answered(self, which: np.ndarray, documents: np.ndarray) -> SequenceBatch:
        """Return some sequences with their answers, and the rows of the decoder. documents: of each sequence."""
        arguments, answers = self.given(which), [self.answers[sequence] for sequence in which]
        length = max(map(len, answers))
        fill = next(iter(end_ids(self.model)), 0)  # what follows an answer changes nothing before it
        ids = np.array([answer + [fill] * (length - len(answer)) for answer in answers], dtype=np.int64)
        arguments["decoder_input_ids"] = torch.from_numpy(ids).to(next(iter(arguments.values())).device)
        keep = ~self._special(ids) & (np.arange(length) < np.array([[len(answer)] for answer in answers]))
        positions = np.broadcast_to(np.arange(length), ids.shape)
        return SequenceBatch(arguments, keep, np.broadcast_to(documents[:, None], ids.shape), positions)

    def answer_rows(self, which: np.ndarray) -> int:
        """Return how many rows some answers have."""
        return sum(int((~self._special(np.array(self.answers[sequence]))).sum()) for sequence in which)

    def read_tokens(self, ids: list[int]) -> tuple[str, ...]:
        """Return tokens as they are read."""
        return tuple(str(self.tokenizer.decode([token])) for token in ids)

    def _special(self, ids: np.ndarray) -> np.ndarray:
        return np.isin(ids, self.tokenizer.all_special_ids)
