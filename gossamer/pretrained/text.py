"""Text in, text out: causal language models and encoder–decoders of transformers, such as GPT-2, Llama, T5 and BART."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from gossamer.pretrained.writer import Given, Places, Writer, Written, token_texts
from gossamer.sources.generation import end_ids, written
from gossamer.sources.models import LoadedModel
from gossamer.sources.sequences import side_of
from gossamer.transformer.generate import Decoding

__all__ = ["TextWriter"]

AT_ONCE = 16
"""Texts per batch."""


class TextWriter(Writer):
    """A language model that goes on with a text, or an encoder–decoder that answers one.

    A causal model's text is what it adds; an encoder–decoder's is all that its decoder writes.
    """

    reads: ClassVar[str] = "text"

    def __init__(self, loaded: LoadedModel) -> None:
        self.name, self.model, self.tokenizer = loaded.name, loaded.model, loaded.tokenizer
        self.two_sided = bool(getattr(loaded.model, "config").is_encoder_decoder)  # noqa: B009 - every one has it

    def write(self, given: Sequence[Given], decoding: Decoding) -> list[Written]:
        """Return what the model writes for each text; raises ValueError for an empty one."""
        texts = [self._ids(text) for text in given]
        rows: list[list[int]] = []
        for start in range(0, len(texts), AT_ONCE):
            rows += written(self.model, self._batch(texts[start : start + AT_ONCE]), decoding.after(start))
        return [self._written(row) for row in rows]

    def places(self, given: Given, site: str) -> Places:
        """Return the text's positions on the encoder's side, the written ones on the decoder's.

        In a causal model all count but the first, where attention is parked.
        """
        if self.two_sided and side_of([site]) == "encoder":
            return Places(0, len(self._ids(given)))
        return Places(None if self.two_sided else 1)

    def _ids(self, text: Given) -> list[int]:
        if not isinstance(text, str):
            raise TypeError(f"{self.name} reads text, got {type(text).__name__}")
        if not text.strip():
            raise ValueError(f"the text is empty; give {self.name} something to read")
        return list(self.tokenizer(text)["input_ids"])  # pyright: ignore[reportArgumentType]

    def _batch(self, texts: Sequence[list[int]]) -> dict[str, Tensor]:
        """Return texts padded on the right for an encoder, on the left for a causal model, whose text goes on."""
        longest, device = max(map(len, texts)), next(self.model.parameters()).device
        fill: Any = self.tokenizer.pad_token_id
        fill = next(iter(end_ids(self.model)), 0) if fill is None else fill
        ids = torch.full((len(texts), longest), fill, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            here = slice(0, len(text)) if self.two_sided else slice(longest - len(text), longest)
            ids[row, here], mask[row, here] = torch.tensor(text), 1
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}

    def _written(self, ids: Sequence[int]) -> Written:
        special = set(self.tokenizer.all_special_ids)
        kept = [index for index in ids if index not in special]
        return Written(str(self.tokenizer.decode(kept)), token_texts(self.tokenizer, kept))
