"""ModelWindows: windows stay whole, and the model runs with something in place of a site, itself unchanged."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import gossamer as gs
from gossamer.autoencoder.tasks import EndToEnd
from gossamer.autoencoder.trace import Moment
from gossamer.sources.source import Feed

transformers = pytest.importorskip("transformers")

CONTEXT, VOCABULARY = 8, 60
SITE, LATER = "model.layers.1", "model.layers.2"


class Tokenizer:
    """Words are numbers; 0 ends a text."""

    all_special_ids = (0,)
    eos_token_id = bos_token_id = 0
    is_fast = True

    def __call__(self, texts: Any, **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[int(word) for word in text.split()] for text in texts]}


@pytest.fixture(scope="module")
def model() -> Any:
    """A small Llama with random weights, in training mode."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "vocab_size": VOCABULARY}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = transformers.LlamaConfig(**sizes, **heads, attention_dropout=0.5)
    model = transformers.LlamaForCausalLM(config)
    model.lm_head.weight.requires_grad_(False)
    return model.train()


@pytest.fixture
def source(model: Any) -> gs.ModelWindows:
    rng = np.random.default_rng(0)
    texts = [" ".join(map(str, rng.integers(1, VOCABULARY, rng.integers(5, 30)))) for _ in range(40)]
    options: dict[str, Any] = {"context": CONTEXT, "buffer_rows": 10 * CONTEXT, "validation": 0.2}
    return gs.ModelWindows(model, Tokenizer(), hook=[SITE, LATER], texts=texts, **options)


def rows_of(source: gs.ModelWindows, windows: int = 4) -> dict[str, Tensor]:
    return Feed(source, batch=windows * CONTEXT, seed=0).next().rows


def windows_in(rows: dict[str, Tensor]) -> list[tuple[int, ...]]:
    ids = torch.where(rows["real"], rows["ids"], -1).reshape(-1, CONTEXT)
    return [tuple(window) for window in ids.tolist()]


def test_a_feed_keeps_windows_whole_and_in_order_and_shuffles_them(source: gs.ModelWindows):
    tokens = source.windows.batch(source.windows.train)
    expected = [tuple(window) for window in np.where(tokens.real, tokens.ids, -1).tolist()]
    assert source.rows == len(expected) * CONTEXT
    per_batch = next(n for n in range(2, len(expected)) if len(expected) % n == 0)
    feed = Feed(source, batch=per_batch * CONTEXT, seed=0)
    epochs = [[w for _ in range(len(expected) // per_batch) for w in windows_in(feed.next().rows)] for _ in range(2)]
    for seen in epochs:
        assert sorted(seen) == sorted(expected)
        assert seen != expected
    assert epochs[0] != epochs[1]


def test_a_sample_is_of_whole_windows_and_gives_the_activations_of_what_is_kept(source: gs.ModelWindows):
    feed = Feed(source, batch=2 * CONTEXT, seed=0)
    sample = feed.sample(3 * CONTEXT + 5)
    assert len(sample) == 3 * CONTEXT
    measured = source.measured_on(sample)
    assert len(measured) == int(sample.rows["keep"].sum())
    wide = {(int(d), int(p)): row for d, p, row in origins_and_rows(source)}
    for (document, position), row in zip(measured.origins.tolist(), measured.rows[SITE], strict=True):
        torch.testing.assert_close(row, wide[document, position])


def origins_and_rows(source: gs.ModelWindows) -> list[tuple[int, int, Tensor]]:
    batches = [batch for _, batch in source.passes(source.windows.train)]
    return [(*o.tolist(), row) for batch in batches for o, row in zip(batch.origins, batch.rows[SITE], strict=True)]


@pytest.mark.parametrize("batch", [CONTEXT - 1, 2 * CONTEXT + 1])
def test_a_batch_that_would_cut_a_window_is_refused_with_the_length(source: gs.ModelWindows, batch: int):
    sae = gs.preset("end-to-end", input_width=16, latents=32, l0=4, site=SITE).build()
    with pytest.raises(ValueError, match=rf"{CONTEXT} rows of this source stay together, so batch = {batch} must"):
        gs.train(sae, source, gs.TrainSpec(rows=2 * batch, batch=batch), quiet=True)
    assert sae.is_fresh


class TestRun:
    def test_says_what_the_model_says_at_kept_positions_that_have_a_next_token(self, model: Any, source: Any):
        rows = rows_of(source)
        output = source.run(rows, SITE, None, [LATER])
        ids, real, keep = (rows[name].reshape(-1, CONTEXT) for name in ("ids", "real", "keep"))
        expected, targets = [], []
        evaluated = copy.deepcopy(model).eval()
        states: list[Tensor] = []
        evaluated.get_submodule(LATER).register_forward_hook(lambda m, a, out: states.append(out))
        for window, length, kept in zip(ids, real.sum(dim=1), keep, strict=True):
            with torch.no_grad():
                logits = evaluated(window[None, :length]).logits[0]
            places = [p for p in range(int(length) - 1) if kept[p]]
            expected.append(logits[places])
            targets.append(window[[p + 1 for p in places]])
            states[-1] = states[-1][0][kept[:length]]
        torch.testing.assert_close(output.logits, torch.cat(expected))
        assert torch.equal(output.targets, torch.cat(targets))
        torch.testing.assert_close(output.later[LATER], torch.cat(states))
        assert not keep[:, 0].any()

    def test_replacing_rows_by_themselves_changes_nothing(self, source: gs.ModelWindows):
        rows = rows_of(source)
        clean = source.run(rows, SITE, None, [LATER])
        same = source.run(rows, SITE, lambda x: x, [LATER])
        assert torch.equal(same.logits, clean.logits)
        assert torch.equal(same.later[LATER], clean.later[LATER])

    def test_hands_the_kept_rows_over_and_uses_what_it_gets(self, source: gs.ModelWindows):
        rows, seen = rows_of(source), []

        def change(x: Tensor) -> Tensor:
            seen.append(x)
            return x * 2

        changed = source.run(rows, SITE, change, [LATER])
        assert len(seen) == 1
        measured = source.measured_on(Feed(source, batch=4 * CONTEXT, seed=0).next())
        torch.testing.assert_close(seen[0], measured.rows[SITE])
        clean = source.run(rows, SITE, None, [LATER])
        assert (changed.logits - clean.logits).abs().max() > 1e-3
        assert (changed.later[LATER] - clean.later[LATER]).abs().max() > 1e-3

    def test_leaves_the_model_as_it_was(self, model: Any, source: gs.ModelWindows):
        wanted = {name: p.requires_grad for name, p in model.named_parameters()}
        assert set(wanted.values()) == {True, False}
        source.run(rows_of(source), SITE, lambda x: x, [LATER])
        with pytest.raises(RuntimeError, match="no reconstruction"):
            source.run(rows_of(source), SITE, self.fail, [])
        assert {name: p.requires_grad for name, p in model.named_parameters()} == wanted
        assert all(module.training for module in model.modules())
        assert not any(module._forward_hooks for module in model.modules())

    @staticmethod
    def fail(x: Tensor) -> Tensor:
        raise RuntimeError("no reconstruction")


@pytest.mark.parametrize("judge", ["kl", "cross-entropy"])
def test_the_gradient_reaches_the_autoencoder_and_nothing_else(model: Any, source: gs.ModelWindows, judge: str):
    spec = gs.preset("end-to-end", input_width=16, latents=32, l0=4, site=SITE)
    spec = spec.replace(task=EndToEnd(site=SITE, judge=judge, later=(LATER,)), auxiliaries=())
    sae = spec.build().train()
    loss = spec.task.bind(source)(sae, rows_of(source), Moment())
    loss.total.backward()
    assert set(loss.terms) == {judge, "downstream"}
    for name, parameter in sae.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_end_to_end_makes_the_model_say_more_of_what_it_said(source: gs.ModelWindows):
    sae = gs.preset("end-to-end", input_width=16, latents=64, l0=4, site=SITE).build()
    rows = rows_of(source)
    objective = sae.spec.task.bind(source)
    gs.train(sae, source, gs.TrainSpec(rows=2 * CONTEXT, batch=2 * CONTEXT, learning_rate=1e-12), quiet=True)
    before = objective(sae, rows, Moment()).terms["kl"]
    gs.train(sae, source, gs.TrainSpec(rows=100 * 4 * CONTEXT, batch=4 * CONTEXT), quiet=True)
    assert objective(sae, rows, Moment()).terms["kl"] < 0.5 * before
