"""Specs, files, vocabularies and the translator: what goes in comes out, and what cannot be is refused."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gossamer.transformer import (
    Block,
    BytePairs,
    Characters,
    Decoding,
    Learned,
    Phonemes,
    Rotary,
    Sinusoidal,
    Transformer,
    TransformerSpec,
    Words,
)
from gossamer.transformer.files import load_transformer, load_vocabularies, save_transformer, save_vocabularies
from gossamer.transformer.translator import MODEL, TOKENS, VOCABULARIES, Translator
from gossamer.transformer.vocabulary import END, PAD, SPECIAL, START, UNKNOWN, UnknownTokenError, Vocabulary
from tests.transformer.conftest import SOURCE, TARGET, lively, sequences, sources_of, spec_of

TEXTS = ["a cat sat", "the cat", "a mat  sat"]


class TestSpec:
    def test_survives_toml_and_json(self, model: Transformer):
        assert TransformerSpec.from_toml(model.spec.to_toml()) == model.spec
        assert TransformerSpec.from_json(model.spec.to_json()) == model.spec

    def test_the_same_seed_gives_the_same_weights(self):
        one, same, other = (spec_of().build(seed=seed) for seed in (3, 3, 4))
        assert torch.equal(one.output.weight, same.output.weight)
        assert not torch.equal(one.output.weight, other.output.weight)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"width": 25}, "multiple of heads"),
            ({"encoder_layers": 0, "decoder_layers": 0}, "has layers"),
            ({"tied": "all"}, "one vocabulary for both sides"),
            ({"label_smoothing": 1.0}, "label_smoothing"),
            ({"source": 3}, "source counts ids"),
            ({"hidden": 0}, "hidden must be at least 1"),
        ],
    )
    def test_impossible_ones_are_refused(self, changes: dict, message: str):
        with pytest.raises(ValueError, match=message):
            spec_of(**changes)

    def test_parts_refuse_what_they_cannot_do(self):
        with pytest.raises(ValueError, match="dropout"):
            Block(dropout=1.0)
        with pytest.raises(ValueError, match="longest"):
            Learned(longest=0)
        with pytest.raises(ValueError, match="pairs"):
            Rotary().build(width=9, heads=3)
        with pytest.raises(ValueError, match="even"):
            Sinusoidal().build(width=9, heads=3)
        with pytest.raises(ValueError, match="source is missing"):
            Transformer(TransformerSpec(target=9))

    def test_tied_weights_are_one_matrix(self):
        ids = {"source": TARGET, "target": TARGET}
        sizes = [
            sum(weight.numel() for weight in spec_of(tied=tied, **ids).build().parameters())
            for tied in ("none", "target", "all")
        ]
        assert sizes[0] - sizes[1] == sizes[1] - sizes[2] == TARGET * 24


def test_a_transformer_can_be_copied_pickled_and_saved(model: Transformer, tmp_path):
    source, target = sources_of(model), sequences(5, TARGET, seed=2, start=True)
    save_transformer(model, tmp_path / "model")
    again = load_transformer(tmp_path / "model")
    with torch.no_grad():
        expected = model(source, target)
        for other in (again, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(source, target), expected)
    if model.spec.tied != "none":
        assert again.output.weight is again.decoder.embedding.weight


def test_damaged_and_foreign_files_are_refused(tmp_path):
    save_transformer(lively(spec_of()), tmp_path / "one")
    save_transformer(lively(spec_of(width=48)), tmp_path / "other")
    with pytest.raises(ValueError, match="no transformer in"):
        load_transformer(tmp_path)
    (tmp_path / "one" / "transformer.json").write_text((tmp_path / "other" / "transformer.json").read_text())
    with pytest.raises(ValueError, match=r"weights of another transformer than transformer\.json describes"):
        load_transformer(tmp_path / "one")
    weights = tmp_path / "other" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        load_transformer(tmp_path / "other")
    (tmp_path / "other" / "transformer.json").write_text('{"width": 24, "wdith": 3}')
    with pytest.raises(ValueError, match="wdith"):
        load_transformer(tmp_path / "other")


class TestVocabulary:
    @pytest.mark.parametrize("kind", [Characters, Words, Phonemes, BytePairs])
    def test_texts_come_back(self, kind: type[Vocabulary], tmp_path):
        vocabulary = kind.learned(TEXTS, size=300)
        for text in TEXTS:
            ids = vocabulary.encode(text)
            assert ids
            assert min(ids) >= len(SPECIAL)
            assert max(ids) < len(vocabulary)
            exact = kind in (Characters, BytePairs)
            assert vocabulary.decode([START, *ids, END, 4, 5]) == (text if exact else " ".join(text.split()))
        save_vocabularies(vocabulary, None, tmp_path / "v.json")
        assert load_vocabularies(tmp_path / "v.json") == (vocabulary, None)

    @given(st.text(max_size=30))
    def test_byte_pairs_know_every_text(self, text: str):
        vocabulary = PAIRS
        assert vocabulary.decode(vocabulary.encode(text)) == text

    def test_what_is_not_known_is_named(self):
        vocabulary = Characters.learned(TEXTS)
        with pytest.raises(UnknownTokenError, match=r"'cäb' holds 'b', 'ä', which the vocabulary of 8 characters"):
            vocabulary.encode("cäb")
        assert vocabulary.decode([UNKNOWN, 5]) == "<unknown>" + vocabulary.token(5)

    def test_a_size_keeps_the_most_frequent_and_reads_the_rest_as_unknown(self):
        texts = ["b a b", "b a", "c", "a d b"]
        limited = Words.learned(texts, size=6)
        assert limited.tokens == ("a", "b")
        assert [limited.encode(text) for text in texts[-2:]] == [[UNKNOWN], [4, UNKNOWN, 5]]
        whole = Words.learned(texts, size=8)
        assert (len(whole), whole.limited) == (8, False)
        with pytest.raises(UnknownTokenError):
            whole.encode("e")

    def test_special_tokens_in_a_text_are_text(self):
        for text in ("a <end> b", "<pad>", "x <unknown><start>"):
            ids = PAIRS.encode(text)
            assert min(ids) >= len(SPECIAL)
            assert PAIRS.decode(ids) == text

    @pytest.mark.parametrize("vocabulary", [Characters, Words, BytePairs])
    def test_texts_are_cut_into_the_tokens_that_they_have_ids_for(self, vocabulary: type):
        learned = PAIRS if vocabulary is BytePairs else vocabulary.learned(TEXTS)
        for text in TEXTS:
            assert len(learned.cut(text)) == len(learned.encode(text))
        assert (learned.cut("a  b") == learned.cut("a b")) == (vocabulary is Words)

    def test_impossible_ones_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="twice there: 'a'"):
            Characters(tokens=("a", "b", "a"))
        with pytest.raises(ValueError, match="at least one"):
            Words(tokens=())
        with pytest.raises(ValueError, match="cannot be read"):
            BytePairs(tokenizer="{}")
        with pytest.raises(ValueError, match="does not exist"):
            load_vocabularies(tmp_path / "v.json")
        (tmp_path / "v.json").write_text('{"source": {"kind": "charcters"}}')
        with pytest.raises(ValueError, match=r"v.json is damaged.*characters"):
            load_vocabularies(tmp_path / "v.json")


PAIRS = BytePairs.learned(TEXTS, size=300)


class TestTranslator:
    source, target = Characters(tokens=tuple("abcdefghijklm")), Phonemes(tokens=("AA", "B", "K", "D", "IY", "F"))

    @pytest.fixture
    def translator(self) -> Translator:
        return Translator(lively(spec_of(target=10)), self.source, self.target)

    def test_texts_of_any_length_are_translated_in_their_order(self, translator: Translator):
        texts = ["bad", "a", "fadedbeef", "bad", "cab"]
        made = translator.translate(texts)
        assert [one.source for one in made] == texts
        assert [one.text for one in made] == [translator.translate([text])[0].text for text in texts]
        assert made[0] == made[3]

    def test_a_finished_run_can_be_opened(self, translator: Translator, tmp_path):
        save_vocabularies(self.source, self.target, tmp_path / VOCABULARIES)
        with pytest.raises(ValueError, match="has not finished"):
            Translator.open(tmp_path)
        save_transformer(translator.model, tmp_path / MODEL)
        assert Translator.open(tmp_path).translate(["bad"]) == translator.translate(["bad"])

    def test_one_of_several_in_a_run_can_be_opened(self, translator: Translator, tmp_path):
        save_vocabularies(self.source, self.target, tmp_path / VOCABULARIES)
        for number in range(2):
            save_transformer(translator.model, tmp_path / MODEL / f"{number}-transformer")
        with pytest.raises(ValueError, match=r"holds 2 transformers; choose one: .*0-transformer, .*1-transformer"):
            Translator.open(tmp_path)
        assert Translator.open(tmp_path / MODEL / "1-transformer").translate(["bad"]) == translator.translate(["bad"])

    def test_a_batch_of_long_texts_is_not_sized_by_short_ones(self, translator: Translator, monkeypatch):
        shapes: list[tuple[int, ...]] = []
        encode = translator.model.encode
        monkeypatch.setattr(translator.model, "encode", lambda ids: shapes.append(tuple(ids.shape)) or encode(ids))
        translator.translate(["a"] * 100 + ["b" * 99] * 60, Decoding(longest=2))
        assert max(rows * length for rows, length in shapes) <= TOKENS
        assert sum(rows for rows, _ in shapes) == 160

    def test_draws_of_later_batches_are_others(self, translator: Translator):
        texts = ["a" * 63] * 128
        drawn = Decoding(temperature=2.0, longest=8, seed=3)
        said = [one.text for one in translator.translate(texts, drawn)]
        assert TOKENS // 64 == 64
        assert said[:64] != said[64:]
        assert said == [one.text for one in translator.translate(texts, drawn)]
        assert len(set(said)) > 64

    def test_logits_that_are_not_finite_are_named(self, translator: Translator):
        with torch.no_grad():
            translator.model.decoding()[1].weight[5] = torch.inf
        with pytest.raises(ValueError, match="nothing can be said of 'bad': the model's logits are not finite"):
            translator.translate(["bad"])

    def test_translators_together_say_what_both_find_likely(self, translator: Translator, tmp_path):
        other = Translator(lively(spec_of(target=10), seed=8), self.source, self.target)
        for name, one in (("one", translator), ("other", other)):
            save_transformer(one.model, tmp_path / name / MODEL)
            save_vocabularies(self.source, self.target, tmp_path / name / VOCABULARIES)
        texts = ["bad", "a", "fadedbeef", "cab"]
        both = Translator.open(tmp_path / "one", together=[tmp_path / "other"]).translate(texts)
        assert both == Translator(translator.model, self.source, self.target, others=[other]).translate(texts)
        assert both not in (translator.translate(texts), other.translate(texts))
        strange = Translator(lively(spec_of(target=9)), self.source, Phonemes(tokens=("A", "B", "C", "D", "E")))
        with pytest.raises(ValueError, match="need the same target vocabulary"):
            Translator(translator.model, self.source, self.target, others=[strange])

    def test_attention_fits_the_tokens(self, translator: Translator):
        made = translator.translate(["fade"])[0].hypotheses[0]
        weights, source, target = translator.attention("fade", made.ids)
        assert weights.shape == (2, 3, len(made.ids), 5)
        assert source == ["f", "a", "d", "e", "<end>"]
        assert len(target) == len(made.ids)
        assert torch.allclose(weights.sum(dim=-1), torch.ones(()))

    def test_what_cannot_be_read_is_refused(self, translator: Translator):
        with pytest.raises(ValueError, match="a source is empty"):
            translator.translate(["bad", " "])
        with pytest.raises(UnknownTokenError, match="'z'"):
            translator.translate(["zebra"])
        with pytest.raises(ValueError, match="longer than the table"):
            translator.translate(["a" * 2000])
        with pytest.raises(ValueError, match="the target's vocabulary has 9 ids, but the transformer knows 10"):
            Translator(translator.model, self.source, Phonemes(tokens=("A", "B", "C", "D", "E")))


def test_ids_of_padding_are_never_counted_in_the_loss():
    model = lively(spec_of())
    source, target = sequences(5, SOURCE, seed=1), sequences(5, TARGET, seed=2, start=True)
    with torch.no_grad():
        wide = torch.cat([target, torch.full((5, 4), PAD)], dim=1)
        assert torch.allclose(model.loss(source, wide), model.loss(source, target))
        counted = (target[:, 1:] != PAD).sum()
        assert torch.allclose(
            model.loss(source, target).double(), -model.log_likelihood(source, target).sum() / counted
        )
