"""Muon beside Adam on a transformer: what either comes to after as many pairs of CMUdict, and in which time.

    python -m benchmarks.optimizers [--rows 192000] [--sources 2000] [--seed 0]

The transformer of recipes/g2p.toml, the rate in a line to 0; errors are of words that training never saw, greedy.
Times are of the processor, one training after the other: only their ratio means something.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from gossamer.evaluate.translation import evaluate_translations
from gossamer.training.recipe import Recipe
from gossamer.training.spec import Adam, Muon, OptimizerSpec
from gossamer.training.start import start

ROOT = Path(__file__).resolve().parents[1]
CONTENDERS: dict[str, tuple[OptimizerSpec, float]] = {
    "adam, 7e-4": (Adam(), 7e-4),
    "adam, 1e-3": (Adam(), 1e-3),
    "muon, 2e-3": (Muon(), 2e-3),
}


def main() -> None:
    """Train with each, measure, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=192_000)
    parser.add_argument("--sources", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    recipe = Recipe.read(ROOT / "recipes" / "g2p.toml")
    train = recipe.train.replace(rows=options.rows, seed=options.seed)
    print("| optimizer | words wrong | phonemes wrong | processor time |\n|---|--:|--:|--:|")
    for name, (optimizer, rate) in CONTENDERS.items():
        with tempfile.TemporaryDirectory() as folder:
            out = f"{folder}/run"
            began = time.process_time()
            start(recipe.replace(out=out, train=train.replace(optimizer=optimizer, learning_rate=rate)))
            seconds = time.process_time() - began
            score = evaluate_translations(out, sources=options.sources, quiet=True).score
        print(f"| {name} | {score.error_rate:.1%} | {score.token_error_rate:.1%} | {seconds:.0f} s |", flush=True)


if __name__ == "__main__":
    main()
