"""gossamer compress and gossamer decompress as a person meets them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from sklearn.datasets import load_digits

import gossamer as gs
from gossamer.cli.main import main


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with digits in x.npy and, in model, an autoencoder that has hardly seen them."""
    folder = tmp_path_factory.mktemp("compress")
    digits = load_digits().data.astype(np.uint8)
    np.save(folder / "x.npy", digits)
    sae = gs.preset("topk", input_width=64, latents=128, l0=6).build(seed=0)
    source = gs.Arrays(digits.astype(np.float32))
    gs.train(sae, source, gs.TrainSpec(rows=3000, batch=256), out=folder / "model")
    return folder


def said(capsys, *arguments: object) -> tuple[int, str]:
    """Return the exit code and all that was printed, with line breaks taken out."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, re.sub(r"[\s│]+", " ", captured.out + captured.err)


def test_rows_go_into_a_file_and_come_back(place, capsys):
    small, back = place / "x.gsm", place / "back.npy"
    code, text = said(capsys, "compress", place / "x.npy", "-o", small, "--model", place / "model", "--ratio", 20)
    assert code == 0 and "1,797 rows × 64" in text and "PSNR" in text
    assert (place / "x.npy").stat().st_size / small.stat().st_size == pytest.approx(20, rel=0.05)
    code, text = said(capsys, "decompress", small, "-o", back, "--model", place / "model")
    assert code == 0 and "1,797 rows × 64 of uint8" in text
    rows = np.load(back)
    assert rows.shape == (1797, 64) and rows.dtype == np.uint8


def test_a_residual_gives_the_file_back_byte_for_byte(place, capsys):
    small, back = place / "y.gsm", place / "same.npy"
    code, text = said(capsys, "compress", place / "x.npy", "-o", small, "--model", place / "model", "--residual")
    assert code == 0 and "lossless" in text
    assert said(capsys, "decompress", small, "-o", back, "--model", place / "model" / "sae")[0] == 0
    assert back.read_bytes() == (place / "x.npy").read_bytes()


def test_mistakes_cost_a_sentence(place, capsys):
    model, out = place / "model", place / "z.gsm"
    (place / "text.npy").write_text("no array")
    np.save(place / "wide.npy", np.zeros((3, 65), np.uint8))
    np.save(place / "half.npy", np.zeros((3, 64), np.float32))
    for arguments, sentence in [
        (("compress", place / "x.npy", "-o", out, "--model", model), "one of step"),
        (("compress", place / "absent.npy", "-o", out, "--model", model, "--ratio", 5), "absent.npy"),
        (("compress", place / "text.npy", "-o", out, "--model", model, "--ratio", 5), "damaged or no .npy array"),
        (("compress", place / "wide.npy", "-o", out, "--model", model, "--ratio", 5), "width 64"),
        (("compress", place / "x.npy", "-o", out, "--model", place, "--ratio", 5), "run.toml"),
        (("compress", place / "x.npy", "-o", place / "x.npy", "--model", model, "--ratio", 5), "is the input"),
        (("compress", place / "x.npy", "-o", out, "--model", model, "--psnr", 90), "residual=True"),
        (("decompress", place / "x.npy", "-o", place / "o.npy", "--model", model), "no .gsm file"),
        (("compress", place / "half.npy", "-o", out, "--model", model, "--max-error", 0), "floats need one above 0"),
    ]:
        code, text = said(capsys, *arguments)
        assert code == 2 and sentence in text, text
        assert not out.exists()


def test_rows_are_not_written_as_something_else_or_over_their_source(place, capsys):
    small, model = place / "kept.gsm", ("--model", place / "model")
    said(capsys, "compress", place / "x.npy", "-o", small, *model, "--step", 9)
    before = small.read_bytes()
    for out, sentence in ((place / "back.png", "holds rows; give a name that ends in .npy"), (small, "is the input")):
        code, text = said(capsys, "decompress", small, "-o", out, *model)
        assert code == 2 and sentence in text, text
    assert small.read_bytes() == before and not (place / "back.png").exists()


def test_a_damaged_file_writes_nothing(place, capsys):
    small, back = place / "bad.gsm", place / "nothing.npy"
    said(capsys, "compress", place / "x.npy", "-o", small, "--model", place / "model", "--step", 9)
    data = bytearray(small.read_bytes())
    data[len(data) * 3 // 4] ^= 4
    small.write_bytes(data)
    code, text = said(capsys, "decompress", small, "-o", back, "--model", place / "model")
    assert code == 2 and "checksum" in text and "bad.gsm" in text
    assert not back.exists()
