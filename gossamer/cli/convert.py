"""gossamer convert."""

from __future__ import annotations

from typing import Annotated

import tyro

__all__ = ["convert"]


def convert(
    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")],
    *,
    to: str,
    out: Annotated[str, tyro.conf.arg(aliases=["-o"])],
    from_: Annotated[str, tyro.conf.arg(name="from")] = "",
    member: str = "",
) -> None:
    """Convert a sparse autoencoder from one library's files to another's; what was folded or left out is said.

    Args:
        path: A folder or file, a run, or hf:owner/repo[/folder][@revision].
        to: gossamer, saelens or sparsify.
        out: The folder to write; for several autoencoders, each gets a folder in it.
        from_: The format of PATH, if it is not to be recognized.
        member: Which of several autoencoders; all of them if it is left out.
    """
    from gossamer.interop.converting import convert_place

    for line in convert_place(path, out, to=to, source=from_, member=member):
        print(line)
