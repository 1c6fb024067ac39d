"""TrainSpec: what a person says about a training run, and the rules by which everything else is derived from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from gossamer import kernels
from gossamer.autoencoder.autoencoder import AutoencoderSpec
from gossamer.spec import Spec
from gossamer.transformer.model import TransformerSpec

__all__ = ["SGD", "Adam", "Derived", "Kernels", "Muon", "OptimizerSpec", "TrainSpec", "derive"]


class OptimizerSpec(Spec):
    """The family of optimizers."""

    @property
    def moment_bytes(self) -> int:
        """Bytes that are remembered for each weight."""
        raise NotImplementedError

    def derived_rate(self, autoencoder: AutoencoderSpec) -> float:
        """Return the learning rate for an autoencoder; raises ValueError if there is no rule."""
        raise ValueError(f"there is no rule for the learning rate of {self.kind!r}; give one")

    def transformer_rate(self, width: int) -> float:
        """Return the learning rate for a transformer: (4000 · width)^(−½); `derive` says why."""
        return (4000 * width) ** -0.5


@dataclass(frozen=True, kw_only=True)
class SGD(OptimizerSpec):
    """Stochastic gradient descent: w ← w − rate · v, v ← momentum · v + gradient. It needs a learning_rate.

    Robbins & Monro 1951 (https://doi.org/10.1214/aoms/1177729586).
    """

    kind: ClassVar[str] = "sgd"
    momentum: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum lies in [0, 1), got {self.momentum}")

    @property
    def moment_bytes(self) -> int:
        """Bytes of the momentum of a weight."""
        return 4 if self.momentum else 0


@dataclass(frozen=True, kw_only=True)
class Adam(OptimizerSpec):
    """Adam (Kingma & Ba 2014, https://arxiv.org/abs/1412.6980), in one fused pass over weights and moments.

    moments: how the moments of the weight matrices are stored, "float32" or, in half the memory, "bfloat16".
    """

    kind: ClassVar[str] = "adam"
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    moments: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.eps > 0):
            raise ValueError(f"betas lie in [0, 1) and eps above 0; got {self.to_dict()}")
        if self.moments not in ("float32", "bfloat16"):
            raise ValueError(f"moments are stored as 'float32' or 'bfloat16', got {self.moments!r}")

    @property
    def moment_bytes(self) -> int:
        """Bytes of the two moments of a weight."""
        return 8 if self.moments == "float32" else 4

    def derived_rate(self, autoencoder: AutoencoderSpec) -> float:
        """Return 5e-3 · √(4608 / latents), at most 1e-2 and 1e-2 · √(1024 / width); 1e-3 with hidden layers.

        `derive` says why.
        """
        if autoencoder.encoder.layered or autoencoder.decoder.layered:
            return 1e-3
        width = max(autoencoder.input_width, autoencoder.output_width)
        return min(1e-2, 1e-2 * math.sqrt(1024 / width), 5e-3 * math.sqrt(4608 / autoencoder.latents))


@dataclass(frozen=True, kw_only=True)
class Muon(OptimizerSpec):
    """Muon for weight matrices, Adam for all else: embeddings, biases, norms. Autoencoders need a learning_rate.

        m ← μ m + (1 − μ) g,   w ← (1 − rate · weight_decay) w − rate · 0.2 √max(rows, columns) · polar(μ m + (1 − μ) g)

    polar(U Σ Vᵀ) = U Vᵀ: a step of the same length in every direction that the gradients agree on, its root mean square
    that of a step of Adam (so say Liu et al. 2025, https://arxiv.org/abs/2502.16982). It is found by five
    Newton–Schulz iterations (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

    momentum: μ. adam: for all else. adam_share: its learning rate, as a share of that of the matrices.
    """

    kind: ClassVar[str] = "muon"
    momentum: float = 0.95
    weight_decay: float = 0.1
    adam: Adam = Adam()
    adam_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum lies in [0, 1), got {self.momentum}")
        if self.weight_decay < 0 or self.adam_share <= 0:
            raise ValueError(f"weight_decay is 0 or more and adam_share above 0; got {self.to_dict()}")

    @property
    def moment_bytes(self) -> int:
        """Bytes of the momentum of a weight; the few that Adam changes have another 4."""
        return 4

    def transformer_rate(self, width: int) -> float:
        """Return a rate at which what is left to Adam has that of `Adam`."""
        return super().transformer_rate(width) / self.adam_share


@dataclass(frozen=True, kw_only=True)
class Kernels(Spec):
    """Which kernels do the work; "auto" takes the fastest that serve the device (`gossamer doctor` names them).

    backend: "numba", "triton", "torch" or "reference". selection: "bfloat16" takes candidates from a low-precision
    product and chooses among them by full-precision values; "float32" computes every pre-activation in full precision.
    products: of a transformer's dense layers, "bfloat16" (weights and sums stay in float32) or "float32".
    """

    backend: str = "auto"
    selection: str = "auto"
    products: Literal["auto", "bfloat16", "float32"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        kernels.require_known(self.backend, self.selection)


@dataclass(frozen=True, kw_only=True)
class TrainSpec(Spec):
    """Say how to train. Only `rows` and `batch` matter to most people; what is None is derived (see `derive`).

    rows: how many rows to train on, rounded up to whole batches; more than the source holds means further epochs,
    each in a new order.
    batch: rows per step. seed: of the order of rows and of everything random in training.
    learning_rate: at its plateau. warmup_steps: of linear rise from 0. decay_steps: of linear fall to 0 at the end,
    at most all of them.
    dead_after: rows without activity after which a latent counts as dead.
    checkpoint_every, log_every: in steps. device: "auto" is the GPU if there is one.
    kernels: which implementation, and in which precision latents are selected.
    """

    rows: int = 1_000_000
    batch: int = 2048
    seed: int = 0
    learning_rate: float | None = None
    warmup_steps: int | None = None
    decay_steps: int | None = None
    dead_after: int | None = None
    optimizer: OptimizerSpec = Adam()
    checkpoint_every: int = 500
    log_every: int = 20
    device: str = "auto"
    kernels: Kernels = Kernels()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rows", "batch", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        for name in ("warmup_steps", "decay_steps", "dead_after"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        if self.rows < self.batch:
            raise ValueError(
                f"rows = {self.rows:,} is less than one batch of {self.batch:,}; raise rows or lower batch"
            )

    @property
    def steps(self) -> int:
        """Number of whole batches, enough for all the rows asked for."""
        return -(-self.rows // self.batch)


@dataclass(frozen=True, kw_only=True)
class Derived(Spec):
    """The numbers of one model's training that follow from its spec and the TrainSpec.

    between: what the learning rate does between rise and fall: stay on a "plateau", or go down by the "inverse-root" of
    the steps.
    """

    learning_rate: float
    warmup_steps: int
    decay_steps: int
    dead_after: int = 0
    between: Literal["plateau", "inverse-root"] = "plateau"

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of step 0 … steps − 1: rise, plateau or slow fall, fall to 0.

        rate · min(1, (s + 1) / (w + 1), (steps − s) / (d + 1)) for w and d steps up and down; with "inverse-root"
        rate · min((s + 1) / (w + 1), √((w + 1) / (s + 1))) · min(1, (steps − s) / (d + 1)).
        """
        rise = (step + 1) / (self.warmup_steps + 1)
        fall = (steps - step) / (self.decay_steps + 1)
        if self.between == "inverse-root":
            return self.learning_rate * min(rise, rise**-0.5) * min(1.0, fall)
        return self.learning_rate * min(1.0, rise, fall)


def derive(train: TrainSpec, model: AutoencoderSpec | TransformerSpec) -> Derived:
    """Return the numbers for one model. A fall that was asked to be longer than the run takes all of it."""
    if train.decay_steps is not None:
        train = train.replace(decay_steps=min(train.decay_steps, train.steps))
    return _of_transformer(train, model) if isinstance(model, TransformerSpec) else _of_autoencoder(train, model)


def _of_transformer(train: TrainSpec, transformer: TransformerSpec) -> Derived:
    """Return the numbers for a transformer.

    - learning rate: (4000 · width)^(−½), where Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762, section 5.3)
      arrive after their 4000 steps of warm-up; from there it falls by the inverse root of the steps, as theirs.
      Muon's is twice that, by its `adam_share`.
    - warm-up: a tenth of the steps, at most 4000.
    - decay: the last fifth of the steps, to 0. If decay_steps are given, the rate stays on its plateau until then.
    """
    rate = train.optimizer.transformer_rate(transformer.width) if train.learning_rate is None else train.learning_rate
    warmup = min(4000, train.steps // 10) if train.warmup_steps is None else train.warmup_steps
    if train.decay_steps is not None:
        return Derived(learning_rate=rate, warmup_steps=warmup, decay_steps=train.decay_steps)
    return Derived(learning_rate=rate, warmup_steps=warmup, decay_steps=train.steps // 5, between="inverse-root")


def _of_autoencoder(train: TrainSpec, autoencoder: AutoencoderSpec) -> Derived:
    """Return the numbers for an autoencoder.

    - learning rate: 5e-3 · √(4608 / latents), at most 1e-2. The falling square root is that of Gao et al. 2024
      (https://arxiv.org/abs/2406.04093, appendix A.3); the constant is the best of those tried on activations of
      two models, at layers that no benchmark here uses (docs/decisions.md). For rows wider than 1024 at most
      1e-2 · √(1024 / width): Adam moves every entry by about the rate, and those of a unit direction shrink as
      1 / √width. With hidden layers 1e-3, as Kingma & Ba
      2014 recommend: at the rate of a single layer most latents die.
    - warm-up: a twentieth of the steps, at most 1000.
    - decay: the last fifth of the steps, linearly to 0 (Conerly et al. 2024,
      https://transformer-circuits.pub/2024/april-update).
    - dead window: an eighth of the rows, at least 32 batches and at most 10 million (Gao et al. 2024 use 10 million
      rows on runs of billions).
    """
    steps = train.steps
    rate = train.learning_rate
    if rate is None:
        rate = train.optimizer.derived_rate(autoencoder)
    given = (train.warmup_steps, train.decay_steps, train.dead_after)
    rules = (min(1000, steps // 20), steps // 5, min(10_000_000, max(train.rows // 8, 32 * train.batch)))
    warmup, decay, dead = (rule if value is None else value for value, rule in zip(given, rules, strict=True))
    return Derived(learning_rate=float(rate), warmup_steps=int(warmup), decay_steps=int(decay), dead_after=int(dead))
