"""measure: all metrics of one autoencoder on the held-out rows of a source."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.tasks import Crosscode
from gossamer.evaluate.language_model import LanguageModelScore, is_language_model, splice
from gossamer.evaluate.reconstruction import Reconstruction, ReconstructionScore
from gossamer.evaluate.sites import SiteShares, site_shares
from gossamer.evaluate.sparsity import Sparsity, SparsityScore
from gossamer.progress import Progress
from gossamer.sources.activations import Activations
from gossamer.sources.hooks import evaluating
from gossamer.sources.source import Source
from gossamer.storage import replace_file

__all__ = ["Measurement", "measure", "write_measurements"]


@dataclass(frozen=True, eq=False)
class Measurement:
    """The metrics of one autoencoder on held-out rows.

    language_model: None unless the rows come from one, and are given back. sites: of a crosscoder. target_l0: what was
    asked for, if training steered to it.
    """

    name: str
    reconstruction: ReconstructionScore
    sparsity: SparsityScore
    language_model: LanguageModelScore | None
    sites: SiteShares | None = None
    target_l0: float | None = None

    def summary(self) -> dict[str, Any]:
        """Return the figures as plain numbers, without the arrays."""
        r, s = self.reconstruction, self.sparsity
        figures: dict[str, Any] = {"fvu": r.fvu, "cosine": r.cosine, "l0": s.l0, "dead": s.dead, "rows": r.rows}
        if self.target_l0 is not None:
            figures["target_l0"] = self.target_l0
        if self.sites is not None:
            figures |= {
                "shared": self.sites.shared,
                "exclusive": self.sites.exclusive,
                "latents": len(self.sites.shares),
            }
        if self.language_model is not None:
            figures["language_model"] = dataclasses.asdict(self.language_model)
        return {"name": self.name, **figures}


@torch.no_grad()
def measure(
    sae: SparseAutoencoder,
    source: Source,
    *,
    rows: int = 50_000,
    predictions: int = 8192,
    batch: int = 4096,
    quiet: bool = True,
) -> Measurement:
    """Measure an autoencoder on the held-out rows of a source.

    rows: at most so many rows for reconstruction and sparsity. predictions: about so many next-token
    predictions, if the source is a causal language model; 0 leaves that part out. quiet: show no progress.

    Raises ValueError if the source holds no rows out, or its width does not fit.
    """
    source.require(sae.spec)
    if not source.validation_rows:
        raise ValueError("the source holds no rows out; make it with validation above 0")
    if rows < 1 or predictions < 0:
        raise ValueError(f"rows must be at least 1 and predictions at least 0, got {rows} and {predictions}")
    with evaluating(sae):
        reconstruction, sparsity = _held_out(sae, source, rows=rows, batch=batch, quiet=quiet)
        language_model = None
        one_site = sae.spec.task.same_rows and len(sae.spec.task.inputs) == 1
        if predictions and one_site and isinstance(source, Activations) and is_language_model(source.model):
            site = source.site(sae.spec.task.inputs[0])
            windows = source.windows.validation[: -(-predictions // source.windows.context)]
            language_model = splice(sae, source, mean=reconstruction.mean, windows=windows, site=site, quiet=quiet)
    shares = site_shares(sae) if isinstance(sae.spec.task, Crosscode) else None
    scores = (reconstruction.score(), sparsity.score(), language_model)
    return Measurement(sae.spec.name, *scores, sites=shares, target_l0=sae.spec.target_l0)


def _held_out(
    sae: SparseAutoencoder, source: Source, *, rows: int, batch: int, quiet: bool
) -> tuple[Reconstruction, Sparsity]:
    reconstruction, sparsity = Reconstruction(), Sparsity(sae.spec.latents)
    rows, seen = min(rows, source.validation_rows), 0
    with Progress(rows, quiet=quiet, unit="held-out row") as progress:
        for held_out in source.validation(batch=batch):
            x, target = (t.to(sae.device, torch.float32) for t in sae.spec.task.rows(held_out[: rows - seen].rows))
            output = sae(x)
            reconstruction.update(target, output.reconstruction)
            sparsity.update(output.codes)
            seen += len(x)
            progress.advance(seen, {})
            if seen == rows:
                break
    return reconstruction, sparsity


def write_measurements(measurements: list[Measurement], folder: Path) -> Path:
    """Write evaluation.json into a run's folder and return its path; NaN and infinity become null."""
    path = folder / "evaluation.json"
    text = json.dumps([_finite(m.summary()) for m in measurements], indent=2, allow_nan=False) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
