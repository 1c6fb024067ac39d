"""Controls: what an autoencoder has to beat, and what it cannot, with the face that `score` asks of all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder
from gossamer.autoencoder.constraints import Constraint
from gossamer.autoencoder.decoders import Linear
from gossamer.autoencoder.tasks import Reconstruct
from gossamer.codes import SparseCodes
from gossamer.sources.source import Batch
from gossamer.sources.synthetic import Synthetic

__all__ = [
    "Coder",
    "Frozen",
    "Oracle",
    "PermutedDecoder",
    "PrincipalComponents",
    "Trained",
    "can_be_scored",
    "frozen_decoder",
    "principal_components",
    "require_scorable",
]


class Coder(ABC):
    """Something that has a direction per latent and gives codes for rows.

    name: what tables call it. directions: `(latents, width)`, not necessarily of norm 1.
    """

    name: str
    directions: Tensor

    @abstractmethod
    def codes(self, batch: Batch) -> SparseCodes:
        """Return the codes of a batch of rows."""

    @abstractmethod
    def decode(self, codes: SparseCodes) -> Tensor:
        """Return the rows `(rows, width)` that codes stand for."""


def can_be_scored(spec: AutoencoderSpec) -> bool:
    """Say whether an autoencoder gives back the rows that it reads, as sums of one direction per latent."""
    return isinstance(spec.task, Reconstruct) and spec.decoder.linear


def require_scorable(spec: AutoencoderSpec) -> None:
    """Raise ValueError unless an autoencoder can be scored."""
    if not can_be_scored(spec):
        raise ValueError(
            f"{spec.name} does not give back the rows it reads as sums of one direction per latent, "
            "so that there is nothing to compare with the directions of features"
        )


class Trained(Coder):
    """An autoencoder as it is. Raises ValueError if it has no direction per latent in the space of the rows."""

    def __init__(self, sae: SparseAutoencoder) -> None:
        require_scorable(sae.spec)
        self.sae, self.name, self.directions = sae, sae.spec.name, sae.decoder.directions().detach()

    def codes(self, batch: Batch) -> SparseCodes:
        """Return the codes of a batch of rows."""
        x, _ = self.sae.spec.task.rows(batch.rows)
        return self.sae.encode(x.to(self.sae.device, torch.float32))

    def decode(self, codes: SparseCodes) -> Tensor:
        """Return the rows that codes stand for."""
        return self.sae.decode(codes)


class PermutedDecoder(Trained):
    """An autoencoder whose decoder rows have been shuffled: as good directions, but on the wrong latents.

    MCC is what it was, F1 and FVU are what chance gives.
    """

    def __init__(self, sae: SparseAutoencoder, *, seed: int = 0) -> None:
        super().__init__(sae)
        generator = torch.Generator().manual_seed(seed)
        self._order = torch.randperm(sae.spec.latents, generator=generator).to(sae.device)
        self.name, self.directions = "permuted decoder", self.directions[self._order]

    def decode(self, codes: SparseCodes) -> Tensor:
        """Return the rows that codes stand for, each latent with the direction of another."""
        return self.sae.decode(replace(codes, indices=self._order[codes.indices]))


@dataclass(frozen=True, eq=False)
class PrincipalComponents(Coder):
    """Principal components; a code keeps the l0 largest projections of a row, of either sign.

    directions: `(width, width)`, orthonormal rows, the largest variance first. mean: `(width,)`.
    """

    name: ClassVar[str] = "principal components"
    directions: Tensor
    mean: Tensor
    l0: int

    def codes(self, batch: Batch) -> SparseCodes:
        """Return the l0 largest projections of each row."""
        projections = (next(iter(batch.rows.values())).float() - self.mean) @ self.directions.T
        indices = projections.abs().topk(self.l0, dim=1).indices.sort(dim=1).values
        return SparseCodes.from_topk(indices, projections.gather(1, indices), latents=len(self.directions))

    def decode(self, codes: SparseCodes) -> Tensor:
        """Return the mean plus the components times their projections."""
        return self.mean + codes.to_dense() @ self.directions


class Oracle(Coder):
    """The true directions and the true codes; what is left of FVU is noise."""

    name = "oracle"

    def __init__(self, source: Synthetic) -> None:
        self.source, self.directions = source, source.directions

    def codes(self, batch: Batch) -> SparseCodes:
        """Return the true codes of a batch of rows."""
        return self.source.codes(batch.origins)

    def decode(self, codes: SparseCodes) -> Tensor:
        """Return the rows without their noise."""
        return torch.nn.functional.embedding_bag(
            codes.indices, self.directions, codes.offsets[:-1], mode="sum", per_sample_weights=codes.values
        )


@dataclass(frozen=True, kw_only=True)
class Frozen(Constraint):
    """Keep the decoder rows where they started."""

    kind: ClassVar[str] = "frozen"
    before: ClassVar[bool] = True

    def before_step(self, weight: Tensor, gradient: Tensor) -> None:
        """Take the whole gradient away."""
        gradient.zero_()


def frozen_decoder(spec: AutoencoderSpec) -> AutoencoderSpec:
    """Return an autoencoder whose encoder learns while its decoder keeps the random directions it started with."""
    return spec.replace(name="frozen decoder", decoder=Linear(constraint=Frozen()))


def principal_components(x: Tensor, *, l0: int) -> PrincipalComponents:
    """Return the principal components of `(rows, width)` rows.

    Raises ValueError if a code of l0 entries has no room among `width` components.
    """
    width = x.shape[1]
    if not 1 <= l0 <= width:
        raise ValueError(f"there are {width} principal components, of which a code cannot keep {l0}")
    x = x.double()
    mean = x.mean(dim=0)
    covariance = (x - mean).T @ (x - mean)
    directions = torch.linalg.eigh(covariance).eigenvectors.T.flip(0)
    return PrincipalComponents(directions.float(), mean.float(), l0)
