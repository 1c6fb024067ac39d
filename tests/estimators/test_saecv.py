"""SAECV: it takes what its criterion says of its path, trains that on all rows, and says why."""

import re

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, KFold, PredefinedSplit, ShuffleSplit, StratifiedKFold

from gossamer import SAE, SAECV
from gossamer.estimators import sae_cv
from gossamer.selection import path as paths

SMALL = {"n_components": 32, "max_iter": 8, "tol": 0, "random_state": 0}


@pytest.fixture(scope="module")
def rows(digits) -> np.ndarray:
    return digits[:400]


@pytest.fixture(scope="module")
def chosen(digits) -> SAECV:
    return SAECV(**SMALL, values=(1, 10, 4), cv=3).fit(digits[:400])


def test_it_is_the_sae_with_the_chosen_value(chosen, rows):
    path = chosen.path_
    assert path.values.tolist() == [10, 4, 1]
    curve = path.error + path.l0 / 64
    means, spread = curve.mean(axis=1), curve.std(axis=1, ddof=1) / np.sqrt(3)
    within = np.flatnonzero(means <= means.min() + spread[means.argmin()])
    assert chosen.best_params_ == {"l0": path.values[within.max()]}
    sae = SAE(**SMALL, **chosen.best_params_).fit(rows)
    np.testing.assert_array_equal(chosen.transform(rows), sae.transform(rows))
    np.testing.assert_array_equal(chosen.components_, sae.components_)
    assert chosen.n_iter_ == sae.n_iter_ and chosen.loss_curve_ == sae.loss_curve_ and chosen.n_features_in_ == 64
    assert chosen.get_feature_names_out()[0] == "saecv0"


def test_the_explanation_holds_the_true_numbers(chosen):
    path, index = chosen.path_, chosen.choice_.index
    numbers = [float(number.rstrip(".")) for number in re.findall(r"\d+[\d.]*", chosen.explanation_)]
    for true in (
        path.values[index],
        path.l0[index].mean().round(1),
        (100 * path.error[index].mean()).round(1),
        0.016,  # 1 / 64
        path.values[path.error.mean(axis=1).argmin()],
    ):
        assert true in numbers
    assert "without a charge the least error alone would have chosen l0 = 10" in chosen.explanation_


def test_the_seed_decides_and_a_clone_knows_nothing(chosen, rows):
    again = clone(chosen)
    assert not hasattr(again, "path_")
    again.fit(rows)
    np.testing.assert_array_equal(again.path_.error, chosen.path_.error)
    assert again.explanation_ == chosen.explanation_


@pytest.mark.parametrize(
    ("parameters", "varied", "values"),
    [
        ({"sparsity": "topk", "n_components": 40}, "l0", [32, 20, 12, 7, 4, 3, 2, 1]),
        ({"sparsity": "topk", "n_components": 3}, "l0", [3, 2, 1]),
        ({"sparsity": "l1"}, "alpha", np.geomspace(1e-4, 1e-1, 8)),
        ({"sparsity": "l1", "vary": "l0", "values": [2, 5]}, "l0", [5, 2]),
        ({"sparsity": "kl", "values": [0.3, 0.1]}, "alpha", [0.1, 0.3]),
        ({"sparsity": "topk", "values": [2, 4, 99], "n_components": 5}, "l0", [4, 2]),
    ],
)
def test_what_is_tried(rows, monkeypatch, parameters, varied, values):
    tried = {}

    class Enough(Exception):  # noqa: N818 - not an error
        pass

    def spy(make, values, *arguments, parameter, **options):
        tried.update(values=values, parameter=parameter, specs=[make(value) for value in values])
        raise Enough

    monkeypatch.setattr(paths, "cross_validate", spy)
    with pytest.raises(Enough):
        SAECV(**{**SMALL, **parameters}).fit(rows)
    assert tried["parameter"] == varied
    np.testing.assert_allclose(tried["values"], values)
    assert len({str(spec) for spec in tried["specs"]}) == len(values)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_alpha_goes_from_dense_to_sparse(rows):
    sae = SAECV(**{**SMALL, "max_iter": 20}, sparsity="l1", values=[0.3, 0.001], criterion="error", cv=2).fit(rows)
    l0 = sae.path_.l0.mean(axis=1)
    assert l0[0] > 2 * l0[1]
    assert sae.best_params_ == {"alpha": 0.001}
    assert sae.model_.spec.penalties[0].weight == 0.001


def test_the_l0_asked_for(rows):
    sae = SAECV(**SMALL, values=[2, 8], criterion="l0", l0=3, cv=2).fit(rows)
    assert sae.best_params_ == {"l0": 2}
    assert np.count_nonzero(sae.transform(rows), axis=1).max() == 2


def test_the_price_and_the_precision_are_handed_on(chosen, rows):
    dear = SAECV(**SMALL, values=(1, 10, 4), cv=3, density_cost=1.0).search(rows)
    assert dear.best_params_ == {"l0": 1} != chosen.best_params_
    np.testing.assert_array_equal(dear.path_.error, chosen.path_.error)
    coarse = SAECV(**SMALL, values=(1, 10, 4), cv=3, precision=0.4).search(rows)
    assert (coarse.path_.bits < chosen.path_.bits - 20).all()


def test_a_probe_uses_the_labels(rows, labels):
    parameters = {**SMALL, "values": [1, 10], "criterion": "probe", "cv": 2}
    sae = SAECV(**parameters).fit(rows, labels[:400])
    assert sae.path_.probe.shape == (2, 2)
    assert sae.best_params_ == {"l0": 10}
    assert sae.path_.probe[0].mean() > sae.path_.probe[1].mean() > 0.2
    shuffled = SAECV(**parameters).fit(rows, np.random.default_rng(0).permutation(labels[:400]))
    assert shuffled.path_.probe.max() < 0.25
    strings = SAECV(**parameters).fit(rows, labels[:400].astype(str))
    np.testing.assert_array_equal(strings.path_.probe, sae.path_.probe)


def test_folds_cover_each_row_once(rows, labels):
    for cv in (4, None, KFold(3), StratifiedKFold(3), list(KFold(2).split(rows)), PredefinedSplit(np.arange(400) % 3)):
        folds = sae_cv._folds(cv, rows, labels[:400], seed=0)
        assert len(folds) == 400 and folds.min() == 0
        count = {4: 4, None: 5}.get(cv, folds.max() + 1) if not isinstance(cv, list) else 2
        assert len(np.unique(folds)) == count
    stratified = sae_cv._folds(4, rows, labels[:400], seed=0)
    shares = [np.bincount(labels[:400][stratified == fold], minlength=10) for fold in range(4)]
    assert np.ptp(shares, axis=0).max() <= 1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"values": [3]}, r"nothing to choose from: values = \[3\]"),
        ({"values": [3, 3.0]}, "nothing to choose from"),
        ({"values": [98, 99]}, "more than n_components = 32"),
        ({"values": [1.5, 3]}, "l0 is a whole number"),
        ({"criterion": "onese"}, "unknown criterion 'onese'"),
        ({"criterion": "l0"}, "give l0"),
        ({"criterion": "probe"}, r"needs labels: fit\(X, y\)"),
        ({"criterion": "stability", "hidden_layer_sizes": (8,)}, "hidden layers"),
        ({"vary": "alpha"}, "sparsity 'topk' has none"),
        ({"vary": "k"}, "'vary'"),
        ({"cv": 1}, "'cv'"),
        ({"cv": ShuffleSplit(20, test_size=0.5, random_state=0)}, "overlap"),
        ({"cv": ShuffleSplit(1, random_state=0)}, "never holds out 360"),
        ({"cv": PredefinedSplit([-1] * 20 + [0, 1] * 190)}, "never holds out 20"),
        ({"cv": PredefinedSplit([0] + [1] * 399)}, "two rows or more each"),
        ({"density_cost": -1}, "'density_cost'"),
        ({"precision": 0}, "'precision'"),
        ({"sparsity": "topkk"}, "unknown sparsity"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_trained(rows, monkeypatch, parameters, message):
    monkeypatch.setattr(paths, "train", lambda *_, **__: pytest.fail("something was trained"))
    with pytest.raises(ValueError, match=message):
        SAECV(**{**SMALL, "values": [1, 2], **parameters}).fit(rows)


def test_labels_must_fit(rows, labels):
    with pytest.raises(ValueError, match="400 rows and y has 399"):
        SAECV(**SMALL, values=[1, 2], criterion="probe").fit(rows, labels[:399])
    with pytest.raises(ValueError, match="groups"):
        SAECV(**SMALL, values=[1, 2], cv=GroupKFold(2)).fit(rows)
