"""fit and partial_fit: what is repeated, what goes on, when training ends, and what it says of itself."""

import io
import warnings

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gossamer import SAE, SAECV


def same(one: SAE, other: SAE, rows: np.ndarray) -> bool:
    return np.array_equal(one.transform(rows), other.transform(rows))


def copied(sae: SAE) -> SAE:
    """Through joblib, as a file would."""
    file = io.BytesIO()
    joblib.dump(sae, file)
    file.seek(0)
    return joblib.load(file)


@pytest.mark.parametrize("sparsity", ["topk", "l1", "batch-topk"])
def test_the_seed_decides_everything(digits, sparsity):
    parameters = {"n_components": 24, "sparsity": sparsity, "max_iter": 3, "tol": 0}
    one, again, other = (SAE(**parameters, random_state=seed).fit(digits) for seed in (0, 0, 1))
    assert same(one, again, digits)
    assert one.loss_curve_ == again.loss_curve_
    assert not same(one, other, digits)
    generators = [SAE(**parameters, random_state=np.random.RandomState(5)).fit(digits) for _ in range(2)]
    assert same(*generators, digits)


def test_a_stream_that_draws_numbers_draws_its_own(digits):
    streams = []
    for seed in (1, 2):
        np.random.seed(seed)
        torch.manual_seed(seed)
        streams.append(SAE(16, sparsity="denoising", random_state=0).partial_fit(digits))
    assert same(*streams, digits)


def test_solver_and_learning_rate_are_used(digits):
    parameters = {"n_components": 16, "l0": 3, "max_iter": 3, "tol": 0, "random_state": 0}
    scores = [
        SAE(**parameters, solver=solver, learning_rate_init=rate).fit(digits).score(digits)
        for solver, rate in (("adam", None), ("adam", 1e-6), ("sgd", None), ("sgd", 1.0))
    ]
    assert scores[0] > scores[1] + 0.05  # it has hardly begun
    assert len(set(scores)) == 4


def test_fitting_leaves_global_generators_alone(digits):
    np.random.seed(0)
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    SAE(8, max_iter=1, tol=0, random_state=0).fit(digits[:100]).partial_fit(digits[:100])
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpys, np.random.get_state()[1])


def test_it_learns_and_scores_r2(digits):
    sae = SAE(64, l0=8, max_iter=30, tol=0, random_state=0).fit(digits)
    codes = sae.transform(digits)
    back = sae.inverse_transform(codes)
    assert sae.score(digits) > 0.8
    assert sae.score(digits) == pytest.approx(
        1 - np.square(digits - back).sum() / np.square(digits - digits.mean(0)).sum()
    )
    assert np.count_nonzero(codes, axis=1).max() == 8
    assert sae.loss_curve_[-1] == pytest.approx(1 - sae.score(digits), rel=0.1)
    assert sae.l0_ == pytest.approx(8, abs=0.01)
    assert sae.n_iter_ == len(sae.loss_curve_) == 30


def test_weights_count_rows_several_times(digits):
    rows = digits[:60]
    sae = SAE(16, l0=3, max_iter=5, tol=0, random_state=0).fit(rows)
    times = 2 * (np.arange(60) % 3)
    weighted, repeated = sae.score(rows, sample_weight=times), sae.score(np.repeat(rows, times, axis=0))
    assert weighted == pytest.approx(repeated, abs=1e-6)
    assert weighted != pytest.approx(sae.score(rows), abs=1e-4)
    with pytest.raises(ValueError, match=r"[Nn]egative"):
        sae.score(rows, sample_weight=-np.ones(60))
    with pytest.raises(ValueError, match="sample_weight"):
        sae.score(rows, sample_weight=np.ones(59))


def test_training_ends_when_the_loss_does_not_fall(digits):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sae = SAE(16, l0=4, max_iter=400, tol=1e-3, n_iter_no_change=5, random_state=0).fit(digits)
    assert sae.converged_
    assert 5 < sae.n_iter_ == len(sae.loss_curve_) < 400
    best = np.minimum.accumulate(sae.loss_curve_)
    still = [best[i] - loss <= 1e-3 for i, loss in enumerate(sae.loss_curve_[1:])]
    assert any(all(still[i : i + 5]) for i in range(len(still) - 4))


def test_a_training_that_was_cut_short_warns(digits):
    with pytest.warns(ConvergenceWarning, match=r"max_iter = 3 epochs .* tol = 0\.0001 .* raise max_iter"):
        sae = SAE(16, max_iter=3, random_state=0).fit(digits)
    assert not sae.converged_
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SAE(16, max_iter=3, tol=0, random_state=0).fit(digits).n_iter_ == 3


def test_a_steered_training_warns_if_it_misses_its_l0(digits):
    with pytest.warns(ConvergenceWarning, match=r"asked for 3 active components per row, reached .*raise max_iter"):
        missed = SAE(64, sparsity="l1", l0=3, max_iter=2, random_state=0).fit(digits)
    assert not missed.converged_
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reached = SAE(64, sparsity="l1", l0=6, max_iter=150, random_state=0).fit(digits)
    assert reached.converged_
    assert reached.n_iter_ == 150
    assert np.count_nonzero(reached.transform(digits)) / len(digits) == pytest.approx(6, rel=0.1)


def test_a_heavier_penalty_makes_sparser_codes(digits):
    l0 = [
        SAE(64, sparsity="l1", alpha=alpha, max_iter=20, tol=0, random_state=0).fit(digits).l0_
        for alpha in (0.001, 0.1)
    ]
    assert l0[1] < l0[0] / 2


def test_early_stopping_goes_by_rows_that_are_held_out(digits):
    rows = np.random.default_rng(0).permutation(digits)[:300]
    parameters = {"l0": 10, "max_iter": 300, "tol": 1e-3, "n_iter_no_change": 5, "random_state": 0}
    sae = SAE(256, early_stopping=True, validation_fraction=0.3, **parameters).fit(rows)
    assert sae.converged_
    assert len(sae.validation_curve_) == len(sae.loss_curve_) == sae.n_iter_ < 300
    assert sae.validation_curve_[-1] > 1.2 * sae.loss_curve_[-1]  # rows that it has not seen
    from gossamer.sources.arrays import Arrays

    held = next(Arrays(rows, validation=0.3).validation(batch=300)).rows[""].numpy()
    assert len(held) == 90
    assert 1 - sae.score(held) == pytest.approx(sae.validation_curve_[-1], rel=1e-4)
    assert not hasattr(sae.set_params(early_stopping=False).fit(rows), "validation_curve_")
    with pytest.raises(ValueError, match="n_samples = 1"):
        SAE(4, early_stopping=True).fit(rows[:1])


def test_warm_start_goes_on_and_cold_start_does_not(digits):
    parameters = {"n_components": 32, "l0": 4, "max_iter": 5, "tol": 0, "random_state": 0}
    cold, warm = SAE(**parameters), SAE(**parameters, warm_start=True)
    first = cold.fit(digits).score(digits)
    assert cold.fit(digits).score(digits) == first
    assert warm.fit(digits).score(digits) == first
    assert warm.fit(digits).score(digits) > first + 0.01
    assert warm.loss_curve_[0] < 0.7 * cold.loss_curve_[0]


def test_warm_start_takes_new_parameters(digits):
    sae = SAE(32, sparsity="l1", alpha=0.001, max_iter=10, tol=0, random_state=0, warm_start=True).fit(digits)
    dense, loss = sae.l0_, sae.loss_curve_[0]
    sae.set_params(alpha=0.2).fit(digits)
    assert sae.model_.spec.penalties[0].weight == 0.2
    assert sae.l0_ < dense / 2
    with pytest.raises(ValueError, match="32 components, and n_components is now 31"):
        sae.set_params(n_components=31).fit(digits)
    more = SAE(32, l0=2, max_iter=10, tol=0, random_state=0, warm_start=True).fit(digits)
    assert np.count_nonzero(more.set_params(l0=5).fit(digits).transform(digits), axis=1).max() == 5
    assert more.loss_curve_[0] < 0.7 * loss
    with pytest.raises(ValueError, match="features"):
        more.fit(digits[:, :60])


@pytest.mark.parametrize("sparsity", ["topk", "batch-topk", "l1", "jumprelu"])
def test_partial_fit_learns_as_it_goes(digits, sparsity):
    sae = SAE(64, sparsity=sparsity, l0=6, random_state=0)
    for _ in range(15):
        sae.partial_fit(digits)
    assert sae.n_iter_ == len(sae.loss_curve_) == 15
    assert sae.loss_curve_[-1] < 0.7 * sae.loss_curve_[0]
    assert sae.score(digits) > 0.5
    assert same(sae, copied(sae), digits)
    again = SAE(64, sparsity=sparsity, l0=6, random_state=0)
    for _ in range(15):
        again.partial_fit(digits)
    assert same(sae, again, digits)


def test_partial_fit_changes_what_a_training_changes(digits):
    """The k of a k-sparse autoencoder falls in the course of a training."""
    sae = SAE(64, sparsity="k-sparse", l0=3, batch_size=64, random_state=0)
    for _ in range(40):  # 1,160 steps
        sae.partial_fit(digits)
    assert sae.l0_ == pytest.approx(3, abs=0.01)


def test_partial_fit_takes_another_rate_and_refuses_another_architecture(digits):
    sae = SAE(16, learning_rate_init=1e-2, random_state=0).partial_fit(digits)
    before = sae.components_.copy()
    sae.set_params(learning_rate_init=1e-9).partial_fit(digits)
    np.testing.assert_allclose(sae.components_, before, atol=1e-5)
    with pytest.raises(ValueError, match="parameters have changed: latents: saved 16, given 17"):
        sae.set_params(n_components=17).partial_fit(digits)


def test_a_short_fit_says_which_l0_it_reached(digits):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sae = SAE(64, sparsity="l1", l0=5, max_iter=5, random_state=0).fit(digits[:200])
    assert sae.l0_ > 0
    assert not any("reached 0.0" in str(one.message) for one in caught)


def test_partial_fit_reaches_an_l0_that_it_steers_to(digits):
    sae = SAE(64, sparsity="l1", l0=6, batch_size=64, random_state=0)
    for _ in range(60):
        sae.partial_fit(digits)
    assert sae.l0_ == pytest.approx(6, rel=0.1)
    assert np.count_nonzero(sae.transform(digits)) / len(digits) == pytest.approx(6, rel=0.15)


@pytest.mark.parametrize("sparsity", ["topk", "l1"])
def test_a_pickled_stream_goes_on_where_it_was(digits, sparsity):
    sae = SAE(32, sparsity=sparsity, random_state=0).partial_fit(digits).partial_fit(digits)
    other = copied(sae)
    assert same(sae.partial_fit(digits), other.partial_fit(digits), digits)
    assert sae.loss_curve_ == other.loss_curve_


def test_partial_fit_takes_a_step_per_batch_however_few_rows_came_first(digits):
    sae = SAE(16, random_state=0).partial_fit(digits[:1])
    assert sae._stream.step == 1
    assert sae.partial_fit(digits)._stream.step == 1 + 8  # 1797 rows, 256 in a batch
    assert SAE(16, batch_size=100).partial_fit(digits)._stream.step == 18


def test_partial_fit_after_fit_keeps_what_was_learned(digits):
    sae = SAE(64, l0=6, max_iter=20, tol=0, random_state=0).fit(digits)
    before, again = sae.score(digits), copied(sae)
    sae.partial_fit(digits)
    assert sae.score(digits) > before - 0.03
    assert sae.n_iter_ == 21
    assert same(sae, again.partial_fit(digits), digits)


@pytest.mark.parametrize("fitted", ["fit", "partial_fit"])
def test_a_fitted_estimator_survives_pickling_and_a_clone_is_new(digits, fitted):
    sae = getattr(SAE(16, l0=3, max_iter=2, tol=0, random_state=0), fitted)(digits)
    assert same(sae, copied(sae), digits)
    fresh = clone(sae)
    assert fresh.get_params() == sae.get_params()
    with pytest.raises(NotFittedError):
        fresh.transform(digits)
    assert not hasattr(fresh, "components_")


def test_cross_entropy_is_for_probabilities(digits):
    rows = digits / 16
    parameters = {"loss": "binary_cross_entropy", "output_activation": "logistic"}
    sae = SAE(32, sparsity="relu", max_iter=60, tol=0, random_state=0, **parameters).fit(rows)
    back = sae.inverse_transform(sae.transform(rows))
    assert back.min() >= 0 and back.max() <= 1
    assert sae.score(rows) > 0.6
    cost = -(rows * np.log(back) + (1 - rows) * np.log1p(-back)).mean()
    assert sae.loss_curve_[-1] == pytest.approx(cost, rel=0.05)
    for training in (SAE(8, **parameters).fit, SAE(8, **parameters).partial_fit):
        with pytest.raises(ValueError, match=r"binary_cross_entropy.*from 0 to 1, and X has some from 0 to 16"):
            training(digits)
    with pytest.raises(ValueError, match="output_activation = 'logistic', not 'identity'"):
        SAE(8, loss="binary_cross_entropy").fit(rows)


def test_in_a_pipeline_and_a_grid_search(digits, labels):
    train, test = slice(0, 1200), slice(1200, None)
    sae = SAE(64, max_iter=10, tol=0, random_state=0)
    pipeline = make_pipeline(StandardScaler(), sae, LogisticRegression(max_iter=500))
    assert pipeline.fit(digits[train], labels[train]).score(digits[test], labels[test]) > 0.8
    search = GridSearchCV(sae, {"l0": [1, 4, 16]}, cv=2).fit(digits[:600])
    assert search.best_params_ == {"l0": 16}  # by held-out error, more is always better
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] < scores[1] < scores[2]


def test_weights_are_routed_to_score(digits):
    import sklearn

    with sklearn.config_context(enable_metadata_routing=True):
        sae = SAE(8, max_iter=1, tol=0, random_state=0).set_score_request(sample_weight=True)
        weights = np.arange(len(digits[:100]), dtype=float)
        search = GridSearchCV(sae, {"l0": [1, 2]}, cv=2).fit(digits[:100], sample_weight=weights)
        plain = GridSearchCV(sae, {"l0": [1, 2]}, cv=2).fit(digits[:100])
    assert not np.allclose(search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"])


def test_names_of_features_and_components(digits):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(digits[:100], columns=[f"pixel{i}" for i in range(64)], index=range(100, 200))
    sae = SAE(5, max_iter=1, tol=0, random_state=0).fit(table)
    assert list(sae.feature_names_in_) == list(table.columns)
    assert list(sae.get_feature_names_out()) == [f"sae{i}" for i in range(5)]
    codes = sae.set_output(transform="pandas").transform(table)
    assert list(codes.columns) == [f"sae{i}" for i in range(5)] and list(codes.index) == list(table.index)
    np.testing.assert_array_equal(codes.to_numpy(), sae.set_output(transform="default").transform(table))
    np.testing.assert_allclose(sae.inverse_transform(codes), sae.inverse_transform(codes.to_numpy()))
    with pytest.raises(ValueError, match="feature names"):
        sae.transform(table[table.columns[::-1]])


def test_saecv_does_not_stream():
    assert hasattr(SAE(), "partial_fit")
    assert not hasattr(SAECV(), "partial_fit")
