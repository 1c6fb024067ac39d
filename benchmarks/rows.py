"""Activations of SmolLM2 on real text, stored as two arrays: rows to train on, and rows held out by document.

`python -m benchmarks.rows OUT` writes `OUT/rows.npy` and `OUT/validation.npy`, float32. Special tokens and
position 0 give no rows, as everywhere in Gossamer.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gossamer.sources.activations import Activations
    from gossamer.sources.source import Batch

ROWS = 380_000
VALIDATION = 20_000
HOOK = "model.layers.8"
CONTEXT = 128

CORPUS = (
    "161_agnews_0",
    "100_news_fake",
    "94_ai_gen",
    "112_amzn_rev",
    "48_cm_correct",
    "98_cancer_cat",
    "101_disease_class",
    "45_context_ans",
    "57_wikidatais_alive",
    "157_amazon_5star",
    "97_news_class",
    "159_code_Python",
)
"""News, essays, reviews, forum posts, medical abstracts, questions, biographies and some code."""
CHARACTERS_PER_ROW = 8
"""Twice what a token takes of such text, so that the documents chosen are more than enough."""


def ensure(folder: Path, *, rows: int, validation: int, hook: str) -> None:
    """Store the rows unless both files are there."""
    if not all((folder / name).exists() for name in ("rows.npy", "validation.npy")):
        store(folder, rows=rows, validation=validation, hook=hook)


def store(folder: Path, *, rows: int, validation: int, hook: str) -> None:
    """Run the model and write both files, each under its name only when it is whole.

    Raises ValueError where the texts do not give that many rows.
    """
    print(f"storing {rows} + {validation} rows of {hook} in {folder}", flush=True)
    source = activations(rows, validation, hook)
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(0).permutation(source.units)
    _write(folder / "validation.npy", source.validation(batch=2048), validation, source.widths[hook])
    _write(folder / "rows.npy", _read(source, order), rows, source.widths[hook])


def activations(rows: int, validation: int, hook: str) -> Activations:
    """Give the model and texts that so many rows are stored from; the held-out windows give `validation.npy`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import gossamer as gs
    from gossamer.sources.assets import smollm2

    place = smollm2()
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16).eval()
    share = 1.5 * validation / (rows + validation)
    return gs.Activations(
        model,
        AutoTokenizer.from_pretrained(place),
        hook=hook,
        texts=_texts((rows + validation) * CHARACTERS_PER_ROW),
        context=CONTEXT,
        validation=share,
    )


def _texts(characters: int) -> list[str]:
    """Give shuffled documents of all data sets, as many as have so many characters together."""
    from gossamer.sources.texts import read_documents

    documents = read_documents([f"asset:{name}" for name in CORPUS], min_characters=40)
    order = np.random.default_rng(0).permutation(len(documents))
    lengths = np.cumsum([len(documents[number]) for number in order])
    return [documents[number] for number in order[: int(np.searchsorted(lengths, characters)) + 1]]


def _read(source: Activations, units: np.ndarray) -> Iterator[Batch]:
    for start in range(0, len(units), 64):
        yield source.read(units[start : start + 64])


def _write(path: Path, batches: Iterable[Batch], wanted: int, width: int) -> None:
    """Write the first rows of the batches, exactly as many as wanted."""
    unfinished = path.with_name(f".{path.name}")
    array = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float32, shape=(wanted, width))
    done = 0
    for batch in batches:
        (given,) = batch.rows.values()
        part = given[: wanted - done].float().cpu().numpy()
        array[done : done + len(part)] = part
        if done // 50_000 != (done + len(part)) // 50_000:
            print(f"  {path.name}: {done + len(part)} of {wanted}", flush=True)
        done += len(part)
        if done == wanted:
            break
    if done < wanted:
        unfinished.unlink()
        raise ValueError(f"the texts give {done} rows for {path.name}, {wanted} are wanted")
    array.flush()
    os.replace(unfinished, path)


def main() -> None:
    """Store rows in the folder named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rows", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--validation", type=int, default=VALIDATION)
    parser.add_argument("--hook", default=HOOK, help="module path in SmolLM2")
    options = parser.parse_args()
    store(options.out, rows=options.rows, validation=options.validation, hook=options.hook)


if __name__ == "__main__":
    main()
