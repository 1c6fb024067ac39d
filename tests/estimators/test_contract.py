"""scikit-learn's contract: its own checks, and that the code of a row does not depend on the rows beside it."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator

from gossamer import SAE, SAECV
from gossamer.estimators.architecture import SPARSITIES

ESTIMATORS = {
    "default": SAE(n_components=4, max_iter=3),
    "l1": SAE(n_components=4, sparsity="l1", max_iter=3),
    "l1-alpha": SAE(n_components=4, sparsity="l1", alpha=0.01, max_iter=3),
    "batch-topk": SAE(n_components=4, sparsity="batch-topk", max_iter=3),
    "kl": SAE(n_components=4, sparsity="kl", max_iter=3),
    "deep": SAE(n_components=4, sparsity="relu", hidden_layer_sizes=(5,), max_iter=3),
    "matching-pursuit": SAE(n_components=4, sparsity="matching-pursuit", max_iter=3),
    "csr": SAE(n_components=4, output="csr", max_iter=3),
    "early-stopping": SAE(n_components=4, early_stopping=True, max_iter=3),
    "cv": SAECV(n_components=4, values=(1, 2), cv=2, max_iter=3),
}
NEEDS_A_SETTING = {"check_array_api_input"}
"""Skipped by scikit-learn unless SCIPY_ARRAY_API is set."""


@pytest.mark.parametrize("name", ESTIMATORS)
def test_scikit_learns_checks_pass_without_exception(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # three epochs do not converge, and checks of warnings bring their own filter
        results = check_estimator(ESTIMATORS[name], on_skip=None, on_fail=None)
    failed = {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}
    skipped = {result["check_name"] for result in results if result["status"] not in ("failed", "passed")}
    assert not failed
    assert skipped <= NEEDS_A_SETTING
    assert len(results) > 40


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_a_row_has_the_same_code_in_any_company(digits, sparsity):
    sae = SAE(512, sparsity=sparsity, max_iter=2, random_state=0).fit(digits)
    codes = sae.transform(digits)
    tolerance = 1e-6 * np.abs(codes).max()  # sums over 64 features in another order, where a product has another shape
    assert np.count_nonzero(codes) > len(digits)
    np.testing.assert_allclose(sae.transform(digits[::-1])[::-1], codes, rtol=0, atol=tolerance)
    np.testing.assert_allclose(sae.transform(digits[:900]), codes[:900], rtol=0, atol=tolerance)
    some = np.arange(0, len(digits), 12)
    alone = np.concatenate([sae.transform(digits[row : row + 1]) for row in some])
    np.testing.assert_allclose(alone, codes[some], rtol=0, atol=tolerance)
    assert np.array_equal(alone != 0, codes[some] != 0)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_components": 0}, "n_components"),
        ({"n_components": 2.5}, "n_components"),
        ({"l0": 0}, "'l0'"),
        ({"l0": 99}, r"l0 = 99 .* n_components = 16"),
        ({"l0": 2.5}, "l0 is a whole number for sparsity 'topk', got 2.5"),
        ({"l0": 2, "sparsity": "none"}, "'none'.*leave l0 out"),
        ({"l0": 2, "alpha": 0.1, "sparsity": "l1"}, "either l0 = 2 or alpha = 0.1"),
        ({"alpha": -1}, "'alpha'"),
        ({"alpha": 0.1}, "alpha .* 'topk' has none; give l0"),
        ({"activation": "tanh"}, "activation = 'tanh' is that of hidden layers"),
        ({"sparsity": "archetypal", "hidden_layer_sizes": (7,)}, "'archetypal' has layers .* leave out hidden_layer"),
        ({"sparsity": "deep-autoencoder", "output_activation": "logistic"}, "layers of its own; leave out output_act"),
        ({"sparsity": "topkk"}, "sparsity 'topkk'.*'topk'"),
        ({"sparsity": None}, "'sparsity'"),
        ({"hidden_layer_sizes": (5, -5)}, r"hidden_layer_sizes .*\(5, -5\)"),
        ({"hidden_layer_sizes": (5.5,)}, r"hidden_layer_sizes .*5\.5"),
        ({"hidden_layer_sizes": 0}, "hidden_layer_sizes"),
        ({"activation": "sine"}, "'activation'"),
        ({"output_activation": "exp"}, "'output_activation'"),
        ({"loss": "hinge"}, "'loss'"),
        ({"solver": "lbfgs"}, "'solver'"),
        ({"learning_rate_init": 0.0}, "'learning_rate_init'"),
        ({"batch_size": "all"}, "'batch_size'"),
        ({"batch_size": 0}, "'batch_size'"),
        ({"max_iter": 0}, "'max_iter'"),
        ({"n_iter_no_change": 0}, "'n_iter_no_change'"),
        ({"tol": "small"}, "'tol'"),
        ({"validation_fraction": 1.0}, "'validation_fraction'"),
        ({"output": "sparse"}, "'output'"),
        ({"device": "abacus"}, "no device 'abacus'"),
    ],
)
def test_a_bad_parameter_is_named(digits, parameters, message):
    with pytest.raises(ValueError, match=message):
        SAE(**{"n_components": 16, **parameters}).fit(digits[:100])


def test_hidden_layers_may_be_one_number_and_have_no_components(digits):
    with pytest.warns(ConvergenceWarning):
        sae = SAE(8, sparsity="relu", hidden_layer_sizes=20, max_iter=2).fit(digits[:100])
    assert sae.model_.spec.encoder.hidden == sae.model_.spec.decoder.hidden == (20,)
    with pytest.raises(AttributeError, match="hidden layers"):
        _ = sae.components_


def test_the_decoder_is_the_mirror_image_of_the_encoder(digits):
    sae = SAE(8, sparsity="relu", hidden_layer_sizes=(20, 12), activation="tanh", max_iter=1, tol=0).fit(digits[:100])
    encoder, decoder = sae.model_.spec.encoder, sae.model_.spec.decoder
    assert (encoder.hidden, decoder.hidden) == ((20, 12), (12, 20))
    assert encoder.activation == decoder.activation == "tanh"
    assert decoder.output == "linear"


@pytest.mark.parametrize(("features", "components", "l0"), [(64, 100, 6), (64, 4, 4), (5, 100, 1)])
def test_a_tenth_of_the_features_is_active_if_nothing_is_said(features, components, l0):
    assert SAE(components).spec_for(features).sparsity.k == l0
    assert SAE(components, sparsity="l1").spec_for(features).target_l0 == l0


def test_as_many_components_as_features_if_nothing_is_said(digits):
    assert SAE(max_iter=1, tol=0).fit(digits[:50]).components_.shape == (64, 64)


def test_components_are_what_a_unit_of_code_adds(digits):
    sae = SAE(20, l0=3, max_iter=2, tol=0, random_state=0).fit(digits)
    codes = np.zeros((21, 20), np.float32)
    codes[1:] = np.eye(20)
    back = sae.inverse_transform(codes)
    np.testing.assert_allclose(back[1:] - back[0], sae.components_, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(sae.components_, axis=1), 1, atol=1e-4)


def test_codes_for_other_components_are_refused(digits):
    sae = SAE(20, max_iter=1, tol=0).fit(digits[:50])
    with pytest.raises(ValueError, match="Z has 19 columns, but there are 20 components"):
        sae.inverse_transform(np.zeros((2, 19)))
