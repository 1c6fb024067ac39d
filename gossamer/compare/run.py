"""compare: every method at equal rows, then at equal seconds; what is finished stays, whatever happens."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

import torch

from gossamer.autoencoder.files import save
from gossamer.compare.data import Data, read
from gossamer.compare.figures import Figures, measure, raw_accuracy
from gossamer.compare.fitted import Fitted, FittedAutoencoder
from gossamer.compare.methods import Limit, Method, Sizes
from gossamer.compare.recipe import Comparison
from gossamer.compare.report import write_report
from gossamer.compare.tables import Reference, line, print_tables
from gossamer.kernels.threads import one_thread
from gossamer.storage import replace_file
from gossamer.training.interrupt import Interrupted
from gossamer.training.run import differences

__all__ = ["compare"]

RECIPE, DATA = "compare.toml", "data.json"
"""What a comparison's folder holds beside its results: the settings, and which rows they are of."""
MOST_ROWS = 131_072
"""Training rows that are held in memory for methods that want all of them at once."""
PATIENCE = 0.1
"""Training whose time is off by more than this share is done again, once, with rows to fit."""


def compare(comparison: Comparison, *, dry_run: bool = False) -> list[Figures]:
    """Train and measure all methods of a recipe, write tables and pictures into its folder, and return the figures.

    At equal rows first, so that each method's pace is known; then at equal seconds. A method that is finished is not
    trained again: after Ctrl-C, or with a method added to the recipe, the same command goes on. dry_run: say what would
    happen, and stop.

    Raises ValueError, before any training, for methods that cannot be sized, labels that do not fit the source, a
    package that is missing, and a folder that holds something else, or the results of other settings or rows.
    """
    folder = Path(comparison.out)
    _require_folder(folder, comparison)
    _require_packages()
    with ExitStack() as stack:
        for context in (one_thread(), _blas_on_one_thread(), torch.random.fork_rng(devices=[])):
            stack.enter_context(context)
        data = read(
            comparison.source.build(),
            comparison.labels,
            rows=min(comparison.rows, MOST_ROWS),
            held_out=comparison.held_out,
        )
        sizes = comparison.sizes(data.width)
        _say("\n".join(_plan(comparison, data, sizes)))
        fingerprint = data.fingerprint()
        _require_data(folder, fingerprint)
        if dry_run:
            return []
        replace_file(folder / DATA, lambda temporary: temporary.write_text(json.dumps(fingerprint, indent=1)))
        replace_file(folder / RECIPE, lambda temporary: temporary.write_text(comparison.to_toml(), encoding="utf-8"))
        found = _all(comparison, data, sizes, folder)
        reference = Reference(rows=len(data.held_out), parameters=sizes.parameters, probe=raw_accuracy(data))
    print_tables(found, comparison, reference)
    write_report(found, comparison, reference, folder)
    return found


def _all(comparison: Comparison, data: Data, sizes: Sizes, folder: Path) -> list[Figures]:
    """Return the figures of all methods, at rows and at seconds; some may be there already."""
    found: list[Figures] = []
    pending = [(at, method) for at in ("rows", "seconds") for method in comparison.method]
    for number, (at, method) in enumerate(pending, start=1):
        place = folder / "methods" / f"{at}-{_slug(method.title)}.json"
        if not place.is_file():
            pace = next((one for one in found if one.title == method.title), None)
            _say(f"{number:>2} of {len(pending)}  {method.title}, equal {at} ...")
            try:
                _one(comparison, data, sizes, method, at, pace, place)
            except KeyboardInterrupt as stop:
                raise Interrupted(
                    f"stopped; {number - 1} of {len(pending)} trainings are finished and kept in {folder}, and the "
                    "same command goes on with the others",
                    getattr(stop, "signal", 2),
                ) from stop
        found.append(Figures.read(place))
        _say(f"          {line(found[-1])}")
    return found


def _one(
    comparison: Comparison, data: Data, sizes: Sizes, method: Method, at: str, pace: Figures | None, place: Path
) -> None:
    """Train a method, measure it, and write what it learned and its figures. pace: what it did at equal rows."""
    limit = Limit(comparison.rows, batch=comparison.batch, seed=comparison.seed)
    if at == "seconds" and pace is not None:
        rows = round(pace.rows * comparison.seconds / pace.seconds) if method.paced else sys.maxsize
        limit = limit._replace(rows=rows, seconds=comparison.seconds)
    fitted, seconds = _timed(method, data, sizes, limit)
    if at == "seconds" and method.paced and abs(seconds / limit.seconds - 1) > PATIENCE:
        limit = limit._replace(rows=round(limit.rows * limit.seconds / seconds))
        fitted, seconds = _timed(method, data, sizes, limit)
    measured = measure(fitted, data, quality=comparison.quality, batch=comparison.batch)
    figures = Figures(kind=method.kind, title=method.title, at=at, seconds=seconds, **measured)
    if isinstance(fitted, FittedAutoencoder):
        save(fitted.sae, place.with_suffix(""))
    replace_file(place, lambda temporary: temporary.write_text(figures.to_json(), encoding="utf-8"))


def _timed(method: Method, data: Data, sizes: Sizes, limit: Limit) -> tuple[Fitted, float]:
    began = time.process_time()
    return method.fit(data, sizes, limit), time.process_time() - began


def _plan(comparison: Comparison, data: Data, sizes: Sizes) -> list[str]:
    """Return what will happen, a line each."""
    labels = "nothing, for no labels are given" if comparison.labels is None else comparison.labels.describe()
    lines = [f"{topic:<9}{text}" for topic, text in data.source.describe().items()]
    lines.append(f"measures on {len(data.held_out):,} held-out rows of width {data.width}; a probe tells {labels}")
    for method in comparison.method:
        size = f"{method.parameters(sizes):,} parameters" + ("" if method.sized else ", which are not made equal")
        lines.append(f"trains   {method.title}: {method.describe(sizes)}; {size}")
    return [
        *lines,
        f"equal    {sizes.parameters:,} parameters, {comparison.l0} numbers a row, {comparison.rows:,} rows; then "
        f"{comparison.seconds:g} s of one thread's processor time",
        f"time     {len(comparison.method) * comparison.seconds / 60:.1f} min for the second table, beside the first",
        f"folder   {comparison.out}",
    ]


def _require_folder(folder: Path, comparison: Comparison) -> None:
    """Raise ValueError unless a comparison can begin or go on in a folder."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; the comparison needs a folder")
    if not (folder / RECIPE).is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty and holds no comparison; choose another folder")
        return
    saved = Comparison.read(folder / RECIPE)
    kept = {method.title: method for method in saved.method}
    changed = [line for m in comparison.method if m.title in kept for line in differences(kept[m.title], m)]
    changed += differences(saved.replace(method=comparison.method, out=comparison.out), comparison)
    if changed:
        raise ValueError(
            f"{folder} holds a comparison with other settings; choose another folder, or the same settings:\n  "
            + "\n  ".join(changed)
        )


def _require_data(folder: Path, fingerprint: dict[str, str]) -> None:
    """Raise ValueError if the results in a folder are of other rows."""
    path = folder / DATA
    if not path.is_file():
        return
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if saved != fingerprint:
        raise ValueError(f"{folder} holds a comparison on other rows or labels; choose another folder, or remove it")


def _require_packages() -> None:
    missing = [name for name in ("sklearn", "constriction", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"comparing needs {', '.join(missing)}: pip install 'gossamer[data,report]'")


def _blas_on_one_thread() -> AbstractContextManager[object]:
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    return threadpool_limits(1)


def _slug(title: str) -> str:
    return "-".join("".join(letter if letter.isalnum() else " " for letter in title.lower()).split())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
