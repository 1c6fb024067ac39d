"""Our own folders: `spec.json`, `weights.safetensors` and, where something is known, `provenance.json`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.files import FILES, SPEC, WEIGHTS, as_folded, load_mapped, write_into
from gossamer.interop.format import Format, Loaded

__all__ = ["FORMAT", "Gossamer", "read", "write"]


class Gossamer(Format):
    """Folders that `gossamer.save` writes; it expresses every autoencoder."""

    name: ClassVar[str] = "gossamer"
    title: ClassVar[str] = "Gossamer"
    files: ClassVar[frozenset[str]] = FILES

    def recognizes(self, place: Path) -> bool:
        """Say whether there are a spec and weights."""
        return (place / SPEC).is_file() and (place / WEIGHTS).is_file()

    def read(self, place: str | Path) -> Loaded:
        """Read one autoencoder; raises ValueError, naming the file, for what is damaged."""
        return Loaded(load_mapped(Path(place)))

    def fill(self, sae: SparseAutoencoder, folder: Path) -> tuple[str, ...]:
        """Write an autoencoder."""
        write_into(folder, sae)
        if as_folded(sae) is sae:
            return ()
        return (f"the scaling {sae.spec.scaling.kind!r} is folded into weights and biases",)


FORMAT = Gossamer()
read, write = FORMAT.read, FORMAT.write
