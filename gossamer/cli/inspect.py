"""gossamer inspect."""

from __future__ import annotations

from typing import Annotated

import tyro

__all__ = ["inspect"]


def inspect(
    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")],
    *,
    from_: Annotated[str, tyro.conf.arg(name="from")] = "",
    member: str = "",
) -> None:
    """Say what is in a folder or file: format, architecture, shapes, L0 if known, licence, provenance.

    Args:
        path: A folder or file, a run, or hf:owner/repo[/folder][@revision].
        from_: The format of PATH, if it is not to be recognized.
        member: Which of several autoencoders; all of them if it is left out.
    """
    from gossamer.interop.contents import inspect as look

    print("\n\n".join(map(str, look(path, member, format=from_))))
