"""From one format to another, tensor by tensor: weights go from the mapped file to the new one in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gossamer.interop.format import format_of
from gossamer.interop.hub import HUB, fetch_named
from gossamer.interop.reading import inside, locate, places

__all__ = ["convert_place"]


def convert_place(path: str | Path, out: str | Path, *, to: str, source: str = "", member: str = "") -> Iterator[str]:
    """Convert one autoencoder, or all that a folder holds, and say what is done, a line at a time.

    path, member: as `gossamer.load` takes them. out: a folder; of several autoencoders, each gets a folder in it by its
    name. source: the format of the path; recognized if it is "".

    Raises ValueError if there is nothing to read, or the new format cannot be written; with the reason for what cannot
    be read or expressed. Of several autoencoders the others are written all the same.
    """
    target, out = format_of(to), Path(out)
    if not target.writable:
        raise ValueError(f"{target.title} files are read, not written; convert to gossamer, saelens or sparsify")
    place = inside(Path(fetch_named(str(path))) if str(path).startswith(HUB) else Path(path), member)
    found = places(place, format=source) or {"": locate(place, format=source)}
    if out.resolve() == place.resolve():
        raise ValueError(f"{out} is where the autoencoder comes from; write it to another folder")
    refused = []
    for name, one in found.items():
        folder = out if len(found) == 1 else out / (name.removesuffix(one.path.suffix) if one.path.is_file() else name)
        try:
            loaded = one.read()
            notes = (*loaded.notes, *target.write(loaded.sae, folder))
        except ValueError as error:
            if len(found) == 1:
                raise
            refused.append(name)
            yield f"{one.path} is left out: {error}"
            continue
        yield f"{one.path} ({one.format.title}) → {folder} ({target.title})"
        yield from (f"  note: {note}" for note in notes)
    if refused:
        raise ValueError(f"{len(refused)} of {len(found)} autoencoders could not be converted: {', '.join(refused)}")
