"""What several models compute from the same rows is computed once, and is what each would have computed alone."""

import pytest
import torch

import gossamer as gs
from gossamer.kernels import numba_select
from gossamer.kernels.sharing import once, shared_inputs


def test_the_same_question_is_answered_once():
    asked = []

    def compute(answer: float):
        def answered() -> torch.Tensor:
            asked.append(answer)
            return torch.tensor(answer)

        return answered

    x, y, one, two = torch.zeros(3), torch.zeros(3), torch.ones(1), torch.full((1,), 2.0)
    with shared_inputs():
        assert once("a", x, (one,), compute(1.0)) == 1
        assert once("a", x, (one.clone(),), compute(9.0)) == 1
        assert once("a", x, (two,), compute(2.0)) == 2
        assert once("a", y, (one,), compute(3.0)) == 3
        assert once("b", x, (one,), compute(4.0)) == 4
    assert asked == [1, 2, 3, 4]
    assert once("a", x, (one,), compute(5.0)) == 5
    assert once("a", x, (one,), compute(6.0)) == 6


def test_models_of_one_step_share_the_low_precision_copy_and_train_as_they_would_alone(monkeypatch, rows):
    copies = []
    widen = numba_select._low_precision

    def counted(x: torch.Tensor, padded: int) -> torch.Tensor:
        copies.append(len(x))
        return widen(x, padded)

    monkeypatch.setattr(numba_select, "_low_precision", counted)

    def models() -> list[gs.SparseAutoencoder]:
        specs = [gs.preset("topk", input_width=24, latents=96 * n, l0=3).replace(name=f"k{n}") for n in (1, 2)]
        return [spec.build(seed=n) for n, spec in enumerate(specs)]

    source = gs.Arrays(rows.numpy())
    spec = gs.TrainSpec(rows=1000, batch=100, kernels=gs.training.spec.Kernels(selection="bfloat16"))
    together = models()
    gs.train(together, source, spec, quiet=True)
    shared = len([n for n in copies if n == 100])
    alone = models()
    copies.clear()
    for sae in alone:
        gs.train(sae, source, spec, quiet=True)
    assert len([n for n in copies if n == 100]) - shared == 10
    for a, b in zip(together, alone, strict=True):
        for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
            assert torch.equal(p, q), name


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_rows_of_other_units_are_not_mixed_up(shift: float, rows: torch.Tensor):
    a = gs.preset("topk", input_width=24, latents=96).build()
    b = gs.preset("topk", input_width=24, latents=96).build()
    b.rescale((torch.full((24,), shift), torch.tensor(2.0)))
    expected = [sae.loss(rows).total for sae in (a, b)]
    with shared_inputs():
        assert [sae.loss(rows).total for sae in (a, b)] == expected
