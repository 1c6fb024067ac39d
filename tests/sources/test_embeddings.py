"""Documents become rows of a language model's last layer, in their order, however they are batched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gossamer.progress import Progress
from gossamer.sources import embeddings
from gossamer.sources.assets import INSTALL_COMMAND, MissingAsset
from gossamer.sources.embeddings import Embedding, Embeddings, EmbeddingsSpec, embed
from gossamer.sources.models import LoadedModel, load_model
from gossamer.sources.source import Feed, SourceSpec

transformers: Any = pytest.importorskip("transformers", reason="pip install 'gossamer[hf]'")

TEXTS = [
    "A cat sleeps on the sofa.",
    "Rates rose.",
    "The committee of the central bank raised interest rates for the third time in a row, to the surprise of many.",
    "A kitten naps on the couch.",
    "Inflation.",
    "Dogs bark at night when a stranger walks past the house and the garden gate stands open.",
    "Red paint.",
]


@pytest.fixture(scope="module")
def minilm() -> LoadedModel:
    """The sentence encoder in float32; not to be changed."""
    try:
        return load_model("minilm", dtype="float32")
    except MissingAsset:
        pytest.skip(f"install the assets with {INSTALL_COMMAND}")


@pytest.fixture(scope="module")
def alone(minilm: LoadedModel) -> list[np.ndarray]:
    """The last layer's output for each text by itself, without padding."""
    with torch.no_grad():
        encoded = [minilm.tokenizer([text], return_tensors="pt") for text in TEXTS]
        return [minilm.model(**one).last_hidden_state[0].numpy() for one in encoded]


def small(name: str, folder: Path) -> LoadedModel:
    """A random model of another family, whose tokenizer adds no special tokens and has no padding."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    sizes = {
        "GPT2LMHeadModel": {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 5, "n_positions": 6},
        "T5ForConditionalGeneration": {
            "num_layers": 1,
            "d_model": 8,
            "d_kv": 4,
            "d_ff": 8,
            "num_heads": 2,
            "vocab_size": 5,
        },
    }
    torch.manual_seed(0)
    config = getattr(transformers, f"{name.partition('LM')[0].partition('For')[0]}Config")(**sizes[name])
    model = getattr(transformers, name)(config).eval()
    words = Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "b": 2, "c": 3, "d": 4}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    return LoadedModel(model, transformers.PreTrainedTokenizerFast(tokenizer_object=words), name)


class TestRows:
    @pytest.mark.parametrize("per_pass", [1, 40, 100_000])
    @pytest.mark.parametrize("pooling", ["mean", "cls"])
    def test_a_row_is_that_of_the_document_alone(
        self, minilm: LoadedModel, alone: list[np.ndarray], monkeypatch: pytest.MonkeyPatch, pooling: Any, per_pass: int
    ):
        monkeypatch.setattr(embeddings, "FORWARD_TOKENS", per_pass)
        got = embed(minilm, TEXTS, Embedding(pooling=pooling, normalize=False))
        expected = np.stack([state.mean(0) if pooling == "mean" else state[0] for state in alone])
        assert got.rows.dtype == np.float32
        assert np.abs(got.rows - expected).max() < 2e-6
        assert got.documents.tolist() == list(range(7)) and got.positions.tolist() == [0] * 7

    def test_token_rows_leave_out_special_tokens_and_know_their_place(
        self, minilm: LoadedModel, alone: list[np.ndarray]
    ):
        got = embed(minilm, TEXTS, Embedding(rows="token", normalize=False))
        expected = np.concatenate([state[1:-1] for state in alone])
        assert np.abs(got.rows - expected).max() < 2e-5
        assert got.documents.tolist() == [number for number, state in enumerate(alone) for _ in state[1:-1]]
        assert got.positions.tolist() == [place for state in alone for place in range(1, len(state) - 1)]

    def test_position_zero_gives_no_token_row_even_if_it_is_a_word(self, tmp_path: Path):
        got = embed(small("GPT2LMHeadModel", tmp_path), ["a b c", "d"], Embedding(rows="token", max_tokens=6))
        assert got.documents.tolist() == [0, 0] and got.positions.tolist() == [1, 2]

    def test_rows_have_length_one_by_default_and_mean_what_the_texts_say(self, minilm: LoadedModel):
        rows = embed(minilm, TEXTS).rows
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
        nearest = (rows @ rows.T - 2 * np.eye(7)).argmax(1)
        assert (nearest[0], nearest[3], nearest[2]) == (3, 0, 1)

    def test_only_the_beginning_of_a_long_document_is_read(self, minilm: LoadedModel):
        got = embed(minilm, [TEXTS[0], TEXTS[2]], Embedding(max_tokens=9, rows="token"))
        assert got.truncated == 1
        assert np.bincount(got.documents).tolist() == [7, 7]
        assert np.allclose(
            got.rows[7:], embed(minilm, [TEXTS[2]], Embedding(max_tokens=9, rows="token")).rows, atol=1e-6
        )

    @pytest.mark.parametrize("name", ["GPT2LMHeadModel", "T5ForConditionalGeneration"])
    def test_other_families_give_the_last_layer_before_the_head(self, tmp_path: Path, name: str):
        loaded = small(name, tmp_path)
        got = embed(loaded, ["a b c", "d", "a b"], Embedding(normalize=False, max_tokens=6))
        body: Any = loaded.model.transformer if "GPT2" in name else loaded.model.encoder
        with torch.no_grad():
            expected = [
                body(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in ([1, 2, 3], [4], [1, 2])
            ]
        assert np.allclose(got.rows, torch.stack(expected).numpy(), atol=1e-6)

    def test_the_model_is_left_as_it_was(self, minilm: LoadedModel):
        minilm.model.train()
        try:
            first, second = (embed(minilm, TEXTS[:2]).rows for _ in range(2))
            assert minilm.model.training
        finally:
            minilm.model.eval()
        assert np.array_equal(first, second)


class TestSource:
    def test_documents_are_held_out_whole_and_rows_know_theirs(self, minilm: LoadedModel):
        source = Embeddings(TEXTS, minilm, Embedding(rows="token"), validation=0.3)
        held = next(source.validation(batch=1000))
        trained = Feed(source, batch=source.rows, seed=0).next()
        assert source.widths == {"": 384}
        assert len(set(held.origins[:, 0].tolist())) == 2
        assert not set(held.origins[:, 0].tolist()) & set(trained.origins[:, 0].tolist())
        places = trained.origins[:, 1].numpy()
        assert np.array_equal(trained.rows[""].numpy(), source.embedded.rows[places])
        assert np.array_equal(trained.origins[:, 0].numpy(), source.embedded.documents[places])

    def test_a_spec_survives_toml_and_builds(self, minilm: LoadedModel, tmp_path: Path):
        for number, text in enumerate(TEXTS):
            (tmp_path / f"{number}.txt").write_text(text)
        spec = EmbeddingsSpec(
            paths=(str(tmp_path),), dtype="float32", embedding=Embedding(max_tokens=12), validation=0.2
        )
        assert SourceSpec.from_toml(spec.to_toml()) == spec
        source = spec.build()
        assert (source.rows, source.validation_rows) == (6, 1)
        assert np.allclose(source.embedded.rows, embed(minilm, TEXTS, Embedding(max_tokens=12)).rows, atol=1e-6)
        assert source.describe()["cut"].startswith("2 documents are longer than max_tokens = 12")

    def test_the_fingerprint_changes_with_the_texts_and_the_choice(self, minilm: LoadedModel):
        prints = [
            Embeddings(texts, minilm, embedding).fingerprint()
            for texts, embedding in (
                (TEXTS[:3], Embedding()),
                (TEXTS[:3], Embedding()),
                (TEXTS[:3], Embedding(pooling="cls")),
                ([*TEXTS[:2], "Other."], Embedding()),
            )
        ]
        assert prints[0] == prints[1]
        assert len({print_["content"] for print_ in prints}) == 3
        assert (prints[0]["kind"], prints[0]["model"]) == ("embeddings", "minilm")

    def test_long_work_says_how_far_it_is(
        self, minilm: LoadedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        monkeypatch.setattr(embeddings, "FORWARD_TOKENS", 1)
        embed(minilm, TEXTS)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(Progress, "LINE_SECONDS", 0.0)
        embed(minilm, TEXTS)
        lines = capsys.readouterr().err.splitlines()
        assert lines[0].startswith("document 1 of 7, ") and lines[-1] == "document 7 of 7, 0 s left"


class TestMistakes:
    @pytest.mark.parametrize(
        ("texts", "error", "said"),
        [
            ([], ValueError, "the corpus is empty"),
            ("one", TypeError, "texts is one string; give a list"),
            (["a", 3], TypeError, "document 1 must be a string, got int 3"),
        ],
    )
    def test_what_is_no_corpus_is_refused_before_a_model_is_loaded(self, texts: Any, error: Any, said: str):
        with pytest.raises(error, match=said):
            Embeddings(texts, "no such model")

    def test_more_tokens_than_the_model_reads(self, minilm: LoadedModel, tmp_path: Path):
        with pytest.raises(ValueError, match="max_tokens is 513, but minilm reads 512 tokens at most"):
            embed(minilm, ["a"], Embedding(max_tokens=513))
        with pytest.raises(ValueError, match="max_tokens is 7, but GPT2LMHeadModel reads 6"):
            embed(small("GPT2LMHeadModel", tmp_path), ["a"], Embedding(max_tokens=7))
        with pytest.raises(ValueError, match="max_tokens must be at least 1"):
            Embedding(max_tokens=0)

    def test_documents_that_leave_no_row(self, minilm: LoadedModel, tmp_path: Path):
        with pytest.raises(ValueError, match="document 1 has no token: ' '"):
            embed(small("GPT2LMHeadModel", tmp_path), ["a", " "], Embedding(max_tokens=6))
        with pytest.raises(ValueError, match="no row is left: the texts hold only special tokens and first positions"):
            Embeddings(["", " "], minilm, Embedding(rows="token"))
