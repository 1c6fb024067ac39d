"""Activations: rows that flow through the modules of a torch model, computed as they are needed."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gossamer.kernels import fast_bfloat16
from gossamer.sources.hooks import capture, evaluating, resolve
from gossamer.sources.source import Batch, Source, SourceSpec
from gossamer.sources.windows import Drop, Layout, TokenBatch, Windows

__all__ = ["Activations", "ActivationsSpec", "model_fingerprint"]

FORWARD_TOKENS = 2048
"""Tokens of one forward pass, about: enough to keep the cores busy, little enough to stay in memory."""


class Activations(Source):
    """The output of modules of a language model, one row per token.

    model: a torch module that is called with `input_ids` (and `attention_mask` and `use_cache`, if it takes them).
    tokenizer: a Hugging Face tokenizer. hook: a module path such as `"model.layers.8"`, a pattern such as
    `"model.layers.*"`, or several of them; all are read in one pass, which stops after the last. texts: a list of
    documents. context: tokens per window. layout: documents "packed" into full windows, or "truncated" to one window
    each. drop: positions that give no row: "special" tokens and the "first" position of each window. validation:
    share of the documents held out. buffer_rows: rows shuffled at a time.

    The model is used as it is, on its device and in its dtype, without gradients, and left unchanged.

    Raises ValueError for an unknown hook point (naming the nearest), no texts, or texts that leave no row.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        hook: str | Sequence[str],
        texts: Sequence[str],
        context: int = 128,
        layout: Layout = "packed",
        drop: Sequence[Drop] = ("special", "first"),
        validation: float = 0.05,
        buffer_rows: int = 65_536,
    ) -> None:
        self.model, self.tokenizer, self.texts = model, tokenizer, texts
        self.sites = resolve(model, hook)
        self.windows = Windows(tokenizer, texts, context=context, layout=layout, drop=drop, validation=validation)
        self.rows = self.windows.count(self.windows.train)
        self.validation_rows = self.windows.count(self.windows.validation)
        self.buffer_rows = buffer_rows
        if not self.rows:
            raise ValueError("no row is left to train on: the texts hold only special tokens and first positions")
        probe = self._probe()
        self.widths = {site: out.shape[-1] for site, out in probe.items()}
        self._rows_per_window = self.rows / len(self.windows.train)

    def _probe(self) -> dict[str, Tensor]:
        """Return what the sites give for the first window."""
        try:
            return self.captured(self.windows.batch(self.windows.train[:1]))
        except ValueError as error:
            if not getattr(getattr(self.model, "config", None), "is_encoder_decoder", False):
                raise
            raise ValueError(
                f"the decoder of an encoder–decoder reads more than a text ({error}); its source is kind = 'seq2seq', "
                "gs.TextSequences"
            ) from error

    @property
    def units(self) -> int:
        """Number of windows to train on."""
        return len(self.windows.train)

    @property
    def units_per_buffer(self) -> int:
        """Windows that fill the shuffle buffer, on average."""
        return max(1, round(self.buffer_rows / self._rows_per_window))

    def read(self, units: np.ndarray) -> Batch:
        """Run the model on these windows of the training part and return the rows that are kept."""
        return Batch.concatenate([rows for _, rows in self.passes(self.windows.train[units])])

    def validation(self, *, batch: int) -> Iterator[Batch]:
        """Iterate over the held-out windows."""
        windows = self.windows.validation
        per_batch = max(1, round(batch / self._rows_per_window))
        for start in range(0, len(windows), per_batch):
            parts = [rows for _, rows in self.passes(windows[start : start + per_batch])]
            yield Batch.concatenate(parts)

    def passes(self, windows: np.ndarray) -> Iterator[tuple[TokenBatch, Batch]]:
        """Iterate over forward passes: the tokens of some windows and the rows kept of them."""
        per_pass = max(1, FORWARD_TOKENS // self.windows.context)
        for start in range(0, len(windows), per_pass):
            tokens = self.windows.batch(windows[start : start + per_pass])
            outputs = self.captured(tokens)
            keep = torch.from_numpy(tokens.keep)
            rows = {site: out[keep.to(out.device)] for site, out in outputs.items()}
            origins = np.stack([tokens.documents[tokens.keep], tokens.positions[tokens.keep]], axis=1)
            yield tokens, Batch(rows, torch.from_numpy(origins.astype(np.int64)))

    @torch.no_grad()
    def captured(self, tokens: TokenBatch) -> dict[str, Tensor]:
        """Run the model on some windows and return the output of each site, `(windows, length, width)`."""
        arguments = self.arguments(tokens)
        with evaluating(self.model):
            return capture(self.model, self.sites, lambda: self.model(**arguments))

    def arguments(self, tokens: TokenBatch) -> dict[str, Any]:
        """Return what the model is called with for some windows."""
        device = next(self.model.parameters()).device
        accepted = inspect.signature(self.model.forward).parameters
        open_ended = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
        first = "input_ids" if open_ended or "input_ids" in accepted else next(iter(accepted))
        arguments: dict[str, Any] = {first: torch.from_numpy(tokens.ids).long().to(device)}
        if "attention_mask" in accepted and not tokens.real.all():
            arguments["attention_mask"] = torch.from_numpy(tokens.real).long().to(device)
        if "use_cache" in accepted:
            arguments["use_cache"] = False
        return arguments

    def fingerprint(self) -> dict[str, str]:
        """Return the model's class, size and a hash of its first and last weights, the sites, and the texts' hash."""
        sites = {"kind": "activations", "sites": ", ".join(self.sites)}
        return {**model_fingerprint(self.model), **sites, **self.windows.fingerprint()}

    def describe(self) -> dict[str, str]:
        """Return the model and its sites, the windows, the number of rows, and what is dropped."""
        parameter = next(self.model.parameters())
        dtype = str(parameter.dtype).removeprefix("torch.")
        if parameter.dtype == torch.float32 and fast_bfloat16(parameter.device):
            dtype += " (a model loaded in bfloat16 would be faster here)"
        meanings = {"special": "special tokens", "first": "position 0 of each window"}
        dropped = " and ".join(meanings[name] for name in self.windows.drop)
        return {
            "model": f"{type(self.model).__name__} on {parameter.device}, {dtype}, read at {', '.join(self.sites)}",
            "texts": f"{len(self.texts):,} documents, {self.windows.layout} into {self.units:,} windows of up to "
            f"{self.windows.context} tokens",
            "rows": f"{self.rows:,} an epoch, {self.validation_rows:,} held out for validation, by document",
            "dropped": f"{dropped} give no rows" if dropped else "nothing, every position gives a row",
        }


def model_fingerprint(model: nn.Module) -> dict[str, str]:
    """Return a model's class, size and number format, and a hash of its first and last weights."""
    parameters = list(model.parameters())
    digest = hashlib.sha256()
    for parameter in (parameters[0], parameters[-1]):
        digest.update(parameter.detach().flatten()[:4096].float().cpu().numpy().tobytes())
    return {
        "model": f"{type(model).__name__}, {sum(p.numel() for p in parameters):,} parameters",
        "dtype": str(parameters[0].dtype),
        "weights": digest.hexdigest()[:16],
    }


@dataclass(frozen=True, kw_only=True)
class ActivationsSpec(SourceSpec):
    """Activations of a Hugging Face model on texts, described in a file.

    model: `smollm2-135m`, `minilm`, a folder, or a name on the Hugging Face hub. texts: files, patterns, or
    `asset:NAME` (see `gossamer.sources.texts`). dtype: of the forward pass; "auto" is bfloat16 where that is fast.
    max_documents: use at most so many documents. The other fields are those of `Activations`.
    """

    kind: ClassVar[str] = "activations"
    model: str
    hook: tuple[str, ...]
    texts: tuple[str, ...]
    context: int = 128
    layout: Layout = "packed"
    drop: tuple[Drop, ...] = ("special", "first")
    validation: float = 0.05
    buffer_rows: int = 65_536
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_documents: int | None = None

    source: ClassVar[type[Activations]] = Activations

    def build(self, *, device: str = "cpu") -> Activations:
        """Read the texts, then load the model: what fails fast comes first."""
        from gossamer.sources.models import load_model
        from gossamer.sources.texts import read_documents

        texts = read_documents(self.texts)[: self.max_documents]
        loaded = load_model(self.model, device=device, dtype=self.dtype)
        return self.source(
            loaded.model,
            loaded.tokenizer,
            hook=self.hook,
            texts=texts,
            context=self.context,
            layout=self.layout,
            drop=self.drop,
            validation=self.validation,
            buffer_rows=self.buffer_rows,
        )
