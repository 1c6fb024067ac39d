"""gossamer doctor."""

from __future__ import annotations

__all__ = ["doctor"]


def doctor() -> None:
    """Say what this machine has, which kernels are in use, what is missing and how to get it."""
    from gossamer.doctor import examine, print_findings

    print_findings(examine())
