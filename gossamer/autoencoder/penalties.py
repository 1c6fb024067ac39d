"""What a code costs beside its reconstruction error.

Every penalty is summed over the latents of a row and averaged over rows, so that neither the batch size nor the number
of rows changes its value. What a latent is charged for is what it adds to the reconstruction, |z_i| ‖d_i‖, where the
literature does so: shrinking codes while growing the decoder then gains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from gossamer import kernels
from gossamer.autoencoder.trace import Trace
from gossamer.codes import Codes, DenseCodes, spread
from gossamer.spec import Spec

if TYPE_CHECKING:
    from gossamer.autoencoder.autoencoder import AutoencoderSpec

__all__ = [
    "KL",
    "L0",
    "L1",
    "L2",
    "ElasticNet",
    "GateReconstruction",
    "GroupLasso",
    "Hoyer",
    "L0Target",
    "Log",
    "Lp",
    "Penalty",
    "Tanh",
    "charged",
    "mean_of_rows",
]


@dataclass(frozen=True, kw_only=True)
class Penalty(Spec):
    """The family of penalties: a non-negative cost, multiplied by its weight in the loss.

    weight: of this penalty. target_l0: instead of a weight, the mean number of active latents per row that training is
    to reach by changing the weight (`gossamer.training.sparsity_control`).
    """

    weight: float | None = None
    target_l0: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.weight is None) == (self.target_l0 is None):
            raise ValueError(f"penalty {self.kind!r} takes either a weight or a target_l0")
        if self.weight is not None and self.weight < 0:
            raise ValueError(f"a weight below 0 would reward what it should charge for; got {self.weight}")
        if self.target_l0 is not None and self.target_l0 <= 0:
            raise ValueError(f"target_l0 is a number of active latents per row, above 0; got {self.target_l0}")

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError if codes of this autoencoder cannot be charged for."""

    def __call__(self, trace: Trace) -> Tensor:
        """Return the cost without its weight, a scalar."""
        raise NotImplementedError


def charged(trace: Trace) -> Tensor:
    """Return |z_i| ‖d_i‖ for each entry, or what the sparsity says shall be charged instead of z."""
    codes = trace.codes
    magnitudes = codes.values.abs() if codes.charged is None else codes.charged
    return magnitudes * spread(codes, trace.norms)


def mean_of_rows(entries: Tensor, codes: Codes) -> Tensor:
    """Return the sum over the entries of a row, averaged over rows."""
    return entries.sum() / max(codes.rows, 1)


def sum_of_rows(entries: Tensor, codes: Codes) -> Tensor:
    """Return `(rows,)`: the sum over the entries of each row."""
    if isinstance(codes, DenseCodes):
        return entries.sum(dim=1)
    return entries.new_zeros(codes.rows).index_add(0, codes.row_of_entry(), entries)


@dataclass(frozen=True, kw_only=True)
class L1(Penalty):
    """Σ_i |z_i| ‖d_i‖. Conerly et al. 2024 (https://transformer-circuits.pub/2024/april-update)."""

    kind: ClassVar[str] = "l1"

    def __call__(self, trace: Trace) -> Tensor:
        """Return the cost without its weight."""
        return mean_of_rows(charged(trace), trace.codes)


@dataclass(frozen=True, kw_only=True)
class L2(Penalty):
    """½ Σ_i z_i² ‖d_i‖²: it shrinks codes without making them sparse."""

    kind: ClassVar[str] = "l2"

    def __call__(self, trace: Trace) -> Tensor:
        """Return the cost without its weight."""
        return 0.5 * mean_of_rows(charged(trace).square(), trace.codes)


@dataclass(frozen=True, kw_only=True)
class ElasticNet(Penalty):
    """ratio · L1 + (1 − ratio) · L2. Zou & Hastie 2005 (https://doi.org/10.1111/j.1467-9868.2005.00503.x)."""

    kind: ClassVar[str] = "elastic-net"
    ratio: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio is the share of L1, from 0 to 1; got {self.ratio}")

    def __call__(self, trace: Trace) -> Tensor:
        """Return the cost without its weight."""
        cost = charged(trace)
        return mean_of_rows(self.ratio * cost + 0.5 * (1 - self.ratio) * cost.square(), trace.codes)


@dataclass(frozen=True, kw_only=True)
class Lp(Penalty):
    """Σ_i (|z_i| ‖d_i‖)^p, with p falling linearly from 1 to `p`, in the units of L1.

    The sum is multiplied by what makes it as large as Σ |z_i| ‖d_i‖, so that the weight means the same at every p. The
    slope at 0 is infinite for p < 1; what is below `smallest` counts as that.

    p: at the end, above 0 and at most 1. begin: share of the training after which p begins to fall.
    Karvonen et al. 2024 (https://arxiv.org/abs/2408.00113).
    """

    kind: ClassVar[str] = "lp"
    p: float = 0.2
    begin: float = 0.2
    smallest: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.p <= 1 and 0 <= self.begin < 1 and self.smallest > 0):
            raise ValueError(f"p lies in (0, 1], begin in [0, 1) and smallest above 0; got {self.to_dict()}")

    def __call__(self, trace: Trace) -> Tensor:
        """Return the cost without its weight."""
        p = 1 - (1 - self.p) * min(max(trace.moment.progress - self.begin, 0) / (1 - self.begin), 1)
        cost = charged(trace)
        powers = cost.clamp_min(self.smallest).pow(p) * (cost > 0)
        with torch.no_grad():
            unit = cost.sum() / powers.sum().clamp_min(torch.finfo(cost.dtype).tiny)
        return mean_of_rows(unit * powers, trace.codes)


@dataclass(frozen=True, kw_only=True)
class Log(Penalty):
    """Σ_i ln(1 + |z_i| ‖d_i‖ / scale). Olshausen & Field 1996 (https://doi.org/10.1038/381607a0) use ln(1 + z²)."""

    kind: ClassVar[str] = "log"
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive("scale", self.scale)

    def __call__(self, trace: Trace) -> Tensor:
        """Return the cost without its weight."""
        return mean_of_rows((charged(trace) / self.scale).log1p(), trace.codes)


@dataclass(frozen=True, kw_only=True)
class Tanh(Penalty):
    """Σ_i tanh(scale · |z_i| ‖d_i‖): nearly a count, once codes are large.

    Jermyn et al. 2024 (https://transformer-circuits.pub/2024/feb-update); for JumpReLU Conerly et al. 2025
    (https://transformer-circuits.pub/2025/january-update).
    """

    kind: ClassVar[str] = "tanh"
    scale: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive("scale", self.scale)

    def __call__(self, trace: Trace) -> Tensor:
        """Return the cost without its weight."""
        return mean_of_rows((self.scale * charged(trace)).tanh(), trace.codes)


@dataclass(frozen=True, kw_only=True)
class Hoyer(Penalty):
    """(Σ_i |z_i| ‖d_i‖)² / Σ_i (|z_i| ‖d_i‖)²: 1 for one active latent, n for n equal ones, whatever their size.

    Yang, Wen & Li 2020, "DeepHoyer" (https://arxiv.org/abs/1908.09979).
    """

    kind: ClassVar[str] = "hoyer"

    def __call__(self, trace: Trace) -> Tensor:
        """Return the cost without its weight; 0 for a row without an active latent."""
        cost = charged(trace)
        squares = sum_of_rows(cost.square(), trace.codes)
        some = squares > 0
        ratio = sum_of_rows(cost, trace.codes).square() / torch.where(some, squares, 1.0)
        return (ratio * some).sum() / max(trace.codes.rows, 1)


@dataclass(frozen=True, kw_only=True)
class KL(Penalty):
    """Σ_i KL(rate ‖ ρ_i) with ρ_i the mean over rows of z_i: ρ ln(ρ/ρ_i) + (1 − ρ) ln((1 − ρ)/(1 − ρ_i)).

    rate: ρ, the share of rows on which a latent should be active. Codes must lie in (0, 1), as those of 'sigmoid' do.
    Ng 2011 (https://web.stanford.edu/class/cs294a/sparseAutoencoder_2011new.pdf).
    """

    kind: ClassVar[str] = "kl"
    rate: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rate < 1:
            raise ValueError(f"rate is a share of rows, between 0 and 1; got {self.rate}")

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless activations are shares."""
        if spec.sparsity.kind != "sigmoid":
            raise ValueError(
                f"the kl penalty compares rates, so codes lie in (0, 1); those of {spec.sparsity.kind!r} do not"
            )

    def __call__(self, trace: Trace) -> Tensor:
        """Return the cost without its weight."""
        codes, rho = trace.codes, self.rate
        if isinstance(codes, DenseCodes):
            total = codes.values.sum(dim=0)
        else:
            total = codes.values.new_zeros(codes.latents).index_add(0, codes.indices, codes.values)
        tiny = torch.finfo(total.dtype).eps
        mean = (total / max(codes.rows, 1)).clamp(tiny, 1 - tiny)
        return (rho * (rho / mean).log() + (1 - rho) * ((1 - rho) / (1 - mean)).log()).sum()


@dataclass(frozen=True, kw_only=True)
class L0(Penalty):
    """Σ_i H(p_i − θ_i), the number of active latents, with the gradient that JumpReLU defines.

    Rajamanoharan et al. 2024 (https://arxiv.org/abs/2407.14435).
    """

    kind: ClassVar[str] = "l0"

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless the number of active latents has a gradient."""
        _require_gates(self, spec)

    def __call__(self, trace: Trace) -> Tensor:
        """Return the mean number of active latents of a row."""
        assert trace.codes.gates is not None
        return mean_of_rows(trace.codes.gates, trace.codes)


@dataclass(frozen=True, kw_only=True)
class L0Target(Penalty):
    """(L0 / wanted − 1)², with L0 the mean number of active latents per row and the gradient that JumpReLU defines.

    wanted: the number that costs nothing. Rajamanoharan et al. 2024, section 3 (https://arxiv.org/abs/2407.14435).
    """

    kind: ClassVar[str] = "l0-target"
    wanted: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive("wanted", self.wanted)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless the number of active latents has a gradient."""
        _require_gates(self, spec)

    def __call__(self, trace: Trace) -> Tensor:
        """Return the cost without its weight."""
        assert trace.codes.gates is not None
        return (mean_of_rows(trace.codes.gates, trace.codes) / self.wanted - 1).square()


@dataclass(frozen=True, kw_only=True)
class GateReconstruction(Penalty):
    """The mean over entries of (x̂_gate − x)², x̂_gate decoded from ReLU(p) by a decoder that does not learn from it.

    Rajamanoharan et al. 2024 (https://arxiv.org/abs/2404.16014).
    """

    kind: ClassVar[str] = "gate-reconstruction"

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless there are gates, and a linear decoder."""
        if spec.sparsity.kind != "gated" or not spec.decoder.linear or spec.decoder.wants_rows:
            raise ValueError("penalty 'gate-reconstruction' needs sparsity 'gated' and a decoder z W + b")

    def __call__(self, trace: Trace) -> Tensor:
        """Return the cost without its weight."""
        codes, directions = trace.codes, trace.directions.detach()
        assert codes.charged is not None
        target = trace.target - trace.decoder.bias.detach()
        if isinstance(codes, DenseCodes):
            return (target - codes.charged @ directions).square().mean()
        places, nothing = (codes.offsets, codes.indices, codes.charged), torch.zeros_like(target[0])
        return kernels.residual(*places, directions, nothing, target)[1] / target.numel()


@dataclass(frozen=True, kw_only=True)
class GroupLasso(Penalty):
    """Σ_g √size (Σ_{i in g} z_i² ‖d_i‖²)^½ over groups g of consecutive latents: whole groups are switched off.

    size: latents per group. Yuan & Lin 2006 (https://doi.org/10.1111/j.1467-9868.2005.00532.x).
    """

    kind: ClassVar[str] = "group-lasso"
    size: int

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless the latents can be cut into groups of this size."""
        if self.size < 1 or spec.latents % self.size:
            raise ValueError(f"{spec.latents} latents cannot be cut into groups of {self.size}")

    def __call__(self, trace: Trace) -> Tensor:
        """Return the cost without its weight."""
        codes, squares = trace.codes, charged(trace).square()
        if isinstance(codes, DenseCodes):
            sums = squares.unflatten(1, (-1, self.size)).sum(dim=2)
        else:
            key = codes.row_of_entry() * (codes.latents // self.size) + codes.indices // self.size
            found, place = torch.unique(key, return_inverse=True)
            sums = squares.new_zeros(len(found)).index_add(0, place, squares)
        some = sums > 0
        return (torch.where(some, sums, 1.0).sqrt() * some).sum() * self.size**0.5 / max(codes.rows, 1)


def _require_gates(penalty: Penalty, spec: AutoencoderSpec) -> None:
    if not spec.sparsity.gated:
        raise ValueError(
            f"the {penalty.kind} penalty has no gradient with {spec.sparsity.kind!r}; use it with 'jumprelu'"
        )


def _require_positive(name: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{name} must be above 0, got {value}")
