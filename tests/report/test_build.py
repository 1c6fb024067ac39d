"""What the page shows of a real model is what the model and the autoencoder really do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gossamer as gs
from gossamer.autoencoder.initialise import start_from_data
from gossamer.report.contexts import choose_latents, collect
from gossamer.report.logit_lens import logit_lens
from gossamer.report.surroundings import BEFORE, surroundings
from gossamer.sources.activations import Activations
from gossamer.sources.assets import MissingAsset
from gossamer.sources.models import load_model

SITE = "model.layers.1"
TEXTS = [
    f"Chapter {n}. The {word} was seen again, {n} miles from the old harbour, by a {word} hunter."
    for n, word in enumerate(["whale", "fox", "heron", "wolf", "seal", "crow"] * 6)
]


@pytest.fixture(scope="module")
def source() -> Activations:
    pytest.importorskip("transformers")
    try:
        loaded = load_model("smollm2-135m", dtype="float32")
    except MissingAsset as missing:
        pytest.skip(str(missing))
    return Activations(loaded.model, loaded.tokenizer, hook=SITE, texts=TEXTS, context=24, validation=0.5)


@pytest.fixture(scope="module")
def sae(source) -> gs.SparseAutoencoder:
    sae = gs.preset("topk", input_width=576, latents=256, l0=8).build(seed=0)
    start_from_data(sae, source.read(np.arange(8)).rows[SITE])
    return sae


@pytest.fixture(scope="module")
def dense(sae, source) -> torch.Tensor:
    """The codes of every held-out row, `(rows, latents)`."""
    rows = torch.cat([batch.rows[SITE] for batch in source.validation(batch=64)])
    return sae.encode(rows).to_dense().detach()


def test_every_activation_of_the_chosen_latents_is_found_once(sae, source, dense):
    latents = np.array([3, 200, 17])
    activity, seen = collect(sae, source, latents, rows=10**6)
    assert seen == len(dense) == source.validation_rows
    for latent in latents:
        expected = dense[:, latent][dense[:, latent] > 0].sort().values
        torch.testing.assert_close(torch.from_numpy(np.sort(activity[latent].values)), expected, rtol=1e-4, atol=1e-5)


def test_a_context_shows_the_text_around_the_token_and_its_own_activations(sae, source, dense):
    latent = int(dense.max(0).values.argmax())
    activity = collect(sae, source, np.array([latent]), rows=10**6)[0][latent]
    for entry in (*activity.strongest(5), *activity.random(5, np.random.default_rng(0))):
        context = activity.context(entry, surroundings(source))
        assert context.activation == pytest.approx(activity.values[entry])
        assert context.focus <= BEFORE
        document, position = activity.documents[entry], activity.positions[entry]
        ids = source.tokenizer(TEXTS[document], add_special_tokens=False)["input_ids"]
        assert context.tokens[context.focus] == source.tokenizer.decode([ids[position]])
        assert context.origin == f"document {document}, position {position}"


def test_the_strongest_contexts_come_first_one_per_window(sae, source, dense):
    latent = int((dense > 0).sum(0).argmax())
    activity = collect(sae, source, np.array([latent]), rows=10**6)[0][latent]
    entries = activity.strongest(6)
    values = activity.values[entries]
    assert values[0] == activity.values.max()
    assert np.all(np.diff(values) <= 0)
    assert len(set(activity.windows[entries])) == len(entries)


def test_the_logit_lens_is_the_unembedded_direction(sae, source):
    direction = sae.decoder.weight.detach()[:2]
    promoted, suppressed = logit_lens(source, direction, count=5)[1]
    gain, unembedding = source.model.model.norm.weight, source.model.lm_head.weight
    logits = (direction[1] * gain) @ unembedding.T
    logits = logits - logits.mean()
    best = logits.argsort(descending=True)
    assert [p.token for p in promoted] == [source.tokenizer.decode([t]) for t in best[:5].tolist()]
    assert [s.token for s in suppressed] == [source.tokenizer.decode([t]) for t in best.flip(0)[:5].tolist()]
    assert promoted[0].logit == pytest.approx(logits.max().item(), rel=1e-4)
    assert suppressed[0].logit == pytest.approx(logits.min().item(), rel=1e-4)


def test_there_is_no_logit_lens_without_a_language_model(sae):
    assert logit_lens(gs.Arrays(np.ones((20, 576), np.float32)), sae.decoder.weight) is None


def test_latents_are_drawn_evenly_from_rare_to_common_and_never_dead():
    densities = np.concatenate([np.zeros(500), np.geomspace(1e-5, 1, 1000)])
    latents, words = choose_latents(densities, 50, seed=0)
    assert len(set(latents)) == 50
    assert latents.min() >= 500
    counts = np.histogram(latents, bins=np.arange(500, 1501, 100))[0]
    assert counts.tolist() == [5] * 10
    assert "50 latents" in words and "1,000" in words
    assert np.array_equal(latents, choose_latents(densities, 50, seed=0)[0])
    assert not np.array_equal(latents, choose_latents(densities, 50, seed=1)[0])


def test_few_living_latents_are_all_shown():
    latents, words = choose_latents(np.array([0, 0.1, 0, 0.5]), 50, seed=0)
    assert latents.tolist() == [1, 3]
    assert words.startswith("All 2")
