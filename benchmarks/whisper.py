"""What hooks cost Whisper: encode and 64 tokens for four clips of 30 s, with and without them.

    python -m benchmarks.whisper [--rounds 9] [--threads 2]

In each round, in turn and in an order that alternates: transformers alone (`model.generate`), and the same while every
layer of the encoder and of the decoder and every cross-attention is observed by our hooks. Both write 64 tokens.
Printed are the medians and their ratio; the bar is 1.1.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from gossamer.sources.hooks import observed, resolve
from gossamer.sources.models import load_model, quiet
from gossamer.sources.speech import Ear, read_speech, speech_files

CLIPS, SECONDS, TOKENS = 4, 30, 64
SITES = ("model.encoder.layers.?", "model.decoder.layers.?", "model.decoder.layers.?.encoder_attn")


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def clips(ear: Ear) -> torch.Tensor:
    """Return four clips of real speech, one prompt after the other until 30 s are full."""
    sound = np.concatenate([read_speech(path, rate=ear.rate) for path in speech_files(["dataset:speech"])[:100]])
    length = SECONDS * ear.rate
    return ear.input([sound[start * length : (start + 1) * length] for start in range(CLIPS)])


def main() -> None:
    parser = argparse.ArgumentParser(description="What hooks cost Whisper.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="auto")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    loaded = load_model("whisper-tiny.en", dtype=arguments.dtype)
    heard, model = clips(Ear.of(loaded)), loaded.model
    sites = resolve(model, SITES)

    def plain() -> None:
        model.generate(heard, max_new_tokens=TOKENS, min_new_tokens=TOKENS)  # pyright: ignore[reportCallIssue]

    def hooked() -> None:
        with observed(model, sites):
            plain()

    times: dict[str, list[float]] = {"plain": [], "hooked": []}
    with quiet(), torch.inference_mode():
        plain()
        for number in range(arguments.rounds):
            pair = [("plain", plain), ("hooked", hooked)]
            for name, work in pair if number % 2 else reversed(pair):
                times[name].append(seconds(work))
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    print(f"{CLIPS} clips of {SECONDS} s, {TOKENS} tokens, {len(sites)} sites, {dtype}, {arguments.threads} threads")
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(f"{name:<7} {medians[name]:.3f} s, {min(values):.3f} to {max(values):.3f}")
    ratio = medians["hooked"] / medians["plain"]
    print(f"hooked / plain {ratio:.3f}, the bar is 1.1: {'reached' if ratio <= 1.1 else 'missed'}")


if __name__ == "__main__":
    main()
