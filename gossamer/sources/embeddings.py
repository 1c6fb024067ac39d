"""Embeddings: documents as dense rows from a language model, computed once, one row per document or per token.

Activations at the inside of a model, computed as they are needed, are `activations`; rows that count words are
`documents`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gossamer.progress import Progress
from gossamer.sources.arrays import Arrays
from gossamer.sources.documents import read_texts
from gossamer.sources.hooks import evaluating
from gossamer.sources.source import SourceSpec
from gossamer.spec import Spec

if TYPE_CHECKING:
    from gossamer.sources.models import LoadedModel

__all__ = ["Embedded", "Embedding", "Embeddings", "EmbeddingsSpec", "embed"]

FORWARD_TOKENS = 8192
"""Tokens of one forward pass, padding included, about."""


@dataclass(frozen=True, kw_only=True)
class Embedding(Spec):
    """Choose what of a model's last layer becomes rows.

    rows: one per "document" or per "token" (without special tokens and position 0). pooling: a document is the "mean"
    of its tokens, special ones included, padding not, or its first token, "cls". normalize: divide each row by its
    length. max_tokens: how much of the beginning of a document is read.
    """

    rows: Literal["document", "token"] = "document"
    pooling: Literal["mean", "cls"] = "mean"
    normalize: bool = True
    max_tokens: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")


@dataclass(frozen=True, eq=False)
class Embedded:
    """Rows of some documents, in the order of the documents.

    rows: `(rows, width)` float32. documents, positions: `(rows,)` int64, where each row comes from (position 0 if it
    stands for the whole document). truncated: how many documents were longer than what was read of them.
    """

    rows: np.ndarray
    documents: np.ndarray
    positions: np.ndarray
    truncated: int


def embed(model: LoadedModel, texts: Sequence[str], embedding: Embedding = Embedding()) -> Embedded:
    """Run a model over some documents.

        mean: Σ_t h_t / T      cls: h_0      h the output of the last layer, T the number of tokens

    The documents go through the model in batches of like length, the longest first; how they are batched changes the
    rows by rounding only. Memory: the rows, and one batch.

    Raises ValueError for no texts, one without a token, or `max_tokens` beyond what the model can read; TypeError for
    texts that are no strings.
    """
    _check_texts(texts)
    limit = _limit(model)
    if embedding.max_tokens > limit:
        raise ValueError(f"max_tokens is {embedding.max_tokens}, but {model.name} reads {limit} tokens at most")
    tokens = _tokenized(model, texts, embedding)
    whole = np.zeros(1, dtype=np.int64)
    kept = tokens.kept if embedding.rows == "token" else [whole] * len(texts)
    counts = np.array([len(positions) for positions in kept])
    starts = np.cumsum(counts) - counts
    rows: np.ndarray | None = None
    for documents, states in _batches(model, tokens.ids):
        if rows is None:
            rows = np.empty((counts.sum(), states.shape[-1]), dtype=np.float32)
        for document, state in zip(documents, states, strict=True):
            state = _picked(state[: len(tokens.ids[document])].float(), kept[document], embedding)
            rows[starts[document] : starts[document] + counts[document]] = state.cpu().numpy()
    assert rows is not None  # there is a text, so there was a batch
    return Embedded(rows, np.repeat(np.arange(len(texts)), counts), np.concatenate(kept), tokens.truncated)


class Embeddings(Arrays):
    """Documents as the rows that a language model makes of them; held out by document.

    texts: the documents. model: one that `load_model` knows by name ("minilm", a folder, a hub id), or that was loaded.
    embedding: what becomes a row. validation: share of the documents held out. The other settings are `load_model`'s.

    embedded: all the rows, in the order of the documents, held-out ones included.

    Raises ValueError for a model that cannot be loaded, no texts, or texts that leave no row.
    """

    def __init__(
        self,
        texts: Sequence[str],
        model: str | LoadedModel = "minilm",
        embedding: Embedding = Embedding(),
        *,
        validation: float = 0.05,
        buffer_rows: int = 65_536,
        device: str = "cpu",
        dtype: str = "auto",
    ) -> None:
        _check_texts(texts)
        from gossamer.sources.models import load_model

        loaded = load_model(model, device=device, dtype=dtype) if isinstance(model, str) else model
        self.model, self.embedding = loaded.name, embedding
        self.embedded = embed(loaded, texts, embedding)
        if not len(self.embedded.rows):
            raise ValueError("no row is left: the texts hold only special tokens and first positions")
        self._texts = len(texts)
        super().__init__(
            self.embedded.rows, documents=self.embedded.documents, validation=validation, buffer_rows=buffer_rows
        )

    def fingerprint(self) -> dict[str, str]:
        """Return shape and content of the rows, the model, and what was made of its output."""
        chosen = {name: str(value) for name, value in self.embedding.to_dict().items()}
        return super().fingerprint() | {"kind": "embeddings", "model": self.model} | chosen

    def describe(self) -> dict[str, str]:
        """Return the model, what a row is, how many there are, and how many documents were cut."""
        row = f"the {self.embedding.pooling} of a document" if self.embedding.rows == "document" else "a token"
        topics = {
            "model": f"{self.model}, output of its last layer",
            "rows": f"{row}{', of length 1' if self.embedding.normalize else ''}: {self.rows:,} to train on, "
            f"{self.validation_rows:,} held out for validation, of {self._texts:,} documents",
        }
        if self.embedded.truncated:
            topics["cut"] = (
                f"{self.embedded.truncated:,} documents are longer than max_tokens = {self.embedding.max_tokens}: "
                "only their beginning is read"
            )
        return topics


@dataclass(frozen=True, kw_only=True)
class EmbeddingsSpec(SourceSpec):
    """Describe embeddings of documents on disk.

    paths, field, min_characters: as in `DocumentsSpec`. model: a packaged model, a folder or a hub id; dtype: its
    numbers, "auto", "float32", "bfloat16" or "float16". embedding: what becomes a row. validation: share of documents
    held out.
    """

    kind: ClassVar[str] = "embeddings"
    paths: tuple[str, ...]
    field: str | None = None
    min_characters: int = 1
    model: str = "minilm"
    dtype: str = "auto"
    embedding: Embedding = Embedding()
    validation: float = 0.05

    def build(self, *, device: str = "cpu") -> Embeddings:
        """Read the documents and run the model over them, on the device."""
        texts = read_texts(self.paths, field=self.field, min_characters=self.min_characters)
        return Embeddings(
            texts, self.model, self.embedding, validation=self.validation, device=device, dtype=self.dtype
        )


@dataclass(frozen=True, eq=False)
class _Tokens:
    ids: list[list[int]]
    kept: list[np.ndarray]
    truncated: int


def _tokenized(model: LoadedModel, texts: Sequence[str], embedding: Embedding) -> _Tokens:
    """Return the tokens of each document, and which positions are neither special nor the first."""
    encoded = model.tokenizer(
        list(texts),
        truncation=False,  # so that cut documents can be counted
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]
    truncated = [number for number, ids in enumerate(encoded) if len(ids) > embedding.max_tokens]
    if truncated:
        again = model.tokenizer(
            [texts[number] for number in truncated],
            truncation=True,
            max_length=embedding.max_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        for number, ids in zip(truncated, again, strict=True):
            encoded[number] = ids
    for number, ids in enumerate(encoded):
        if not ids:
            raise ValueError(f"document {number} has no token: {texts[number]!r:.50}")
    special = list(model.tokenizer.all_special_ids)
    kept = [np.flatnonzero(~np.isin(ids, special)) for ids in encoded]
    return _Tokens(encoded, [positions[positions > 0] for positions in kept], len(truncated))


def _batches(model: LoadedModel, ids: Sequence[Sequence[int]]) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield some documents and the last layer's output `(documents, length, width)` for them, the longest first."""
    order = np.argsort([-len(row) for row in ids], kind="stable")
    body, padding = _body(model.model), model.tokenizer.pad_token_id or 0
    start = 0
    with Progress(len(ids), quiet=False, unit="document") as progress:
        while start < len(order):
            documents = order[start : start + max(1, FORWARD_TOKENS // len(ids[order[start]]))]
            with evaluating(model.model), torch.no_grad():
                states = _forward(body, [ids[document] for document in documents], padding)
            yield documents, states
            start += len(documents)
            progress.advance(start, {})


def _forward(body: Any, ids: Sequence[Sequence[int]], padding: Any) -> Tensor:
    """Run the model on documents that are padded on the right."""
    device = next(body.parameters()).device
    length = max(map(len, ids))
    padded = torch.tensor([[*row, *[padding] * (length - len(row))] for row in ids], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ids], device=device)
    return body(input_ids=padded, attention_mask=mask).last_hidden_state


def _picked(state: Tensor, positions: np.ndarray, embedding: Embedding) -> Tensor:
    """Return the rows that one document gives, of its `(length, width)` output."""
    if embedding.rows == "token":
        state = state[torch.from_numpy(positions).to(state.device)]
    else:
        state = state.mean(dim=0, keepdim=True) if embedding.pooling == "mean" else state[:1]
    return nn.functional.normalize(state, dim=1) if embedding.normalize else state


def _body(model: nn.Module) -> Any:
    """Return the part of a model that ends in hidden states: without a head, and of a pair the encoder."""
    config: Any = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        return model.get_encoder()  # type: ignore[operator]
    return getattr(model, "base_model", model)


def _limit(model: LoadedModel) -> int:
    """Return how many tokens the model can read; models with relative positions name no limit."""
    config: Any = getattr(model.model, "config", None)
    named = getattr(config, "max_position_embeddings", None) or math.inf
    return int(min(model.tokenizer.model_max_length, named, 10**9))


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str | bytes):
        raise TypeError("texts is one string; give a list of documents")
    if not len(texts):
        raise ValueError("the corpus is empty: there are no documents")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"document {number} must be a string, got {type(text).__name__} {text!r:.50}")
