"""Where an autoencoder comes from: what it was trained on, and how well it did. It travels with the weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from gossamer.spec import Spec

__all__ = ["Provenance"]


@dataclass(frozen=True, kw_only=True)
class Provenance(Spec):
    """Say where an autoencoder comes from; what nobody knows is empty.

    model: whose activations it reads, such as "openai-community/gpt2". site: the hook point, in the words of whoever
    trained it; target: where a transcoder writes. data: the rows' texts, images, ... rows, seed: of the training.
    version: the program that trained it. license: of the weights. metrics: what was measured, by name ("l0", "fvu").
    other: what else a file said, each value as JSON text, so that it can be written again.
    """

    model: str = ""
    site: str = ""
    target: str = ""
    data: str = ""
    rows: int | None = None
    seed: int | None = None
    version: str = ""
    license: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    other: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return one line `name: value` for each thing that is known, for people to read."""
        known = {name: value for name, value in self.to_dict().items() if value not in ("", {}) and name != "other"}
        metrics = known.pop("metrics", {})
        shown = [f"{name}: {value:,}" if name == "rows" else f"{name}: {value}" for name, value in known.items()]
        return shown + [f"{name}: {value:.6g}" for name, value in metrics.items()]
