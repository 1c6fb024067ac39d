"""The four sparse primitives as torch operators with gradients: all the speed of the library lives here.

| primitive | meaning | cost |
|---|---|---|
| `select_topk`, `_abs_topk`, `_group_max`, `_above`, `_batch_topk` | latents and values | 2·B·D·F, low precision |
| `gather_dot` | the product of row and latent for each active pair | 2·E·D |
| `gather_sum` | codes @ W | 2·E·D |
| `scatter_outer` | codesᵀ @ g | 2·E·D |

B rows, D input width, F latents, E entries. The choice of latents has no gradient; their values have that of
`gather_dot`. `gather_dot` and `gather_sum` are each other's derivative in one argument, and `scatter_outer` is the
derivative of both in the weight, so that forward and backward of every sparse architecture are made of these. They are
`torch.library` operators: autograd, `torch.compile` and `torch.library.opcheck` see each as one node.

`adam_rows` does the optimizer's step on gradients that stay factors (`factored_gradients`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op

from gossamer.kernels.capability import fast_bfloat16
from gossamer.kernels.choice import backend, implementation, own_threads, products, require_known, selection, use
from gossamer.kernels.gradient import AdamStep, FactoredGradient, Outer, collector_of, factored_gradients
from gossamer.kernels.reference import group_size
from gossamer.kernels.threads import block_rows, thread_count

__all__ = [
    "AdamStep",
    "FactoredGradient",
    "Outer",
    "adam_rows",
    "backend",
    "factored_gradients",
    "fast_bfloat16",
    "gather_dot",
    "gather_sum",
    "own_threads",
    "products",
    "require_known",
    "residual",
    "scatter_outer",
    "select_above",
    "select_abs_topk",
    "select_batch_topk",
    "select_group_max",
    "select_topk",
    "selection",
    "use",
    "weight_gradient",
    "workspace_bytes",
]


# -------------------------------------------------------------------------------------------------- operators


@custom_op("gossamer::select_topk", mutates_args=())
def select_topk(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return `(rows, k)` indices (int64) and values of the k largest pre-activations x Wᵀ + b of each row."""
    return implementation(x, "select").select_topk(x, weight, bias, k)


@select_topk.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return x.new_empty((x.shape[0], k), dtype=torch.int64), x.new_empty((x.shape[0], k))


@custom_op("gossamer::select_abs_topk", mutates_args=())
def select_abs_topk(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return `(rows, k)` indices (int64) and signed values of the k pre-activations x Wᵀ + b of largest magnitude."""
    return implementation(x, "select").select_abs_topk(x, weight, bias, k)


@select_abs_topk.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return x.new_empty((x.shape[0], k), dtype=torch.int64), x.new_empty((x.shape[0], k))


@custom_op("gossamer::select_group_max", mutates_args=())
def select_group_max(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return `(rows, groups)` indices (int64) and values of the largest pre-activation of each group of latents.

    The latents are cut into `groups` consecutive groups of equal size: group g holds latents g·size … (g + 1)·size − 1.
    Raises ValueError where that is not possible.
    """
    return implementation(x, "select").select_group_max(x, weight, bias, groups)


@select_group_max.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    group_size(weight.shape[0], groups)
    return x.new_empty((x.shape[0], groups), dtype=torch.int64), x.new_empty((x.shape[0], groups))


@custom_op("gossamer::select_above", mutates_args=())
def select_above(x: Tensor, weight: Tensor, bias: Tensor, floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return offsets `(rows + 1,)`, indices and values `(entries,)` of the pre-activations above `floor (latents,)`."""
    return implementation(x, "select").select_above(x, weight, bias, floor)


@select_above.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    entries = torch.library.get_ctx().new_dynamic_size()
    offsets = x.new_empty((x.shape[0] + 1,), dtype=torch.int64)
    return offsets, x.new_empty((entries,), dtype=torch.int64), x.new_empty((entries,))


@custom_op("gossamer::select_batch_topk", mutates_args=())
def select_batch_topk(
    x: Tensor, weight: Tensor, bias: Tensor, count: int, guess: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return offsets, indices and values of the `count` largest pre-activations of the whole batch."""
    return implementation(x, "select").select_batch_topk(x, weight, bias, count, guess)


@select_batch_topk.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, count: int, guess: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    offsets = x.new_empty((x.shape[0] + 1,), dtype=torch.int64)
    return offsets, x.new_empty((count,), dtype=torch.int64), x.new_empty((count,))


@custom_op("gossamer::gather_dot", mutates_args=())
def gather_dot(x: Tensor, weight: Tensor, offsets: Tensor, indices: Tensor) -> Tensor:
    """Return `(entries,)`: ⟨x[row of entry], weight[latent of entry]⟩."""
    return implementation(x).gather_dot(x, weight, offsets, indices)


@gather_dot.register_fake
def _(x: Tensor, weight: Tensor, offsets: Tensor, indices: Tensor) -> Tensor:
    return x.new_empty(indices.shape)


@custom_op("gossamer::gather_sum", mutates_args=())
def gather_sum(offsets: Tensor, indices: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    """Return `(rows, width)`: Σ value · weight[latent] over the entries of each row."""
    return implementation(weight).gather_sum(offsets, indices, values, weight)


@gather_sum.register_fake
def _(offsets: Tensor, indices: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    return weight.new_empty((offsets.shape[0] - 1, weight.shape[1]))


@custom_op("gossamer::scatter_outer", mutates_args=())
def scatter_outer(offsets: Tensor, indices: Tensor, values: Tensor, g: Tensor, latents: int) -> Tensor:
    """Return `(latents, width)`: Σ value · g[row] over the entries of each latent."""
    return implementation(g).scatter_outer(offsets, indices, values, g, latents)


@scatter_outer.register_fake
def _(offsets: Tensor, indices: Tensor, values: Tensor, g: Tensor, latents: int) -> Tensor:
    return g.new_empty((latents, g.shape[1]))


@custom_op("gossamer::residual", mutates_args=())
def residual(
    offsets: Tensor, indices: Tensor, values: Tensor, weight: Tensor, bias: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """Return r = target − (codes @ W + b), `(rows, width)`, and the sum of its squares, `()`.

    r has no gradient, its square has: what training needs of a reconstruction, without writing that down.
    """
    return implementation(weight).residual(offsets, indices, values, weight, bias, target)


@residual.register_fake
def _(
    offsets: Tensor, indices: Tensor, values: Tensor, weight: Tensor, bias: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    return target.new_empty(target.shape), target.new_empty(())


@torch.no_grad()
def adam_rows(gradient: FactoredGradient, first: Tensor, second: Tensor, step: AdamStep, *, unit_rows: bool) -> None:
    """Do one step of Adam on a weight, in place and in one pass over its rows (`reference.adam_rows` has the equation).

    first, second: the moments, `(latents, width)`. unit_rows: take the part of each row's gradient that is parallel to
    the row out before, and divide each row by its norm after.
    """
    weight = gradient.weight
    by = implementation(weight)
    by.adam_rows(weight, first, second, gradient.terms, weight.grad, step, unit_rows=unit_rows)


def workspace_bytes(weights: int, latents: int) -> int:
    """Return about how much memory selection needs beside weights `(latents, width)`, their number of entries given."""
    return 2 * weights + 2 * block_rows(latents) * latents * thread_count()


# -------------------------------------------------------------------------------------------------- gradients


def weight_gradient(weight: Tensor, offsets: Tensor, indices: Tensor, values: Tensor, rows: Tensor) -> Tensor | None:
    """Return the gradient codesᵀ @ rows of a weight; None if somebody collects its factors and has been handed them."""
    collector = collector_of(weight)
    if collector is None:
        return scatter_outer(offsets, indices, values, rows, weight.shape[0])
    collector.terms.append(Outer(offsets, indices, values, rows))
    return None


def _select_gradients(ctx, offsets: Tensor, indices: Tensor, g: Tensor | None) -> tuple[Tensor | None, ...]:
    if g is None:
        return None, None, None, None
    g = g.reshape(-1)
    x, weight = ctx.saved_tensors[:2]
    x_needs, weight_needs, bias_needs, *_ = ctx.needs_input_grad
    return (
        gather_sum(offsets, indices, g, weight) if x_needs else None,
        weight_gradient(weight, offsets, indices, g, x) if weight_needs else None,
        g.new_zeros(weight.shape[0]).index_add(0, indices, g) if bias_needs else None,
        None,
    )


def _save_for_select(ctx, inputs, output) -> None:
    x, weight, *_ = inputs
    ctx.mark_non_differentiable(*output[:-1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, *output[:-1])


def _select_regular_backward(ctx, _, g: Tensor | None):
    indices = ctx.saved_tensors[2]
    rows, k = indices.shape
    offsets = torch.arange(0, rows * k + 1, max(k, 1), device=indices.device)
    return _select_gradients(ctx, offsets, indices.reshape(-1), g)


def _select_ragged_backward(ctx, _offsets, _indices, g: Tensor | None):
    _, _, offsets, indices = ctx.saved_tensors
    return _select_gradients(ctx, offsets, indices, g)


def _select_batch_topk_backward(ctx, *gradients: Tensor | None):
    return *_select_ragged_backward(ctx, *gradients), None


def _save_tensors(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:4])


def _gather_dot_backward(ctx, g: Tensor):
    x, weight, offsets, indices = ctx.saved_tensors
    x_needs, weight_needs = ctx.needs_input_grad[:2]
    return (
        gather_sum(offsets, indices, g, weight) if x_needs else None,
        weight_gradient(weight, offsets, indices, g, x) if weight_needs else None,
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
        weight_gradient(weight, offsets, indices, values, g) if weight_needs else None,
    )


def _save_for_residual(ctx, inputs, output) -> None:
    offsets, indices, values, weight, *_ = inputs
    ctx.mark_non_differentiable(output[0])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(offsets, indices, values, weight, output[0])


def _residual_backward(ctx, _, g: Tensor | None):
    if g is None:
        return None, None, None, None, None, None
    offsets, indices, values, weight, rest = ctx.saved_tensors
    if torch.is_grad_enabled():
        raise NotImplementedError("the squared residual has no second derivative; use gather_sum for it")
    _, _, values_need, weight_needs, bias_needs, target_needs = ctx.needs_input_grad
    return (
        None,
        None,
        gather_dot(rest, weight, offsets, indices) * (-2 * g) if values_need else None,
        weight_gradient(weight, offsets, indices, values * (-2 * g), rest) if weight_needs else None,
        rest.sum(0) * (-2 * g) if bias_needs else None,
        rest * (2 * g) if target_needs else None,
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


select_topk.register_autograd(_select_regular_backward, setup_context=_save_for_select)
select_abs_topk.register_autograd(_select_regular_backward, setup_context=_save_for_select)
select_group_max.register_autograd(_select_regular_backward, setup_context=_save_for_select)
select_above.register_autograd(_select_ragged_backward, setup_context=_save_for_select)
select_batch_topk.register_autograd(_select_batch_topk_backward, setup_context=_save_for_select)
gather_dot.register_autograd(_gather_dot_backward, setup_context=_save_tensors)
gather_sum.register_autograd(_gather_sum_backward, setup_context=_save_tensors)
residual.register_autograd(_residual_backward, setup_context=_save_for_residual)
scatter_outer.register_autograd(_scatter_outer_backward, setup_context=_save_tensors)
