"""Pushing what a folder holds to the hub."""

from __future__ import annotations

from pathlib import Path

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.interop.hub import push
from gossamer.interop.reading import locate, places, told

__all__ = ["push_place"]


def push_place(path: str | Path, repository: str, *, private: bool = False, license: str = "") -> str:
    """Push the autoencoders of a run or folder, of any known format, and return the address of the repository.

    license: of the weights; "" leaves that of the provenance. Raises ValueError if there is nothing to push, OSError if
    the hub refuses or cannot be reached.
    """
    found = places(Path(path)) or {"": locate(path)}
    saes: dict[str, SparseAutoencoder] = {}
    for name, place in found.items():
        loaded = place.read()
        told(loaded.notes)
        if license:
            loaded.sae.provenance = loaded.sae.provenance.replace(license=license)
        saes["" if len(found) == 1 else name.removeprefix("sae/")] = loaded.sae
    return push(saes, repository, private=private)
