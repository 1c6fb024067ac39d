"""Rows of other people's encoder–decoders on bare texts are what a plain pass shows, on either side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gossamer.cli.main import main
from gossamer.pretrained import generate, open_writer
from gossamer.sources.activations import Activations
from gossamer.sources.models import LoadedModel, load_model
from gossamer.sources.sequences import SequenceActivations
from gossamer.sources.source import SourceSpec
from gossamer.sources.text_sequences import TextSequences, TextSequencesSpec

TEXTS = ["The house is wonderful .", "Das Haus", "Das Haus ist wunderbar", "German is wonderful", "English"]
PREFIX = "translate English to German : "
SITES = {
    "T5": ("encoder.block.0", "decoder.block.0.layer.1.EncDecAttention"),
    "Bart": ("model.encoder.layers.0", "model.decoder.layers.1.encoder_attn"),
    "Marian": ("model.encoder.layers.0", "model.decoder.layers.1.encoder_attn"),
}


def texts_for(loaded: LoadedModel, **options: object) -> TextSequences:
    given = {"prefix": PREFIX, "context": 20, "longest": 8, "validation": 0.3, **options}
    return TextSequences(loaded, TEXTS, **given)  # pyright: ignore[reportArgumentType]


@pytest.fixture(params=sorted(SITES))
def loaded(request: pytest.FixtureRequest, saved: Callable[[str], Path]) -> LoadedModel:
    return load_model(str(saved(request.param)), dtype="float32")


def sites(loaded: LoadedModel) -> tuple[str, str]:
    return SITES[type(loaded.model).__name__.removesuffix("ForConditionalGeneration").removesuffix("MTModel")]


def test_an_encoder_gives_a_row_per_token_of_each_text_and_its_prefix(loaded: LoadedModel):
    source = SequenceActivations(texts_for(loaded), hook=sites(loaded)[0])
    assert source.rows + source.validation_rows == sum(len((PREFIX + text).split()) for text in TEXTS)
    batch = source.read(np.arange(source.units))
    for window in source.inputs.train:
        (rows,) = [rows for _, rows in source.passes(np.array([window]))]
        document = int(rows.origins[0, 0])
        given = loaded.tokenizer(PREFIX + TEXTS[document], return_tensors="pt")
        with torch.no_grad():
            states = loaded.model.get_encoder()(**given, output_hidden_states=True).hidden_states[1]  # pyright: ignore
        mine = batch.origins[:, 0] == document
        last = len((PREFIX + TEXTS[document]).split())
        torch.testing.assert_close(batch.rows[source.sites[0]][mine], states[0, :last], rtol=1e-4, atol=1e-5)
        read = " ".join(source.inputs.tokens(int(window), "encoder") or ())
        assert read.startswith(PREFIX + TEXTS[document])


def test_a_decoder_gives_a_row_per_token_of_what_the_model_writes(loaded: LoadedModel):
    inputs = texts_for(loaded)
    source = SequenceActivations(inputs, hook=sites(loaded)[1])
    batch = source.read(np.arange(source.units))
    assert len(batch) == source.rows > 0
    special, writer = loaded.tokenizer.all_special_ids, open_writer(loaded.name, dtype="float32")
    for window in source.inputs.train:
        (rows,) = [rows for _, rows in source.passes(np.array([window]))]  # alone, without padding
        if not len(rows):
            continue
        mine = batch.origins[:, 0] == rows.origins[0, 0]
        torch.testing.assert_close(batch.rows[source.sites[0]][mine], rows.rows[source.sites[0]], rtol=1e-4, atol=1e-5)
        document, answer = int(rows.origins[0, 0]), inputs.answers[int(window)]
        places = [place for place, token in enumerate(answer) if token not in special]
        assert rows.origins[:, 1].tolist() == places
        (said,) = generate(writer, PREFIX + TEXTS[document], longest=8)
        assert said.text == loaded.tokenizer.decode([answer[place] for place in places])
        assert source.inputs.place(document, places[0], "decoder").endswith(f"about document {document}")


def test_a_recipe_trains_and_reports_on_both_sides(
    saved: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = saved("T5")
    (tmp_path / "texts.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in TEXTS))
    for side, hook in zip(("encoder", "decoder"), SITES["T5"], strict=True):
        spec = TextSequencesSpec(
            model=str(folder), texts=(str(tmp_path / "texts.jsonl"),), hook=(hook,), prefix=PREFIX, longest=8
        )
        assert SourceSpec.from_toml(spec.to_toml()) == spec
        recipe = tmp_path / f"{side}.toml"
        recipe.write_text(
            f'out = "{tmp_path / side}"\n[[preset]]\nname = "topk"\nlatents = 32\nl0 = 4\n\n'
            f"[train]\nrows = 512\nbatch = 16\n\n[source]\n{spec.to_toml()}"
        )
        assert main(["train", str(recipe), "--out", str(tmp_path / side)]) == 0
        assert main(["report", str(tmp_path / side)]) == 0
        assert side in capsys.readouterr().out
        page = (tmp_path / side / "report.html").read_text()
        assert f"of {'document' if side == 'encoder' else 'what is written about document'} " in page


@pytest.mark.parametrize(
    ("family", "options", "said"),
    [
        ("GPT2", {}, r"GPT2LMHeadModel, not an encoder–decoder .*kind = \"activations\""),
        ("Bert", {}, "BertModel, not an encoder–decoder"),
        ("Bart", {"context": 41}, "context is 41, but .* table of 40 positions"),
        ("Bart", {"longest": 99}, "longest is 99, but .* table of 40 positions"),
        ("T5", {"context": 1}, "context must be at least 2"),
        ("T5", {"longest": 0}, "longest must be at least 1"),
    ],
)
def test_what_cannot_be_read_is_refused(saved: Callable[[str], Path], family: str, options: dict, said: str):
    with pytest.raises(ValueError, match=said):
        texts_for(load_model(str(saved(family))), **options)


def test_one_string_is_no_list_of_documents(saved: Callable[[str], Path]):
    with pytest.raises(TypeError, match="one string"):
        TextSequences(load_model(str(saved("T5"))), "The house")


def test_a_decoder_read_with_texts_alone_names_the_source_that_it_needs(saved: Callable[[str], Path]):
    loaded = load_model(str(saved("T5")))
    with pytest.raises(ValueError, match=r"kind = 'seq2seq', gs\.TextSequences"):
        Activations(loaded.model, loaded.tokenizer, hook=SITES["T5"][1], texts=TEXTS, context=8)
    encoder = Activations(loaded.model, loaded.tokenizer, hook=SITES["T5"][0], texts=TEXTS, context=8)
    assert encoder.widths == {SITES["T5"][0]: 16}
