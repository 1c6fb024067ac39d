"""Patches of photographs: how many directions are oriented edge filters, and how well noise is taken out of a picture.

`python -m benchmarks.signals.patches` needs the data set photographs and takes some minutes.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from skimage.restoration import denoise_nl_means, denoise_wavelet
from skimage.transform import downscale_local_mean
from sklearn.decomposition import MiniBatchDictionaryLearning, sparse_encode

import gossamer as gs
from benchmarks.signals import coding, page
from gossamer import SAE
from gossamer.evaluate.codec import psnr
from gossamer.evaluate.gabor import GaborFits, fit_gabor
from gossamer.sources.datasets import dataset
from gossamer.sources.images import read_images
from gossamer.sources.patches import Patches

SIDE, LATENTS = 12, 256
PER_PICTURE = 5000
SIGMA = 25 / 255
HELD_OUT = ("Garden.jpg", "TwoWings.jpg")
TUNING = "Wood.jpg"
CROP = 512
MULTIPLES = (2.0, 2.5, 3.0, 3.5)
THRESHOLD = 0.7
Picture = np.ndarray


@dataclass(frozen=True)
class Learned:
    """Gabor fits of the directions, processor seconds of learning them, and directions active per patch."""

    fits: GaborFits
    seconds: float
    l0: float


def main() -> None:
    pictures = photographs()
    train = [picture for name, picture in pictures.items() if name not in HELD_OUT]
    filters = edge_filters(train)
    cleaned = denoising(train, pictures)
    lines = [
        {
            "task": "filters",
            "setting": f"R2 > {THRESHOLD}",
            "method": name,
            "measure": "share",
            "value": one.fits.share(THRESHOLD),
        }
        for name, one in filters.items()
    ] + [
        {"task": "denoising", "setting": picture, "method": name, "measure": "psnr", "value": value}
        for name, found in cleaned.items()
        for picture, value in found.items()
    ]
    page.publish(
        "patches", title="Patches of photographs", measurements=lines, parts=report(filters, cleaned, pictures)
    )


def photographs() -> dict[str, Picture]:
    """Return gray pictures from 0 to 1 at half their size, for JPEG's blocks and noise are gone there."""
    gray = Patches(channels="gray")
    found = {}
    for path in sorted(dataset("photographs").glob("*.jpg")):
        image = read_images(path)[0].astype(np.float64) / 255
        whole = gray.split(image).reshape(image.shape[:2])
        found[path.name] = downscale_local_mean(whole, (2, 2))
    return found


def drawn(pictures: list[Picture], *, normalization: str, seed: int) -> np.ndarray:
    """Return patches at random places, `(patches, SIDE²)` float32, normalized each on its own."""
    patches, rng = Patches(size=SIDE, normalization=normalization), np.random.default_rng(seed)  # pyright: ignore[reportArgumentType]
    rows = np.concatenate([patches.random(picture, PER_PICTURE, rng) for picture in pictures])
    return patches.normalize(rng.permutation(rows).astype(np.float32)).rows


def whitened(rows: np.ndarray, *, epsilon: float = 0.01) -> np.ndarray:
    """Return (x − x̄) (C + ε tr(C)/n)^(−½) (ZCA): every direction varies alike, but for what is hardly there at all."""
    centered = rows - rows.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(centered.T))
    return (centered @ (vectors / np.sqrt(values + epsilon * values.mean())) @ vectors.T).astype(np.float32)


def edge_filters(train: list[Picture]) -> dict[str, Learned]:
    """Return what each method learns from whitened patches."""
    rows = whitened(drawn(train, normalization="contrast", seed=0))
    learners = {
        "SAE, topk": SAE(LATENTS, sparsity="topk", l0=8, max_iter=15, tol=0, random_state=0),
        "SAE, l1": SAE(LATENTS, sparsity="l1", l0=16, max_iter=15, tol=0, random_state=0),
        "SAE, matching-pursuit": SAE(LATENTS, sparsity="matching-pursuit", l0=8, max_iter=8, tol=0, random_state=0),
        **{
            f"MiniBatchDictionaryLearning, alpha {alpha}": MiniBatchDictionaryLearning(
                LATENTS, alpha=alpha, batch_size=256, max_iter=3, random_state=0
            )
            for alpha in (1, 2)
        },
    }
    found = {}
    for name, learner in learners.items():
        began = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            learner.fit(rows)
        seconds = time.process_time() - began
        if isinstance(learner, SAE):
            active = np.count_nonzero(np.asarray(learner.transform(rows[:500])))
        else:
            active = np.count_nonzero(
                sparse_encode(rows[:500], learner.components_, algorithm="lasso_lars", alpha=learner.alpha)
            )
        fits = fit_gabor(learner.components_.reshape(-1, SIDE, SIDE))
        found[name] = Learned(fits, seconds, active / 500)
    return found


def denoising(train: list[Picture], pictures: dict[str, Picture]) -> dict[str, dict[str, float]]:
    """Return PSNR of each method on the pictures that nothing was trained on."""
    rows = drawn(train, normalization="mean", seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sae = SAE(LATENTS, sparsity="matching-pursuit", l0=6, max_iter=8, tol=0, random_state=0).fit(rows)
    tuning = corner(pictures[TUNING])[:256, :256]
    rough = noisy(tuning, 0)
    times = max(MULTIPLES, key=lambda times: psnr(tuning, pursued(sae.model_, rough, times * SIGMA), peak=1.0))
    methods: dict[str, Callable[[Picture], Picture]] = {
        "noisy": lambda x: x,
        "SAE, matching pursuit, patches averaged": lambda x: pursued(sae.model_, x, times * SIGMA),
        "denoise_wavelet, BayesShrink": lambda x: denoise_wavelet(
            x, sigma=SIGMA, method="BayesShrink", mode="soft", rescale_sigma=True
        ),
        "denoise_wavelet, VisuShrink": lambda x: denoise_wavelet(
            x, sigma=SIGMA, method="VisuShrink", mode="soft", rescale_sigma=True
        ),
        "denoise_wavelet, BayesShrink, 64 shifts averaged": spun,
        "denoise_nl_means": lambda x: denoise_nl_means(
            x, patch_size=5, patch_distance=6, h=0.6 * SIGMA, sigma=SIGMA, fast_mode=True
        ),
    }
    found: dict[str, dict[str, float]] = {name: {} for name in methods}
    for number, picture in enumerate(HELD_OUT):
        clean = corner(pictures[picture])
        rough = noisy(clean, number + 1)
        for name, method in methods.items():
            found[name][picture] = psnr(clean, np.clip(method(rough), 0, 1) if name != "noisy" else rough, peak=1.0)
    return found


def corner(picture: Picture) -> Picture:
    """Return the middle of a picture."""
    top, left = ((extent - CROP) // 2 for extent in picture.shape)
    return picture[max(top, 0) :, max(left, 0) :][:CROP, :CROP]


def noisy(picture: Picture, seed: int) -> Picture:
    """Return the picture with white noise, not clipped."""
    return picture + SIGMA * np.random.default_rng(seed).standard_normal(picture.shape)


def pursued(sae: gs.SparseAutoencoder, picture: Picture, threshold: float) -> Picture:
    """Return the mean of overlapping patches, each of the directions that stand out of the noise."""
    patches = Patches(size=SIDE, stride=2, normalization="mean")
    rows, side = patches.normalize(patches.split(picture))
    return patches.join(patches.restore(coding.standing_out(sae, rows, threshold, most=24), side), picture.shape)


def spun(picture: Picture) -> Picture:
    """Return the mean over 8 × 8 circular shifts, which averaging over patches is comparable to."""
    total = np.zeros_like(picture)
    for down in range(8):
        for right in range(8):
            moved = np.roll(picture, (down, right), axis=(0, 1))
            moved = denoise_wavelet(moved, sigma=SIGMA, method="BayesShrink", mode="soft", rescale_sigma=True)
            total += np.roll(moved, (-down, -right), axis=(0, 1))
    return total / 64


def report(
    filters: dict[str, Learned], cleaned: dict[str, dict[str, float]], pictures: dict[str, Picture]
) -> list[str]:
    """Return the paragraphs and tables of the page."""
    shares = [
        [
            name,
            f"{one.fits.share(THRESHOLD):.0%}",
            f"{np.median(one.fits.r2):.2f}",
            f"{one.l0:.1f}",
            f"{one.seconds:.0f} s",
        ]
        for name, one in filters.items()
    ]
    quality = [[name, *(f"{value:.2f}" for value in found.values())] for name, found in cleaned.items()]
    return [
        f"Twelve photographs (`scripts/fetch_data.py photographs`), gray, at half their size; {len(HELD_OUT)} of "
        f"them are held out ({', '.join(HELD_OUT)}).",
        "## Oriented edge filters",
        f"{PER_PICTURE:,} patches of {SIDE}×{SIDE} pixels of each of the others, contrast-normalized and whitened "
        f"(ZCA), {LATENTS} directions. Share of directions that a Gabor function explains to R² > {THRESHOLD} "
        "(`gossamer.evaluate.gabor`), median R², directions active per patch in training, and "
        "processor seconds of fitting.",
        "\n".join(page.table(["method", f"R² > {THRESHOLD}", "median R²", "L0", "fitted in"], shares)),
        "## Denoising",
        f"White noise of 25 / 255 on the middle {CROP}×{CROP} pixels of the pictures held out; PSNR in decibels.",
        "\n".join(page.table(["method", *HELD_OUT], quality)),
        f"The autoencoder codes {SIDE}×{SIDE} patches every 2 pixels without their mean; its threshold was chosen on "
        f"{TUNING}, which is among the training pictures. The others are scikit-image's, with the noise level "
        "given and `h` of non-local means as its documentation has it. BM3D is not in scikit-image, and was "
        "not measured.",
    ]


if __name__ == "__main__":
    main()
