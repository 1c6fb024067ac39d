"""SparseAutoencoder: the one class that trains and infers, and AutoencoderSpec, which says what it is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gossamer import kernels
from gossamer.autoencoder import decoders, encoders
from gossamer.autoencoder.decoders import Decoder
from gossamer.autoencoder.encoders import Encoder, PreActivations
from gossamer.autoencoder.losses import Auxiliary, Penalty
from gossamer.autoencoder.scaling import MeanScale, Scaler, Scaling
from gossamer.autoencoder.sparsity import Sparsity
from gossamer.codes import Codes, SparseCodes, require_valid
from gossamer.spec import Spec

__all__ = ["AutoencoderSpec", "Loss", "Output", "SparseAutoencoder"]


@dataclass(frozen=True, kw_only=True)
class AutoencoderSpec(Spec):
    """Say what an autoencoder is made of.

        x ── scaling ──► encoder ──► pre-activations ── sparsity ──► codes ── decoder ──► x̂
        loss = mean (x̂ − x)² + Σ weight · penalty(codes) + Σ weight · auxiliary(dead latents)

    input_width: entries of a row. latents: entries of a code. name: what logs and reports call it.
    site: the hook point it reads; needed only if the source has several.
    """

    input_width: int
    latents: int
    sparsity: Sparsity
    encoder: Encoder = encoders.Linear()
    decoder: Decoder = decoders.Linear()
    scaling: Scaling = MeanScale()
    penalties: tuple[Penalty, ...] = ()
    auxiliaries: tuple[Auxiliary, ...] = ()
    name: str = "autoencoder"
    site: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input_width < 1 or self.latents < 1:
            raise ValueError(f"input_width and latents must be at least 1, got {self.input_width} and {self.latents}")
        self.sparsity.check(latents=self.latents)
        for penalty in self.penalties:
            penalty.check(self.sparsity)

    def build(self, *, seed: int = 0) -> SparseAutoencoder:
        """Return the autoencoder with seeded random directions; same seed, same weights."""
        sae = SparseAutoencoder(self)
        sae.reset(seed=seed)
        return sae


@dataclass(frozen=True, eq=False)
class Output:
    """What a forward pass gives: reconstruction `(rows, input_width)` and codes, in the input's units."""

    reconstruction: Tensor
    codes: SparseCodes


@dataclass(frozen=True, eq=False)
class Loss:
    """What a training step minimises: the total, its weighted terms, and the codes they rest on (training units)."""

    total: Tensor
    terms: dict[str, Tensor]
    codes: Codes


class SparseAutoencoder(nn.Module):
    """Encode rows to sparse codes and decode them again.

        codes = sparsity(encoder(scaling(x)))        x̂ = scaling⁻¹(decoder(codes))

    Rows are `(rows, input_width)` floating-point tensors; encoding a row never depends on the others. Codes are in
    the input's units: x̂ is Σ z_i d_i plus a constant row, with d_i the rows of `decoder.weight`.
    """

    def __init__(self, spec: AutoencoderSpec) -> None:
        super().__init__()
        width, latents = spec.input_width, spec.latents
        self.spec = spec
        self.scaler = Scaler(width)
        self.encoder = spec.encoder.build(input_width=width, latents=latents)
        self.sparsity = spec.sparsity.build(latents=latents)
        self.decoder = spec.decoder.build(input_width=width, latents=latents)

    def encode(self, x: Tensor) -> SparseCodes:
        """Return the codes of `(rows, input_width)` rows; `(input_width,)` counts as one row."""
        with kernels.own_threads(self.device):
            codes = self.sparsity(self.pre_activations(x))
            return codes.replace_values(codes.values / self.scaler.scale)

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

    def decode(self, codes: SparseCodes) -> Tensor:
        """Return the rows `(rows, input_width)` that the codes stand for."""
        if codes.latents != self.spec.latents:
            raise ValueError(f"codes of {codes.latents} latents given to an autoencoder of {self.spec.latents}")
        if not torch.compiler.is_compiling():
            require_valid(codes)
        return self.scaler.undo(self.decoder(codes.replace_values(codes.values * self.scaler.scale)))

    def forward(self, x: Tensor) -> Output:
        """Return reconstruction and codes."""
        codes = self.encode(x)
        return Output(self.decode(codes), codes)

    def pre_activations(self, x: Tensor) -> PreActivations:
        """Return the encoder's output before sparsity, in training units, not yet multiplied out."""
        return self.encoder(self.scaler(self._rows(x)))

    def loss(self, x: Tensor, *, dead: Tensor | None = None, dense: bool = False) -> Loss:
        """Return the training loss of a batch.

        mean (x̂ − x)² in training units, plus each penalty and auxiliary times its weight. dead: indices of the
        latents that the auxiliaries shall revive. dense: hold the codes as a matrix, which is faster while many
        latents are active; loss and gradients are the same.
        """
        x = self.scaler(self._rows(x))
        pre = self.encoder(x)
        codes = self.sparsity.dense(pre) if dense else self.sparsity.training_codes(pre)
        residual, square = self.decoder.residual(codes, x)
        terms, directions = {"reconstruction": square}, self.decoder.weight
        for penalty in self.spec.penalties:
            terms[penalty.kind] = terms.get(penalty.kind, 0.0) + penalty.weight * penalty(codes, directions)
        if dead is not None:
            for auxiliary in self.spec.auxiliaries:
                cost = auxiliary(pre, residual, dead, directions)
                terms[auxiliary.kind] = terms.get(auxiliary.kind, 0.0) + auxiliary.weight * cost
        total = torch.stack(list(terms.values())).sum()
        return Loss(total, {name: term.detach() for name, term in terms.items()}, codes.detach())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.weight.device

    @property
    def is_fresh(self) -> bool:
        """Say whether this autoencoder has never seen data: all its biases are zero."""
        return not (self.encoder.bias.any() or self.decoder.bias.any())

    @torch.no_grad()
    def reset(self, *, seed: int) -> None:
        """Draw random directions: decoder rows uniform on the sphere, encoder rows half of them, biases zero.

        Encoder and decoder start alike (Gao et al. 2024, appendix A.1); the half comes from measurements in
        docs/decisions.md.
        """
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(self.decoder.weight.shape, generator=generator)
        weight /= torch.linalg.vector_norm(weight, dim=1, keepdim=True)
        self.decoder.weight.copy_(weight)
        self.encoder.weight.copy_(0.5 * weight)
        for tensor in (self.encoder.bias, self.decoder.bias, self.scaler.mean):
            tensor.zero_()
        self.scaler.scale.fill_(1.0)
        self.sparsity.reset()

    @torch.no_grad()
    def rescale(self, mean: Tensor, scale: Tensor) -> None:
        """Change the training units to (x − mean) · scale without changing what the autoencoder computes."""
        encoder, decoder, scaler = self.encoder, self.decoder, self.scaler
        encoder.bias.copy_(encoder.bias / scaler.scale - encoder.weight @ scaler.mean)
        decoder.bias.copy_(scaler.undo(decoder.bias))
        self.sparsity.rescale(scale / scaler.scale)
        scaler.mean.copy_(mean)
        scaler.scale.copy_(scale)
        encoder.bias.copy_((encoder.bias + encoder.weight @ scaler.mean) * scaler.scale)
        decoder.bias.copy_(scaler(decoder.bias))

    def fold(self) -> None:
        """Fold the scaling into the biases: from now on the weights act on rows in the input's own units."""
        self.rescale(torch.zeros_like(self.scaler.mean), torch.ones_like(self.scaler.scale))

    def _rows(self, x: Tensor) -> Tensor:
        if x.dim() == 1:
            x = x[None]
        self._require_width(x.shape)
        return x.to(self.encoder.weight.dtype)

    def _require_width(self, shape: Sequence[int]) -> None:
        width = self.spec.input_width
        if len(shape) != 2 or shape[1] != width:
            raise ValueError(f"expected rows of width {width}, shape (rows, {width}); got shape {tuple(shape)}")

    def extra_repr(self) -> str:
        """Return the name and sizes that `print` shows."""
        spec = self.spec
        return f"{spec.name}: {spec.input_width} → {spec.latents}, {dataclasses.asdict(spec.sparsity)}"
