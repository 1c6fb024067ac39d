"""Pre-activations that are not multiplied out choose what their matrix would, with the same gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gossamer.autoencoder.pre_activations import Affine, Computed, Corrected, Joined, PreActivations, rows_of
from gossamer.codes import SparseCodes

ROWS, WIDTH, LATENTS = 50, 8, 60


def affine(leaves: list[Tensor], number: int, latents: int) -> Affine:
    generator = torch.Generator().manual_seed(number)
    shapes = [(ROWS, WIDTH), (latents, WIDTH), (latents,)]
    made = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    leaves += made
    return Affine(*made)


def joined(leaves: list[Tensor]) -> PreActivations:
    return Joined([affine(leaves, number, latents) for number, latents in enumerate([25, 5, 30])])


def corrected(leaves: list[Tensor]) -> PreActivations:
    """With rows that have many entries in the code, few, and none."""
    generator = torch.Generator().manual_seed(9)
    dense = torch.rand(ROWS, LATENTS, generator=generator, dtype=torch.float64) * 4
    dense[:20] *= torch.rand(20, LATENTS, generator=generator) < 0.1
    dense[20:40] *= torch.rand(20, LATENTS, generator=generator) < 0.5
    dense[40:] = 0
    code = SparseCodes.from_dense(dense)
    leaves.append(code.values.requires_grad_())
    return Corrected(affine(leaves, 4, LATENTS), code)


def computed(leaves: list[Tensor]) -> PreActivations:
    leaves.append(torch.randn(ROWS, LATENTS, generator=torch.Generator().manual_seed(1)).double().requires_grad_())
    return Computed(leaves[-1])


def plain(leaves: list[Tensor]) -> PreActivations:
    return affine(leaves, 0, LATENTS)


FLOOR = torch.randn(LATENTS, generator=torch.Generator().manual_seed(6), dtype=torch.float64) + 1
SOME = torch.tensor([0, 3, 24, 26, 29, 30, 41, 59])


def mask_of(p: Tensor, indices: Tensor, dim: int) -> Tensor:
    return torch.zeros_like(p, dtype=torch.bool).scatter(dim, indices, True)


CHOICES: dict[str, tuple[Callable[[PreActivations], SparseCodes], Callable[[Tensor], Tensor]]] = {
    "topk": (lambda pre: pre.topk(7), lambda p: mask_of(p, p.topk(7, dim=1).indices, 1)),
    "topk-many": (lambda pre: pre.topk(50), lambda p: mask_of(p, p.topk(50, dim=1).indices, 1)),
    "topk-all": (lambda pre: pre.topk(LATENTS), lambda p: torch.ones_like(p, dtype=torch.bool)),
    "abs-topk": (lambda pre: pre.abs_topk(7), lambda p: mask_of(p, p.abs().topk(7, dim=1).indices, 1)),
    "group-max": (
        lambda pre: pre.group_max(6),
        lambda p: mask_of(p, p.unflatten(1, (6, 10)).argmax(dim=2) + 10 * torch.arange(6), 1),
    ),
    "above": (lambda pre: pre.above(FLOOR), lambda p: p > FLOOR),
    "above-negative": (lambda pre: pre.above(-FLOOR.abs()), lambda p: p > -FLOOR.abs()),
    "above-nothing": (lambda pre: pre.above(FLOOR + 1e6), lambda p: p > 1e6),
    "batch-topk": (
        lambda pre: pre.batch_topk(333),
        lambda p: mask_of(p.flatten(), p.flatten().topk(333).indices, 0).view(p.shape),
    ),
    "batch-topk-guessed": (
        lambda pre: pre.batch_topk(333, 2.0),
        lambda p: mask_of(p.flatten(), p.flatten().topk(333).indices, 0).view(p.shape),
    ),
    "batch-topk-guessed-too-high": (
        lambda pre: pre.batch_topk(333, 50.0),
        lambda p: mask_of(p.flatten(), p.flatten().topk(333).indices, 0).view(p.shape),
    ),
    "batch-topk-all": (lambda pre: pre.batch_topk(ROWS * LATENTS), lambda p: torch.ones_like(p, dtype=torch.bool)),
    "column-topk": (lambda pre: pre.column_topk(4), lambda p: mask_of(p, p.topk(4, dim=0).indices, 0)),
}


@pytest.fixture(params=[plain, computed, joined, corrected], ids=lambda make: make.__name__)
def case(request: pytest.FixtureRequest) -> tuple[PreActivations, list[Tensor]]:
    """Some pre-activations, and the tensors that they are made of."""
    leaves: list[Tensor] = []
    return request.param(leaves), leaves


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_is_that_of_the_matrix_with_all_gradients(case: tuple[PreActivations, list[Tensor]], choice: str):
    pre, leaves = case
    choose, define = CHOICES[choice]
    p = pre.dense()
    chosen = define(p.detach())
    codes = choose(pre)
    assert (pre.rows, pre.latents, codes.shape) == (ROWS, LATENTS, (ROWS, LATENTS))
    places = torch.zeros(ROWS, LATENTS, dtype=torch.int64)
    places.index_put_((codes.row_of_entry(), codes.indices), torch.ones_like(codes.indices), accumulate=True)
    assert torch.equal(places, chosen.long())  # each place once
    torch.testing.assert_close(codes.to_dense(), p * chosen)
    weights = torch.randn(ROWS, LATENTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.autograd.grad((p * chosen * weights).sum(), leaves, materialize_grads=True)
    found = torch.autograd.grad((codes.to_dense() * weights).sum(), leaves, materialize_grads=True, allow_unused=True)
    for got, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(got, exact)


def test_of_some_latents_are_those_columns_with_all_gradients(case: tuple[PreActivations, list[Tensor]]):
    pre, leaves = case
    some, columns = pre.of(SOME), pre.dense()[:, SOME]
    assert (some.rows, some.latents) == (ROWS, len(SOME))
    torch.testing.assert_close(some.dense(), columns)
    torch.testing.assert_close(some.topk(3).values.view(ROWS, 3).sort().values, columns.topk(3).values.sort().values)
    for got, exact in zip(
        torch.autograd.grad((some.dense() ** 2).sum(), leaves, materialize_grads=True, allow_unused=True),
        torch.autograd.grad((columns**2).sum(), leaves, materialize_grads=True, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(got, exact)


def test_offset_is_what_all_rows_share(case: tuple[PreActivations, list[Tensor]]):
    pre, leaves = case
    offset = pre.offset()
    biases = [leaf for leaf in leaves if leaf.dim() == 1 and len(leaf) <= LATENTS]
    expected = torch.cat(biases) if biases else torch.zeros(LATENTS, dtype=torch.float64)
    assert torch.equal(offset, expected)


def test_joined_of_one_part_only():
    leaves: list[Tensor] = []
    some = joined(leaves).of(torch.tensor([26, 28]))
    torch.testing.assert_close(some.dense(), joined([]).dense()[:, [26, 28]])
    assert some.topk(2).shape == (ROWS, 2)


def test_corrected_without_rows():
    none = Affine(torch.zeros(0, 3), torch.ones(5, 3), torch.zeros(5))
    pre = Corrected(none, SparseCodes.from_dense(torch.zeros(0, 5)))
    assert pre.topk(2).shape == pre.above(torch.zeros(5)).shape == (0, 5)


def test_rows_of_a_weight_are_those_rows_with_their_gradient():
    weight = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    latents = torch.tensor([7, 0, 7])
    found = rows_of(weight, latents)
    assert torch.equal(found, weight[latents])
    scale = torch.arange(12.0).double().view(3, 4)
    (got,) = torch.autograd.grad((found * scale).sum(), weight, retain_graph=True)
    (exact,) = torch.autograd.grad((weight[latents] * scale).sum(), weight)
    torch.testing.assert_close(got, exact)


@pytest.mark.usefixtures("low_precision_selection")
@pytest.mark.parametrize("choice", CHOICES)
def test_in_single_precision_the_choice_is_the_same(choice: str):
    leaves: list[Tensor] = []
    for make in (plain, joined, corrected):
        pre = make(leaves)
        chosen = CHOICES[choice][1](pre.dense().detach())
        with torch.no_grad():
            found = CHOICES[choice][0](single(pre))
        assert torch.equal(found.replace_values(torch.ones_like(found.values)).to_dense() > 0, chosen), make.__name__


def single(pre: PreActivations) -> PreActivations:
    if isinstance(pre, Joined):
        return Joined([single(part) for part in pre.parts])
    if isinstance(pre, Corrected):
        affine_part = single(pre.affine)
        assert isinstance(affine_part, Affine)
        return Corrected(affine_part, pre.code.to(torch.float32))
    assert isinstance(pre, Affine)
    return Affine(pre.x.float(), pre.weight.float(), pre.bias.float())
