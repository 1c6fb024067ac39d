"""Activations: what flows through a real model's modules at the positions wanted, and nothing left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gossamer.sources.activations import Activations
from gossamer.sources.assets import MissingAsset
from gossamer.sources.hooks import capture, replaced, resolve
from gossamer.sources.models import load_model
from gossamer.sources.source import Feed
from gossamer.sources.windows import Windows

pytest.importorskip("transformers")

TEXTS = [
    "The harbour was empty before dawn, and the gulls had it to themselves.",
    "Enzymes lower the activation energy of a reaction without being consumed by it.",
    "He signed the letter twice, once in ink and once in haste.",
    "for (int i = 0; i < n; i++) { sum += values[i]; }",
    "Parliament will vote on the amended bill next Tuesday, the speaker said.",
] * 8


@pytest.fixture(scope="module")
def smollm2():
    try:
        return load_model("smollm2-135m", dtype="float32")
    except MissingAsset as missing:
        pytest.skip(str(missing))


@pytest.fixture
def source(smollm2) -> Activations:
    return Activations(smollm2.model, smollm2.tokenizer, hook="model.layers.2", texts=TEXTS, context=16)


def hooks_on(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_rows_are_the_hidden_states_of_a_plain_forward_pass(smollm2, source):
    windows = source.windows.train[:3]
    tokens = source.windows.batch(windows)
    with torch.no_grad():
        states = smollm2.model(torch.from_numpy(tokens.ids).long(), output_hidden_states=True).hidden_states[3]
    got = source.read(np.arange(3)).rows["model.layers.2"]
    torch.testing.assert_close(got, states[torch.from_numpy(tokens.keep)])


def test_rows_know_their_document_and_position(smollm2, source):
    feed = Feed(source, batch=32, seed=0)
    batch = feed.next()
    plain = [smollm2.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    wide = {}
    for tokens, rows in source.passes(source.windows.train):
        ids = tokens.ids[tokens.keep]
        for (document, position), token in zip(rows.origins.tolist(), ids.tolist(), strict=True):
            wide[document, position] = token
    for document, position in batch.origins.tolist():
        assert wide[document, position] == plain[document][position]


def test_position_0_and_special_tokens_give_no_rows_unless_wanted(smollm2):
    def make(drop):
        return Windows(smollm2.tokenizer, TEXTS, context=16, drop=drop, validation=0)

    everything, default = make(()), make(("special", "first"))
    tokens = default.batch(default.train)
    assert not tokens.keep[:, 0].any()
    assert not np.isin(tokens.ids[tokens.keep], smollm2.tokenizer.all_special_ids).any()
    assert everything.count(everything.train) == sum(len(t) + 1 for t in smollm2.tokenizer(TEXTS)["input_ids"])
    ends = (tokens.ids == smollm2.tokenizer.eos_token_id) & tokens.real
    assert ends.sum() == len(TEXTS)


@pytest.mark.parametrize("layout", ["packed", "truncated"])
def test_no_document_is_on_both_sides_and_counts_are_exact(smollm2, layout):
    source = Activations(
        smollm2.model, smollm2.tokenizer, hook="model.layers.0", texts=TEXTS, context=12, layout=layout, validation=0.3
    )
    feed = Feed(source, batch=source.rows, seed=0)
    trained = feed.next()
    held = list(source.validation(batch=50))
    assert len(trained) == source.rows
    assert sum(map(len, held)) == source.validation_rows
    assert len({tuple(origin) for origin in trained.origins.tolist()}) == source.rows
    held_documents = {int(d) for batch in held for d in batch.origins[:, 0]}
    assert held_documents and not held_documents & set(trained.origins[:, 0].tolist())


def test_truncated_windows_are_padded_without_changing_the_rows(smollm2):
    texts = ["Short one here.", TEXTS[1] + " " + TEXTS[0], "Middle sized sentence, with a comma."] * 2
    options = dict(hook="model.layers.2", context=32, layout="truncated", validation=0)
    together = Activations(smollm2.model, smollm2.tokenizer, texts=texts, **options)
    alone = Activations(smollm2.model, smollm2.tokenizer, texts=texts[:1], **options)
    rows, expected = together.read(np.arange(6)), alone.read(np.arange(1))
    mine = rows.origins[:, 0] == 0
    torch.testing.assert_close(rows.rows["model.layers.2"][mine], expected.rows["model.layers.2"], rtol=1e-4, atol=1e-3)


def test_several_hook_points_come_from_one_pass_row_by_row(smollm2, source):
    both = Activations(
        smollm2.model, smollm2.tokenizer, hook=["model.layers.2", "model.layers.0.mlp"], texts=TEXTS, context=16
    )
    assert list(both.widths) == ["model.layers.0.mlp", "model.layers.2"]
    assert torch.equal(both.read(np.arange(4)).rows["model.layers.2"], source.read(np.arange(4)).rows["model.layers.2"])


def test_the_pass_stops_after_the_last_hook_point_and_leaves_no_hook(smollm2, source, monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("a layer after the hook point ran")

    monkeypatch.setattr(smollm2.model.model.layers[3], "forward", fail)
    before = hooks_on(smollm2.model)
    source.read(np.arange(2))
    assert hooks_on(smollm2.model) == before
    monkeypatch.setattr(smollm2.model.model.layers[1], "forward", fail)
    with pytest.raises(AssertionError, match="a layer"):
        source.read(np.arange(2))
    assert hooks_on(smollm2.model) == before


def test_the_model_stays_in_the_mode_and_without_the_gradients_it_had(smollm2, source):
    smollm2.model.train()
    try:
        rows = source.read(np.arange(1)).rows["model.layers.2"]
        assert all(module.training for module in smollm2.model.modules())
    finally:
        smollm2.model.eval()
    assert not rows.requires_grad


def test_bfloat16_models_give_bfloat16_rows_in_half_the_buffer(smollm2, source):
    model = load_model("smollm2-135m", dtype="bfloat16").model
    half = Activations(model, smollm2.tokenizer, hook="model.layers.2", texts=TEXTS, context=16)
    rows = half.read(np.arange(4)).rows["model.layers.2"]
    assert rows.dtype == torch.bfloat16
    assert half.bytes_per_row - 16 == (source.bytes_per_row - 16) / 2
    exact = source.read(np.arange(4)).rows["model.layers.2"]
    assert (rows.float() - exact).norm() / exact.norm() < 0.02


def test_any_torch_module_that_takes_token_ids_is_a_source(smollm2):
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(49152, 8)
            self.mix = nn.LSTM(8, 6, batch_first=True)

        def forward(self, ids):
            return self.mix(self.embed(ids))

    source = Activations(Bag(), smollm2.tokenizer, hook=["embed", "mix"], texts=TEXTS, context=16)
    assert source.widths == {"embed": 8, "mix": 6}
    assert len(Feed(source, batch=20, seed=0).next()) == 20


def test_the_description_says_what_is_dropped_and_held_out(source):
    text = "\n".join(source.describe().values())
    for word in ("position 0", "special tokens", "held out", "packed", "model.layers.2", "float32"):
        assert word in text


def test_an_unknown_hook_point_names_the_nearest(smollm2):
    with pytest.raises(ValueError, match=r"'model\.layer\.2'; did you mean .*'model\.layers\.2"):
        resolve(smollm2.model, "model.layer.2")
    with pytest.raises(ValueError, match="no hook point"):
        resolve(smollm2.model, [])


def test_patterns_name_several_modules_in_the_models_order(smollm2):
    assert resolve(smollm2.model, ["model.layers.1?.mlp"]) == [f"model.layers.{n}.mlp" for n in range(10, 20)]


def test_a_module_that_is_never_reached_is_named():
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match="never reached unused"):
        capture(model, ["used", "unused"], lambda: model["used"](torch.ones(1, 2)))


def test_replacing_changes_what_follows_and_ends_with_the_context():
    model = nn.Sequential(nn.Identity(), nn.Linear(2, 2))
    x = torch.ones(1, 2)
    with replaced(model, "0", lambda t: 3 * t):
        assert torch.equal(model(x), model[1](3 * x))
    assert torch.equal(model(x), model[1](x))
    with pytest.raises(RuntimeError), replaced(model, "0", lambda t: 3 * t):
        raise RuntimeError
    assert hooks_on(model) == 0


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        ([], {}, ValueError, "no documents"),
        ("one string", {}, TypeError, "list of documents"),
        (["a"], {"validation": 0}, ValueError, "no row is left"),
        (TEXTS, {"context": 1}, ValueError, "at least 2"),
        (TEXTS, {"layout": "pack"}, ValueError, "layout"),
        (TEXTS, {"drop": ("specials",)}, ValueError, "specials"),
    ],
)
def test_texts_that_give_no_rows_and_unknown_options_are_refused(smollm2, texts, options, error, message):
    with pytest.raises(error, match=message):
        Activations(smollm2.model, smollm2.tokenizer, hook="model.layers.0", texts=texts, **{"context": 16, **options})


def test_the_first_held_out_windows_are_a_sample_of_all_documents(smollm2):
    first, second = ("A story of the sea. " * 30, "int main(void) { return 0; } " * 30)
    windows = Windows(smollm2.tokenizer, [first] * 20 + [second] * 20, context=16, validation=0.5)
    tokens = windows.batch(windows.validation[: len(windows.validation) // 4])
    share = np.mean(tokens.documents[tokens.keep] < 20)
    assert 0.25 < share < 0.75
    again = Windows(smollm2.tokenizer, [first] * 20 + [second] * 20, context=16, validation=0.5)
    assert np.array_equal(windows.validation, again.validation)
