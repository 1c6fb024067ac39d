"""Small models of eai-sparsify's `SparseCoder`, saved by its own `save_to_disk`, and what it makes of rows; and of what
we wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from exchange import LATENTS, MANY, WIDTH, Case, Run, main, scramble
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor


def run_of(model: SparseCoder) -> Run:
    """Return what a model does."""

    def run(rows: Tensor) -> tuple[Tensor, Tensor]:
        encoded = model.encode(rows)
        codes = torch.zeros(len(rows), model.num_latents)
        codes.scatter_(1, encoded.top_indices.long(), encoded.top_acts)
        reconstruction = model.decode(encoded.top_acts, encoded.top_indices)
        if model.W_skip is not None:
            reconstruction = reconstruction + rows @ model.W_skip.mT
        # With multi_topk its forward pass decodes the 4k largest, which belong to its loss, and not what it encodes.
        assert model.cfg.multi_topk or torch.allclose(reconstruction, model(rows).sae_out, atol=1e-6)
        return codes, reconstruction

    return run


def case(**options: Any) -> Case:
    """Return what saves a model of a configuration."""

    def make(folder: Path) -> Run:
        model = SparseCoder(WIDTH, SparseCoderConfig(num_latents=LATENTS, **({"k": 6} | options)))
        scramble(model)
        model.save_to_disk(folder)
        return run_of(SparseCoder.load_from_disk(folder))

    return make


def read(folder: Path) -> Run:
    """Load what we wrote."""
    return run_of(SparseCoder.load_from_disk(folder))


CASES: dict[str, Case] = {
    "topk": case(k=MANY),
    "multi_topk": case(multi_topk=True),
    "skip": case(skip_connection=True),
    "transcoder": case(transcode=True),
    "skip_transcoder": case(transcode=True, skip_connection=True),
    "groupmax": case(activation="groupmax", k=8),
}

if __name__ == "__main__":
    main(CASES, read)
