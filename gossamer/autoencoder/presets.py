"""Named architectures of the literature, each a choice of parts."""

from __future__ import annotations

from collections.abc import Callable

from gossamer.autoencoder.autoencoder import AutoencoderSpec
from gossamer.autoencoder.losses import L0, L1, AuxK
from gossamer.autoencoder.sparsity import JumpReLU, ReLU, TopK
from gossamer.spec import nearest

__all__ = ["PRESETS", "preset"]


def topk(*, input_width: int, latents: int, l0: int = 32) -> AutoencoderSpec:
    """TopK with AuxK and unit decoder rows: Gao et al. 2024 (https://arxiv.org/abs/2406.04093)."""
    return AutoencoderSpec(
        name="topk",
        input_width=input_width,
        latents=latents,
        sparsity=TopK(k=l0),
        auxiliaries=(AuxK(),),
    )


def vanilla_l1(*, input_width: int, latents: int, l1: float = 0.005) -> AutoencoderSpec:
    """ReLU with an L1 penalty and unit decoder rows: Bricken et al. 2023
    (https://transformer-circuits.pub/2023/monosemantic-features)."""
    return AutoencoderSpec(
        name="vanilla-l1",
        input_width=input_width,
        latents=latents,
        sparsity=ReLU(),
        penalties=(L1(weight=l1),),
    )


def jumprelu(*, input_width: int, latents: int, l0_weight: float = 2e-3) -> AutoencoderSpec:
    """JumpReLU with an L0 penalty and unit decoder rows: Rajamanoharan et al. 2024 (https://arxiv.org/abs/2407.14435)."""
    return AutoencoderSpec(
        name="jumprelu",
        input_width=input_width,
        latents=latents,
        sparsity=JumpReLU(),
        penalties=(L0(weight=l0_weight),),
    )


PRESETS: dict[str, Callable[..., AutoencoderSpec]] = {"topk": topk, "vanilla-l1": vanilla_l1, "jumprelu": jumprelu}


def preset(name: str, **options: float) -> AutoencoderSpec:
    """Return the spec of a named architecture.

    Every preset takes `input_width` and `latents`; the dial of its sparsity is `l0` (topk: active latents per row),
    `l1` (vanilla-l1: weight of the penalty) or `l0_weight` (jumprelu: likewise).

    Raises ValueError for an unknown name or option, naming the nearest known ones.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; {nearest(name, PRESETS)}")
    make = PRESETS[name]
    known = make.__kwdefaults__ or {}
    accepted = ["input_width", "latents", *known]
    for option in options:
        if option not in accepted:
            raise ValueError(f"preset {name!r} takes no {option!r}; {nearest(option, accepted)}")
    missing = [option for option in accepted if option not in known and option not in options]
    if missing:
        raise ValueError(f"preset {name!r} needs {' and '.join(missing)}")
    return make(**options)
