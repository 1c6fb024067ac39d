"""From the parameters of an estimator to the specs of an autoencoder and of its training."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from gossamer.autoencoder.autoencoder import AutoencoderSpec
from gossamer.autoencoder.decoders import Deep as DeepDecoder
from gossamer.autoencoder.decoders import Linear as LinearDecoder
from gossamer.autoencoder.encoders import Deep as DeepEncoder
from gossamer.autoencoder.encoders import Linear as LinearEncoder
from gossamer.autoencoder.penalties import L2, ElasticNet, Hoyer, Log, Penalty
from gossamer.autoencoder.presets import PRESETS
from gossamer.autoencoder.reconstruction import CrossEntropy
from gossamer.autoencoder.scaling import Unscaled
from gossamer.autoencoder.sparsity import Identity, ReLU
from gossamer.spec import nearest
from gossamer.training.spec import SGD, Adam, TrainSpec

__all__ = ["SPARSITIES", "Architecture", "autoencoder_spec", "has_penalty", "train_spec"]

Maker: TypeAlias = Callable[..., AutoencoderSpec]

BATCH = 256
"""Rows per step if nothing is said; Adam's derived learning rate was tuned on larger ones, and does well with these."""
SGD_RATE = 0.01
WEIGHTS = ("alpha", "l1", "lp", "l0_weight", "kl")
"""What the weight of the penalty that makes codes sparse is called."""


def _penalised(penalty: type[Penalty]) -> Maker:
    """Return a maker of ReLU autoencoders with one penalty."""

    def make(*, input_width: int, latents: int, l0: float | None = None, alpha: float | None = None) -> AutoencoderSpec:
        return AutoencoderSpec(
            name=penalty.kind,
            input_width=input_width,
            latents=latents,
            sparsity=ReLU(),
            penalties=(penalty(weight=alpha, target_l0=l0),),
        )

    return make


def _plain(*, input_width: int, latents: int) -> AutoencoderSpec:
    """Return an autoencoder whose codes are not sparse."""
    return AutoencoderSpec(name="plain", input_width=input_width, latents=latents, sparsity=Identity())


def _plain_relu(*, input_width: int, latents: int) -> AutoencoderSpec:
    """Return an autoencoder with one hidden layer of rectified units."""
    return AutoencoderSpec(name="relu", input_width=input_width, latents=latents, sparsity=ReLU())


SPARSITIES: dict[str, Maker] = {
    "none": _plain,
    "relu": _plain_relu,
    "l1": PRESETS["vanilla-l1"],
    "l2": _penalised(L2),
    "elastic-net": _penalised(ElasticNet),
    "hoyer": _penalised(Hoyer),
    "log": _penalised(Log),
    "kl": PRESETS["kl-sparse"],
    **{
        name: make
        for name, make in PRESETS.items()
        if not {"site", "sites", "target"} & set(inspect.signature(make).parameters)
    },
}
"""What `sparsity` may be: every preset that needs nothing but rows, and what is simpler than any of them."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The parameters of an estimator that say what is trained."""

    n_components: int
    sparsity: str
    l0: float | None
    alpha: float | None
    hidden_layer_sizes: tuple[int, ...]
    activation: str
    output_activation: str
    loss: str


def has_penalty(sparsity: str) -> bool:
    """Say whether codes are made sparse by a penalty, whose weight is alpha; ValueError for an unknown name."""
    return _weight_of(_maker(sparsity)) is not None


def _maker(sparsity: str) -> Maker:
    if sparsity not in SPARSITIES:
        raise ValueError(f"unknown sparsity {sparsity!r}; {nearest(sparsity, SPARSITIES)}")
    return SPARSITIES[sparsity]


def _weight_of(make: Maker) -> str | None:
    known = inspect.signature(make).parameters
    return next((name for name in WEIGHTS if name in known), None)


def autoencoder_spec(wanted: Architecture, input_width: int) -> AutoencoderSpec:
    """Return the spec; raises ValueError for an unknown name or what does not go together, naming the parameter."""
    make = _maker(wanted.sparsity)
    spec = make(input_width=input_width, latents=wanted.n_components, **_strength(wanted, make, input_width))
    return _with_loss(_with_layers(spec, wanted), wanted)


def _strength(wanted: Architecture, make: Maker, input_width: int) -> dict[str, Any]:
    """Return what says how sparse codes shall be: a number of active latents, or the weight of a penalty."""
    known, weight = inspect.signature(make).parameters, _weight_of(make)
    if wanted.alpha is not None:
        if weight is None:
            raise ValueError(
                f"alpha weighs the penalty that makes codes sparse, and sparsity {wanted.sparsity!r} has none; give l0"
            )
        if wanted.l0 is not None:
            raise ValueError(f"give either l0 = {wanted.l0:g} or alpha = {wanted.alpha:g}, not both")
        return {weight: wanted.alpha}
    if wanted.l0 is None:
        if "l0" not in known or (weight is None and known["l0"].default is None):
            return {}
        return {"l0": max(1, min(wanted.n_components, round(input_width / 10)))}
    if "l0" not in known:
        raise ValueError(f"sparsity {wanted.sparsity!r} makes no sparse codes; leave l0 out")
    if wanted.l0 > wanted.n_components:
        raise ValueError(f"l0 = {wanted.l0:g} active components are more than n_components = {wanted.n_components}")
    if "float" in str(known["l0"].annotation):
        return {"l0": float(wanted.l0)}
    if wanted.l0 != int(wanted.l0):
        raise ValueError(f"l0 is a whole number for sparsity {wanted.sparsity!r}, got {wanted.l0}")
    return {"l0": int(wanted.l0)}


def _with_layers(spec: AutoencoderSpec, wanted: Architecture) -> AutoencoderSpec:
    """Put hidden layers before the code and after it, and a function at the end."""
    hidden, output = wanted.hidden_layer_sizes, _linear(wanted.output_activation)
    if not hidden and _linear(wanted.activation) != "relu":
        raise ValueError(f"activation = {wanted.activation!r} is that of hidden layers; give hidden_layer_sizes, too")
    if not hidden and output == "linear":
        return spec
    plain = type(spec.decoder) is LinearDecoder and (type(spec.encoder) is LinearEncoder or not hidden)
    if not plain:
        named = "hidden_layer_sizes" if hidden else "output_activation"
        raise ValueError(f"sparsity {wanted.sparsity!r} has layers of its own; leave out {named}")
    changed: dict[str, Any] = {"auxiliaries": (), "scaling": spec.scaling if output == "linear" else Unscaled()}
    if hidden:
        changed["encoder"] = DeepEncoder(hidden=hidden, activation=_linear(wanted.activation))
    decoder = DeepDecoder(hidden=hidden[::-1], activation=_linear(wanted.activation), output=output)
    return spec.replace(decoder=decoder, **changed)


def _with_loss(spec: AutoencoderSpec, wanted: Architecture) -> AutoencoderSpec:
    losses = ("squared_error", "binary_cross_entropy")
    if wanted.loss not in losses:
        raise ValueError(f"unknown loss {wanted.loss!r}; {nearest(wanted.loss, losses)}")
    if wanted.loss == "squared_error":
        return spec
    if _linear(wanted.output_activation) != "sigmoid":
        raise ValueError(
            "loss 'binary_cross_entropy' compares probabilities; give output_activation = 'logistic', not "
            f"{wanted.output_activation!r}"
        )
    return spec.replace(reconstruction=CrossEntropy())


def _linear(name: str) -> str:
    """Return our name of an activation: scikit-learn says "identity" and "logistic"."""
    return {"identity": "linear", "logistic": "sigmoid"}.get(name, name)


def train_spec(
    *,
    rows: int,
    batch_size: int | str,
    max_iter: int,
    solver: str,
    learning_rate: float | None,
    seed: int,
    device: str,
) -> TrainSpec:
    """Return how to train on so many rows, an epoch being as many steps as it takes for them.

    Raises ValueError naming the parameter that is wrong.
    """
    solvers = {"adam": Adam(), "sgd": SGD()}
    if solver not in solvers:
        raise ValueError(f"unknown solver {solver!r}; {nearest(solver, solvers)}")
    if isinstance(batch_size, str) and batch_size != "auto":
        raise ValueError(f"batch_size is a number or 'auto', got {batch_size!r}")
    steps = -(-rows // (BATCH if isinstance(batch_size, str) else batch_size))
    batch = -(-rows // steps)  # batches of one size, as near as possible to what was asked for
    if solver == "sgd" and learning_rate is None:
        learning_rate = SGD_RATE
    return TrainSpec(
        rows=batch * steps * max_iter,
        batch=batch,
        seed=seed,
        learning_rate=learning_rate,
        optimizer=solvers[solver],
        log_every=steps,
        checkpoint_every=2**31,
        device=device,
    )
