"""Windows: texts as windows of tokens, and which of their positions are worth training on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gossamer.sources.source import held_out

__all__ = ["Drop", "Layout", "TokenBatch", "Windows"]

Layout = Literal["packed", "truncated"]
Drop = Literal["special", "first"]


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Some windows, padded to the longest: all arrays `(windows, length)`.

    ids: token ids. real: not padding. keep: real and not dropped. documents, positions: origin of each token.
    """

    ids: np.ndarray
    real: np.ndarray
    keep: np.ndarray
    documents: np.ndarray
    positions: np.ndarray


class Windows:
    """Tokenize texts once and cut them into windows of at most `context` tokens.

    layout "packed": documents are joined, an end-of-text token between them, and cut into full windows; "truncated":
    a window is the beginning of one document, with the special tokens that its tokenizer adds.
    drop "special": positions that hold a special token; "first": position 0 of every window, where causal models
    park attention (in the middle layers of SmolLM2 its norm is about a hundred times the others').

    train, validation: indices of the windows of either part; no document is in both, and
    validation is shuffled, so that its beginning is a fair sample. Memory: about 4 bytes a token.
    """

    def __init__(
        self,
        tokenizer: Any,
        texts: Sequence[str],
        *,
        context: int,
        layout: Layout = "packed",
        drop: Sequence[Drop] = ("special", "first"),
        validation: float = 0.05,
    ) -> None:
        _check(texts, context, layout, drop)
        self.context, self.layout, self.drop = context, layout, tuple(drop)
        tokens = _tokenized(tokenizer, texts, context, layout)
        held = held_out(len(tokens), validation)
        order = np.argsort(held, kind="stable")
        lengths = np.array([len(tokens[document]) for document in order])
        self._ids = np.concatenate([tokens[document] for document in order])
        self._document, self._document_start = order, np.concatenate([[0], np.cumsum(lengths)])
        self._special = np.array(sorted(tokenizer.all_special_ids), dtype=np.int32)
        split = self._document_start[np.count_nonzero(~held)]
        if layout == "packed":
            starts = np.concatenate([np.arange(0, split, context), np.arange(split, len(self._ids), context)])
            stops = np.minimum(starts + context, np.where(starts < split, split, len(self._ids)))
        else:
            starts, stops = self._document_start[:-1], self._document_start[1:]
        worth = stops - starts > ("first" in drop)
        self._starts, self._stops = starts[worth], stops[worth]
        windows = np.arange(len(self._starts))
        self.train = windows[self._starts < split]
        self.validation = np.random.default_rng(0).permutation(windows[self._starts >= split])

    def batch(self, windows: np.ndarray) -> TokenBatch:
        """Return these windows, padded on the right."""
        starts, lengths = self._starts[windows], self._stops[windows] - self._starts[windows]
        offsets = np.arange(lengths.max(initial=0))
        real = offsets < lengths[:, None]
        place = np.minimum(starts[:, None] + offsets, len(self._ids) - 1)
        ids = np.where(real, self._ids[place], 0)
        document = np.searchsorted(self._document_start, place, side="right") - 1
        keep = real.copy()
        if "special" in self.drop:
            keep &= ~np.isin(ids, self._special)
        if "first" in self.drop:
            keep[:, :1] = False
        positions = place - self._document_start[document]
        return TokenBatch(ids, real, keep, self._document[document], positions)

    def count(self, windows: np.ndarray) -> int:
        """Return how many positions of these windows are kept."""
        step = 4096
        parts = (windows[start : start + step] for start in range(0, len(windows), step))
        return sum(int(self.batch(part).keep.sum()) for part in parts)

    def fingerprint(self) -> dict[str, str]:
        """Return the settings and a hash of all tokens."""
        digest = hashlib.sha256(self._ids.tobytes())
        digest.update(self._document.tobytes())
        digest.update(self._starts.tobytes())
        return {
            "context": str(self.context),
            "layout": self.layout,
            "drop": ", ".join(self.drop),
            "tokens": digest.hexdigest()[:16],
        }


def _check(texts: Sequence[str], context: int, layout: str, drop: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise TypeError("texts is one string; give a list of documents")
    if not len(texts):
        raise ValueError("texts holds no documents")
    if context < 2:
        raise ValueError(f"context must be at least 2 tokens, got {context}")
    if layout not in ("packed", "truncated"):
        raise ValueError(f"layout is 'packed' or 'truncated', got {layout!r}")
    unknown = set(drop) - {"special", "first"}
    if unknown:
        raise ValueError(f"drop holds {sorted(unknown)}; what can be dropped is 'special' and 'first'")


def _tokenized(tokenizer: Any, texts: Sequence[str], context: int, layout: Layout) -> list[np.ndarray]:
    packed = layout == "packed"
    joint = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    end = [joint] if packed and joint is not None else []
    options = {"truncation": False} if packed else {"truncation": True, "max_length": context}
    documents: list[np.ndarray] = []
    for start in range(0, len(texts), 1024):
        part = list(texts[start : start + 1024])
        encoded = tokenizer(
            part,
            add_special_tokens=not packed,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
            **options,
        )
        documents += [np.array(ids + end, dtype=np.int32) for ids in encoded["input_ids"]]
    return documents
