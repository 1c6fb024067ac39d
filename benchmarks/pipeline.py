"""What the pipeline costs beyond the work that cannot be avoided.

    python -m benchmarks.pipeline [--rows 131072] [--rounds 3]

In each round, in turn: the model's truncated forward pass alone, bare training steps alone (forward, backward,
optimizer, constraint, on rows that are there already), and a whole `gs.train` over the same number of rows, from the
first batch to the last checkpoint. Printed is the median over rounds of whole / (forward + steps).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import torch

import gossamer as gs
from gossamer.autoencoder.initialise import start_from_data
from gossamer.autoencoder.trace import Moment
from gossamer.sources.activations import Activations
from gossamer.sources.models import load_model
from gossamer.sources.source import Feed
from gossamer.sources.texts import read_documents
from gossamer.training.spec import derive
from gossamer.training.trainee import Trainee


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def forward_alone(source: Activations, rows: int) -> None:
    done = 0
    per_pass = 2048 // source.windows.context
    for start in range(0, source.units, per_pass):
        tokens = source.windows.batch(source.windows.train[start : start + per_pass])
        source.captured(tokens)
        done += int(tokens.keep.sum())
        if done >= rows:
            return


def steps_alone(x: torch.Tensor, spec: gs.TrainSpec, autoencoder: gs.AutoencoderSpec) -> None:
    sae = autoencoder.build(seed=0)
    start_from_data(sae, x)
    trainee = Trainee(sae, autoencoder.task.bind(None), spec, derive(spec, autoencoder))
    for step in range(spec.steps):
        with trainee.optimizer.gradients():
            sae.loss(x, moment=Moment(dead=trainee.dead.indices)).total.backward()
        trainee.optimizer.step(trainee.derived.learning_rate_at(step, spec.steps))


def whole(source: Activations, spec: gs.TrainSpec, autoencoder: gs.AutoencoderSpec) -> None:
    with tempfile.TemporaryDirectory() as folder:
        gs.train(autoencoder.build(seed=0), source, spec, out=f"{folder}/run", quiet=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the pipeline costs.")
    parser.add_argument("--rows", type=int, default=131_072)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    loaded = load_model("smollm2-135m")
    texts = read_documents(["asset:100_news_fake"])
    source = Activations(loaded.model, loaded.tokenizer, hook="model.layers.8", texts=texts)
    autoencoder = gs.preset("topk", input_width=576, latents=4608, l0=32)
    spec = gs.TrainSpec(rows=arguments.rows, batch=2048)
    batch = Feed(source, batch=spec.batch, seed=0).next()
    x = next(iter(batch.rows.values())).float()
    ratios = []
    for number in range(arguments.rounds):
        forward = seconds(lambda: forward_alone(source, arguments.rows))
        steps = seconds(lambda: steps_alone(x, spec, autoencoder))
        total = seconds(lambda: whole(source, spec, autoencoder))
        ratios.append(total / (forward + steps))
        print(
            f"round {number + 1}: forward {forward:.1f} s, steps {steps:.1f} s, whole {total:.1f} s, "
            f"ratio {ratios[-1]:.3f}",
            flush=True,
        )
    print(f"whole / (forward + steps): median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
