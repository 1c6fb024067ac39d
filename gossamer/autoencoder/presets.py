"""Named architectures of the literature, each a choice of parts.

`l0` is how many latents shall be active per row. Where a rule has a number of active latents, it is that; otherwise the
weight of a penalty is steered until it is reached, unless a weight is given instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from gossamer.autoencoder.archetypal import Archetypal
from gossamer.autoencoder.attention import Transformer, TransformerDecoder
from gossamer.autoencoder.autoencoder import AutoencoderSpec
from gossamer.autoencoder.auxiliaries import AuxK, PreActivationLoss
from gossamer.autoencoder.constraints import Free
from gossamer.autoencoder.corruption import Mask
from gossamer.autoencoder.cross_layer import LaterLayers, PerLayer
from gossamer.autoencoder.decoders import Deep as DeepDecoder
from gossamer.autoencoder.decoders import Linear, Skip
from gossamer.autoencoder.encoders import Deep, Lista, Tied
from gossamer.autoencoder.penalties import KL, L0, L1, GateReconstruction, Lp, Tanh
from gossamer.autoencoder.reconstruction import HierarchicalK, Matryoshka
from gossamer.autoencoder.scaling import PerSite, Unscaled
from gossamer.autoencoder.sparsity import (
    AbsTopK,
    BatchTopK,
    Gated,
    Identity,
    JumpReLU,
    LinearTopK,
    MatchingPursuit,
    OrthogonalMatchingPursuit,
    ReLU,
    Sigmoid,
    TopK,
    WinnerTakeAll,
)
from gossamer.autoencoder.tasks import Crosscode, CrossLayer, EndToEnd, Transcode
from gossamer.autoencoder.weight_penalties import Contractive, Orthogonality, WeightL2
from gossamer.spec import nearest

__all__ = ["PRESETS", "options", "preset"]

PRESETS: dict[str, Callable[..., AutoencoderSpec]] = {}
"""Every preset by its name."""

DEFAULT_L0 = 32


def _preset(make: Callable[..., AutoencoderSpec]) -> Callable[..., AutoencoderSpec]:
    PRESETS[make.__name__.replace("_", "-")] = make
    return make


def _price(l0: float | None, weight: float | None) -> dict[str, Any]:
    """Return what a penalty is given: the weight that was named, or the L0 to reach."""
    if l0 is not None and weight is not None:
        raise ValueError(f"give either l0 = {l0} to be reached, or the penalty's weight {weight}, not both")
    return {"weight": weight, "target_l0": (DEFAULT_L0 if l0 is None else l0) if weight is None else None}


def _prefixes(latents: int) -> tuple[int, ...]:
    return tuple(sorted({max(1, latents // part) for part in (16, 8, 4, 2, 1)}))


def _budgets(k: int) -> tuple[int, ...]:
    return tuple(sorted({max(1, k // part) for part in (8, 4, 2, 1)}))


@_preset
def topk(*, input_width: int, latents: int, l0: int = DEFAULT_L0) -> AutoencoderSpec:
    """TopK with AuxK and unit decoder rows: Gao et al. 2024 (https://arxiv.org/abs/2406.04093)."""
    return AutoencoderSpec(
        name="topk",
        input_width=input_width,
        latents=latents,
        sparsity=TopK(k=l0),
        auxiliaries=(AuxK(),),
    )


@_preset
def batch_topk(*, input_width: int, latents: int, l0: int = DEFAULT_L0) -> AutoencoderSpec:
    """The k · rows largest of a batch, a threshold afterwards: Bussmann et al. 2024 (https://arxiv.org/abs/2412.06410)."""
    return AutoencoderSpec(
        name="batch-topk",
        input_width=input_width,
        latents=latents,
        sparsity=BatchTopK(k=l0),
        auxiliaries=(AuxK(),),
    )


@_preset
def vanilla_l1(*, input_width: int, latents: int, l0: float | None = None, l1: float | None = None) -> AutoencoderSpec:
    """ReLU, L1 and unit decoder rows: Bricken 2023 (https://transformer-circuits.pub/2023/monosemantic-features)."""
    return AutoencoderSpec(
        name="vanilla-l1",
        input_width=input_width,
        latents=latents,
        sparsity=ReLU(),
        penalties=(L1(**_price(l0, l1)),),
    )


@_preset
def p_anneal(*, input_width: int, latents: int, l0: float | None = None, lp: float | None = None) -> AutoencoderSpec:
    """ReLU and Lp with p falling from 1 to 0.2: Karvonen et al. 2024 (https://arxiv.org/abs/2408.00113)."""
    return AutoencoderSpec(
        name="p-anneal",
        input_width=input_width,
        latents=latents,
        sparsity=ReLU(),
        penalties=(Lp(**_price(l0, lp)),),
    )


@_preset
def gated(*, input_width: int, latents: int, l0: float | None = None, l1: float | None = None) -> AutoencoderSpec:
    """Gates and magnitudes, L1 on the gates: Rajamanoharan et al. 2024 (https://arxiv.org/abs/2404.16014)."""
    return AutoencoderSpec(
        name="gated",
        input_width=input_width,
        latents=latents,
        sparsity=Gated(),
        penalties=(L1(**_price(l0, l1)), GateReconstruction(weight=1.0)),
    )


@_preset
def jumprelu(
    *, input_width: int, latents: int, l0: float | None = None, l0_weight: float | None = None
) -> AutoencoderSpec:
    """JumpReLU with an L0 penalty: Rajamanoharan et al. 2024 (https://arxiv.org/abs/2407.14435)."""
    return AutoencoderSpec(
        name="jumprelu",
        input_width=input_width,
        latents=latents,
        sparsity=JumpReLU(),
        penalties=(L0(**_price(l0, l0_weight)),),
    )


@_preset
def matryoshka_batch_topk(*, input_width: int, latents: int, l0: int = DEFAULT_L0) -> AutoencoderSpec:
    """BatchTopK whose prefixes reconstruct, too: Bussmann et al. 2025 (https://arxiv.org/abs/2503.17547)."""
    return batch_topk(input_width=input_width, latents=latents, l0=l0).replace(
        name="matryoshka-batch-topk", reconstruction=Matryoshka(prefixes=_prefixes(latents))
    )


@_preset
def hierarchical_topk(*, input_width: int, latents: int, l0: int = DEFAULT_L0) -> AutoencoderSpec:
    """TopK that serves every smaller k, too: Balagansky et al. 2025 (https://arxiv.org/abs/2505.24473)."""
    return topk(input_width=input_width, latents=latents, l0=l0).replace(
        name="hierarchical-topk", reconstruction=HierarchicalK(budgets=_budgets(l0))
    )


@_preset
def abs_topk(*, input_width: int, latents: int, l0: int = DEFAULT_L0) -> AutoencoderSpec:
    """The k largest magnitudes, with their signs: Zhu et al. 2025 (https://arxiv.org/abs/2510.00404)."""
    return topk(input_width=input_width, latents=latents, l0=l0).replace(name="abs-topk", sparsity=AbsTopK(k=l0))


@_preset
def matching_pursuit(*, input_width: int, latents: int, l0: int = DEFAULT_L0) -> AutoencoderSpec:
    """Directions chosen one after the other: Costa et al. 2025 (https://arxiv.org/abs/2506.03093)."""
    return AutoencoderSpec(
        name="matching-pursuit",
        input_width=input_width,
        latents=latents,
        encoder=Tied(),
        sparsity=MatchingPursuit(k=l0),
    )


@_preset
def orthogonal_matching_pursuit(*, input_width: int, latents: int, l0: int = DEFAULT_L0) -> AutoencoderSpec:
    """Directions chosen one after the other, values fitted again: Aharon et al. 2006
    (https://doi.org/10.1109/TSP.2006.881199)."""
    return matching_pursuit(input_width=input_width, latents=latents, l0=l0).replace(
        name="orthogonal-matching-pursuit", sparsity=OrthogonalMatchingPursuit(k=l0)
    )


@_preset
def lista_matryoshka(*, input_width: int, latents: int, l0: int = DEFAULT_L0) -> AutoencoderSpec:
    """Matryoshka BatchTopK that looks at its residual once more: Gregor & LeCun 2010
    (https://icml.cc/Conferences/2010/papers/449.pdf)."""
    return matryoshka_batch_topk(input_width=input_width, latents=latents, l0=l0).replace(
        name="lista-matryoshka", encoder=Lista(k=l0)
    )


@_preset
def archetypal(*, input_width: int, latents: int, l0: int = DEFAULT_L0) -> AutoencoderSpec:
    """TopK with directions that are mixtures of data points: Fel et al. 2025 (https://arxiv.org/abs/2502.12892)."""
    return topk(input_width=input_width, latents=latents, l0=l0).replace(name="archetypal", decoder=Archetypal())


@_preset
def ortsae(*, input_width: int, latents: int, l0: int = DEFAULT_L0, weight: float = 0.25) -> AutoencoderSpec:
    """BatchTopK with directions pushed apart: Korznikov et al. 2025 (https://arxiv.org/abs/2509.22033)."""
    return batch_topk(input_width=input_width, latents=latents, l0=l0).replace(
        name="ortsae", penalties=(Orthogonality(weight=weight),)
    )


@_preset
def transcoder(
    *, input_width: int, latents: int, target: str, site: str = "", width: int | None = None, l0: int = DEFAULT_L0
) -> AutoencoderSpec:
    """TopK from one site to another: Dunefsky et al. 2024 (https://arxiv.org/abs/2406.11944)."""
    return topk(input_width=input_width, latents=latents, l0=l0).replace(
        name="transcoder", task=Transcode(site=site, target=target, width=width)
    )


@_preset
def skip_transcoder(
    *, input_width: int, latents: int, target: str, site: str = "", width: int | None = None, l0: int = DEFAULT_L0
) -> AutoencoderSpec:
    """A transcoder beside a linear map of the row: Paulo et al. 2025 (https://arxiv.org/abs/2501.18823)."""
    task = Transcode(site=site, target=target, width=width)
    return topk(input_width=input_width, latents=latents, l0=l0).replace(
        name="skip-transcoder", task=task, decoder=Skip()
    )


@_preset
def crosscoder(
    *, input_width: int, latents: int, sites: tuple[str, ...], widths: tuple[int, ...], l0: int = DEFAULT_L0
) -> AutoencoderSpec:
    """One code for several sites: Lindsey et al. 2024 (https://transformer-circuits.pub/2024/crosscoders)."""
    return batch_topk(input_width=input_width, latents=latents, l0=l0).replace(
        name="crosscoder",
        task=Crosscode(sites=sites, widths=widths),
        scaling=PerSite(widths=widths),
        decoder=Linear(blocks=widths),
    )


@_preset
def clt(
    *, input_width: int, latents: int, sites: tuple[str, ...], targets: tuple[str, ...], l0: float | None = None
) -> AutoencoderSpec:
    """Cross-layer: Lindsey et al. 2025 (https://transformer-circuits.pub/2025/attribution-graphs/methods.html)."""
    task = CrossLayer(sites=sites, destinations=targets, width=input_width // max(len(sites), 1))
    parts = {"encoder": PerLayer(layers=len(sites)), "decoder": LaterLayers(layers=len(sites)), "sparsity": JumpReLU()}
    losses = {"penalties": (Tanh(**_price(l0, None)),), "auxiliaries": (PreActivationLoss(),)}
    return AutoencoderSpec(name="clt", input_width=input_width, latents=latents, task=task, **parts, **losses)


@_preset
def end_to_end(
    *, input_width: int, latents: int, site: str, l0: int = DEFAULT_L0, judge: str = "kl", later: tuple[str, ...] = ()
) -> AutoencoderSpec:
    """TopK judged by the rest of the model: Braun et al. 2024 (https://arxiv.org/abs/2405.12241)."""
    return topk(input_width=input_width, latents=latents, l0=l0).replace(
        name="end-to-end", task=EndToEnd(site=site, judge=judge, later=later)
    )


@_preset
def k_sparse(*, input_width: int, latents: int, l0: int = DEFAULT_L0) -> AutoencoderSpec:
    """Tied weights, the k largest, k falling at first: Makhzani & Frey 2013 (https://arxiv.org/abs/1312.5663)."""
    return AutoencoderSpec(
        name="k-sparse",
        input_width=input_width,
        latents=latents,
        encoder=Tied(),
        sparsity=LinearTopK(k=l0, start_k=min(4 * l0, max(latents, l0))),
        decoder=Linear(constraint=Free()),
    )


@_preset
def winner_take_all(*, input_width: int, latents: int, l0: int = DEFAULT_L0) -> AutoencoderSpec:
    """Each latent keeps its best rows of the batch: Makhzani & Frey 2015 (https://arxiv.org/abs/1409.2752)."""
    return AutoencoderSpec(
        name="winner-take-all",
        input_width=input_width,
        latents=latents,
        sparsity=WinnerTakeAll(k=l0),
    )


@_preset
def kl_sparse(*, input_width: int, latents: int, l0: float | None = None, kl: float | None = None) -> AutoencoderSpec:
    """Sigmoid units kept at a rate: Ng 2011 (https://web.stanford.edu/class/cs294a/sparseAutoencoder_2011new.pdf)."""
    rate = min(0.5, (DEFAULT_L0 if l0 is None else l0) / max(latents, 1))
    return AutoencoderSpec(
        name="kl-sparse",
        input_width=input_width,
        latents=latents,
        sparsity=Sigmoid(),
        decoder=Linear(constraint=Free()),
        penalties=(KL(rate=rate, **_price(l0, kl)), WeightL2(weight=1e-4 / max(input_width, 1))),
    )


@_preset
def deep_autoencoder(
    *, input_width: int, latents: int, l0: int | None = None, hidden: tuple[int, ...] = (1000, 500, 250)
) -> AutoencoderSpec:
    """Layers down to a code and up again: Hinton & Salakhutdinov 2006 (https://doi.org/10.1126/science.1127647)."""
    parts = {"encoder": Deep(hidden=hidden), "decoder": DeepDecoder(hidden=hidden[::-1])}
    sparsity = Identity() if l0 is None else TopK(k=l0)
    return AutoencoderSpec(
        name="deep-autoencoder", input_width=input_width, latents=latents, sparsity=sparsity, **parts
    )


@_preset
def transformer_autoencoder(
    *, input_width: int, latents: int, l0: int | None = None, patches: int | None = None, width: int = 64
) -> AutoencoderSpec:
    """Patches of the row that attend to each other: Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762)."""
    deep = deep_autoencoder(input_width=input_width, latents=latents, l0=l0)
    patches = patches or max(count for count in range(1, 17) if input_width % count == 0)
    sizes: dict[str, Any] = {"patch": max(1, input_width // patches), "width": width, "hidden": 2 * width}
    return deep.replace(
        name="transformer-autoencoder", encoder=Transformer(**sizes), decoder=TransformerDecoder(**sizes)
    )


@_preset
def contractive(*, input_width: int, latents: int, l0: int | None = None, weight: float = 1e-4) -> AutoencoderSpec:
    """Codes that change little with the row: Rifai et al. 2011 (https://icml.cc/2011/papers/455_icmlpaper.pdf)."""
    return AutoencoderSpec(
        name="contractive",
        input_width=input_width,
        latents=latents,
        encoder=Tied(),
        sparsity=Sigmoid() if l0 is None else TopK(k=l0),
        decoder=Linear(constraint=Free()),
        penalties=(Contractive(weight=weight),),
    )


@_preset
def denoising(*, input_width: int, latents: int, l0: int = DEFAULT_L0, share: float = 0.25) -> AutoencoderSpec:
    """TopK that fills in what was masked: Vincent et al. 2008 (https://doi.org/10.1145/1390156.1390294)."""
    return topk(input_width=input_width, latents=latents, l0=l0).replace(name="denoising", corruption=Mask(share=share))


@_preset
def dense_100_64(*, input_width: int = 100, latents: int = 64, l0: int | None = None) -> AutoencoderSpec:
    """The Keras example of the articles: Dense 64 ReLU, Dense sigmoid, squared error; train it with SGD at 0.01
    (https://blog.keras.io/building-autoencoders-in-keras.html)."""
    return AutoencoderSpec(
        name="dense-100-64",
        input_width=input_width,
        latents=latents,
        sparsity=ReLU() if l0 is None else TopK(k=l0),
        decoder=DeepDecoder(output="sigmoid"),
        scaling=Unscaled(),
    )


@_preset
def two_layer_l1(*, input_width: int = 100, latents: int = 100, l0: float | None = None) -> AutoencoderSpec:
    """The PyTorch example: 100 → 50 → 100 and its mirror image, L1 of 0.01 (https://doi.org/10.1126/science.1127647)."""
    hidden = (max(1, input_width // 2),)
    parts = {"encoder": Deep(hidden=hidden), "decoder": DeepDecoder(hidden=hidden), "scaling": Unscaled()}
    penalty = L1(**_price(l0, 0.01 if l0 is None else None))
    return AutoencoderSpec(
        name="two-layer-l1", input_width=input_width, latents=latents, sparsity=ReLU(), penalties=(penalty,), **parts
    )


def preset(name: str, **given: Any) -> AutoencoderSpec:
    """Return the spec of a named architecture.

    Every preset takes `input_width`, `latents` and `l0`, active latents per row. What else one takes, its signature
    says: the sites of a transcoder, or the weight of its penalty instead of l0.

    Raises ValueError for an unknown name or option, naming the nearest known ones, and for options that are missing.
    """
    known = options(name)
    for option in given:
        if option not in known:
            raise ValueError(f"preset {name!r} takes no {option!r}; {nearest(option, known)}")
    missing = [option for option, needed in known.items() if needed and option not in given]
    if missing:
        raise ValueError(f"preset {name!r} needs {' and '.join(missing)}")
    return PRESETS[name](**given)


def options(name: str) -> dict[str, bool]:
    """Return what a preset takes, and whether it is needed; raises ValueError for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; {nearest(name, PRESETS)}")
    parameters = inspect.signature(PRESETS[name]).parameters.values()
    return {parameter.name: parameter.default is parameter.empty for parameter in parameters}
