"""Checkpoints: everything a run depends on, in one safetensors file per checkpoint. No pickle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from gossamer.storage import read_tensors, replace_folder, write_tensors

__all__ = ["KEEP", "Checkpoint", "named", "newest", "read", "write"]

KEEP = 2
"""How many checkpoints stay on disk."""

FILE, FORMAT = "state.safetensors", "gossamer.checkpoint.1"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A saved state. step: how many steps were done. log_bytes: how long metrics.jsonl was. tensors: by name."""

    step: int
    log_bytes: int
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names start with `prefix.`, without it."""
        return named(self.tensors, prefix)


def named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with `prefix.`, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}


def write(folder: Path, checkpoint: Checkpoint) -> Path:
    """Add a checkpoint to a run's folder and remove all but the newest few.

    Raises StorageError if it cannot be written; the earlier ones stay.
    """
    place = folder / "checkpoints" / f"step-{checkpoint.step:08d}"
    metadata = {"format": FORMAT, "step": str(checkpoint.step), "log_bytes": str(checkpoint.log_bytes)}
    replace_folder(place, lambda temporary: write_tensors(temporary / FILE, checkpoint.tensors, metadata))
    for old in _all(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def newest(folder: Path) -> Path | None:
    """Return the place of the newest checkpoint of a run, if there is one."""
    places = _all(folder)
    return places[-1] if places else None


def read(place: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises ValueError, naming the remedy, if it is damaged.
    """
    try:
        tensors, metadata = read_tensors(place / FILE)
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{place / FILE} has format {json.dumps(metadata)}, expected {FORMAT}")
        return Checkpoint(int(metadata["step"]), int(metadata["log_bytes"]), tensors)
    except ValueError as error:
        others = [other.name for other in _all(place.parent.parent) if other != place]
        remedy = f"the run then goes on from {others[-1]}" if others else "the run then starts again"
        raise ValueError(f"the checkpoint cannot be read: {error}. Remove {place}; {remedy}.") from error


def _all(folder: Path) -> list[Path]:
    return sorted(place for place in (folder / "checkpoints").glob("step-*") if place.is_dir() and place.suffix == "")
