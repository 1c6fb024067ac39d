"""How time and memory grow with the length of a sequence and with its width, for attention and what does without.

`python -m benchmarks.growth` times a training step (forward and backward) on one sequence, one thread, contenders in
turns, the least of some rounds; and adds up the bytes that the backward pass keeps. Lines go to `results/growth.csv`,
pictures and page to `docs/results`. Exponents are slopes of log time over log size.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import gossamer as gs
from benchmarks import sheet
from gossamer.compare.operations import attention_layer
from gossamer.figures.style import calm, empty_figure, line_style
from gossamer.kernels.threads import one_thread
from gossamer.storage import replace_file
from gossamer.transformer.layers import Block, Layer

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "growth.csv", ROOT / "docs" / "results" / "growth.md"
LENGTHS, WIDTHS = (64, 128, 256, 512, 1024, 2048, 4096), (32, 64, 128, 256, 512)
WIDTH, LENGTH = 64, 256
"""The width at which length grows, the length at which width grows."""
HEADS, WIDER, L0 = 4, 4, 16
"""Heads of attention; how much wider its feed-forward network and the autoencoder's code are; active latents."""
ROUNDS = 5
FUSED, PLAIN = "attention, fused kernel", "attention, scores in memory"
RECURRENT, SPARSE = "GRU", "TopK autoencoder, each position alone"

Step = Callable[[], Tensor]
"""Run the model forward on a sequence, and return a scalar to go backward from."""


@dataclass(frozen=True)
class Entry:
    """One measurement, a line of the file. against: what grew, "length" or "width"; seconds: of processor time, of a
    training step on one sequence; kept: bytes that the backward pass keeps; multiply_adds: of the forward pass."""

    date: str
    cpu: str
    cores: int
    python: str
    contender: str
    against: str
    length: int
    width: int
    rounds: int
    seconds: float
    kept: int
    multiply_adds: int | None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    given = parser.parse_args(arguments)
    with one_thread():
        found = [
            entry
            for against, sizes in (("length", given.lengths), ("width", given.widths))
            for size in sizes
            for entry in measured(against, *((size, WIDTH) if against == "length" else (LENGTH, size)), given.rounds)
        ]
    publish(found)


def contenders(length: int, width: int) -> dict[str, Step]:
    """Return a step of each; all have the same input, one sequence `(1, length, width)`."""
    torch.manual_seed(0)
    x = torch.randn(1, length, width)
    layer = Layer(width=width, hidden=WIDER * width, heads=HEADS, block=Block(dropout=0.0))
    recurrent = nn.GRU(width, width, batch_first=True)
    sae = gs.preset("topk", input_width=width, latents=WIDER * width, l0=L0).build()

    def attend(backend: SDPBackend | None) -> Tensor:
        with nullcontext() if backend is None else sdpa_kernel(backend):
            return layer(x).square().mean()

    return {
        FUSED: partial(attend, None),
        PLAIN: partial(attend, SDPBackend.MATH),
        RECURRENT: lambda: recurrent(x)[0].square().mean(),
        SPARSE: lambda: sae.loss(x[0]).total,
    }


def measured(against: str, length: int, width: int, rounds: int) -> list[Entry]:
    """Time all contenders at one size, in turns."""
    steps = contenders(length, width)
    best = dict.fromkeys(steps, float("inf"))
    for turn in range(rounds + 1):
        for name, step in steps.items():
            began = time.process_time()
            step().backward()
            if turn:  # the first one warms up
                best[name] = min(best[name], time.process_time() - began)
    about = {"against": against, "length": length, "width": width, "rounds": rounds}
    work = attention_layer(length, width, WIDER * width)
    entries = [
        Entry(
            **sheet.machine(),
            **about,
            contender=name,
            seconds=best[name],
            kept=kept_bytes(step),
            multiply_adds=work if name in (FUSED, PLAIN) else None,
        )
        for name, step in steps.items()
    ]
    for entry in entries:
        print(f"{against} {length:>5} × {width:<4} {entry.contender:<38} {1e3 * entry.seconds:9.2f} ms", flush=True)
    return entries


def kept_bytes(step: Step) -> int:
    """Return the bytes of all tensors that the backward pass of a step needs, weights included, each counted once."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = step()
    assert loss.requires_grad
    return sum(kept.values())


def exponent(entries: Sequence[Entry], contender: str, against: str, measure: str, *, last: int | None = None) -> float:
    """Return the slope of log measure over log size, of the `last` sizes or of all."""
    points = [
        (getattr(e, against), getattr(e, measure)) for e in entries if (e.contender, e.against) == (contender, against)
    ]
    sizes, values = np.log(np.array(points[-last if last else 0 :], dtype=float)).T
    return float(np.polyfit(sizes, values, 1)[0])


def publish(entries: Sequence[Entry]) -> None:
    """Write the file, the pictures and the page, and print the page."""
    RESULTS.unlink(missing_ok=True)
    for entry in entries:
        sheet.append(RESULTS, entry)
    for against in ("length", "width"):
        draw([entry for entry in entries if entry.against == against], against)
    PAGE.write_text(page(entries), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def page(entries: Sequence[Entry]) -> str:
    """Return the page."""
    about = entries[0]
    parts = [
        "# How time and memory grow",
        "`python -m benchmarks.growth` makes this page and `benchmarks/results/growth.csv`. One thread of an "
        f"{about.cpu}, shared with other work, {about.date[:10]}; processor time, the least of {about.rounds} "
        "rounds in turns.",
        f"A training step, forward and backward, on one sequence. Attention is a layer of `gossamer.transformer` with "
        f"{HEADS} heads and a feed-forward network {WIDER} times as wide, once on the fused kernel and once with the "
        f"scores written out; a GRU of the same width; a TopK autoencoder, {WIDER} times as many latents, {L0} active, "
        "that looks at each position alone. **Kept** is what the backward pass needs, weights included.",
    ]
    for against, fixed in (("length", f"width {WIDTH}"), ("width", f"length {LENGTH}")):
        those = [entry for entry in entries if entry.against == against]
        parts += [
            f"## With the {against}, at {fixed}",
            "\n".join(table(those, against, "seconds", "ms", 1e-3)),
            "\n".join(table(those, against, "kept", "kept, MiB", 2.0**20)),
            f"![Time and memory over {against}](growth-{against}.png)",
        ]
    return "\n\n".join(parts) + "\n"


def table(entries: Sequence[Entry], against: str, measure: str, name: str, unit: float) -> list[str]:
    """Return a line for each contender: its figures, how often the autoencoder's at the last size, its exponents."""
    sizes = sorted({getattr(entry, against) for entry in entries})
    header = [name, *map(str, sizes), "÷ autoencoder", "exponent", "of the last 3"]
    values = {(entry.contender, getattr(entry, against)): getattr(entry, measure) / unit for entry in entries}
    names = list(dict.fromkeys(entry.contender for entry in entries))
    lines = []
    for contender in names:
        ratio = values[contender, sizes[-1]] / values[SPARSE, sizes[-1]]
        slopes = [exponent(entries, contender, against, measure, last=last) for last in (None, 3)]
        cells = [f"{values[contender, size]:.3g}" for size in sizes]
        lines.append([contender, *cells, f"{ratio:.1f}", *(f"{slope:.2f}" for slope in slopes)])
    return sheet.table(header, lines)


def draw(entries: Sequence[Entry], against: str) -> None:
    """Draw time and memory over size, both axes logarithmic."""
    picture = empty_figure(8.6, 4.0)
    panels = (("seconds", 1e-3, "a training step, ms"), ("kept", 2.0**20, "kept for the backward pass, MiB"))
    names = list(dict.fromkeys(entry.contender for entry in entries))
    lines = []
    for place, (measure, unit, label) in enumerate(panels):
        axes = picture.add_subplot(1, 2, place + 1)
        lines = []
        for number, name in enumerate(names):
            mine = [entry for entry in entries if entry.contender == name]
            sizes = [getattr(entry, against) for entry in mine]
            lines += axes.plot(sizes, [getattr(entry, measure) / unit for entry in mine], **line_style(number))
        axes.set(xscale="log", yscale="log", xlabel=f"{against} of the sequence", ylabel=label)
        axes.set_xticks(sorted({getattr(entry, against) for entry in entries}), minor=False)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        calm(axes)
    picture.legend(lines, names, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    replace_file(
        PAGE.with_name(f"growth-{against}.png"),
        lambda temporary: picture.savefig(temporary, dpi=130, format="png", facecolor="white"),
    )


if __name__ == "__main__":
    main()
