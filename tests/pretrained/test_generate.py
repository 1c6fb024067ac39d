"""Other people's models write here what they write by themselves, and what cannot be read is refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gossamer.cli.main import main
from gossamer.pretrained import generate, open_writer
from gossamer.pretrained.writer import token_texts

transformers: Any = pytest.importorskip("transformers", reason="pip install gossamer[hf]")

TASK = "translate English to German: The house is wonderful."
WRITERS = ["T5", "Bart", "Marian", "GPT2", "Llama"]


def test_the_program_of_the_article_and_ours_give_the_same_text(saved: Callable[[str], Path]):
    """The article's lines, on a T5 folder on this disk."""
    folder = str(saved("T5"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    inputs = tokenizer(TASK, return_tensors="pt")
    outputs = model.generate(**inputs, max_new_tokens=12)
    said = tokenizer.decode(outputs[0], skip_special_tokens=True)
    assert said
    (ours,) = generate(open_writer(folder, dtype="float32"), TASK, longest=12)
    assert ours.text == said
    assert "".join(ours.tokens) == said


@pytest.mark.parametrize("family", WRITERS)
def test_a_batch_of_different_lengths_is_written_as_each_text_alone(saved: Callable[[str], Path], family: str):
    writer = open_writer(saved(family), dtype="float32")
    texts = [TASK, "The house", "Das Haus ist wunderbar . The house is"]
    together = generate(writer, texts, longest=9)
    assert together == [generate(writer, text, longest=9)[0] for text in texts]
    assert len({written.text for written in together}) > 1 or family == "Marian"  # this one hardly reads its input


@pytest.mark.parametrize("family", ["T5", "GPT2"])
def test_beams_are_those_of_the_model_itself_and_one_beam_is_greedy(saved: Callable, family: str):
    writer = open_writer(saved(family), dtype="float32")
    assert generate(writer, TASK, longest=6, beam=1) == generate(writer, TASK, longest=6)
    tokenizer, model = writer.tokenizer, writer.model  # pyright: ignore[reportAttributeAccessIssue]
    ids = tokenizer(TASK, return_tensors="pt").input_ids
    made = model.generate(ids, max_new_tokens=6, num_beams=4, length_penalty=2.0)[0]  # pyright: ignore
    new = made if family == "T5" else made[ids.shape[1] :]
    (ours,) = generate(writer, TASK, longest=6, beam=4, length_penalty=2.0)
    assert ours.text == tokenizer.decode(new, skip_special_tokens=True)


def test_draws_depend_on_the_seed_alone_and_leave_torch_as_it_was(saved: Callable[[str], Path]):
    writer = open_writer(saved("GPT2"), dtype="float32")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (generate(writer, TASK, longest=12, temperature=3.0, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert first == again != other
    assert generate(writer, TASK, longest=12, top_k=1) == generate(writer, TASK, longest=12)
    assert generate(writer, TASK, longest=12, top_p=1e-6) == generate(writer, TASK, longest=12)


def test_the_settings_saved_with_a_model_do_not_make_it_draw(saved: Callable[[str], Path], tmp_path: Path):
    for file in saved("GPT2").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    settings |= {"do_sample": True, "temperature": 9.0, "max_length": 5}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    assert generate(tmp_path, TASK, longest=9) == generate(saved("GPT2"), TASK, longest=9)


def test_nor_do_they_change_what_is_drawn(saved: Callable[[str], Path], tmp_path: Path):
    for file in saved("GPT2").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    settings |= {"do_sample": True, "min_p": 0.9, "typical_p": 0.1, "num_return_sequences": 2}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    drawn = {"longest": 9, "temperature": 3.0, "seed": 4}
    assert generate(tmp_path, [TASK] * 2, **drawn) == generate(saved("GPT2"), [TASK] * 2, **drawn)


def test_later_batches_are_not_the_first_again(saved: Callable[[str], Path]):
    said = [one.text for one in generate(saved("GPT2"), [TASK] * 32, longest=9, temperature=3.0)]
    assert len(set(said[:16])) > 1
    assert said[16:] != said[:16]


def test_the_command_prints_one_line_per_text(saved: Callable[[str], Path], capsys: pytest.CaptureFixture[str]):
    folder = str(saved("T5"))
    assert main(["generate", folder, TASK, "The house", "--longest", "5", "--beam", "2"]) == 0
    expected = generate(folder, [TASK, "The house"], longest=5, beam=2)
    assert capsys.readouterr().out.splitlines() == [written.text for written in expected]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["T5", ""], "the text is empty"),
        (["T5", " \n"], "the text is empty"),
        (["T5"], "nothing is given"),
        (["T5", "x", "--beam", "0"], "beam must be at least 1, got 0"),
        (["T5", "x", "--longest", "0"], "longest must be at least 1"),
        (["T5", "x", "--temperature", "0"], "temperature must be above 0"),
        (["T5", "x", "--top-p", "1.5"], "top_p is a probability"),
        (["T5", "x", "--beam", "2", "--top-k", "3"], "give one of the two"),
        (["GPT2", "The house", "--longest", "39"], "a prompt of 2 and 39 more tokens are longer than .* 40 positions"),
        (["Bart", "The house", "--longest", "41"], "41 more tokens are longer than .* 40 positions"),
        (["Bart", "The house " * 30, "--longest", "3"], "a text of .* tokens is longer than .* 40 positions"),
        (["T5", "x", "--device", "gpu"], "no device 'gpu' here"),
        (["T5", "x", "--dtype", "half"], "dtype must be one of auto, float32"),
        (["Bert", "The house"], "no decoder with a head"),
        (["T5", "x", "--ablate", "runs/x"], "RUN:NUMBER"),
        (["T5", "x", "--ablate", "no-such-run:3"], "no-such-run"),
        (["T5", "x", "--steer", "runs/x:3"], "RUN:NUMBER=VALUE"),
        (["T5", "x", "--steer", "no-such-run:3=4"], "no-such-run"),
        (["T5", "x", "--steer", "runs/x:3=4", "--ablate", "runs/x:3"], "give one of the two"),
    ],
)
def test_mistakes_end_with_code_2_and_the_reason(
    saved: Callable[[str], Path], capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
):
    family, *rest = arguments
    assert main(["generate", str(saved(family)), *rest]) == 2
    message = capsys.readouterr().err
    assert pytest.importorskip("re").search(said, " ".join(message.split())), message


def test_a_folder_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]):
    assert main(["generate", "./no-such-folder", "The house"]) == 2
    assert "there is no folder './no-such-folder'" in capsys.readouterr().err


def test_tokens_add_up_to_the_text_even_within_a_character():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = {symbol: number for number, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    texts = token_texts(made, made.encode("né").ids)
    assert texts[0] == "n" and texts[-1] == "é" and len(texts) == 3
