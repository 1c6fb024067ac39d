"""Which device a run uses."""

from __future__ import annotations

import torch

from gossamer.spec import nearest

__all__ = ["resolve_device"]


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is the GPU if there is one, else the CPU.

    Raises ValueError for a device that torch does not know or this machine does not have.
    """
    present = ["cpu"]
    if torch.cuda.is_available():
        present += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name == "auto":
        return torch.device("cuda" if "cuda" in present else "cpu")
    if name not in present:
        raise ValueError(f"no device {name!r} here; {nearest(name, ['auto', *present])}")
    return torch.device(name)
