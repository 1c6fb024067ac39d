"""ModelWindows: windows of tokens together with the model that reads them, for training end to end.

A row is a token, and windows stay whole: what the model says about a token depends on those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gossamer.sources.activations import Activations, ActivationsSpec
from gossamer.sources.hooks import evaluating, frozen, observed, replaced
from gossamer.sources.source import Batch
from gossamer.sources.windows import Drop, Layout, TokenBatch

__all__ = ["ModelOutput", "ModelWindows", "ModelWindowsSpec"]


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """What the model says about a batch of windows.

    logits: `(predictions, vocabulary)`, at positions that give rows and have a next token; targets: `(predictions,)`,
    those tokens; later: rows `(kept, width)` of sites that were asked for.
    """

    logits: Tensor
    targets: Tensor
    later: dict[str, Tensor]


class ModelWindows(Activations):
    """Activations whose training rows are the tokens themselves, and that can run the model on them.

    Made like Activations. Training batches hold `ids`, `real` (not padding) and `keep` (gives a row), `(rows, 1)` each,
    whole windows one after the other; so the batch size is a multiple of the context. Held-out rows, and those that
    scaling is measured on, are activations as ever.
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
        super().__init__(
            model,
            tokenizer,
            hook=hook,
            texts=texts,
            context=context,
            layout=layout,
            drop=drop,
            validation=validation,
            buffer_rows=buffer_rows,
        )
        self.block = context
        self.rows = len(self.windows.train) * context
        self._rows_per_window = context

    def fingerprint(self) -> dict[str, str]:
        """Return what distinguishes this source from others."""
        return {**super().fingerprint(), "kind": "model"}

    def read(self, units: np.ndarray) -> Batch:
        """Return the tokens of these windows of the training part."""
        tokens = self.windows.batch(self.windows.train[units])
        parts = {"ids": tokens.ids.astype(np.int64), "real": tokens.real, "keep": tokens.keep}
        missing = self.block - tokens.ids.shape[1]
        whole = {name: np.pad(part, ((0, 0), (0, missing))).reshape(-1, 1) for name, part in parts.items()}
        origins = np.stack([tokens.documents, tokens.positions], axis=2)
        padded = np.pad(origins, ((0, 0), (0, missing), (0, 0))).reshape(-1, 2)
        rows = {name: torch.from_numpy(part) for name, part in whole.items()}
        return Batch(rows, torch.from_numpy(padded.astype(np.int64)))

    def measured_on(self, batch: Batch) -> Batch:
        """Return the activations of some tokens."""
        tokens = self._tokens(batch.rows)
        keep = torch.from_numpy(tokens.keep)
        outputs = self.captured(tokens)
        rows = {site: out[keep.to(out.device)] for site, out in outputs.items()}
        return Batch(rows, batch.origins[batch.rows["keep"][:, 0].cpu()])

    def run(
        self, rows: Mapping[str, Tensor], site: str, change: Callable[[Tensor], Tensor] | None, later: Sequence[str]
    ) -> ModelOutput:
        """Run the model on a batch, with `change` applied to the kept rows of a site; gradients flow through it."""
        tokens = self._tokens(rows)
        keep = torch.from_numpy(tokens.keep)

        def put(x: Tensor) -> Tensor:
            assert change is not None
            where = keep.to(x.device)
            return x.masked_scatter(where[:, :, None], change(x[where].float()).to(x))

        swap = nullcontext() if change is None else replaced(self.model, self.site(site), put)
        places = [self.site(name) for name in later]
        with evaluating(self.model), frozen(self.model), swap, observed(self.model, places) as seen:
            logits = self.model(**self.arguments(tokens)).logits
        predicting = torch.from_numpy(tokens.keep[:, :-1] & tokens.real[:, 1:])
        targets = torch.from_numpy(tokens.ids[:, 1:][predicting.numpy()]).to(logits.device)
        found = {name: seen[place][keep.to(seen[place].device)] for name, place in zip(later, places, strict=True)}
        return ModelOutput(logits[:, :-1][predicting.to(logits.device)], targets, found)

    def _tokens(self, rows: Mapping[str, Tensor]) -> TokenBatch:
        ids, real, keep = (rows[name].cpu().numpy().reshape(-1, self.block) for name in ("ids", "real", "keep"))
        nothing = np.zeros_like(ids)
        return TokenBatch(ids, real, keep, nothing, nothing)


@dataclass(frozen=True, kw_only=True)
class ModelWindowsSpec(ActivationsSpec):
    """A model and the texts that it reads, described in a file; the fields are those of `activations`."""

    kind: ClassVar[str] = "model"
    source: ClassVar[type[Activations]] = ModelWindows
