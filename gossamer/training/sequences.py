"""SequenceLearner: a transformer in training, by teacher forcing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from gossamer import kernels
from gossamer.autoencoder.tasks import Rows
from gossamer.sources.pairs import SOURCE, TARGET, Pairs
from gossamer.sources.source import Source
from gossamer.training.checkpoint import named
from gossamer.training.learner import Learner, Needs
from gossamer.training.optimizer import make_optimizer
from gossamer.training.spec import Derived, TrainSpec
from gossamer.transformer.model import Transformer, TransformerSpec
from gossamer.transformer.translator import trimmed

__all__ = ["SequenceLearner", "fitted"]

IDS = 16
"""Ids in a row, about: for estimates of memory and work before there are any rows."""


class SequenceLearner(Learner):
    """Train a transformer to say the target of each source.

    Beside the loss it logs the perplexity exp(−log p) per id and the share of ids that were the likeliest.
    """

    def __init__(self, model: Transformer, source: Source, train: TrainSpec, derived: Derived) -> None:
        require_pairs(model.spec, source)
        super().__init__(model, model.spec.name, train, derived)
        self.transformer = model
        self.optimizer = make_optimizer(model, train.optimizer)
        self.low_precision = kernels.products(self.device, train.kernels.products) == "bfloat16"

    def step(self, rows: Rows, step: int) -> None:
        """Train on a batch of pairs."""
        loss = self._loss(rows)
        self.optimizer.step(self.derived.learning_rate_at(step, self.end))
        self.note(step, loss)

    def backward(self, rows: Rows) -> None:
        """Go forward and backward on a batch; weights and optimizer stay as they are."""
        self._loss(rows)
        self.optimizer.clear()

    def needs(self, batch: int) -> Needs:
        """Return gradients and what layers keep for the backward pass, for `IDS` ids in a row; sizes and rates."""
        spec, derived = self.transformer.spec, self.derived
        weights = sum(p.numel() for p in self.transformer.parameters())
        layers = spec.encoder_layers + spec.decoder_layers
        between = "then by the inverse root" if derived.between == "inverse-root" else "then level"
        precision = "bfloat16" if self.low_precision else "float32"
        return Needs(
            4 * (weights + IDS * batch * layers * (12 * spec.width + 2 * spec.hidden)),
            IDS * batch * spec.width * spec.hidden,
            (
                f"learns   {spec.name}: {spec.encoder_layers} + {spec.decoder_layers} layers, width {spec.width}, "
                f"{spec.heads} heads, {weights / 1e6:.2f} million weights",
                f"         learning rate {derived.learning_rate:.2g} after {derived.warmup_steps:,} steps up, "
                f"{between}, {derived.decay_steps:,} steps down; products in {precision}",
            ),
        )

    def finish(self) -> None:
        """Leave off training."""
        self.optimizer.clear()
        self.transformer.eval()

    def state_dict(self) -> dict[str, Tensor]:
        """Return weights, moments and sums."""
        state = {f"model.{name}": weight.detach() for name, weight in self.transformer.named_parameters()}
        state |= {f"optimizer.{name}": tensor for name, tensor in self.optimizer.state_dict().items()}
        return state | super().state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        self.transformer.load_state_dict(named(state, "model"), strict=False)
        self.optimizer.load_state_dict(named(state, "optimizer"))
        super().load_state_dict(state)

    def _loss(self, rows: Rows) -> Tensor:
        """Go forward and backward; gradients are left in the weights."""
        self.transformer.train()
        with self.optimizer.gradients(), self._precision():
            loss = self.transformer.loss(trimmed(rows[SOURCE]), trimmed(rows[TARGET]))
        loss.backward()
        return loss

    def _precision(self) -> AbstractContextManager[object]:
        if not self.low_precision:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def fitted(spec: TransformerSpec, source: Source) -> TransformerSpec:
    """Return a spec whose vocabularies have the sizes of a source's, where it does not say them."""
    sizes = {side: size for side, size in _pairs(source).sizes.items() if getattr(spec, side) is None}
    return spec.replace(**sizes)


def require_pairs(spec: TransformerSpec, source: Source) -> None:
    """Raise ValueError unless a source hands out pairs in the transformer's vocabularies, not too long for it."""
    pairs = _pairs(source)
    for side, layers in ((SOURCE, spec.encoder_layers), (TARGET, spec.decoder_layers)):
        if not layers:
            name = "encoder" if side == SOURCE else "decoder"
            raise ValueError(f"pairs are learned by an encoder and a decoder; this transformer has {name}_layers = 0")
        ids = getattr(spec, side)
        if ids != pairs.sizes[side]:
            raise ValueError(f"the transformer has {ids} {side} ids, but the pairs' vocabulary has {pairs.sizes[side]}")
        if pairs.widths[side] > spec.positions.longest:
            raise ValueError(
                f"the longest {side} has {pairs.widths[side]} ids, but the transformer {spec.positions.longest} "
                "positions; leave long ones out, or give its positions a larger `longest`"
            )


def _pairs(source: Source) -> Pairs:
    if not isinstance(source, Pairs):
        raise ValueError(f"a transformer learns from pairs of sequences, not from {type(source).__name__}")
    return source
