"""Reading whatever is there: the format of a place is recognized, one autoencoder is read, and the reader is told."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.files import find
from gossamer.interop.card import license_beside
from gossamer.interop.format import Format, Loaded, format_of, formats
from gossamer.interop.hub import HUB, fetch_named
from gossamer.interop.tensors import require_finite
from gossamer.spec import nearest

__all__ = ["Place", "from_pretrained", "inside", "load", "locate", "places", "read", "refuse", "told"]

SHOWN = 12
"""How many autoencoders of a folder a message names."""


@dataclass(frozen=True)
class Place:
    """Where one autoencoder is, and in which format."""

    path: Path
    format: Format

    def read(self) -> Loaded:
        """Read it; weights may be mapped from the file. Raises ValueError for what is damaged or not finite."""
        loaded = self.look()
        require_finite(loaded.sae.state_dict(), self.path)
        return loaded

    def look(self) -> Loaded:
        """Read it without looking at every weight."""
        loaded = self.format.read(self.path)
        if not loaded.sae.provenance.license:
            loaded.sae.provenance = loaded.sae.provenance.replace(license=license_beside(self.path))
        return loaded


def load(path: str | Path, member: str = "", *, format: str = "", device: str = "cpu") -> SparseAutoencoder:
    """Read an autoencoder of any known format; what was folded into its weights is said on standard error.

    path: a folder or file, or `hf:owner/repo/folder@revision`, with folder and revision where wanted. It may be a run,
    or hold several autoencoders: member then says which, such as "layers.10". format: its name, if it is not to be
    recognized.

    Raises ValueError if there is none, or several and no member; if a file is damaged; or, with the reason, for what
    cannot be computed here.
    """
    loaded = read(path, member, format=format)
    told(loaded.notes)
    sae = loaded.sae
    state = {name: tensor.contiguous().clone() for name, tensor in sae.state_dict().items()}
    sae.load_state_dict(state, assign=True)  # what is mapped would follow its file, and end with it
    return sae.to(device).eval()


def from_pretrained(
    repository: str, folder: str = "", *, revision: str | None = None, device: str = "cpu"
) -> SparseAutoencoder:
    """Read an autoencoder from the Hugging Face Hub, through its cache; with HF_HUB_OFFLINE=1 from the cache alone.

        sae = gs.from_pretrained("owner/repo", "layers.10")

    folder: which one, if the repository holds several. revision: a branch, tag or commit. Raises ValueError as `load`
    does, OSError if the hub cannot be reached and the cache has no copy.
    """
    at = f"@{revision}" if revision else ""
    return load(f"{HUB}{repository}{'/' if folder else ''}{folder}{at}", device=device)


def read(path: str | Path, member: str = "", *, format: str = "") -> Loaded:
    """Read as `load` does, and return notes instead of saying them; weights may be mapped from the file."""
    return locate(path, member, format=format).read()


def locate(path: str | Path, member: str = "", *, format: str = "") -> Place:
    """Return where the one autoencoder of a place is; raises ValueError if there is none, or several."""
    place = Path(fetch_named(str(path))) if str(path).startswith(HUB) else Path(path)
    found = places(inside(place, member), format=format)
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        names = ", ".join(map(repr, list(found)[:SHOWN])) + (", …" if len(found) > SHOWN else "")
        raise ValueError(f"{path} holds {len(found)} autoencoders; choose one of them: {names}")
    refuse(place, member, format)


def places(path: Path, *, format: str = "") -> dict[str, Place]:
    """Return the autoencoders at a place by their paths below it: one at "" if it is itself one.

    Raises ValueError if the place does not exist, or if several formats claim it.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    known = {format: format_of(format)} if format else formats()
    here = [candidate for candidate in known.values() if candidate.recognizes(path)]
    if len(here) > 1:
        names = ", ".join(candidate.name for candidate in here)
        raise ValueError(f"{path} could be of the formats {names}; say which: --from NAME")
    if here:
        return {"": Place(path, here[0])}
    if not path.is_dir():
        return {}
    below = {name: candidate for candidate in known.values() for name in candidate.members(path)}
    return {name: Place(path / name, below[name]) for name in sorted(below, key=_natural)}


def inside(place: Path, member: str) -> Path:
    """Return a path below a place; raises ValueError for one that leaves it, or does not exist."""
    parts = PurePosixPath(member).parts
    if PurePosixPath(member).is_absolute() or ".." in parts or "\\" in member or "\0" in member:
        raise ValueError(f"{member!r} leaves the folder {place}; name something below it")
    path = place.joinpath(*parts)
    if member and place.is_dir() and not path.exists():
        there = {child.name for child in place.iterdir() if child.is_dir()}
        raise ValueError(f"{place} has no {member!r}; {nearest(member, there)}")
    return path


def told(notes: tuple[str, ...]) -> None:
    """Say notes on standard error, a line each."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr, flush=True)


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts layers.2 before layers.10."""
    pieces, digits = [""], False
    for character in name:
        if character.isdigit() != digits:
            pieces.append("")
            digits = not digits
        pieces[-1] += character
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces]


def refuse(place: Path, member: str, format: str) -> NoReturn:
    """Raise ValueError for a place without an autoencoder, saying what there is."""
    if (place / "run.toml").is_file():
        find(place)  # says how to go on with a run that has none yet, and that a transformer's has none
    path = inside(place, member)
    wanted: Mapping[str, Format] = {format: format_of(format)} if format else formats()
    there = sorted(child.name for child in path.iterdir())[:SHOWN] if path.is_dir() else [path.name]
    raise ValueError(
        f"{path} holds no autoencoder of a known format ({', '.join(wanted)}); there is {', '.join(there) or 'nothing'}"
    )
