"""The four sparse primitives as torch operators with gradients: all the speed of the library lives here.

| primitive | meaning | cost |
|---|---|---|
| `select_topk`, `select_positive` | which latents are active, per row | 2·B·D·F, in low precision where that is fast |
| `gather_dot` | the product of row and latent for each active pair | 2·E·D |
| `gather_sum` | codes @ W | 2·E·D |
| `scatter_outer` | codesᵀ @ g | 2·E·D |

B rows, D input width, F latents, E entries. Selection has no gradient. `gather_dot` and `gather_sum` are each
other's derivative in one argument, and `scatter_outer` is the derivative of both in the weight, so that forward and
backward of every sparse architecture are made of these. They are `torch.library` operators: autograd, `torch.compile`
and `torch.library.opcheck` see each as one node.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op

from gossamer.kernels import reference, torch_cpu
from gossamer.kernels.capability import fast_bfloat16

__all__ = [
    "backend",
    "fast_bfloat16",
    "gather_dot",
    "gather_sum",
    "scatter_outer",
    "select_positive",
    "select_topk",
    "selection",
]


def backend(device: torch.device | str) -> str:
    """Return the name of the implementation that serves this device."""
    return "torch-cpu" if torch.device(device).type == "cpu" else "reference"


def selection(device: torch.device | str) -> str:
    """Return the precision in which candidates are chosen on this device; it decides the last bits of a run."""
    fast = backend(device) == "torch-cpu" and fast_bfloat16(device)
    return "bfloat16 candidates" if fast else "full precision"


def _implementation(x: Tensor):
    return torch_cpu if x.device.type == "cpu" else reference


@custom_op("gossamer::select_topk", mutates_args=())
def select_topk(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> Tensor:
    """Return `(rows, k)` int64: the latents of each row with the k largest pre-activations x Wᵀ + b."""
    return _implementation(x).select_topk(x, weight, bias, k)


@select_topk.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> Tensor:
    return x.new_empty((x.shape[0], k), dtype=torch.int64)


@custom_op("gossamer::select_positive", mutates_args=())
def select_positive(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return offsets `(rows + 1,)` and indices `(entries,)` of the positive pre-activations x Wᵀ + b."""
    return _implementation(x).select_positive(x, weight, bias)


@select_positive.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    entries = torch.library.get_ctx().new_dynamic_size()
    offsets = x.new_empty((x.shape[0] + 1,), dtype=torch.int64)
    return offsets, x.new_empty((entries,), dtype=torch.int64)


@custom_op("gossamer::gather_dot", mutates_args=())
def gather_dot(x: Tensor, weight: Tensor, offsets: Tensor, indices: Tensor) -> Tensor:
    """Return `(entries,)`: ⟨x[row of entry], weight[latent of entry]⟩."""
    return _implementation(x).gather_dot(x.contiguous(), weight, offsets, indices)


@gather_dot.register_fake
def _(x: Tensor, weight: Tensor, offsets: Tensor, indices: Tensor) -> Tensor:
    return x.new_empty(indices.shape)


@custom_op("gossamer::gather_sum", mutates_args=())
def gather_sum(offsets: Tensor, indices: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    """Return `(rows, width)`: Σ value · weight[latent] over the entries of each row."""
    return _implementation(weight).gather_sum(offsets, indices, values, weight)


@gather_sum.register_fake
def _(offsets: Tensor, indices: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    return weight.new_empty((offsets.shape[0] - 1, weight.shape[1]))


@custom_op("gossamer::scatter_outer", mutates_args=())
def scatter_outer(offsets: Tensor, indices: Tensor, values: Tensor, g: Tensor, latents: int) -> Tensor:
    """Return `(latents, width)`: Σ value · g[row] over the entries of each latent."""
    return _implementation(g).scatter_outer(offsets, indices, values, g.contiguous(), latents)


@scatter_outer.register_fake
def _(offsets: Tensor, indices: Tensor, values: Tensor, g: Tensor, latents: int) -> Tensor:
    return g.new_empty((latents, g.shape[1]))


def _save_tensors(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:4])


def _gather_dot_backward(ctx, g: Tensor):
    x, weight, offsets, indices = ctx.saved_tensors
    x_needs, weight_needs = ctx.needs_input_grad[:2]
    return (
        gather_sum(offsets, indices, g, weight) if x_needs else None,
        scatter_outer(offsets, indices, g, x, weight.shape[0]) if weight_needs else None,
        None,
        None,
    )


def _gather_sum_backward(ctx, g: Tensor):
    offsets, indices, values, weight = ctx.saved_tensors
    _, _, values_need, weight_needs = ctx.needs_input_grad
    return (
        None,
        None,
        gather_dot(g, weight, offsets, indices) if values_need else None,
        scatter_outer(offsets, indices, values, g, weight.shape[0]) if weight_needs else None,
    )


def _scatter_outer_backward(ctx, g_weight: Tensor):
    offsets, indices, values, g = ctx.saved_tensors
    _, _, values_need, g_needs, _ = ctx.needs_input_grad
    return (
        None,
        None,
        gather_dot(g, g_weight, offsets, indices) if values_need else None,
        gather_sum(offsets, indices, values, g_weight) if g_needs else None,
        None,
    )


gather_dot.register_autograd(_gather_dot_backward, setup_context=_save_tensors)
gather_sum.register_autograd(_gather_sum_backward, setup_context=_save_tensors)
scatter_outer.register_autograd(_scatter_outer_backward, setup_context=_save_tensors)
