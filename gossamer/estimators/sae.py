"""SAE: sparse autoencoders with scikit-learn's names and contract.

Torch is imported when something is fitted, so that importing an estimator costs what importing scikit-learn costs.
"""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

if TYPE_CHECKING:
    from collections.abc import Callable

    from scipy.sparse import csr_array
    from sklearn.utils import Tags

    from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder
    from gossamer.estimators.stream import Stream
    from gossamer.sources.arrays import Arrays
    from gossamer.training.spec import TrainSpec

__all__ = ["SAE", "checked"]


class SAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Sparse autoencoder.

        Z = sparsity(W (X − b) + c),    X̂ = Z D + b,    minimising ‖X − X̂‖² and what the sparsity charges

    Rows are coded by a few of `n_components` directions, the rows of `components_`. Rows may be a numpy array, one
    that is memory-mapped from a file (`numpy.load` with `mmap_mode="r"`; it is never read whole), or a scipy.sparse
    matrix (never made dense whole).

    Parameters
    ----------
    n_components: number of directions; None for as many as there are features.
    sparsity: how codes are made sparse. A preset ("topk", "batch-topk", "jumprelu", "gated", "matching-pursuit",
        "orthogonal-matching-pursuit", "lista-matryoshka", "k-sparse", "winner-take-all", …), a penalty on rectified
        codes ("l1", "l2", "elastic-net", "hoyer", "log"), "kl" for sigmoid units that are rarely on, "relu" for
        rectified units, "none" for a plain autoencoder.
    l0: components that are active per row, on the average. Where there is a number to select it is that; otherwise
        the penalty's weight is steered until it is reached. None for a tenth of the features, as in scikit-learn's
        dictionary learning, or for codes that are not sparse in presets that have such.
    alpha: weight of the penalty, instead of l0.
    hidden_layer_sizes: widths of layers between the rows and the code; the decoder is the mirror image.
    activation: of hidden layers: "relu", "tanh", "logistic", "gelu", "identity". output_activation: of the
        reconstruction; other than "identity" it fits rows that have its range.
    loss: "squared_error", or "binary_cross_entropy" for rows from 0 to 1 and output_activation "logistic".
    solver: "adam" or "sgd". learning_rate_init: None for a rule that knows the sizes (SGD: 0.01).
    batch_size: rows per step; "auto" for 256. max_iter: epochs, at most.
    tol, n_iter_no_change: training has converged when for so many epochs the loss has not improved by tol (the loss
        is 1 for predicting the mean row); 0 or less for tol trains for max_iter epochs. Where an L0 is steered to,
        all epochs are used.
    early_stopping: go by the error of a share `validation_fraction` of the rows, held out, instead of the training's.
    random_state: seed, generator, or None. warm_start: go on from the last fit. device: "auto", "cpu", "cuda", …
    output: "dense" for arrays, "csr" for scipy.sparse.csr_array from `transform`. verbose: show plan and progress.

    Attributes
    ----------
    components_: `(n_components, n_features)`, for linear decoders. model_: the `SparseAutoencoder`; `gossamer.save`
    keeps it without pickle. n_iter_: epochs. loss_curve_: loss of each epoch. validation_curve_: with early_stopping,
    1 − R² of the held-out rows after each epoch. l0_: components active per row in the last epoch. converged_: whether
    the loss stopped falling, or the L0 was reached that was steered to. n_features_in_, feature_names_in_.

    Source: Gao et al. 2024 (https://arxiv.org/abs/2406.04093) for the default; `gossamer.preset` names the others.
    """

    n_features_in_: int
    _streams: ClassVar[bool] = True
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "sparsity": [str],
        "l0": [Interval(Real, 0, None, closed="neither"), None],
        "alpha": [Interval(Real, 0, None, closed="left"), None],
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions({"relu", "tanh", "logistic", "sigmoid", "gelu", "identity"})],
        "output_activation": [StrOptions({"identity", "logistic", "sigmoid", "relu", "tanh"})],
        "loss": [StrOptions({"squared_error", "binary_cross_entropy"})],
        "solver": [StrOptions({"adam", "sgd"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither"), None],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Real],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "device": [str],
        "output": [StrOptions({"dense", "csr"})],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_components: int | None = None,
        *,
        sparsity: str = "topk",
        l0: float | None = None,
        alpha: float | None = None,
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
        self.n_components = n_components
        self.sparsity = sparsity
        self.l0 = l0
        self.alpha = alpha
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.output_activation = output_activation
        self.loss = loss
        self.solver = solver
        self.learning_rate_init = learning_rate_init
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.warm_start = warm_start
        self.device = device
        self.output = output
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on the rows of X `(n_samples, n_features)`; y is ignored.

        Raises ValueError for what cannot be coded. Warns (ConvergenceWarning) where training did not converge.
        """
        from gossamer.estimators.convergence import Convergence
        from gossamer.sources.arrays import Arrays
        from gossamer.training.loop import train

        going_on = self.warm_start and hasattr(self, "model_")
        X = self._training_rows(X, reset=not going_on)
        source = Arrays(X, validation=self.validation_fraction if self.early_stopping else 0.0)
        if self.early_stopping and not source.validation_rows:
            raise ValueError(f"early_stopping holds rows out, which n_samples = {X.shape[0]} does not allow")
        spec = self._train_spec(source.rows)
        self.model_: SparseAutoencoder = self._start(spec.seed, going_on=going_on)
        watch = Convergence(tol=self.tol, patience=self.n_iter_no_change, score=self._held_out_error(source))
        train(self.model_, source, spec, watch=watch, quiet=not self.verbose)
        self._stream: Stream | None = None
        self.n_iter_, self.loss_curve_, self.l0_ = len(watch.losses), watch.losses, watch.l0
        vars(self).pop("validation_curve_", None)
        if self.early_stopping:
            self.validation_curve_ = watch.scores
        self.converged_ = watch.converged
        if not watch.converged and self.tol > 0:
            warnings.warn(watch.complaint(), ConvergenceWarning, stacklevel=2)
        return self

    @available_if(lambda self: self._streams)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Take one step per `batch_size` rows of X, in their order, at a constant learning rate; y is ignored.

        Raises ValueError if parameters that say what is trained have changed since the first call.
        """
        from gossamer.estimators.architecture import BATCH
        from gossamer.estimators.stream import Stream
        from gossamer.training.run import differences

        first = not hasattr(self, "model_")
        X = self._training_rows(X, reset=first)
        if first:
            seed = check_random_state(self.random_state).randint(2**31)
            self.model_ = self._start(seed, going_on=False)
        elif (spec := self.spec_for(self.n_features_in_)) != self.model_.spec:
            changed = "; ".join(differences(self.model_.spec, spec))
            raise ValueError(f"partial_fit goes on with what there is, and parameters have changed: {changed}")
        stream = getattr(self, "_stream", None)
        rows = BATCH if isinstance(self.batch_size, str) else int(self.batch_size)
        wanted = self._train_spec(rows, max_iter=1)
        if stream is None:
            stream = self._stream = Stream(self.model_, X, wanted)
        stream.take(wanted.learning_rate)
        self.loss_curve_ = [*getattr(self, "loss_curve_", []), stream.learn(X)]
        self.n_iter_ = getattr(self, "n_iter_", 0) + 1
        self.l0_ = stream.l0
        return self

    def transform(self, X: Any) -> np.ndarray | csr_array:
        """Return the codes of rows, `(n_samples, n_components)`; the code of a row does not depend on the others."""
        check_is_fitted(self, "model_")
        X = checked(self, X, reset=False)
        from gossamer.estimators.rows import csr_codes, dense_codes

        return csr_codes(self.model_, X) if self.output == "csr" else dense_codes(self.model_, X)

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """Return the rows that codes stand for, `(n_samples, n_features)`. Z: an array or a scipy.sparse matrix."""
        check_is_fitted(self, "model_")
        from gossamer.estimators.rows import decoded

        Z = check_array(Z, accept_sparse="csr", dtype=[np.float32, np.float64], input_name="Z")  # pyright: ignore
        if Z.shape[1] != self._n_features_out:
            raise ValueError(f"Z has {Z.shape[1]} columns, but there are {self._n_features_out} components")
        return decoded(self.model_, Z)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return R² of the reconstruction, 1 − Σ w ‖x − x̂‖² / Σ w ‖x − x̄‖²: the variance explained, 1 at best.

        All features count alike, and x̄ is the mean of these rows. For rows that do not differ it is 1 if they are
        reconstructed exactly, and 0 otherwise.
        """
        check_is_fitted(self, "model_")
        X = checked(self, X, reset=False)
        from gossamer.estimators.rows import explained

        weight = None if sample_weight is None else _nonnegative(sample_weight, X)
        return explained(self.model_, X, weight)

    @property
    def components_(self) -> np.ndarray:
        """The directions, `(n_components, n_features)`: what one unit of each component adds to a row."""
        from gossamer.estimators.rows import components

        if "model_" not in vars(self):
            raise AttributeError("components_: this estimator is not fitted")
        return components(self.model_)

    @property
    def _n_features_out(self) -> int:
        return self.model_.spec.latents

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def spec_for(self, n_features: int) -> AutoencoderSpec:
        """Return what these parameters say of an autoencoder, without training it; raises ValueError if they clash."""
        from gossamer.estimators.architecture import Architecture, autoencoder_spec

        sizes = self.hidden_layer_sizes
        wanted = Architecture(
            n_components=n_features if self.n_components is None else int(self.n_components),
            sparsity=self.sparsity,
            l0=self.l0,
            alpha=self.alpha,
            hidden_layer_sizes=(int(sizes),) if isinstance(sizes, Integral) else _widths(sizes),
            activation=self.activation,
            output_activation=self.output_activation,
            loss=self.loss,
        )
        return autoencoder_spec(wanted, n_features)

    def _start(self, seed: int, *, going_on: bool) -> SparseAutoencoder:
        """Return what is to be trained: something new, or what there is, its parameters as they are now."""
        spec = self.spec_for(self.n_features_in_)
        if not going_on:
            return spec.build(seed=seed)
        if spec == self.model_.spec:
            return self.model_
        if spec.latents != self.model_.spec.latents:
            raise ValueError(
                f"warm_start goes on with {self.model_.spec.latents} components, and n_components is now "
                f"{spec.latents}; clone the estimator to start anew"
            )
        from gossamer.selection.path import started

        return started(spec, self.model_)

    def _training_rows(self, X: Any, *, reset: bool) -> Any:
        X = checked(self, X, reset=reset)
        if self.loss == "binary_cross_entropy":
            from gossamer.estimators.rows import require_probabilities

            require_probabilities(X)
        return X

    def _train_spec(self, rows: int, *, max_iter: int | None = None) -> TrainSpec:
        from gossamer.estimators.architecture import train_spec

        return train_spec(
            rows=rows,
            batch_size=self.batch_size if isinstance(self.batch_size, str) else int(self.batch_size),
            max_iter=max_iter or int(self.max_iter),
            solver=self.solver,
            learning_rate=None if self.learning_rate_init is None else float(self.learning_rate_init),
            seed=check_random_state(self.random_state).randint(2**31),
            device=self.device,
        )

    def _held_out_error(self, source: Arrays) -> Callable[[], float] | None:
        """Return what measures the model on the rows that are held out for early stopping."""
        if not self.early_stopping:
            return None
        from gossamer.estimators.rows import explained

        rows = next(source.validation(batch=source.validation_rows)).rows[""].numpy()
        return lambda: 1 - explained(self.model_, rows, None)


def _nonnegative(sample_weight: Any, X: Any) -> np.ndarray:
    return _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)


def _widths(sizes: Any) -> tuple[int, ...]:
    if any(size != int(size) or size < 1 for size in sizes):
        raise ValueError(f"hidden_layer_sizes are whole numbers of at least 1, got {tuple(sizes)}")
    return tuple(map(int, sizes))


def checked(estimator: BaseEstimator, X: Any, *, reset: bool) -> Any:
    """Return rows that are numbers and finite, as scikit-learn checks them; a memory-mapped file stays one."""
    if isinstance(X, np.memmap) and X.ndim == 2 and X.size and X.dtype.kind in "fiu" and X.dtype.isnative:
        validate_data(estimator, X, reset=reset, skip_check_array=True)  # pyright: ignore
    else:
        X = validate_data(estimator, X, accept_sparse="csr", dtype=[np.float32, np.float64], reset=reset)  # pyright: ignore
    from gossamer.estimators.rows import require_usable

    require_usable(X)
    return X
