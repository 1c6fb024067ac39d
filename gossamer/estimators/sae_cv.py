"""SAECV: a sparse autoencoder that chooses by itself how sparse its codes are."""

from __future__ import annotations

from inspect import signature
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.base import _fit_context
from sklearn.model_selection import KFold, StratifiedKFold, check_cv
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import column_or_1d

from gossamer.estimators.sae import SAE

if TYPE_CHECKING:
    from gossamer.autoencoder.autoencoder import AutoencoderSpec
    from gossamer.selection.criteria import Choice
    from gossamer.selection.path import Path

__all__ = ["SAECV"]


class SAECV(SAE):
    """Sparse autoencoder whose strength is chosen by cross-validation.

    All values and folds are trained together on shared batches, from a common start; the chosen value is then trained
    on all rows. `fit(X, y)` uses labels y for criterion "probe", and to stratify its folds.

    Parameters, beside those of SAE (`l0` is what criterion "l0" comes near to)
    ----------
    vary: "l0", the number of active components, or "alpha", the weight of the penalty; "auto": alpha where there is a
        penalty, else l0.
    values: what is tried; None for eight values, of l0 from 1 to half of the features, of alpha from 1e-4 to 1e-1
        (training units: the loss is 1 for predicting the mean row). Values of l0 above n_components are left out.
    criterion: "one-se", "error", "description-length", "probe", "stability", "l0"; `gossamer.selection.criteria.choose`
        says what each one does.
    density_cost: for "one-se", what an active component costs, in shares of the variance; None for 1 / n_features.
    precision: for "description-length", relative to the root mean square of the rows.
    cv: number of folds, or a scikit-learn splitter whose test sets cover each row once.

    Attributes, beside those of SAE
    ----------
    best_params_: the value chosen, such as {"l0": 8}. path_: `gossamer.selection.path.Path`. choice_: the criterion's
    curve. explanation_: a sentence.
    """

    _streams: ClassVar[bool] = False
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **{name: allowed for name, allowed in SAE._parameter_constraints.items() if name != "alpha"},
        "vary": [StrOptions({"auto", "l0", "alpha"})],
        "values": ["array-like", None],
        "criterion": [str],
        "density_cost": [Interval(Real, 0, None, closed="left"), None],
        "precision": [Interval(Real, 0, None, closed="neither")],
        "cv": ["cv_object"],
    }

    def __init__(
        self,
        n_components: int | None = None,
        *,
        sparsity: str = "topk",
        vary: str = "auto",
        values: Any = None,
        criterion: str = "one-se",
        density_cost: float | None = None,
        precision: float = 0.1,
        cv: Any = 5,
        l0: float | None = None,
        hidden_layer_sizes: tuple[int, ...] = (),
        activation: str = "relu",
        output_activation: str = "identity",
        loss: str = "squared_error",
        solver: str = "adam",
        learning_rate_init: float | None = None,
        batch_size: int | str = "auto",
        max_iter: int = 100,
        tol: float = 1e-4,
        n_iter_no_change: int = 10,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
        warm_start: bool = False,
        device: str = "auto",
        output: str = "dense",
        verbose: bool = False,
    ) -> None:
        super().__init__(
            n_components,
            sparsity=sparsity,
            l0=l0,
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            output_activation=output_activation,
            loss=loss,
            solver=solver,
            learning_rate_init=learning_rate_init,
            batch_size=batch_size,
            max_iter=max_iter,
            tol=tol,
            n_iter_no_change=n_iter_no_change,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            random_state=random_state,
            warm_start=warm_start,
            device=device,
            output=output,
            verbose=verbose,
        )
        self.vary = vary
        self.values = values
        self.criterion = criterion
        self.density_cost = density_cost
        self.precision = precision
        self.cv = cv

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Cross-validate, choose, and train on all rows. y: labels, for criterion "probe"."""
        self.search(X, y)
        best = SAE(**{**self._shared(), **self.best_params_}).fit(X)
        vars(self).update(
            {name: value for name, value in vars(best).items() if name.endswith("_") or name == "_stream"}
        )
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def search(self, X: Any, y: Any = None) -> Self:
        """Cross-validate and choose only: sets `path_`, `choice_`, `best_params_` and `explanation_`."""
        from gossamer.selection.criteria import choose, require_criterion
        from gossamer.selection.path import cross_validate

        rows = self._training_rows(X, reset=True)
        labels = None if self.criterion != "probe" else _labels(y, rows.shape[0])
        seed = check_random_state(self.random_state).randint(2**31)
        folds = _folds(self.cv, rows, labels, seed)
        parameter, values = self._grid()
        shared = self._shared()

        def make(value: float) -> AutoencoderSpec:
            return SAE(**{**shared, parameter: value}).spec_for(self.n_features_in_)

        require_criterion(self.criterion, l0=self.l0, directions=make(values[0]).decoder.linear)
        one = SAE(**shared)
        self.path_: Path = cross_validate(
            make,
            values,
            rows,
            folds,
            one._train_spec(rows.shape[0]).replace(seed=seed),
            parameter=parameter,
            labels=labels,
            precision=self.precision,
            quiet=not self.verbose,
        )
        self.choice_: Choice = choose(
            self.path_, self.criterion, density_cost=self.density_cost, l0=self.l0, width=self.n_features_in_
        )
        self.explanation_ = self.choice_.reason
        self.best_params_ = {parameter: values[self.choice_.index]}
        return self

    def _shared(self) -> dict[str, Any]:
        return {name: value for name, value in self.get_params(deep=False).items() if name in _SHARED}

    def _grid(self) -> tuple[str, list[float]]:
        """Return what is varied and its values, from dense to sparse."""
        from gossamer.estimators.architecture import has_penalty

        vary = self.vary
        if vary == "auto":
            vary = "alpha" if has_penalty(self.sparsity) else "l0"
        if self.values is None and vary == "alpha":
            return vary, np.geomspace(1e-4, 1e-1, 8).tolist()
        if self.values is None:
            components = self.n_components or self.n_features_in_
            most = max(1, min(components, self.n_features_in_ // 2))
            return vary, sorted({round(l0) for l0 in np.geomspace(1, most, 8).tolist()}, reverse=True)
        values = sorted({float(value) for value in np.ravel(self.values)}, reverse=vary == "l0")
        if len(values) < 2:
            raise ValueError(f"there is nothing to choose from: values = {self.values}")
        components = self.n_components or self.n_features_in_
        possible = [value for value in values if vary == "alpha" or value <= components]
        if not possible:
            raise ValueError(f"values = {self.values} active components are all more than n_components = {components}")
        return vary, possible


def _labels(y: Any, rows: int) -> np.ndarray:
    if y is None:
        raise ValueError("criterion 'probe' needs labels: fit(X, y)")
    labels = column_or_1d(y)
    if len(labels) != rows:
        raise ValueError(f"X has {rows} rows and y has {len(labels)}")
    return labels


def _folds(cv: Any, X: Any, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """Return the fold of each row; raises ValueError unless the test sets of a splitter cover each row once."""
    if isinstance(cv, Integral) or cv is None:
        kind = KFold if labels is None else StratifiedKFold
        cv = kind(5 if cv is None else int(cv), shuffle=True, random_state=seed)
    folds = np.full(X.shape[0], -1)
    for number, (_, test) in enumerate(check_cv(cv).split(X, labels)):  # pyright: ignore
        if (folds[test] >= 0).any():
            raise ValueError("the test sets of cv overlap; each row has to be held out once")
        folds[test] = number
    if (folds < 0).any():
        raise ValueError(f"cv never holds out {(folds < 0).sum()} of the rows; each has to be held out once")
    return folds


_SHARED = set(signature(SAE).parameters) - {"l0", "alpha", "warm_start"}
