"""What SmolLM2 loses when a trained model, of whatever library, stands in for a layer of it.

All are measured by the code that measures ours. Peers' weights are read under the names that their libraries give them,
and encoded and decoded as those document it, in plain torch; `Splicer` refuses weights whose FVU on the held-out rows
is not the one that the library itself reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

import gossamer as gs
from benchmarks import rows
from benchmarks.matched_runs import Entry, weights
from benchmarks.processes import OURS
from gossamer.evaluate.language_model import LanguageModelScore, splice
from gossamer.evaluate.reconstruction import Reconstruction

FVU_TOLERANCE = 1e-3
"""Relative. The weights are the same; only the order of summation differs."""


@dataclass(frozen=True)
class Reconstructed:
    """What `splice` asks of the output of a model."""

    reconstruction: Tensor


class Plain:
    """A peer's trained model: encode and decode from its parameters, rows `(batch, width)`.

    Raises ValueError for parameters of no known library.
    """

    device = torch.device("cpu")

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._of = dict(parameters)
        for names, encode in ((SAELENS_GATED, _gated), (SAELENS, _thresholded), (DICTIONARY_LEARNING, _linear)):
            if names <= self._of.keys():
                self._encode, self._saelens = encode, encode is not _linear
                return
        raise ValueError(f"no known library names its parameters {sorted(self._of)}")

    def encode(self, x: Tensor) -> Tensor:
        """Return `(batch, latents)` codes."""
        return self._encode(self._of, x)

    def decode(self, codes: Tensor) -> Tensor:
        """Return `(batch, width)` rows."""
        if self._saelens:
            return codes @ self._of["W_dec"] + self._of["b_dec"]
        return codes @ self._of["decoder.weight"].T + self._of["bias"]

    def __call__(self, x: Tensor) -> Reconstructed:
        return Reconstructed(self.decode(self.encode(x.float())))


SAELENS_GATED = {"W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"}
SAELENS = {"W_enc", "W_dec", "b_dec", "b_enc"}
DICTIONARY_LEARNING = {"encoder.weight", "encoder.bias", "decoder.weight", "bias"}


def _gated(of: Mapping[str, Tensor], x: Tensor) -> Tensor:
    shared = (x - of["b_dec"]) @ of["W_enc"]
    magnitude = shared * of["r_mag"].exp() + of["b_mag"]
    return torch.where(shared + of["b_gate"] > 0, magnitude.relu(), 0.0)


def _thresholded(of: Mapping[str, Tensor], x: Tensor) -> Tensor:
    values = (x - of["b_dec"]) @ of["W_enc"] + of["b_enc"]
    return torch.where(values > of.get("threshold", torch.zeros(())), values.relu(), 0.0)


def _linear(of: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return ((x - of["bias"]) @ of["encoder.weight"].T + of["encoder.bias"]).relu()


class Splicer:
    """The language model and the held-out windows, made once for all models.

    hook, stored_rows: as `benchmarks.rows` was given them. validation: its `validation.npy`. predictions: about so many
    next tokens.
    """

    def __init__(self, *, hook: str, stored_rows: int, validation: Path, predictions: int) -> None:
        self._hook = hook
        self._source = rows.activations(stored_rows, rows.VALIDATION, hook)
        held_out = self._source.windows
        self._windows = held_out.validation[: -(-predictions // held_out.context)]
        self._rows = torch.from_numpy(np.load(validation))

    @torch.no_grad()
    def measure(self, entry: Entry) -> LanguageModelScore:
        """Measure a finished run.

        Raises ValueError where its weights are missing, or are not those that its FVU was measured with.
        """
        model = self._load(entry)
        seen = Reconstruction()
        for x in self._rows.split(2048):
            seen.update(x, model(x).reconstruction)
        fvu = seen.score().fvu
        if entry.fvu is None or abs(fvu - entry.fvu) > FVU_TOLERANCE * entry.fvu:
            raise ValueError(f"{entry.job.name}: the stored weights have FVU {fvu:.6f}, the run reported {entry.fvu}")
        return splice(model, self._source, mean=seen.mean, windows=self._windows, site=self._hook)

    def _load(self, entry: Entry) -> gs.SparseAutoencoder:
        place = weights(entry)
        if entry.library == OURS:
            return gs.load(place / "sae")
        path = place / "parameters.npz"
        if not path.exists():
            raise ValueError(f"{path} is missing; repeat the run with --fresh")
        with np.load(path, allow_pickle=False) as stored:
            tensors = {name: torch.from_numpy(stored[name]) for name in stored.files}
        return cast(Any, Plain(tensors))
