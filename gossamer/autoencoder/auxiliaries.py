"""What revives dead latents: losses that give them a gradient, and resampling, which starts them anew."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from gossamer import kernels
from gossamer.autoencoder.pre_activations import rows_of
from gossamer.autoencoder.trace import Trace
from gossamer.spec import Spec

if TYPE_CHECKING:
    from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder

__all__ = ["AuxK", "Auxiliary", "PreActivationLoss", "Resample"]


class Auxiliary(Spec):
    """The family of remedies for dead latents: a loss, or a change of the weights at some steps."""

    weight: float

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError if the remedy cannot serve this autoencoder."""

    def __call__(self, trace: Trace, residual: Tensor, dead: Tensor) -> Tensor:
        """Return a scalar, without its weight.

        residual: `(rows, output_width)`, target minus reconstruction, outside the graph; dead: indices of the latents.
        """
        return residual.new_zeros(())

    def due(self, progress: float, before: float) -> bool:
        """Say whether weights are to be changed now that this share of the training is done, and `before` was."""
        return False

    def revive(self, sae: SparseAutoencoder, x: Tensor, dead: Tensor) -> None:
        """Change the weights of dead latents in place; x: `(rows, input_width)` of the last batch."""


@dataclass(frozen=True, kw_only=True)
class AuxK(Auxiliary):
    """Let the k dead latents with the largest pre-activations explain what the living ones left over.

    With residual e = x − x̂ and ê its reconstruction from those latents: ‖e − ê‖² / ‖e‖². The gradient
    reaches the encoder and the decoder rows of the dead latents, and nothing else.

    k: how many dead latents per row; by default the power of two nearest to half the width of what is reconstructed.

    Gao et al. 2024, appendix A.2 (https://arxiv.org/abs/2406.04093).
    """

    kind: ClassVar[str] = "auxk"
    weight: float = 1 / 32
    k: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_weight(self.weight)
        if self.k is not None and self.k < 1:
            raise ValueError(f"k is the number of dead latents per row, at least 1; got {self.k}")

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless the residual is a sum of directions."""
        if not spec.decoder.linear:
            raise ValueError("auxk explains the residual by directions; it needs a linear decoder")

    def __call__(self, trace: Trace, residual: Tensor, dead: Tensor) -> Tensor:
        """Return the auxiliary loss without its weight; zero if no latent is dead."""
        if dead.shape[0] == 0:
            return residual.new_zeros(())
        k = min(self.k or nearest_power_of_two(residual.shape[1] / 2), dead.shape[0])
        codes, rows = trace.pre.of(dead).topk(k), rows_of(trace.directions, dead)
        places = (codes.offsets, codes.indices, codes.values.relu())
        _, square = kernels.residual(*places, rows, rows.new_zeros(rows.shape[1]), residual)
        scale = torch.linalg.vector_norm(residual).square()
        left = scale > 0  # with nothing left to explain there is nothing to learn
        return square * left / scale.where(left, 1.0)


@dataclass(frozen=True, kw_only=True)
class PreActivationLoss(Auxiliary):
    """Charge dead latents for what they lack to be active: mean over rows of Σ_{dead i} max(θ_i − p_i, 0) ‖d_i‖.

    θ: the threshold of the sparsity, 0 if it has none. Conerly et al. 2025
    (https://transformer-circuits.pub/2025/january-update), for dead latents only.
    """

    kind: ClassVar[str] = "pre-activation"
    weight: float = 3e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_weight(self.weight)

    def __call__(self, trace: Trace, residual: Tensor, dead: Tensor) -> Tensor:
        """Return the cost without its weight; zero if no latent is dead."""
        if dead.shape[0] == 0:
            return residual.new_zeros(())
        lacking = (trace.rule.floor(dead) - trace.pre.of(dead).dense()).relu()
        return (lacking * trace.norms.index_select(0, dead)).sum() / max(len(lacking), 1)


@dataclass(frozen=True, kw_only=True)
class Resample(Auxiliary):
    """Start dead latents anew, at some points of the training, as directions of rows that are reconstructed badly.

    Rows are drawn with probability ∝ ‖x − x̂‖⁴ (the square of their loss). The direction becomes the row's, of norm 1;
    the encoder's row the same, with 0.2 times the mean norm of the living ones; the optimizer's moments become zero.
    Bricken et al. 2023 (https://transformer-circuits.pub/2023/monosemantic-features).

    times: how often, at equal distances in the first `until` of the training.
    """

    kind: ClassVar[str] = "resample"
    weight: float = 1.0
    times: int = 4
    until: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.times < 1 or not 0 < self.until <= 1:
            raise ValueError(f"times is at least 1 and until in (0, 1]; got {self.times} and {self.until}")

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless latents have rows in encoder and decoder that can be set."""
        if (spec.encoder.kind, spec.decoder.kind) != ("linear", "linear") or not spec.task.same_rows:
            raise ValueError(
                "resampling makes rows of the data directions; it needs linear maps and the input as target"
            )

    def due(self, progress: float, before: float) -> bool:
        """Say whether one of the times has come."""
        now, then = (
            min(math.floor(share / self.until * self.times + 1e-9), self.times) for share in (progress, before)
        )
        return now > then

    @torch.no_grad()
    def revive(self, sae: SparseAutoencoder, x: Tensor, dead: Tensor) -> None:
        """Set the rows of the dead latents."""
        rows = sae.scaler(x)
        loss = (x - sae(x).reconstruction).square().sum(dim=1).square()
        if not len(dead) or not loss.sum() > 0:
            return
        drawn = torch.multinomial(loss, len(dead), replacement=True)
        center = sae.decoder.bias
        directions = nn.functional.normalize(rows[drawn] - center, dim=1)
        encoder, decoder = sae.encoder.get_parameter("weight"), sae.decoder.get_parameter("weight")
        alive = torch.ones(len(encoder), dtype=torch.bool, device=dead.device).index_fill(0, dead, False)
        norm = torch.linalg.vector_norm(encoder[alive], dim=1).mean() if alive.any() else encoder.new_ones(())
        decoder[dead] = directions
        encoder[dead] = 0.2 * norm * directions
        sae.encoder.get_parameter("bias")[dead] = -(encoder[dead] @ center)


def _require_weight(weight: float) -> None:
    if weight < 0:
        raise ValueError(f"a weight below 0 would reward what it should charge for; got {weight}")


def nearest_power_of_two(x: float) -> int:
    """Return the power of two whose logarithm is nearest to that of x, at least 1."""
    return 2 ** max(0, round(math.log2(x)))
