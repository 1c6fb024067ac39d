"""Texts as what other people's encoder–decoders (T5, BART, Marian) read, and what these write about them.

The source of rows is `sequences`; texts for models with one side are the business of `activations`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from gossamer.sources.answers import Answered
from gossamer.sources.generation import can_write, room
from gossamer.sources.models import LoadedModel, load_model, reads_sound
from gossamer.sources.sequences import SequenceActivations, SequenceBatch, Side
from gossamer.sources.source import SourceSpec
from gossamer.sources.texts import read_documents
from gossamer.sources.windows import TokenBatch, Windows
from gossamer.transformer.generate import Decoding

__all__ = ["TextSequences", "TextSequencesSpec"]


class TextSequences(Answered):
    """Texts for an encoder–decoder that answers a text with a text.

    loaded: of `load_model`. texts: a list of documents. prefix: what stands before each of them, such as "translate
    English to German: ". context: tokens of a text at most, its prefix and its end included; the rest is cut off.
    longest: tokens of an answer at most. validation: share of the documents held out.

    On the encoder's side there is a row per token of a text, the prefix included. On the decoder's side there is a row
    per token of what the model itself writes (greedily) about a text. Special tokens and padding give none.

    Raises ValueError for a model that is no encoder–decoder of texts, no texts, or more tokens than a model has
    positions for.
    """

    noun: ClassVar[str] = "text"

    def __init__(
        self,
        loaded: LoadedModel,
        texts: Sequence[str],
        *,
        prefix: str = "",
        context: int = 128,
        longest: int = 64,
        validation: float = 0.05,
    ) -> None:
        _require_two_sides(loaded)
        table = room(getattr(loaded.model, "config"))  # noqa: B009 - every one has it
        for name, value in (("context", context), ("longest", longest)):
            if table is not None and value > table:
                raise ValueError(f"{name} is {value}, but {loaded.name} has a table of {table} positions")
        self.model, self.tokenizer, self.decoding = loaded.model, loaded.tokenizer, Decoding(longest=longest)
        self.prefix, self.at_once = prefix, 16
        self.documents = len(texts)
        given = texts if isinstance(texts, str) else [prefix + text for text in texts]
        self.windows = Windows(
            loaded.tokenizer, given, context=context, layout="truncated", drop=("special",), validation=validation
        )
        self.train, self.validation = self.windows.train, self.windows.validation

    def given(self, which: np.ndarray) -> dict[str, Tensor]:
        """Return some texts as the encoder reads them."""
        return self._arguments(self.windows.batch(which))

    def batch(self, which: np.ndarray, side: Side) -> SequenceBatch:
        """Return some texts, with their answers if the decoder is asked for."""
        read = self.windows.batch(which)
        if side == "encoder":
            return SequenceBatch(self._arguments(read), read.keep, read.documents, read.positions)
        return self.answered(which, read.documents[:, 0])

    def count(self, which: np.ndarray, side: Side) -> int:
        """Return how many tokens some texts, or what is written about them, have."""
        return self.windows.count(which) if side == "encoder" else self.answer_rows(which)

    def tokens(self, sequence: int, side: Side) -> tuple[str, ...] | None:
        """Return the tokens of a text, or of what is written about it."""
        if side == "decoder":
            return self.read_tokens(self.answers[sequence])
        return self.read_tokens(self.windows.batch(np.array([sequence])).ids[0].tolist())

    def place(self, document: int, position: int, side: Side) -> str:
        """Return the position within a document, or within what is written about it."""
        what = "document" if side == "encoder" else "what is written about document"
        return f"token {position:,} of {what} {document:,}"

    def fingerprint(self) -> dict[str, str]:
        """Return what distinguishes the texts; the prefix is in their tokens."""
        return {**self.windows.fingerprint(), "longest": str(self.decoding.longest)}

    def describe(self, side: Side) -> dict[str, str]:
        """Return how many texts there are, and what gives no rows."""
        prefix = f", {self.prefix!r} before each" if self.prefix else ""
        row = "a token of the text" if side == "encoder" else "a token of the model's own answer"
        return {
            "texts": f"{self.documents:,} documents of up to {self.windows.context} tokens{prefix}; a row is {row}",
            "dropped": "special tokens and padding give no rows",
        }

    def _arguments(self, read: TokenBatch) -> dict[str, Tensor]:
        device = next(self.model.parameters()).device
        arguments = {"input_ids": read.ids, "attention_mask": read.real}
        return {name: torch.from_numpy(array).long().to(device) for name, array in arguments.items()}


def _require_two_sides(loaded: LoadedModel) -> None:
    config: Any = getattr(loaded.model, "config", None)
    two_sided = bool(getattr(config, "is_encoder_decoder", False))
    if reads_sound(loaded.model) or not two_sided or not can_write(loaded.model):
        kind = 'kind = "speech" reads it' if reads_sound(loaded.model) else 'kind = "activations" reads others'
        raise ValueError(
            f"{loaded.name} is a {type(loaded.model).__name__}, not an encoder–decoder that answers texts, such as "
            f"T5 or BART saved for generation; {kind}"
        )


@dataclass(frozen=True, kw_only=True)
class TextSequencesSpec(SourceSpec):
    """Activations of an encoder–decoder such as T5, BART or Marian on texts, described in a file.

    model: a folder, or a name on the Hugging Face hub. texts: files, patterns, or `asset:NAME` (see
    `gossamer.sources.texts`). hook: sites of one side, such as `encoder.block.2` or
    `decoder.block.2.layer.1.EncDecAttention`. max_documents: use at most so many documents. The other fields are those
    of `TextSequences` and `SequenceActivations`; dtype: of the forward pass.
    """

    kind: ClassVar[str] = "seq2seq"
    model: str
    texts: tuple[str, ...]
    hook: tuple[str, ...]
    prefix: str = ""
    context: int = 128
    longest: int = 64
    validation: float = 0.05
    buffer_rows: int = 65_536
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_documents: int | None = None

    def build(self, *, device: str = "cpu") -> SequenceActivations:
        """Read the texts, then load the model."""
        texts = read_documents(self.texts)[: self.max_documents]
        loaded = load_model(self.model, device=device, dtype=self.dtype)
        inputs = TextSequences(
            loaded,
            texts,
            prefix=self.prefix,
            context=self.context,
            longest=self.longest,
            validation=self.validation,
        )
        return SequenceActivations(inputs, hook=self.hook, buffer_rows=self.buffer_rows)
