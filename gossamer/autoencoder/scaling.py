"""Scaling: the units in which an autoencoder is trained, so that learning rates mean the same on any data.

Codes and decoder rows always speak the input's own units. A scaling that is one affine map of all rows folds into the
first and last map of the autoencoder without a trace (`SparseAutoencoder.fold`); `Change` says how.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from gossamer.kernels.sharing import once
from gossamer.spec import Spec

if TYPE_CHECKING:
    from gossamer.autoencoder.autoencoder import AutoencoderSpec

__all__ = ["Change", "MeanScale", "PerSite", "RowNorm", "RowScaler", "Scaler", "Scaling", "Unscaled", "Whitening"]


def _times(rows: Tensor, scale: Tensor) -> Tensor:
    """Multiply `(rows, width)` by a number, by one number per column, or by a symmetric matrix."""
    return rows @ scale if scale.dim() == 2 else rows * scale


@dataclass(frozen=True, eq=False)
class Change:
    """A change of units: rows x become x' with x = (x' − shift) · scale; pre-activations and codes are multiplied by
    `code`.

    shift: `(width,)`; scale and its inverse: `()`, `(width,)` or a symmetric `(width, width)`; code: `()`. If one
    number scales rows and codes alike, weights stay exactly as they are, and only biases change.
    """

    shift: Tensor
    scale: Tensor
    inverse: Tensor
    code: Tensor

    @property
    def alike(self) -> bool:
        """Say whether one number scales rows and codes alike."""
        return self.scale.dim() == 0 and torch.equal(self.inverse, self.code)

    def cut(self, width: int) -> Iterator[Change]:
        """Iterate over the changes of consecutive columns of the row."""
        starts = range(0, len(self.shift), width)
        return (self._columns(slice(start, start + width)) for start in starts)

    def from_column(self, first: int) -> Change:
        """Return the change of the columns from `first` on."""
        return self._columns(slice(first, None))

    def scaled_back(self, rows: Tensor) -> Tensor:
        """Return differences of rows in the new units."""
        return _times(rows, self.inverse)

    def of_encoder(self, weight: Tensor, bias: Tensor) -> None:
        """Change the only map of an encoder: it reads rows and gives pre-activations."""
        if not self.alike:
            weight.copy_(_times(weight, self.scale) * self.code)
        bias.copy_(bias * self.code - weight @ self.shift)

    def of_difference(self, weight: Tensor, bias: Tensor) -> None:
        """Change a map that reads the difference of two rows, and gives pre-activations."""
        if not self.alike:
            weight.copy_(_times(weight, self.scale) * self.code)
        self.of_code(bias)

    def of_first(self, weight: Tensor, bias: Tensor) -> None:
        """Change a map that reads rows, and gives what it gave."""
        weight.copy_(_times(weight, self.scale))
        bias.sub_(weight @ self.shift)

    def of_code(self, *tensors: Tensor) -> None:
        """Change what is counted in units of pre-activations."""
        for tensor in tensors:
            tensor.mul_(self.code)

    def of_decoder(self, weight: Tensor, bias: Tensor) -> None:
        """Change the only map of a decoder: it reads codes and gives rows."""
        if not self.alike:
            weight.copy_(_times(weight, self.inverse) / self.code)
        self.of_rows(bias)

    def of_last(self, weight: Tensor, bias: Tensor) -> None:
        """Change a map `(width, hidden)` that gives rows, and reads what it read."""
        weight.copy_(_times(weight.T, self.inverse).T)
        self.of_rows(bias)

    def of_rows(self, rows: Tensor) -> None:
        """Change rows."""
        rows.copy_(_times(rows, self.inverse) + self.shift)

    def _columns(self, which: slice) -> Change:
        if self.scale.dim() == 0:
            return Change(self.shift[which], self.scale, self.inverse, self.code)
        return Change(self.shift[which], self.scale[which], self.inverse[which], self.code)


class Scaler(nn.Module):
    """Map a row x to (x − mean) · scale and back. mean: `(input_width,)`; scale: as in `Change`.

    folds: whether it is one affine map of all rows. learns_bias: whether the decoder's bias is of use beside it.
    """

    folds: ClassVar[bool] = True
    learns_bias: ClassVar[bool] = True
    mean: Tensor
    scale: Tensor

    def __init__(self, input_width: int, *, dimensions: int = 0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(input_width))
        identity = torch.eye(input_width) if dimensions == 2 else torch.ones([input_width] * dimensions)
        self.register_buffer("scale", identity)

    def forward(self, x: Tensor) -> Tensor:
        """Return the row in training units."""
        return once("scaled", x, (self.mean, self.scale), lambda: _times(x - self.mean, self.scale))

    def undo(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the row in the input's own units. rows: those that were encoded, if they have units of their own."""
        return _times(x, self._inverse()) + self.mean

    def code_scale(self, x: Tensor | None = None) -> Tensor:
        """Return what codes of these rows are divided by to count in the input's units: `()`, or per row."""
        return self.scale if self.scale.dim() == 0 else self.scale.new_ones(())

    @torch.no_grad()
    def set(self, mean: Tensor, scale: Tensor) -> None:
        """Take what a Scaling measured."""
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    @torch.no_grad()
    def reset(self) -> None:
        """Scale nothing."""
        self.mean.zero_()
        self.scale.copy_(torch.eye(len(self.mean)) if self.scale.dim() == 2 else torch.ones_like(self.scale))

    def to_own_units(self, code_scale: Tensor) -> Change:
        """Return the change from training units to the input's own, for codes with this scale."""
        return Change(self.mean.clone(), self.scale.clone(), self._inverse(), 1 / code_scale)

    def to_training_units(self, code_scale: Tensor) -> Change:
        """Return the change back."""
        return Change(-_times(self.mean, self.scale), self._inverse(), self.scale.clone(), code_scale.clone())

    def _inverse(self) -> Tensor:
        if self.scale.dim() < 2:
            return 1 / self.scale
        return torch.linalg.inv(self.scale.double()).to(self.scale)


class RowScaler(Scaler):
    """Map a row x to √width · (x − mean) / ‖x − mean‖. It does not fold: every row has a scale of its own.

    Codes in the input's units carry the norm of their row, so that decoding needs no more than the mean.
    """

    folds: ClassVar[bool] = False
    learns_bias: ClassVar[bool] = False

    def forward(self, x: Tensor) -> Tensor:
        """Return the row with mean square 1."""
        return once("row-norm", x, (self.mean,), lambda: (x - self.mean) * self.code_scale(x)[:, None])

    def undo(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return x + mean."""
        return x + self.mean

    def code_scale(self, x: Tensor | None = None) -> Tensor:
        """Return √width / ‖x − mean‖, `(rows,)`; without rows 1."""
        if x is None:
            return self.scale.new_ones(())
        norm = torch.linalg.vector_norm(x - self.mean, dim=1)
        return x.shape[1] ** 0.5 / norm.clamp_min(torch.finfo(x.dtype).tiny ** 0.5)


class Scaling(Spec):
    """The family of scalings: what is measured on a sample of rows before training.

    uniform: whether all entries of a row are multiplied by one number. wants_rows: whether decoding needs the rows
    that were encoded.
    """

    uniform: ClassVar[bool] = True
    wants_rows: ClassVar[bool] = False

    def build(self, *, input_width: int) -> Scaler:
        """Return the module, which scales nothing until it is set."""
        return Scaler(input_width)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError if the scaling cannot serve this autoencoder."""

    def measure(self, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean `(input_width,)` and scale for these rows."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Unscaled(Scaling):
    """Train in the input's own units."""

    kind: ClassVar[str] = "unscaled"

    def measure(self, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean 0 and scale 1."""
        return sample.new_zeros(sample.shape[1]), sample.new_ones(())


@dataclass(frozen=True, kw_only=True)
class MeanScale(Scaling):
    """Subtract the mean row and divide by one number, so that the mean square of an entry is 1.

    A loss of 1 is then what predicting the mean costs. Conerly et al. 2024, "Update on how we train SAEs"
    (https://transformer-circuits.pub/2024/april-update), with the mean taken out.
    """

    kind: ClassVar[str] = "mean-scale"

    def measure(self, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean row and 1 / root mean square of what is left."""
        mean = sample.mean(dim=0, dtype=torch.float64)
        square = (sample - mean).square().mean()
        rounding = (torch.finfo(sample.dtype).eps * sample.abs().amax()).square()
        scale = torch.where(square > rounding, square, torch.ones_like(square)).rsqrt()
        return mean.to(sample.dtype), scale.to(sample.dtype)


@dataclass(frozen=True, kw_only=True)
class PerSite(Scaling):
    """Do what MeanScale does to each site of a row on its own, so that none drowns the others.

    widths: of the sites, in order. Lindsey et al. 2024 (https://transformer-circuits.pub/2024/crosscoders).
    """

    kind: ClassVar[str] = "per-site"
    uniform: ClassVar[bool] = False
    widths: tuple[int, ...]

    def build(self, *, input_width: int) -> Scaler:
        """Return a module with one number per column."""
        return Scaler(input_width, dimensions=1)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless the widths add up to that of the row."""
        if sum(self.widths) != spec.input_width or min(self.widths, default=0) < 1:
            raise ValueError(f"sites of widths {self.widths} do not make a row of width {spec.input_width}")

    def measure(self, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean row and, for each column, the scale of its site."""
        measured = [MeanScale().measure(site) for site in sample.split(self.widths, dim=1)]
        scales = [scale.expand(width) for (_, scale), width in zip(measured, self.widths, strict=True)]
        return torch.cat([mean for mean, _ in measured]), torch.cat(scales)


@dataclass(frozen=True, kw_only=True)
class RowNorm(Scaling):
    """Subtract the mean row and give every row the norm √width. Gao et al. 2024 (https://arxiv.org/abs/2406.04093).

    What is left of the mean is not learned: decoding does not know the row's norm.
    """

    kind: ClassVar[str] = "row-norm"

    def build(self, *, input_width: int) -> RowScaler:
        """Return the module."""
        return RowScaler(input_width)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError unless codes can carry the norm of the row."""
        if not (spec.sparsity.homogeneous and spec.decoder.linear and spec.task.same_rows):
            raise ValueError(
                "scaling 'row-norm' lets codes carry the norm of their row; that needs codes that grow with the "
                "pre-activations, a linear decoder, and a target that is the input"
            )

    def measure(self, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean row; the scale is each row's own."""
        return sample.mean(dim=0, dtype=torch.float64).to(sample.dtype), sample.new_ones(())


@dataclass(frozen=True, kw_only=True)
class Whitening(Scaling):
    """Subtract the mean row and decorrelate: scale = C^(−½), with C the covariance and a floor under its eigenvalues.

    floor: share of the mean eigenvalue that is added to each, so that directions of no variance are not blown up.
    """

    kind: ClassVar[str] = "whitening"
    uniform: ClassVar[bool] = False
    floor: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.floor <= 0:
            raise ValueError(f"floor must be above 0, got {self.floor}")

    def build(self, *, input_width: int) -> Scaler:
        """Return a module with a matrix."""
        return Scaler(input_width, dimensions=2)

    def check(self, spec: AutoencoderSpec) -> None:
        """Raise ValueError if sites would be mixed."""
        if not spec.encoder.affine or not spec.task.same_rows:
            raise ValueError(
                "scaling 'whitening' needs an encoder that is one affine map, and a target that is the input"
            )

    def measure(self, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean row and the symmetric matrix C^(−½)."""
        mean = sample.mean(dim=0, dtype=torch.float64)
        centered = sample.double() - mean
        values, vectors = torch.linalg.eigh(centered.T @ centered / max(len(sample), 1))
        values = values.clamp_min(0)
        size = values.mean()
        values = values + self.floor * torch.where(size > 0, size, torch.ones_like(size))
        return mean.to(sample.dtype), ((vectors * values.rsqrt()) @ vectors.T).to(sample.dtype)
