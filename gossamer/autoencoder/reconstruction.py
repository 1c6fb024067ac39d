"""What a reconstruction costs: the squared error of the whole, or of nested parts of the code as well; or the
cross-entropy, for rows of probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from gossamer import kernels
from gossamer.autoencoder.decoders import AffineDecoder, DecoderModule
from gossamer.codes import Codes, DenseCodes, SparseCodes, keep_entries, rank_in_row
from gossamer.spec import Spec

if TYPE_CHECKING:
    from gossamer.autoencoder.autoencoder import AutoencoderSpec

__all__ = ["CrossEntropy", "HierarchicalK", "Matryoshka", "Reconstruction", "SquaredError"]


class Reconstruction(Spec):
    """The family of reconstruction losses; squared ones are 1 for predicting the mean of rows with mean square 1."""

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError if the loss cannot serve this autoencoder."""

    def __call__(
        self, decoder: DecoderModule, codes: Codes, target: Tensor, x: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return target − reconstruction, without a gradient, and the loss, with one."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class SquaredError(Reconstruction):
    """The mean over all entries of (x̂ − x)²."""

    kind: ClassVar[str] = "squared-error"

    def __call__(
        self, decoder: DecoderModule, codes: Codes, target: Tensor, x: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the residual and its mean square."""
        return decoder.residual(codes, target, x)


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Reconstruction):
    """The mean over all entries of −x ln x̂ − (1 − x) ln(1 − x̂), for rows from 0 to 1.

    The decoder ends in a sigmoid. Logarithms are bounded below by −100. Hinton & Salakhutdinov 2006 (https://doi.org/10.1126/science.1127647).
    """

    kind: ClassVar[str] = "cross-entropy"

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless reconstructions lie between 0 and 1."""
        if getattr(spec.decoder, "output", None) != "sigmoid":
            raise ValueError("cross-entropy compares probabilities; use it with a decoder whose output is 'sigmoid'")

    def __call__(
        self, decoder: DecoderModule, codes: Codes, target: Tensor, x: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the residual and the cross-entropy."""
        reconstruction = decoder(codes, x)
        cost = torch.nn.functional.binary_cross_entropy(reconstruction, target.clamp(0, 1))
        return target - reconstruction.detach(), cost


class _Nested(Reconstruction):
    """Reconstructions from parts of the code, each containing the one before: the mean of their squared errors."""

    def level_of_entry(self, codes: Codes) -> Tensor:
        """Return, for each entry of `codes.values`, the first reconstruction that contains it: 0, 1, …"""
        raise NotImplementedError

    @property
    def levels(self) -> int:
        """How many reconstructions there are."""
        raise NotImplementedError

    def __call__(
        self, decoder: DecoderModule, codes: Codes, target: Tensor, x: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the residual of the whole, and the mean of the squared errors."""
        level = self.level_of_entry(codes)
        if isinstance(codes, SparseCodes) and type(decoder).residual is AffineDecoder.residual:
            parts = [keep_entries(codes, level == number) for number in range(self.levels)]
            places = [tensor for part in parts for tensor in (part.offsets, part.indices, part.values)]
            residual, squares = _NestedResiduals.apply(target, decoder.directions(), decoder.bias, *places)
            return residual, squares.mean() / target.numel()
        residuals = [target - decoder(_up_to(codes, level, number), x) for number in range(self.levels)]
        squares = [residual.square().mean() for residual in residuals]
        return residuals[-1].detach(), torch.stack(squares).mean()


@dataclass(frozen=True, kw_only=True)
class Matryoshka(_Nested):
    """The mean over prefixes m of the squared error of the reconstruction from the first m latents alone.

    prefixes: numbers of latents, rising, the last one all of them. Early latents have to be useful on their own, which
    keeps general features from being absorbed by special ones. Bussmann et al. 2025 (https://arxiv.org/abs/2503.17547).
    """

    kind: ClassVar[str] = "matryoshka"
    prefixes: tuple[int, ...]

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless the prefixes rise and end at the number of latents."""
        rising = all(a < b for a, b in pairwise((0, *self.prefixes)))
        if not rising or self.prefixes[-1:] != (spec.latents,):
            raise ValueError(
                f"prefixes rise from above 0 to the number of latents, {spec.latents}; got {self.prefixes}"
            )

    @property
    def levels(self) -> int:
        """How many prefixes there are."""
        return len(self.prefixes)

    def level_of_entry(self, codes: Codes) -> Tensor:
        """Return the first prefix that contains the latent of each entry."""
        ends = torch.tensor(self.prefixes, device=codes.values.device)
        if isinstance(codes, DenseCodes):
            latents = torch.arange(codes.values.shape[1], device=codes.values.device)
            return torch.bucketize(latents, ends, right=True).expand_as(codes.values)
        return torch.bucketize(codes.indices, ends, right=True)


@dataclass(frozen=True, kw_only=True)
class HierarchicalK(_Nested):
    """The mean over budgets k of the squared error of the reconstruction from the k largest entries of each row alone.

    budgets: numbers of entries, rising; entries beyond the last are in the last reconstruction. One autoencoder then
    serves every k (`with_l0`). Balagansky et al. 2025 (https://arxiv.org/abs/2505.24473): every k.
    """

    kind: ClassVar[str] = "hierarchical-k"
    budgets: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.budgets or not all(a < b for a, b in pairwise((0, *self.budgets))):
            raise ValueError(f"budgets are numbers of entries that rise from above 0; got {self.budgets}")

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError if the largest entries are not what a smaller k would keep."""
        if spec.sparsity.kind == "abs-topk":
            raise ValueError("hierarchical-k goes by the largest values, 'abs-topk' by magnitudes; use 'topk' with it")

    @property
    def levels(self) -> int:
        """How many budgets there are."""
        return len(self.budgets)

    def level_of_entry(self, codes: Codes) -> Tensor:
        """Return the first budget that contains each entry."""
        if isinstance(codes, DenseCodes):
            rank = codes.values.detach().argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        else:
            rank = rank_in_row(codes)
        ends = torch.tensor(self.budgets, device=rank.device)
        return torch.bucketize(rank, ends, right=True).clamp_max(self.levels - 1)


def _up_to(codes: Codes, level: Tensor, number: int) -> Codes:
    if isinstance(codes, DenseCodes):
        return DenseCodes(values=codes.values * (level <= number))
    return keep_entries(codes, level <= number)


class _NestedResiduals(torch.autograd.Function):
    """The residuals r_l = r_{l−1} − z_l W of parts z_0, z_1, … of a code, with r_{−1} = target − b.

    Returns the last residual, without a gradient, and `(parts,)` sums of squares, with one. Each entry takes part in
    one product forward and two backward, however many reconstructions contain it: with g_l the gradient of ‖r_l‖²,
    G_l = Σ_{m ≥ l} −2 g_m r_m is what the entries of z_l see.
    """

    @staticmethod
    def forward(ctx: Any, target: Tensor, weight: Tensor, bias: Tensor, *places: Tensor) -> tuple[Tensor, Tensor]:
        residuals, squares, rest, nothing = [], [], target, torch.zeros_like(bias)
        for number, part in enumerate(_triples(places)):
            rest, square = kernels.residual(*part, weight, nothing if number else bias, rest)
            residuals.append(rest)
            squares.append(square)
        ctx.mark_non_differentiable(rest)
        ctx.save_for_backward(weight, *residuals, *places)
        return rest, torch.stack(squares)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, *saved = ctx.saved_tensors
        count = len(saved) // 4
        residuals, parts = saved[:count], _triples(saved[count:])
        weight_gradients: list[Tensor] = []
        values: list[Tensor | None] = []
        total = torch.zeros_like(residuals[0])
        for number in reversed(range(count)):
            offsets, indices, value = parts[number]
            total = torch.add(total, residuals[number] * (-2 * gradients[1][number]))
            values = [None, None, kernels.gather_dot(total, weight, offsets, indices), *values]
            gradient = kernels.weight_gradient(weight, offsets, indices, value, total)
            weight_gradients += [] if gradient is None or not ctx.needs_input_grad[1] else [gradient]
        of_weight = torch.stack(weight_gradients).sum(dim=0) if weight_gradients else None
        of_bias = total.sum(dim=0) if ctx.needs_input_grad[2] else None
        return -total if ctx.needs_input_grad[0] else None, of_weight, of_bias, *values


def _triples(tensors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    return [(tensors[i], tensors[i + 1], tensors[i + 2]) for i in range(0, len(tensors), 3)]
