"""gossamer push."""

from __future__ import annotations

from typing import Annotated

import tyro

__all__ = ["push"]


def push(
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OWNER/NAME")],
    *,
    private: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    license: str = "",
) -> None:
    """Push the autoencoders of a run to the Hugging Face Hub, with a model card; log in first: hf auth login.

    Args:
        run: The folder of a run or of an autoencoder, of any known format.
        repository: Where to; it is made if there is none.
        private: Make it so that only you can see it.
        license: Of the weights, such as apache-2.0; left out, that of the provenance.
    """
    from gossamer.interop.pushing import push_place

    print(push_place(run, repository, private=private, license=license))
