"""SparseAutoencoder: the one class that trains and infers, and AutoencoderSpec, which says what it is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gossamer import kernels
from gossamer.autoencoder import (  # noqa: F401 - all parts, so that files may name them
    archetypal,
    attention,
    centered,
    cross_layer,
    decoders,
    encoders,
    row_scaling,
    weight_penalties,
)
from gossamer.autoencoder.auxiliaries import Auxiliary
from gossamer.autoencoder.corruption import Clean, Corruption
from gossamer.autoencoder.decoders import Decoder
from gossamer.autoencoder.encoders import Encoder
from gossamer.autoencoder.penalties import Penalty
from gossamer.autoencoder.pre_activations import PreActivations
from gossamer.autoencoder.provenance import Provenance
from gossamer.autoencoder.reconstruction import Reconstruction, SquaredError
from gossamer.autoencoder.scaling import MeanScale, Scaler, Scaling
from gossamer.autoencoder.sparsity import Sparsity
from gossamer.autoencoder.tasks import Reconstruct, Task
from gossamer.autoencoder.trace import Loss, Moment, charge, traced
from gossamer.codes import SparseCodes, require_valid
from gossamer.spec import Spec

__all__ = ["AutoencoderSpec", "Output", "SparseAutoencoder", "with_l0"]


@dataclass(frozen=True, kw_only=True)
class AutoencoderSpec(Spec):
    """Say what an autoencoder is made of.

        x ── corruption ──► scaling ──► encoder ──► pre-activations ── sparsity ──► codes ── decoder ──► x̂
        loss = reconstruction(x̂, target) + Σ weight · penalty(codes) + Σ weight · auxiliary(dead latents)

    input_width: entries of a row. latents: entries of a code. task: what is read and what is given back. corruption: of
    the rows that the encoder sees in training. name: what logs and reports call it.

    Raises ValueError for parts that cannot work together, with the reason.
    """

    input_width: int
    latents: int
    sparsity: Sparsity
    encoder: Encoder = encoders.Linear()
    decoder: Decoder = decoders.Linear()
    scaling: Scaling = MeanScale()
    reconstruction: Reconstruction = SquaredError()
    penalties: tuple[Penalty, ...] = ()
    auxiliaries: tuple[Auxiliary, ...] = ()
    task: Task = Reconstruct()
    corruption: Corruption = Clean()
    name: str = "autoencoder"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input_width < 1 or self.latents < 1:
            raise ValueError(f"input_width and latents must be at least 1, got {self.input_width} and {self.latents}")
        self.task.check(self)
        for part in (self.sparsity, self.encoder, self.decoder, self.scaling, self.reconstruction):
            part.check(self)
        for part in (*self.penalties, *self.auxiliaries):
            part.check(self)
        if sum(penalty.target_l0 is not None for penalty in self.penalties) > 1:
            raise ValueError("one penalty can be steered to a target_l0; give the others a weight")
        if self.target_l0 is not None and self.target_l0 > self.latents:
            raise ValueError(
                f"target_l0 = {self.target_l0:g} active latents per row are more than the {self.latents} latents there "
                "are; lower l0 or raise latents"
            )

    @property
    def output_width(self) -> int:
        """Entries of a reconstruction."""
        return self.task.output_width(self.input_width)

    @property
    def wants_rows(self) -> bool:
        """Whether decoding needs the rows that were encoded."""
        return self.decoder.wants_rows or self.scaling.wants_rows

    @property
    def target_l0(self) -> float | None:
        """The mean number of active latents per row that a penalty is steered to, if one is."""
        return next((penalty.target_l0 for penalty in self.penalties if penalty.target_l0 is not None), None)

    def build(self, *, seed: int = 0) -> SparseAutoencoder:
        """Return the autoencoder with seeded random directions; same seed, same weights."""
        sae = SparseAutoencoder(self)
        sae.reset(seed=seed)
        return sae


@dataclass(frozen=True, eq=False)
class Output:
    """What a forward pass gives: reconstruction `(rows, output_width)` and codes, in the input's units."""

    reconstruction: Tensor
    codes: SparseCodes


class SparseAutoencoder(nn.Module):
    """Encode rows to sparse codes and decode them again.

        codes = sparsity(encoder(scaling(x)))        x̂ = scaling⁻¹(decoder(codes))

    Rows are `(rows, input_width)` floating-point tensors; encoding a row never depends on the others. Codes are in
    the input's units: with a linear decoder, x̂ = Σ z_i d_i plus a constant row, d_i the rows of `decoder.directions()`.

    provenance: where it comes from, if that is known; saved and loaded with it.
    """

    provenance: Provenance = Provenance()

    def __init__(self, spec: AutoencoderSpec) -> None:
        super().__init__()
        width, latents = spec.input_width, spec.latents
        self.spec = spec
        self.scaler = spec.scaling.build(input_width=width)
        self.target_scaler = None if spec.task.same_rows else spec.scaling.build(input_width=spec.output_width)
        self.encoder = spec.encoder.build(input_width=width, latents=latents)
        self.sparsity = spec.sparsity.build(latents=latents)
        self.decoder = spec.decoder.build(input_width=width, output_width=spec.output_width, latents=latents)
        if not self.scaler.learns_bias:
            self.decoder.bias.requires_grad_(False)

    def encode(self, x: Tensor) -> SparseCodes:
        """Return the codes of `(rows, input_width)` rows; `(input_width,)` counts as one row."""
        x = self._rows(x)
        with kernels.own_threads(self.device):
            codes = self.sparsity(self.encoder(self.scaler(x), self.decoder))
            scale = self._code_scale(x)
            return codes.replace_values(codes.values / (scale[codes.row_of_entry()] if scale.dim() else scale))

    def encode_chunks(self, rows: Tensor | np.ndarray, *, chunk: int = 4096) -> Iterator[SparseCodes]:
        """Return an iterator over the codes of `(rows, input_width)` rows, a chunk at a time, without gradients.

        It needs memory for one chunk, however many rows there are: they may be mapped from a file (`numpy.load` with
        `mmap_mode="r"`). `concatenate_codes` puts the codes of all chunks together.
        """
        if chunk < 1:
            raise ValueError(f"a chunk has at least one row, got {chunk}")
        self._require_width(rows.shape)
        starts = range(0, rows.shape[0], chunk)
        return (self._encode_chunk(rows[start : start + chunk]) for start in starts)

    @torch.no_grad()
    def _encode_chunk(self, rows: Tensor | np.ndarray) -> SparseCodes:
        return self.encode(torch.as_tensor(np.array(rows) if isinstance(rows, np.ndarray) else rows).to(self.device))

    def decode(self, codes: SparseCodes, x: Tensor | None = None) -> Tensor:
        """Return the rows `(rows, output_width)` that the codes stand for.

        x: the rows that were encoded, `(rows, input_width)`, if `spec.wants_rows`: with a skip connection, or where
        each row has a scaling of its own.
        """
        if codes.latents != self.spec.latents:
            raise ValueError(f"codes of {codes.latents} latents given to an autoencoder of {self.spec.latents}")
        if not torch.compiler.is_compiling():
            require_valid(codes)
        rows = None if x is None else self._rows(x)
        seen = None if rows is None or not self.spec.decoder.wants_rows else self.scaler(rows)
        return self._out.undo(self.decoder(codes.replace_values(codes.values * self._code_scale()), seen), rows)

    def forward(self, x: Tensor) -> Output:
        """Return reconstruction and codes."""
        codes = self.encode(x)
        return Output(self.decode(codes, x), codes)

    def pre_activations(self, x: Tensor) -> PreActivations:
        """Return the encoder's output before sparsity, in training units, not yet multiplied out."""
        return self.encoder(self.scaler(self._rows(x)), self.decoder)

    def loss(self, x: Tensor, target: Tensor | None = None, moment: Moment | None = None) -> Loss:
        """Return the training loss of a batch.

        x: `(rows, input_width)`. target: `(rows, output_width)`, if the task is to give back something else than x.
        moment: where training stands.
        The reconstruction loss in training units, plus each penalty and auxiliary times its weight.
        """
        rows = wanted = self.scaler(self._rows(x))
        if self.target_scaler is not None:
            if target is None or target.shape != (len(rows), self.spec.output_width):
                shape = None if target is None else tuple(target.shape)
                raise ValueError(
                    f"the task {self.spec.task.kind!r} gives back other rows than it reads: the loss needs a target of "
                    f"shape {(len(rows), self.spec.output_width)}, got {shape}"
                )
            wanted = self.target_scaler(target.to(rows.dtype))
        trace = traced(self, rows, wanted, moment or Moment())
        residual, cost = self.spec.reconstruction(self.decoder, trace.codes, trace.target, trace.x)
        return charge(self.spec, trace, {"reconstruction": cost}, residual)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.bias.device

    @property
    def is_fresh(self) -> bool:
        """Say whether this autoencoder has never seen data: all its biases are zero."""
        return not any(p.any() for name, p in self.named_parameters() if name.endswith("bias"))

    @torch.no_grad()
    def reset(self, *, seed: int) -> None:
        """Draw random directions: decoder rows uniform on the sphere, the encoder alike, biases zero.

        Encoder and decoder start alike (Gao et al. 2024, appendix A.1) where both have the same rows.
        """
        generator = torch.Generator().manual_seed(seed)
        directions = _unit_rows(self.spec.latents, self.spec.output_width, generator)
        self.decoder.reset(directions, generator)
        if not self.spec.task.same_rows:
            directions = _unit_rows(self.spec.latents, self.spec.input_width, generator)
        self.encoder.reset(directions, generator)
        for scaler in self._scalers():
            scaler.reset()
        self.sparsity.reset()

    @torch.no_grad()
    def rescale(self, *measured: tuple[Tensor, Tensor]) -> None:
        """Change the training units without changing what the autoencoder computes.

        measured: what the scaling measured of the input and, if the target is something else, of the target. Where
        scaling does not fold, the units stay.
        """
        self.fold()
        if not self.scaler.folds:
            return
        for scaler, (mean, scale) in zip(self._scalers(), measured, strict=True):
            scaler.set(mean, scale)
        code = self._code_scale()
        rows = self.scaler.to_training_units(code)
        self.encoder.change_units(rows)
        self.decoder.change_units(self._out.to_training_units(code), rows)
        self.sparsity.rescale(code)

    @torch.no_grad()
    def fold(self) -> None:
        """Fold the scaling into the weights, so that they act on rows in the input's own units.

        A scaling that differs from row to row stays.
        """
        if not self.scaler.folds:
            return
        code = self._code_scale()
        rows = self.scaler.to_own_units(code)
        self.encoder.change_units(rows)
        self.decoder.change_units(self._out.to_own_units(code), rows)
        self.sparsity.rescale(1 / code)
        for scaler in self._scalers():
            scaler.reset()

    @property
    def _out(self) -> Scaler:
        return self.scaler if self.target_scaler is None else self.target_scaler

    def _scalers(self) -> list[Scaler]:
        return [self.scaler] if self.target_scaler is None else [self.scaler, self.target_scaler]

    def _code_scale(self, x: Tensor | None = None) -> Tensor:
        """Return what codes are divided by to count in the input's units: `()`, or one number for each row of x."""
        if not self.spec.sparsity.homogeneous:
            return self.decoder.bias.new_ones(())
        return self._out.code_scale(x)

    def _rows(self, x: Tensor) -> Tensor:
        if x.dim() == 1:
            x = x[None]
        self._require_width(x.shape)
        return x.to(self.decoder.bias.dtype)

    def _require_width(self, shape: Sequence[int]) -> None:
        width = self.spec.input_width
        if len(shape) != 2 or shape[1] != width:
            raise ValueError(f"expected rows of width {width}, shape (rows, {width}); got shape {tuple(shape)}")

    def extra_repr(self) -> str:
        """Return the name and sizes that `print` shows."""
        spec = self.spec
        return f"{spec.name}: {spec.input_width} → {spec.latents}, {dataclasses.asdict(spec.sparsity)}"


def with_l0(sae: SparseAutoencoder, l0: int) -> SparseAutoencoder:
    """Return an autoencoder with another number of active latents per row, its weights copied.

    Worth most for one that was trained for all of them ('hierarchical-k'). Raises ValueError if the sparsity has
    no such number.
    """
    other = SparseAutoencoder(sae.spec.replace(sparsity=sae.spec.sparsity.with_l0(l0))).to(sae.decoder.bias)
    other.load_state_dict(sae.state_dict())
    other.provenance = sae.provenance
    return other.train(sae.training)


def _unit_rows(latents: int, width: int, generator: torch.Generator) -> Tensor:
    return nn.functional.normalize(torch.randn(latents, width, generator=generator), dim=1)
