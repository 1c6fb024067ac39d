"""What is in a place: format, architecture, shapes, L0 if known, licence, provenance. Weights stay on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from gossamer.interop.hub import HUB, fetch_named
from gossamer.interop.reading import Place, inside, places, refuse

__all__ = ["Contents", "inspect"]


@dataclass(frozen=True)
class Contents:
    """What is known of one autoencoder, or why it cannot be read. lines: `name: value`, for people."""

    member: str
    format: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        head = [self.member] if self.member else []
        return "\n".join([*head, f"format: {self.format}", *self.lines])


def inspect(path: str | Path, member: str = "", *, format: str = "") -> list[Contents]:
    """Look into a folder, a file or "hf:owner/repo[/folder]"; raises ValueError if there is no autoencoder."""
    place = Path(fetch_named(str(path))) if str(path).startswith(HUB) else Path(path)
    found = places(inside(place, member), format=format)
    if not found:
        refuse(place, member, format)
    return [_contents(name, one) for name, one in found.items()]


def _contents(member: str, place: Place) -> Contents:
    try:
        loaded = place.look()
    except ValueError as error:
        return Contents(member, place.format.title, (f"cannot be read: {error}",))
    spec, state = loaded.sae.spec, loaded.sae.state_dict()
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    lines = [
        f"architecture: {spec.name} (encoder {spec.encoder.kind}, sparsity {spec.sparsity.kind}, decoder "
        f"{spec.decoder.kind}, scaling {spec.scaling.kind}, task {spec.task.kind})",
        f"input width: {spec.input_width:,}",
        *([] if spec.output_width == spec.input_width else [f"output width: {spec.output_width:,}"]),
        f"latents: {spec.latents:,}",
        f"size: {size:,} bytes, {str(loaded.sae.decoder.bias.dtype).removeprefix('torch.')}",
        *_l0(loaded.sae.provenance.metrics, getattr(spec.sparsity, "k", None)),
        *(line for line in loaded.sae.provenance.lines() if not line.startswith(("l0:", "license:"))),
        f"license: {loaded.sae.provenance.license or 'not stated'}",
        *(f"{name}: {tuple(tensor.shape)}" for name, tensor in state.items() if _is_shown(name, tensor)),
        *(f"note: {note}" for note in loaded.notes),
    ]
    return Contents(member, place.format.title, tuple(lines))


def _is_shown(name: str, tensor: Tensor) -> bool:
    return tensor.dim() > 0 and not name.startswith(("scaler.", "target_scaler."))


def _l0(metrics: dict[str, float], k: int | None) -> list[str]:
    if "l0" in metrics:
        return [f"L0: {metrics['l0']:.4g}, measured"]
    return [] if k is None else [f"k: {k}"]
