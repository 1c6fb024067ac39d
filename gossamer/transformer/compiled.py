"""Steps of a generation on a CPU, by compiled loops.

Such a step is short: 64 rows of width 256 keep a core busy for a millisecond or two. Calls of a decoder's modules and
torch's operators take as long again, and threads that make them wait for each other's turn at the interpreter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from gossamer.kernels import numba_decode as loops
from gossamer.kernels.mkl import product_address
from gossamer.transformer.attention import CrossAttention, SelfAttention
from gossamer.transformer.layers import ACTIVATIONS, Dropout, FeedForward, Layer, Stack
from gossamer.transformer.positions import Added, Order, RotaryOrder
from gossamer.transformer.steps import NEVER, Steps

if TYPE_CHECKING:
    from gossamer.transformer.model import Transformer

__all__ = ["CompiledSteps", "DecoderArrays"]

KNOWN = {
    *(Stack, nn.ModuleList, Layer, SelfAttention, CrossAttention, FeedForward, Dropout, *ACTIVATIONS.values()),
    *(nn.Linear, nn.LayerNorm, nn.Embedding, nn.Identity, Order, Added, RotaryOrder),
}
"""Modules whose work compiled loops can do."""

NEVER_SAID = np.array(NEVER)


class DecoderArrays:
    """The weights of a decoder as compiled loops read them: the same memory, nothing is copied."""

    def __init__(self, decoder: Stack, output: nn.Linear) -> None:
        order, nothing = decoder.order, torch.empty(decoder.order.longest, 0)
        self.product = product_address(output.weight.dtype)
        self.embedding, self.output = _array(decoder.embedding.weight), _array(output.weight)
        layers = [layer for layer in decoder.layers if isinstance(layer, Layer)]
        self.layers, self.pre = [_layer(layer) for layer in layers], layers[0].pre
        self.last = _norm(decoder.norm) if isinstance(decoder.norm, nn.LayerNorm) else self.layers[-1].norm
        self.positions = (order.table if isinstance(order, Added) else nothing).detach().float().numpy()
        turns = (order.cosine, order.sine) if isinstance(order, RotaryOrder) else (nothing, nothing)
        self.turns = torch.stack(turns, dim=1).float().numpy()

    @classmethod
    def of(cls, model: Transformer) -> DecoderArrays | None:
        """Return those of a model on the CPU; None where modules have to be called.

        That is, if they are not as built, if somebody listens to them, or if there is no product for their dtype.
        """
        decoder, output = model.decoding()
        weights = [*decoder.parameters(), *output.parameters()]
        kind = (torch.device("cpu"), output.weight.dtype)
        serves = (
            all((weight.device, weight.dtype) == kind and weight.is_contiguous() for weight in weights)
            and product_address(output.weight.dtype) != 0
            and not torch.is_autocast_enabled("cpu")
            and all(type(module) in KNOWN for module in (*decoder.modules(), output))
            and not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        )
        return cls(decoder, output) if serves else None


class CompiledSteps(Steps):
    """`Steps` by compiled loops. What is remembered stays where it was written: rows say where theirs is."""

    def __init__(self, arrays: DecoderArrays, model: Transformer, source: Tensor | None, **options: Any) -> None:
        super().__init__(model, source, **options)
        self._arrays = arrays
        self._rooms = [_arrays(cache.own.room()) for cache in self.caches]
        memories = [_arrays(cache.memory.room()) for cache in self.caches if cache.memory is not None]
        self._memories, self._seen = memories or self._rooms, np.empty((0, 0), bool)
        batch, _, longest, _ = self._rooms[0][0].shape
        if memories:
            sources, _, positions, _ = memories[0][0].shape
            self._seen = np.ones((sources, positions), bool) if self.mask is None else self.mask[:, 0, 0].numpy()
        self._origins = np.arange(batch)[:, None].repeat(longest, axis=1)
        self._sources = np.arange(batch) // (batch // max(len(self._seen), 1))
        self._length = 0

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits `(rows, target ids)` after some more ids, `(rows, length)`."""
        return torch.from_numpy(self._logits(ids))

    def likeliest(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the likeliest id to follow, `(rows,)`, and its log p in float64."""
        chosen, gain = np.empty(len(ids), np.int64), np.empty(len(ids))
        loops.likeliest(self._logits(ids), NEVER_SAID, chosen, gain)
        return torch.from_numpy(chosen), torch.from_numpy(gain)

    def rows(self, which: Tensor, sources: Tensor | None) -> None:
        """Keep these rows, in this order; their sources come along."""
        self._origins, self._sources = self._origins[which.numpy()], self._sources[which.numpy()]

    def _logits(self, ids: Tensor) -> np.ndarray:
        if ids.shape[1] > 1 and not self._length:  # a prompt: products of many rows
            self._length = ids.shape[1]
            return super().logits(ids).numpy()
        for column in ids.T.contiguous().numpy():
            x = self._through_layers(column)
        return loops.decode_output(self._arrays.product, x, self._arrays.last, self._arrays.pre, self._arrays.output)

    def _through_layers(self, ids: np.ndarray) -> np.ndarray:
        """Return the residual stream `(rows, width)` after one more id of each row."""
        arrays, length = self._arrays, self._length
        x = np.empty((len(ids), arrays.embedding.shape[1]), np.float32)
        loops.embed(ids, arrays.embedding, arrays.positions[length], x)
        own, memory = (arrays.turns[length], self._origins, length), (self._seen, self._sources)
        for layer, room, remembered in zip(arrays.layers, self._rooms, self._memories, strict=True):
            loops.decode_layer(arrays.product, x, layer, arrays.pre, room, *own, remembered, *memory)
        self._length += 1
        return x


def _layer(layer: Layer) -> loops.LayerWeights:
    own, cross, forward = layer.self_attention, layer.cross_attention, layer.feed_forward
    itself = loops.AttentionWeights(_linear(own.projection), _linear(own.output), _norm(layer.self_attention_norm))
    memory, norm = itself, layer.cross_attention_norm
    if cross is not None and norm is not None:
        memory = loops.AttentionWeights(_linear(cross.queries), _linear(cross.output), _norm(norm))
    activation = next(name for name, kind in ACTIVATIONS.items() if type(forward.activation) is kind)
    return loops.LayerWeights(
        itself,
        memory,
        _linear(forward.wide),
        _linear(forward.narrow),
        _norm(layer.feed_forward_norm),
        loops.ACTIVATIONS.index(activation),
    )


def _linear(linear: nn.Linear) -> loops.LinearWeights:
    return loops.LinearWeights(_array(linear.weight), _array(linear.bias))


def _norm(norm: nn.LayerNorm) -> loops.NormWeights:
    return loops.NormWeights(_array(norm.weight), _array(norm.bias), np.float32(norm.eps))


def _arrays(tensors: tuple[Tensor, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    return _array(tensors[0]), _array(tensors[1])


def _array(tensor: Tensor) -> np.ndarray:
    """Return the same memory for compiled loops, bfloat16 as uint16."""
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
