"""Speech: SNR at equal bits beside cosines and wavelets.

`python -m benchmarks.signals.speech` needs the data set speech and takes about a minute of one core.
"""

from __future__ import annotations

import warnings

import numpy as np

from benchmarks.signals import coding, page
from gossamer import SAE
from gossamer.sources.datasets import dataset
from gossamer.sources.frames import Frames
from gossamer.sources.signals import Signals

LENGTH, LATENTS, L0, EPOCHS, MOST = 128, 512, 24, 6, 128
TRAIN_SECONDS, TEST_SECONDS, RATE = 240, 60, 8000
BITS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
STORED_BITS = 16
STEPS = np.geomspace(0.003, 0.6, 14)


def main() -> None:
    train, test, files = recordings()
    rows = np.ascontiguousarray(Frames(length=LENGTH, hop=48).split(train), dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sae = SAE(LATENTS, sparsity="matching-pursuit", l0=L0, max_iter=EPOCHS, tol=0, random_state=0).fit(rows)
    coders: dict[str, coding.Coder] = {
        "SAE, matching pursuit": coding.DictionaryCoder(sae.model_, test, length=LENGTH, most=MOST),
        **{f"DCT of {length}": coding.CosineCoder(test, length=length) for length in (64, 128, 256)},
        **{
            f"wavelet {name}, 5 levels": coding.WaveletCoder(test, wavelet=name, levels=5)
            for name in ("sym8", "bior4.4")
        },
    }
    measured = {}
    for name, coder in coders.items():
        points = coding.sweep(coder, test, STEPS.tolist())
        measured[name] = {bits: coding.at_bits(points, bits).snr for bits in BITS}
    lines = [
        {"method": name, "bits": bits, "snr": value}
        for name, found in measured.items()
        for bits, value in found.items()
    ]
    page.publish("speech", title="Speech", measurements=lines, parts=report(measured, files, len(rows)))


def recordings() -> tuple[np.ndarray, np.ndarray, int]:
    """Return samples to train on and to test on, full scale 1, of different files, and how many files there are."""
    paths = sorted(path for path in dataset("speech").rglob("*.wav") if "silence" not in path.parts)
    order = np.random.default_rng(0).permutation(len(paths))
    split = len(paths) * 2 // 3
    wanted = TRAIN_SECONDS * RATE, TEST_SECONDS * RATE // 1024 * 1024
    parts = []
    for places, samples in zip((order[:split], order[split:]), wanted, strict=True):
        source = Signals([str(paths[place]) for place in places], frames=Frames(length=LENGTH), validation=0.0)
        parts.append(np.concatenate([source.rebuilt(number) for number in range(len(places))])[:samples])
    return parts[0], parts[1].astype(np.float64), len(paths)


def report(measured: dict[str, dict[float, float]], files: int, rows: int) -> list[str]:
    """Return the paragraphs and tables of the page."""
    ours, *others = measured
    best = {bits: max(measured[name][bits] for name in others) for bits in BITS}
    table = [[name, *(f"{found[bits]:.2f}" for bits in BITS)] for name, found in measured.items()]
    table.append(["SAE − best other", *(f"{measured[ours][bits] - best[bits]:+.2f}" for bits in BITS)])
    table.append(["(ratio to 16 bits)", *(f"{STORED_BITS / bits:.0f}" for bits in BITS)])
    behind = sum(measured[ours][bits] < best[bits] for bits in BITS)
    return [
        f"Telephone prompts of one speaker, 8 kHz (`scripts/fetch_data.py speech`), {files} files, two thirds of "
        f"them to train ({TRAIN_SECONDS} s of these, {rows:,} frames) and {TEST_SECONDS} s of the others to test.",
        f"`SAE({LATENTS}, sparsity='matching-pursuit', l0={L0}, max_iter={EPOCHS})` on frames of {LENGTH} samples, "
        "16 ms.",
        "SNR in decibels at bits per sample; more is better. The coding is that of [the electrocardiogram](ecg.md).",
        "\n".join(page.table(["bits per sample", *(f"{bits:g}" for bits in BITS)], table)),
        f"The autoencoder is behind the best of the others at {behind} of {len(BITS)} rates. Two reasons are likely "
        "and were not tested: speech sounds last longer than its frames (of the cosines, the longest window is the "
        "best), and a dictionary learned from frames as loud as they come spends its directions on loud ones.",
        "SNR is no measure of how speech sounds; codecs made for speech use what the ear misses, and a model of the "
        "vocal tract.",
    ]


if __name__ == "__main__":
    main()
