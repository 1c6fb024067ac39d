"""gossamer select."""

from __future__ import annotations

from typing import Annotated

import tyro

__all__ = ["select"]


def select(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")],
    *,
    sparsity: tuple[str, ...] = ("topk",),
    latents: int = 256,
    values: tuple[float, ...] | None = None,
    vary: str = "auto",
    criterion: str = "one-se",
    l0: float | None = None,
    density_cost: float | None = None,
    folds: int = 5,
    rows: int = 20_000,
    epochs: int = 30,
    out: Annotated[str | None, tyro.conf.arg(aliases=["-o"])] = None,
    seed: int = 0,
) -> None:
    """Cross-validate how sparse codes should be: a table, the choice and its reason, a .csv file and a plot.

    Args:
        source: A .npy file of rows, or a recipe, whose source gives the rows.
        sparsity: One or several kinds: topk, l1, l2, jumprelu, hoyer, ... (those of gossamer.SAE).
        latents: Entries of a code.
        values: What is tried; by default eight values.
        vary: l0, alpha (the weight of a penalty), or auto.
        criterion: one-se, error, description-length, stability, or l0.
        l0: What criterion l0 comes near to.
        density_cost: For one-se, what an active component costs, in shares of the variance; default 1 / width.
        folds: Of the cross-validation.
        rows: Rows to use, at most.
        epochs: Of the training, over these rows.
        out: A folder for path.csv and path.png.
        seed: Of folds, weights and order.
    """
    from gossamer.estimators.selecting import select_from

    select_from(
        source,
        sparsities=sparsity,
        out=out,
        rows=rows,
        n_components=latents,
        values=values,
        vary=vary,
        criterion=criterion,
        l0=l0,
        density_cost=density_cost,
        cv=folds,
        max_iter=epochs,
        random_state=seed,
    )
