"""The methods that are compared, each a spec: `kind` in a recipe's [[method]] tables, sized to a number of parameters.

A method describes a row with about `l0` numbers: a dense code has so many entries, a sparse one so many active ones.
"""

from __future__ import annotations

import functools
import math
import time
import warnings
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from gossamer.autoencoder.attention import Transformer, TransformerDecoder
from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder
from gossamer.autoencoder.penalties import L2
from gossamer.autoencoder.presets import preset
from gossamer.autoencoder.sparsity import ReLU
from gossamer.compare.data import Data
from gossamer.compare.fitted import Fitted, FittedAutoencoder, FittedDictionary
from gossamer.compare.operations import pursuit
from gossamer.spec import Spec
from gossamer.training.loop import train
from gossamer.training.spec import TrainSpec
from gossamer.transformer.positions import Positions, Sinusoidal

__all__ = ["Autoencoding", "Limit", "Method", "Sizes", "count", "nearest_size"]


class Sizes(NamedTuple):
    """What all methods are sized by. width: of a row. latents: of the sparse autoencoders; l0: numbers per row."""

    width: int
    latents: int
    l0: int

    @property
    def parameters(self) -> int:
        """The number that all are to have: encoder, decoder and biases of a sparse autoencoder, 2 F D + F + D."""
        return 2 * self.latents * self.width + self.latents + self.width


class Limit(NamedTuple):
    """When training ends: after so many rows, or so many seconds of processor time, whatever comes first."""

    rows: int
    seconds: float = math.inf
    batch: int = 512
    seed: int = 0


class Method(Spec):
    """The family of methods. title: in tables; sized: whether its parameters are made equal; paced: whether how long it
    trains is a matter of how many rows it is given."""

    sized: ClassVar[bool] = True
    paced: ClassVar[bool] = True

    @property
    @abstractmethod
    def title(self) -> str:
        """What tables call it."""

    @abstractmethod
    def describe(self, sizes: Sizes) -> str:
        """Return what it will be at these sizes, in a few words."""

    @abstractmethod
    def parameters(self, sizes: Sizes) -> int:
        """Return how many numbers it will learn; raises ValueError where no size comes near."""

    @abstractmethod
    def fit(self, data: Data, sizes: Sizes, limit: Limit) -> Fitted:
        """Learn from the training rows."""


@dataclass(frozen=True, kw_only=True)
class Autoencoding(Method):
    """What the autoencoders share: one training loop. learning_rate: None takes the derived one."""

    learning_rate: float | None = None

    @abstractmethod
    def autoencoder(self, sizes: Sizes) -> AutoencoderSpec:
        """Return the autoencoder's spec."""

    def describe(self, sizes: Sizes) -> str:
        """Name the number of latents."""
        return f"{self.autoencoder(sizes).latents} latents"

    def parameters(self, sizes: Sizes) -> int:
        """Return the number of weights and biases."""
        return count(self.autoencoder(sizes))

    def fit(self, data: Data, sizes: Sizes, limit: Limit) -> FittedAutoencoder:
        """Train for so many rows; seconds are the business of who chooses the rows."""
        sae = self.autoencoder(sizes).build(seed=limit.seed)
        spec = TrainSpec(
            rows=max(limit.rows, limit.batch),
            batch=limit.batch,
            seed=limit.seed,
            learning_rate=self.learning_rate,
            device="cpu",
        )
        train(sae, data.source, spec, quiet=True)
        return FittedAutoencoder(sae, spec.steps * spec.batch)


@dataclass(frozen=True, kw_only=True)
class Principal(Method):
    """Principal components, as many as a code has numbers: their count is not free, so neither are the parameters."""

    kind: ClassVar[str] = "pca"
    sized: ClassVar[bool] = False
    paced: ClassVar[bool] = False

    @property
    def title(self) -> str:
        """What tables call it."""
        return "PCA"

    def describe(self, sizes: Sizes) -> str:
        """Name the number of components."""
        return f"{sizes.l0} components, in closed form"

    def parameters(self, sizes: Sizes) -> int:
        """Return those of the components and the mean."""
        return (sizes.l0 + 1) * sizes.width

    def fit(self, data: Data, sizes: Sizes, limit: Limit) -> FittedDictionary:
        """Take the eigenvectors of the covariance with the largest eigenvalues."""
        mean = data.train.mean(axis=0, dtype=np.float64)
        centered = data.train - mean
        _, vectors = np.linalg.eigh(centered.T @ centered)
        components = np.ascontiguousarray(vectors[:, ::-1][:, : sizes.l0].T)
        return FittedDictionary(
            components,
            mean,
            code=lambda rows: rows @ components.T,
            coding=sizes.l0 * sizes.width,
            held=8 * (sizes.width**2 + self.parameters(sizes)),
            rows=len(data.train),
        )


@dataclass(frozen=True, kw_only=True)
class Plain(Autoencoding):
    """One hidden layer on either side of a dense code; the hidden width makes the parameters equal."""

    kind: ClassVar[str] = "plain"

    @property
    def title(self) -> str:
        """What tables call it."""
        return "autoencoder, dense"

    def describe(self, sizes: Sizes) -> str:
        """Name the widths."""
        (hidden,) = self.autoencoder(sizes).to_dict()["encoder"]["hidden"]
        return f"{sizes.width} → {hidden} → {sizes.l0} numbers and back"

    def autoencoder(self, sizes: Sizes) -> AutoencoderSpec:
        """Return the sized autoencoder."""

        def make(hidden: int) -> AutoencoderSpec:
            return preset("deep-autoencoder", input_width=sizes.width, latents=sizes.l0, hidden=(hidden,))

        return make(nearest_size(lambda hidden: count(make(hidden)), sizes.parameters)).replace(name=self.kind)


@dataclass(frozen=True, kw_only=True)
class SparseL1(Autoencoding):
    """ReLU and L1, its weight steered to the L0."""

    kind: ClassVar[str] = "l1"

    @property
    def title(self) -> str:
        """What tables call it."""
        return "sparse, L1"

    def autoencoder(self, sizes: Sizes) -> AutoencoderSpec:
        """Return the preset `vanilla-l1`."""
        return preset("vanilla-l1", input_width=sizes.width, latents=sizes.latents, l0=sizes.l0)


@dataclass(frozen=True, kw_only=True)
class ShrunkL2(Autoencoding):
    """ReLU and L2 of a fixed weight: there is no L0 that it could be steered to, for it makes nothing exactly 0."""

    kind: ClassVar[str] = "l2"
    weight: float = 0.01

    @property
    def title(self) -> str:
        """What tables call it."""
        return "ReLU, L2"

    def autoencoder(self, sizes: Sizes) -> AutoencoderSpec:
        """Return `vanilla-l1` with the other penalty."""
        return AutoencoderSpec(
            name=self.kind,
            input_width=sizes.width,
            latents=sizes.latents,
            sparsity=ReLU(),
            penalties=(L2(weight=self.weight),),
        )


@dataclass(frozen=True, kw_only=True)
class SparseKL(Autoencoding):
    """Sigmoid units kept at a rate by the KL divergence; a unit counts as active above ½."""

    kind: ClassVar[str] = "kl"

    @property
    def title(self) -> str:
        """What tables call it."""
        return "sparse, KL"

    def autoencoder(self, sizes: Sizes) -> AutoencoderSpec:
        """Return the preset `kl-sparse`."""
        return preset("kl-sparse", input_width=sizes.width, latents=sizes.latents, l0=sizes.l0)


@dataclass(frozen=True, kw_only=True)
class SparseTopK(Autoencoding):
    """The k largest, k the L0."""

    kind: ClassVar[str] = "topk"

    @property
    def title(self) -> str:
        """What tables call it."""
        return "sparse, TopK"

    def autoencoder(self, sizes: Sizes) -> AutoencoderSpec:
        """Return the preset `topk`."""
        return preset("topk", input_width=sizes.width, latents=sizes.latents, l0=sizes.l0)


@dataclass(frozen=True, kw_only=True)
class Attentive(Autoencoding):
    """A transformer over patches with a dense code; width and hidden width make the parameters equal.

    patches: how many, by default the most up to 16 that divide the row. layers: on either side.
    """

    kind: ClassVar[str] = "transformer"
    patches: int | None = None
    layers: int = 2
    heads: int = 4
    positions: Positions = Sinusoidal()

    @property
    def title(self) -> str:
        """What tables call it."""
        known = {"sinusoidal": "", "none": ", no positions"}
        return "transformer" + known.get(self.positions.kind, f", {self.positions.kind}")

    def describe(self, sizes: Sizes) -> str:
        """Name patches and widths."""
        encoder = self.autoencoder(sizes).encoder
        assert isinstance(encoder, Transformer)
        return (
            f"{sizes.width // encoder.patch} patches of {encoder.patch}, width {encoder.width}, hidden "
            f"{encoder.hidden}, {self.layers} + {self.layers} layers, {sizes.l0} numbers"
        )

    def autoencoder(self, sizes: Sizes) -> AutoencoderSpec:
        """Return the sized autoencoder: a stream whose hidden layers are about twice as wide."""
        plain = preset("transformer-autoencoder", input_width=sizes.width, latents=sizes.l0, patches=self.patches)
        assert isinstance(plain.encoder, Transformer)
        patch = plain.encoder.patch

        def make(width: int, hidden: int) -> AutoencoderSpec:
            given = {"patch": patch, "width": width, "hidden": hidden, "heads": self.heads, "layers": self.layers}
            encoder = Transformer(**given, positions=self.positions)
            decoder = TransformerDecoder(**given, positions=self.positions)
            return plain.replace(encoder=encoder, decoder=decoder, name=self.kind)

        step = 2 * self.heads  # sines come in pairs, heads divide the width
        pairs = nearest_size(lambda n: count(make(n * step, 2 * n * step)), sizes.parameters)
        width = step * pairs
        hidden = nearest_size(lambda hidden: count(make(width, hidden)), sizes.parameters)
        return make(width, hidden)


@dataclass(frozen=True, kw_only=True)
class DictionaryLearning(Method):
    """scikit-learn's MiniBatchDictionaryLearning, coded by orthogonal matching pursuit: no encoder, so twice the atoms.

    Rows are centered and scaled to mean square 1. alpha: the weight of L1 while the dictionary is learned.
    Mairal et al. 2009 (https://doi.org/10.1145/1553374.1553463).
    """

    kind: ClassVar[str] = "dictionary-learning"
    paced: ClassVar[bool] = False
    alpha: float = 1.0

    @property
    def title(self) -> str:
        """What tables call it."""
        return "dictionary learning, OMP"

    def describe(self, sizes: Sizes) -> str:
        """Name the number of atoms."""
        return f"{self._atoms(sizes)} atoms"

    def parameters(self, sizes: Sizes) -> int:
        """Return those of the atoms and the mean."""
        return (self._atoms(sizes) + 1) * sizes.width

    def fit(self, data: Data, sizes: Sizes, limit: Limit) -> FittedDictionary:
        """Take batches of rows at random until the limit is reached."""
        from sklearn.decomposition import MiniBatchDictionaryLearning

        mean = data.train.mean(axis=0, dtype=np.float64)
        scale = float(np.sqrt(np.square(data.train - mean).mean())) or 1.0
        learner = MiniBatchDictionaryLearning(
            self._atoms(sizes),
            alpha=self.alpha,  # pyright: ignore[reportArgumentType] - its stubs read the default 1 as int
            batch_size=limit.batch,
            transform_algorithm="omp",
            transform_n_nonzero_coefs=sizes.l0,
            random_state=limit.seed,
        )
        order, began, seen = np.random.default_rng(limit.seed), time.process_time(), 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of least angles: that steps become small; the pursuit: that atoms depend
            while not seen or (seen < limit.rows and time.process_time() - began < limit.seconds):
                rows = order.integers(0, len(data.train), min(limit.batch, limit.rows - seen))
                learner.partial_fit((data.train[rows] - mean) / scale)
                seen += len(rows)

        def code(rows: np.ndarray) -> np.ndarray:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return learner.transform(rows / scale) * scale

        atoms = learner.components_
        return FittedDictionary(
            atoms,
            mean,
            code=code,
            coding=pursuit(len(atoms), sizes.width, sizes.l0),
            held=8 * (len(atoms) ** 2 + 2 * atoms.size),
            rows=seen,
        )

    def _atoms(self, sizes: Sizes) -> int:
        return max(1, (sizes.parameters - sizes.width) // sizes.width)


@functools.lru_cache(maxsize=4096)
def count(spec: AutoencoderSpec) -> int:
    """Return how many weights and biases an autoencoder has."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in SparseAutoencoder(spec).parameters())


def nearest_size(parameters: Callable[[int], int], wanted: int) -> int:
    """Return the size, at least 1, whose number of parameters comes nearest; parameters: rises with the size."""
    high = 1
    while parameters(high) < wanted:
        high *= 2
    low = max(1, high // 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters(middle) < wanted else (low, middle)
    return min((low, high), key=lambda size: abs(parameters(size) - wanted))
