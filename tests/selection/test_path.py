"""The path: what a fold's models see, and that its figures are those of rows which they have not seen."""

import itertools

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import MaxAbsScaler

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.presets import preset
from gossamer.codes import SparseCodes
from gossamer.selection import path as path_module
from gossamer.selection.path import cross_validate, description_length, matched, started
from gossamer.training import trainee
from gossamer.training.spec import TrainSpec


def topk(l0: float, *, width: int = 64, latents: int = 16):
    return preset("topk", input_width=width, latents=latents, l0=int(l0))


def quick(x, folds, *, make=topk, values=(4, 1), batch=40, epochs=2):
    spec = TrainSpec(rows=epochs * x.shape[0], batch=batch, device="cpu")
    return cross_validate(make, values, x, folds, spec, parameter="l0")


def test_no_model_ever_sees_the_rows_that_it_is_judged_on(data, folds, monkeypatch):
    rows = data[0].copy()
    rows[:, 0] = np.arange(len(rows))  # a row says which one it is
    seen = {fold: set() for fold in range(3)}
    loss, start = SparseAutoencoder.loss, trainee.start_from_data

    def spy_on_loss(sae, x, *arguments, **options):
        seen[sae.spec.task.fold].update(x[:, 0].int().tolist())
        return loss(sae, x, *arguments, **options)

    def spy_on_start(sae, sample, *arguments):
        seen[sae.spec.task.fold].update(sample[:, 0].int().tolist())
        return start(sae, sample, *arguments)

    monkeypatch.setattr(SparseAutoencoder, "loss", spy_on_loss)
    monkeypatch.setattr(trainee, "start_from_data", spy_on_start)
    quick(rows, folds)
    for fold in range(3):
        assert seen[fold] == set(np.flatnonzero(folds != fold).tolist())


def test_rows_that_are_held_out_change_nothing_of_a_model(data, folds, monkeypatch):
    """Nor of what it starts from: other rows in fold 1, the same models of fold 1 to the last bit."""
    calls, train = [], path_module.train
    monkeypatch.setattr(path_module, "train", lambda models, *a, **k: (calls.append(models), train(models, *a, **k)))
    other = data[0].copy()
    other[folds == 1] = 16 - other[folds == 1][:, ::-1]
    for rows in (data[0], other):
        quick(rows, folds)
    weights = [[sae.encoder.weight for sae in call if sae.spec.task.fold == 1] for call in calls]
    others = [[sae.encoder.weight for sae in call if sae.spec.task.fold == 0] for call in calls]
    assert [len(models) for models in weights] == [1, 2, 1, 2]
    for before, after in ((0, 2), (1, 3)):
        assert all(map(torch.equal, weights[before], weights[after]))
        assert not any(map(torch.equal, others[before], others[after]))


def test_figures_are_those_of_held_out_rows(trained, data, folds):
    path, (_, models) = trained
    rows, labels = data
    for place, (value, fold) in enumerate(itertools.product(range(4), range(3))):
        sae, held = models[place], rows[folds == fold]
        assert sae.spec.task.fold == fold and sae.spec.sparsity.k == path.values[value]
        with torch.no_grad():
            out = sae(torch.from_numpy(held))
        codes = out.codes.to_dense().numpy()
        error = np.square(held - out.reconstruction.numpy()).sum() / np.square(held - held.mean(axis=0)).sum()
        assert path.error[value, fold] == pytest.approx(error, rel=1e-4)
        assert path.l0[value, fold] == pytest.approx(np.count_nonzero(codes) / len(held))
        assert path.dead[value, fold] == pytest.approx((np.count_nonzero(codes, axis=0) == 0).mean())
    sae, seen = models[0], folds != 0  # the probe, once
    with torch.no_grad():
        codes = sae.encode(torch.from_numpy(rows)).to_dense().numpy()
    scaler = MaxAbsScaler().fit(codes[seen])
    probe = LogisticRegression(max_iter=500).fit(scaler.transform(codes[seen]), labels[seen])
    score = probe.score(scaler.transform(codes[~seen]), labels[~seen])
    assert path.probe is not None and path.probe[0, 0] == pytest.approx(score, abs=0.02)
    assert path.stability is not None and path.stability.shape == (4, 3)
    assert path.stability[2, 0] == pytest.approx(matched(models[6], models[7]))


def test_denser_codes_lose_less(trained):
    path, _ = trained
    assert np.all(np.diff(path.error.mean(axis=1)) > 0.01)  # 12, 5, 2, 1
    assert path.error[0].mean() < 0.3
    np.testing.assert_allclose(path.l0, [[12] * 3, [5] * 3, [2] * 3, [1] * 3], atol=0.05)


def test_the_models_of_a_fold_start_from_one(trained):
    _, (common, models) = trained
    assert len(common) == 3 and len(models) == 12
    assert [sae.spec.task.fold for sae in common] == [0, 1, 2]
    assert {sae.spec.sparsity.k for sae in common} == {2}  # of the middle


def test_what_starts_from_another_computes_the_same(data):
    rows = torch.from_numpy(data[0])
    sae = topk(4).build(seed=1)
    trainee.start_from_data(sae, rows)
    other = started(topk(2), sae)
    assert torch.equal(other.encoder.weight, sae.encoder.weight)
    codes, fewer = sae.encode(rows).to_dense(), other.encode(rows).to_dense()
    assert torch.equal(fewer, torch.where(fewer != 0, codes, torch.zeros(())))
    assert fewer.count_nonzero() < codes.count_nonzero()
    with torch.no_grad():
        other.encoder.weight.zero_()
    assert sae.encoder.weight.any()


def test_sparse_rows_and_files_have_the_same_path(data, folds, tmp_path):
    dense = quick(data[0], folds)
    sparse = quick(scipy.sparse.csr_array(data[0]), folds)
    np.testing.assert_allclose(sparse.error, dense.error, rtol=1e-5)
    np.save(tmp_path / "rows.npy", data[0])
    mapped = quick(np.load(tmp_path / "rows.npy", mmap_mode="r"), folds)
    np.testing.assert_allclose(mapped.error, dense.error, rtol=0.2)  # blocks of files come in another order


@pytest.mark.parametrize("count", [2, 3])
def test_small_batches_leave_no_model_without_rows(data, count):
    path = quick(data[0][:60], np.arange(60) % count, batch=1)
    assert np.isfinite(path.error).all()


def test_decoders_with_hidden_layers_have_no_stability(data, folds):
    def deep(l0: float):
        from gossamer.autoencoder.decoders import Deep

        return topk(l0).replace(decoder=Deep(hidden=(8,)), auxiliaries=())

    path = quick(data[0], folds, make=deep)
    assert path.stability is None
    assert np.isfinite(path.error).all()


def test_rows_that_do_not_differ_have_nothing_to_lose():
    path = quick(np.full((60, 8), 3.0, np.float32), np.arange(60) % 2, make=lambda l0: topk(l0, width=8))
    assert np.all(path.error == 0)
    assert np.isfinite(path.bits).all()


@pytest.mark.parametrize(("folds", "sizes"), [(np.zeros(9, int), "[9]"), (np.array([0, 0, 0, 1]), "[3, 1]")])
def test_folds_need_two_rows_each(folds, sizes):
    with pytest.raises(ValueError, match="two rows or more each") as raised:
        quick(np.eye(len(folds), dtype=np.float32), folds, make=lambda l0: topk(l0, width=len(folds)), batch=4)
    assert sizes in str(raised.value)


def test_nothing_is_printed(data, folds, capfd):
    def steered(l0: float):
        return preset("vanilla-l1", input_width=64, latents=16, l0=int(l0))

    quick(data[0], folds, make=steered)
    assert capfd.readouterr() == ("", "")


def test_description_length_by_hand():
    """Four rows, three latents: one active on half of the rows, one on a quarter, one on all.

    Entropies of the coins: 1, 0.811278, 0 bits. Seven active values, 1, 3, 1, 3, 1, 3, 2, of variance 6/7. Rows have
    variance 1; with precision 0.1, a normal number of variance v takes
    ½ log₂(17.07947 v / 0.01) bits: 5.2578 for values, 2.0471 for a residual of ±0.1, and none for one of 0.001.
    """
    codes = np.array([[1, 0, 3.0], [3, 0, 1], [0, 0, 3], [0, 1, 2]], np.float32)
    assert np.var(codes[codes != 0]) == pytest.approx(6 / 7)
    residual = np.array([[0.1, 0.001], [-0.1, 0.001], [0.1, -0.001], [-0.1, 0.001]])
    value = 0.5 * np.log2(17.079468445 * 6 / 7 / 0.01)
    expected = 1 + 0.8112781245 + 7 / 4 * value + 2.0470956
    found = description_length(
        SparseCodes.from_dense(torch.from_numpy(codes)), np.square(residual).mean(axis=0), 1.0, 0.1
    )
    assert found == pytest.approx(expected, abs=1e-5)
    coarse = description_length(
        SparseCodes.from_dense(torch.from_numpy(codes)), np.square(residual).mean(axis=0), 1.0, 0.2
    )
    assert coarse == pytest.approx(expected - 7 / 4 - 1, abs=1e-5)  # one bit less for each number that takes any


def test_directions_in_another_order_match_perfectly():
    sae = topk(3).build(seed=0)
    other = topk(3).build(seed=0)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        other.decoder.weight.copy_(2 * sae.decoder.weight[order])
    assert matched(sae, other) == pytest.approx(1, abs=1e-6)


def test_directions_are_matched_one_to_one_as_well_as_can_be():
    one, other = (topk(2, width=5, latents=5).build(seed=seed) for seed in (0, 1))
    cosines = (one.decoder.directions() @ other.decoder.directions().T).detach().numpy()
    best = max(cosines[range(5), order].mean() for order in itertools.permutations(range(5)))
    assert matched(one, other) == pytest.approx(best, abs=1e-6)
    assert best < cosines.max(axis=1).mean()  # where each could take what it likes best
