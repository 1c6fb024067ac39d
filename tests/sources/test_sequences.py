"""Rows of encoder–decoders are what flows through the side asked for, at real positions, and they know their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from gossamer.sources.assets import MissingAsset, whisper
from gossamer.sources.models import LoadedModel
from gossamer.sources.pair_activations import PairSequences, TransformerActivationsSpec
from gossamer.sources.pairs import Pair, Pairs, PairsSpec
from gossamer.sources.sequences import SequenceActivations, side_of
from gossamer.sources.source import Feed, SourceSpec
from gossamer.sources.speech import Speech, SpeechSpec
from gossamer.transformer.files import save_transformer, save_vocabularies
from gossamer.transformer.model import TransformerSpec
from gossamer.transformer.translator import MODEL, VOCABULARIES, Translator
from gossamer.transformer.vocabulary import Characters, Phonemes

transformers: Any = pytest.importorskip("transformers", reason="pip install gossamer[hf]")

SECONDS = (1.0, 0.51, 2.0, 31.0, 0.3, 0.25, 0.7, 1.3)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """A small random Whisper with the real one's tokenizer and ears."""
    try:
        folder = whisper()
    except MissingAsset as missing:
        pytest.skip(str(missing))
    sizes = {f"{side}_{part}": 2 for side in ("encoder", "decoder") for part in ("layers", "attention_heads")}
    sizes |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16, "vocab_size": 51864}
    torch.manual_seed(2)
    config = transformers.WhisperConfig(**sizes, decoder_start_token_id=50257, eos_token_id=50256, pad_token_id=50256)
    model = transformers.WhisperForConditionalGeneration(config).eval()
    model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    model.generation_config.update(max_length=8)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return LoadedModel(model, tokenizer, "small", transformers.AutoFeatureExtractor.from_pretrained(folder))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noises of different lengths at 8 kHz."""
    folder = tmp_path_factory.mktemp("sounds")
    random = np.random.default_rng(0)
    for number, seconds in enumerate(SECONDS):
        samples = 3000 * random.standard_normal(round(8000 * seconds)) * np.linspace(0, 1, round(8000 * seconds))
        wavfile.write(folder / f"{number}.wav", 8000, samples.astype(np.int16))
    return folder


@pytest.fixture(scope="module", params=["joined", "separate"])
def speech(request: pytest.FixtureRequest, loaded: LoadedModel, sounds: Path) -> Speech:
    return Speech(loaded, [str(sounds)], layout=request.param, validation=0.3)


def frames(seconds: float) -> int:
    return -(-round(seconds * 16_000) // 320)


def test_an_encoder_gives_a_row_per_frame_of_each_recording_and_none_for_silence(speech: Speech, loaded: LoadedModel):
    source = SequenceActivations(speech, hook="model.encoder.layers.0")
    assert source.rows + source.validation_rows == sum(map(frames, SECONDS))
    batch = source.read(np.arange(source.units))
    assert len(batch) == source.rows
    assert len({tuple(origin) for origin in batch.origins.tolist()}) == source.rows
    held = [tuple(origin) for part in source.validation(batch=20) for origin in part.origins.tolist()]
    assert len(held) == source.validation_rows
    assert not {document for document, _ in held} & set(batch.origins[:, 0].tolist())
    windows = 1 if speech.layout == "joined" else 6
    assert len(speech.train) > windows - 1


def test_rows_are_the_hidden_states_of_a_plain_pass(speech: Speech, loaded: LoadedModel):
    source = SequenceActivations(speech, hook=["model.encoder.layers.0", "model.encoder.layers.1"])
    window = int(speech.train[0])
    sound = speech.sound(window)
    assert loaded.features is not None
    heard = loaded.features(sound, sampling_rate=16_000, return_tensors="pt")  # pyright: ignore[reportCallIssue]
    with torch.no_grad():
        states = loaded.model.model.encoder(heard["input_features"], output_hidden_states=True)  # pyright: ignore
    (rows,) = [rows for _, rows in source.passes(np.array([window]))]
    length = sum(frames(SECONDS[document]) for document in set(rows.origins[:, 0].tolist())) if window else None
    expected = states.hidden_states[1][0, : len(rows)]
    torch.testing.assert_close(rows.rows["model.encoder.layers.0"], expected)
    assert length is None or length >= len(rows)


def test_a_decoder_gives_a_row_per_token_of_what_the_model_writes_itself(
    loaded: LoadedModel, sounds: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gossamer.sources.speech.LONGEST", 12)
    speech = Speech(loaded, [str(sounds / "[0245].wav")], layout="separate", validation=0.3)
    hooks = ["model.decoder.layers.0.encoder_attn", "model.decoder.layers.1"]
    source = SequenceActivations(speech, hook=hooks)
    batch = source.read(np.arange(source.units))
    text = speech.answers[int(speech.train[0])]
    assert text[:2] == [50257, 50362] and len(text) > 3
    given = dict(speech.batch(speech.train[:1], "decoder").arguments)
    assert given["decoder_input_ids"].tolist() == [text]
    with torch.no_grad():
        states = loaded.model(**given, output_hidden_states=True).decoder_hidden_states
    mine = batch.origins[:, 0] == int(batch.origins[0, 0])
    assert source.widths == dict.fromkeys(hooks, 16)
    kept = [place for place, token in enumerate(text) if token not in loaded.tokenizer.all_special_ids]
    assert batch.origins[mine][:, 1].tolist() == kept and 0 not in kept and 1 not in kept
    plain = loaded.model.model.decoder.layer_norm(batch.rows[hooks[1]][mine])  # pyright: ignore
    torch.testing.assert_close(plain, states[-1][0, kept], rtol=1e-4, atol=1e-5)
    assert speech.tokens(0, "decoder") is not None and speech.tokens(0, "encoder") is None


def test_a_place_is_a_time_in_a_recording(speech: Speech):
    source = SequenceActivations(speech, hook="model.encoder.layers.0")
    batch = source.read(np.arange(source.units))
    document, position = batch.origins[-1].tolist()
    assert position == frames(SECONDS[document]) - 1
    assert speech.place(document, position, "encoder").endswith(f"/{document}.wav")
    assert speech.place(document, 617, "encoder").startswith("12.34 s of ")


def test_sites_of_two_sides_or_with_other_rows_are_refused(speech: Speech):
    with pytest.raises(ValueError, match=r"both sides .*make one source for each"):
        SequenceActivations(speech, hook=["model.encoder.layers.0", "model.decoder.layers.0"])
    with pytest.raises(ValueError, match="belongs to no side"):
        SequenceActivations(speech, hook="proj_out")
    with pytest.raises(ValueError, match=r"did you mean .*model\.encoder\.layers\.0"):
        SequenceActivations(speech, hook="model.encoder.layer.0")
    with pytest.raises(ValueError, match="where the encoder has"):
        SequenceActivations(speech, hook="model.encoder.conv1")
    assert side_of(["model.decoder.layers.0.encoder_attn"]) == "decoder"


def test_a_model_that_hears_nothing_and_files_that_are_no_sound_are_refused(loaded: LoadedModel, tmp_path: Path):
    deaf = LoadedModel(torch.nn.Linear(2, 2), loaded.tokenizer, "deaf")
    with pytest.raises(ValueError, match=r"deaf is a Linear, .*whisper-tiny\.en"):
        Speech(deaf, ["dataset:speech"])
    with pytest.raises(ValueError, match="holds no file of a kind that is read here"):
        Speech(loaded, [str(tmp_path)])
    with pytest.raises(ValueError, match="no data set 'speach'; did you mean 'speech'"):
        SpeechSpec(files=("dataset:speach",), hook=("model.encoder.layers.0",)).build()
    with pytest.raises(ValueError, match="layout"):
        Speech(loaded, ["dataset:speech"], layout="joint")  # pyright: ignore[reportArgumentType]


WORDS = {"gossamer": "G AA S", "web": "W EH B", "silk": "S IH L K", "loom": "L UW M", "a": "AH", "weaver": "W IY V ER"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder such as the run of a small transformer leaves, and the pairs it was trained on."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "pairs.tsv").write_text("".join(f"{word}\t{spoken}\n" for word, spoken in WORDS.items()))
    source, target = Characters.learned(WORDS), Phonemes.learned(WORDS.values())
    spec = TransformerSpec(
        source=len(source), target=len(target), width=16, hidden=16, heads=2, encoder_layers=2, decoder_layers=2
    )
    save_transformer(spec.build(seed=1), folder / MODEL)
    save_vocabularies(source, target, folder / VOCABULARIES)
    described = PairsSpec(paths=(str(folder / "pairs.tsv"),), target_tokens="phonemes", validation=0.4, bucket=2)
    (folder / "run.toml").write_text(f"[source]\n{described.to_toml()}")
    return folder


@pytest.mark.parametrize(("hook", "side"), [("encoder.layers.1", 0), ("decoder.layers.0.cross_attention", 1)])
def test_our_transformer_gives_a_row_per_letter_or_phoneme(run: Path, hook: str, side: int):
    source = TransformerActivationsSpec(model=str(run), hook=(hook,)).build()
    pairs = list(WORDS.items())
    counted = sum(len(pair[side].split() if side else pair[side]) for pair in pairs)
    assert source.rows + source.validation_rows == counted
    batch = source.read(np.arange(source.units))
    assert len(batch) == source.rows
    alone = SequenceActivations(source.inputs, hook=hook)
    for number in source.inputs.train:
        (rows,) = [rows for _, rows in alone.passes(np.array([number]))]
        document = rows.origins[0, 0]
        together = batch.rows[hook][batch.origins[:, 0] == document]
        torch.testing.assert_close(rows.rows[hook], together, rtol=1e-4, atol=1e-5)
        written = "".join(source.inputs.tokens(int(number), source.side) or ()).strip()
        assert written == pairs[number][side]
    assert len(Feed(source, batch=4, seed=0).next()) == 4


def test_a_recipe_describes_both(run: Path):
    for spec in (
        SpeechSpec(files=("dataset:speech",), hook=("model.encoder.layers.2",)),
        TransformerActivationsSpec(model="runs/g2p", hook=("encoder.layers.1",), pairs=PairsSpec(paths=("x.tsv",))),
    ):
        assert SourceSpec.from_toml(spec.to_toml()) == spec
    source = TransformerActivationsSpec(model=str(run), hook=("decoder.layers.1",)).build()
    assert "a row is a token of the target" in " ".join(source.describe().values())
    assert source.fingerprint()["sites"] == "decoder.layers.1"


def test_pairs_in_another_vocabulary_are_refused(run: Path):
    translator = Translator.open(run)
    other = Pairs([Pair("web", "W", 0)], source=Characters.learned(["web"]), target=translator.target, bucket=1)
    with pytest.raises(ValueError, match="sources of the pairs are encoded with another vocabulary"):
        PairSequences(translator, other)
