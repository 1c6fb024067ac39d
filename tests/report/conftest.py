"""One report of realistic size, made from English prose, that all tests of the report look at."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from gossamer.report import (
    Context,
    Curve,
    FeatureCard,
    Histogram,
    Metric,
    ReportData,
    Setting,
    SettingGroup,
    TokenLogit,
    write,
)

# Lewis Carroll, Alice's Adventures in Wonderland (1865), chapter I; in the public domain.
PROSE = """\
Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to \
do: once or twice she had peeped into the book her sister was reading, but it had no pictures or \
conversations in it, “and what is the use of a book,” thought Alice “without pictures or \
conversations?”

So she was considering in her own mind (as well as she could, for the hot day made her feel very \
sleepy and stupid), whether the pleasure of making a daisy-chain would be worth the trouble of \
getting up and picking the daisies, when suddenly a White Rabbit with pink eyes ran close by her.

There was nothing so very remarkable in that; nor did Alice think it so very much out of the way to \
hear the Rabbit say to itself, “Oh dear! Oh dear! I shall be late!” (when she thought it over \
afterwards, it occurred to her that she ought to have wondered at this, but at the time it all \
seemed quite natural); but when the Rabbit actually took a watch out of its waistcoat-pocket, and \
looked at it, and then hurried on, Alice started to her feet, for it flashed across her mind that \
she had never before seen a rabbit with either a waistcoat-pocket, or a watch to take out of it, and \
burning with curiosity, she ran across the field after it, and fortunately was just in time to see \
it pop down a large rabbit-hole under the hedge.

In another moment down went Alice after it, never once considering how in the world she was to get \
out again.

The rabbit-hole went straight on like a tunnel for some way, and then dipped suddenly down, so \
suddenly that Alice had not a moment to think about stopping herself before she found herself \
falling down a very deep well.
"""
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "</style>",
    "{{ 7*7 }}",
    "<!--",
    "&amp;",
    "a\tb",
    "\r\n",
    "  ",
    "\x00\x1b",
    "\udce2",
    "<0xE2>",
    "\u202eevil",
    "שלום",
    "",
    "x" * 200,
)
ROWS = 48_000
FEATURES = 50


def prose_tokens() -> list[str]:
    return re.findall(r" ?\w+|\n| ?[^\w\s]", PROSE)


def activations(tokens: list[str], *, latent: int) -> np.ndarray:
    """Activate a made-up latent on one word wherever it stands, and weakly on some words of its length."""
    generator = np.random.default_rng(latent)
    chosen = tokens[int(generator.integers(len(tokens)))]
    weak = np.array([len(token) == len(chosen) for token in tokens]) & (generator.random(len(tokens)) < 0.3)
    strong = np.array([token == chosen for token in tokens])
    loud, quiet = 3 + generator.gamma(2, 1, len(tokens)), weak * generator.random(len(tokens))
    return np.round(np.where(strong, loud, quiet), 4)


def context(tokens: list[str], values: np.ndarray, focus: int) -> Context:
    first, last = max(0, focus - 18), min(len(tokens), focus + 13)
    return Context(
        tokens=tuple(tokens[first:last]),
        activations=tuple(values[first:last].tolist()),
        focus=focus - first,
        origin=f"document 1, position {focus}",
    )


def card(latent: int, *, density: float) -> FeatureCard:
    tokens = prose_tokens()
    values = activations(tokens, latent=latent)
    active = np.flatnonzero(values)
    strongest = active[np.argsort(-values[active], kind="stable")]
    generator = np.random.default_rng(latent)
    counts, edges = np.histogram(values[active], bins=24, range=(0, float(values.max())))
    words = [tokens[int(at)] for at in generator.integers(len(tokens), size=16)]
    return FeatureCard(
        latent=latent,
        density=density,
        mean_activation=float(values[active].mean()),
        max_activation=float(values.max()),
        histogram=Histogram(counts=(40 * counts).tolist(), edges=edges.tolist()),
        top_contexts=tuple(context(tokens, values, int(at)) for at in np.resize(strongest, 10)),
        random_contexts=tuple(context(tokens, values, int(at)) for at in generator.choice(active, 5)),
        promoted=tuple(TokenLogit(word, 1.5 - 0.1 * rank) for rank, word in enumerate(words[:8])),
        suppressed=tuple(TokenLogit(word, -1.2 + 0.1 * rank) for rank, word in enumerate(words[8:])),
    )


def metrics() -> tuple[Metric, ...]:
    return (
        Metric(
            name="FVU",
            value=0.184,
            explanation="share of the variance that the reconstruction misses; 0 is perfect",
            format=".3f",
            group="Reconstruction",
            rows=ROWS,
            headline=True,
        ),
        Metric(name="L0", value=31.9, explanation="active per row", format=".1f", rows=ROWS, headline=True),
        Metric(name="Dead", value=0.03, explanation="never active", format=".1%", rows=ROWS, headline=True),
        Metric(name="Loss recovered", value=None, explanation="not measured", group="Model", headline=True),
    )


def curves() -> tuple[Curve, ...]:
    steps = np.arange(3000) * 2048
    fvu = 0.18 + 0.7 * np.exp(-np.arange(3000) / 300)
    gap = np.where(np.arange(3000) % 500 < 20, np.nan, fvu)
    return (
        Curve(name="FVU", steps=steps, values=gap, series="training", explanation="Lower is better."),
        Curve(name="FVU", steps=steps[::500], values=fvu[::500] + 0.02, series="validation"),
        Curve(name="Loss", steps=steps, values=fvu * 300, scale="log"),
        Curve(name="L0", steps=steps, values=20 + 20 * fvu, target=32, unit="latents"),
        Curve(name="Dead", steps=steps, values=np.zeros(3000)),
    )


@pytest.fixture(scope="session")
def report_data() -> ReportData:
    densities = np.clip(10 ** np.random.default_rng(0).normal(-2.6, 0.6, 4096), 0, 1)
    densities[densities < 1 / ROWS] = 0
    densities[:100] = 0
    cards = [card(latent, density=float(densities[latent])) for latent in range(200, 198 + FEATURES)]
    hostile = Context(tokens=HOSTILE, activations=tuple(range(len(HOSTILE))), origin="<b>document</b>")
    cards.append(
        replace(
            cards[0],
            latent=7,
            label="<i>quotes</i> & “marks”",
            max_activation=15.0,
            top_contexts=(hostile, *(replace(hostile, focus=at) for at in range(1, 10))),
            promoted=tuple(TokenLogit(token, 1.0) for token in HOSTILE),
        )
    )
    silent = FeatureCard(latent=8, density=0.0, mean_activation=0.0, max_activation=0.0)
    return ReportData(
        title="TopK on <Wonderland>",
        subtitle="4,096 latents on the residual stream of a small model",
        created="22 November 2026",
        settings=(
            SettingGroup("Model", (Setting("hook point", "model.layers.9", "output of the tenth block"),)),
            SettingGroup("Data", (Setting("text", "a/very/long/path/without/any/space/" * 4),)),
        ),
        metrics=metrics(),
        curves=curves(),
        densities=densities,
        density_rows=ROWS,
        features=(*cards, silent),
        sampling="Drawn at random from all latents, ten from each fifth by density.",
        notes=("A target was missed.",),
    )


@pytest.fixture(scope="session")
def array_data() -> ReportData:
    """Return what a run on plain arrays has: no tokens, no vocabulary, rows with numbers."""
    rows = tuple(Context(tokens=(), activations=(3.0 - at / 4,), origin=f"row {at}") for at in range(10))
    feature = FeatureCard(
        latent=3,
        density=0.25,
        mean_activation=1.0,
        max_activation=3.0,
        histogram=Histogram(counts=(5, 3, 1), edges=(0.0, 1.0, 2.0, 3.0)),
        top_contexts=rows,
    )
    return ReportData(title="Arrays", features=(feature, replace(feature, latent=4, top_contexts=())))


@pytest.fixture(scope="session")
def report_file(report_data: ReportData, tmp_path_factory: pytest.TempPathFactory):
    return write(report_data, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="session")
def array_file(array_data: ReportData, tmp_path_factory: pytest.TempPathFactory):
    return write(array_data, tmp_path_factory.mktemp("report") / "arrays.html")
