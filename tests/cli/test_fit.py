"""gossamer fit, select and denoise as a person meets them: files in, a run with pictures out, and its uses."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import gossamer as gs
from gossamer.cli.main import main
from gossamer.sources.assets import MissingAsset, locate
from gossamer.sources.datasets import dataset

matplotlib = pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")
sklearn_datasets = pytest.importorskip("sklearn.datasets")
PHOTOGRAPH = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Return the exit code and all that was printed, with line breaks taken out."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, re.sub(r"[\s│]+", " ", captured.out + captured.err)


def pictures(run: Path) -> list[str]:
    """Return the names of the pictures in a run's report."""
    page = (run / "report.html").read_text()
    return re.findall(r'<img src="data:image/png;base64,[^"]{1000,}" alt="(\w+):', page)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a photograph in gray, its middle in a file of its own and with noise, and a run on patches."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "all").mkdir()
    with Image.open(PHOTOGRAPH) as picture:
        gray = np.asarray(picture.convert("L"))
    Image.fromarray(gray).save(folder / "all" / "whole.png")
    middle = gray[100:228, 150:278]
    Image.fromarray(middle).save(folder / "middle.png")
    noisy = middle + np.random.default_rng(0).normal(0, 20, middle.shape)
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / "noisy.png")
    arguments = ("fit", "images", folder / "all", "--size", 8, "--latents", 96, "--l0", 4, "--rows", 60_000)
    assert main([*map(str, arguments), "-o", str(folder / "run")]) == 0
    return folder


def test_pictures_are_fitted_and_shown(photographs: Path):
    run = photographs / "run"
    assert pictures(run) == ["Directions", "Reconstructions"]
    figures = json.loads((run / "evaluation.json").read_text())
    assert gs.load(run).spec.input_width == 64
    assert "fvu" in json.dumps(figures).lower()


def test_a_picture_goes_through_the_codec(photographs: Path, capsys: pytest.CaptureFixture[str]):
    small, back = photographs / "middle.gsm", photographs / "back.png"
    model = ("--model", photographs / "run")
    code, text = said(capsys, "compress", photographs / "middle.png", *model, "--ratio", 8, "-o", small)
    assert code == 0, text
    assert 128 * 128 / small.stat().st_size == pytest.approx(8, rel=0.05)
    assert said(capsys, "decompress", small, *model, "-o", back)[0] == 0
    before, after = (np.asarray(Image.open(photographs / name)).astype(float) for name in ("middle.png", "back.png"))
    assert 10 * np.log10(255**2 / np.square(before - after).mean()) > 25
    assert said(capsys, "compress", photographs / "middle.png", *model, "--residual", "-o", small)[0] == 0
    assert said(capsys, "decompress", small, *model, "-o", back)[0] == 0
    assert np.array_equal(np.asarray(Image.open(back)), np.asarray(Image.open(photographs / "middle.png")))


def test_noise_is_taken_away(photographs: Path, capsys: pytest.CaptureFixture[str]):
    out = photographs / "clean.png"
    code, text = said(capsys, "denoise", photographs / "noisy.png", "--model", photographs / "run", "-o", out)
    assert code == 0, text
    clean, noisy, true = (
        np.asarray(Image.open(photographs / name)).astype(float) for name in ("clean.png", "noisy.png", "middle.png")
    )
    assert np.square(clean - true).mean() < 0.4 * np.square(noisy - true).mean()


def test_a_sound_goes_the_same_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    try:
        files = sorted(dataset("speech").rglob("*.wav"), key=lambda file: file.stat().st_size)[-4:]
    except MissingAsset as missing:
        pytest.skip(str(missing))
    run = tmp_path / "run"
    code, text = said(capsys, "fit", "signals", *files, "-o", run, "--rows", 20_000, "--latents", 128, "--size", 64)
    assert code == 0, text
    assert pictures(run) == ["Directions", "Reconstructions"]
    from scipy.io import wavfile

    rate, before = wavfile.read(files[0])
    for options, exact in ((("--snr", 8), False), (("--residual",), True)):
        assert said(capsys, "compress", files[0], "--model", run, *options, "-o", tmp_path / "x.gsm")[0] == 0
        assert said(capsys, "decompress", tmp_path / "x.gsm", "--model", run, "-o", tmp_path / "x.wav")[0] == 0
        again, after = wavfile.read(tmp_path / "x.wav")
        assert again == rate
        assert np.array_equal(before, after) is exact
    assert said(capsys, "denoise", files[0], "--model", run, "-o", tmp_path / "clean.wav")[0] == 0
    assert wavfile.read(tmp_path / "clean.wav")[1].shape == before.shape
    np.save(tmp_path / "bare.npy", before.astype(np.float32))
    bare = ("fit", "signals", tmp_path / "bare.npy", "--rows", 2_000, "--latents", 32, "--l0", 4)
    for name, options, unknown in (("without", (), True), ("with", ("--rate", 8000), False)):
        assert said(capsys, *bare, *options, "-o", tmp_path / name)[0] == 0
        assert ("sampling rate is not known" in (tmp_path / name / "report.html").read_text()) is unknown
    wavfile.write(tmp_path / "fast.wav", 44_100, before)
    out = ("-o", tmp_path / "fast-clean.wav")
    assert said(capsys, "denoise", tmp_path / "fast.wav", "--model", tmp_path / "with", *out)[0] == 2
    both = ("fit", "signals", files[0], tmp_path / "fast.wav", "--rows", 2_000, "--latents", 32, "--l0", 4)
    assert said(capsys, *both, "-o", tmp_path / "mixed")[0] == 2
    assert said(capsys, *both, "--rate", 8000, "-o", tmp_path / "mixed")[0] == 0
    code, text = said(capsys, "compress", PHOTOGRAPH, "--model", run, "--ratio", 4, "-o", tmp_path / "y.gsm")
    assert code == 2
    assert "is a picture, and the run was trained on sounds" in text


def test_words_are_fitted_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    try:
        locate("sae_probes", ".")
    except MissingAsset as missing:
        pytest.skip(str(missing))
    run = tmp_path / "run"
    code, text = said(
        capsys, "fit", "text", "asset:161_agnews_0", "-o", run, "--rows", 5_000, "--latents", 64, "--l0", 8
    )
    assert code == 0, text
    assert pictures(run) == ["Directions"]
    from gossamer.sources.documents import Vocabulary

    vocabulary = Vocabulary.load(run / "vocabulary.json")
    row = vocabulary.rows(["the team won the match again"]).toarray()
    assert gs.load(run).encode(torch.from_numpy(row).float()).l0 == 8


def test_a_table_is_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    wine = sklearn_datasets.load_wine()
    with open(tmp_path / "wine.csv", "w", newline="") as file:
        csv.writer(file).writerows([wine.feature_names, *wine.data.tolist()])
    run = tmp_path / "run"
    code, text = said(
        capsys, "fit", "table", tmp_path / "wine.csv", "-o", run, "--rows", 5_000, "--latents", 32, "--l0", 4
    )
    assert code == 0, text
    assert pictures(run) == ["Directions"]
    assert json.loads((run / "columns.json").read_text())


def test_strengths_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    np.save(tmp_path / "digits.npy", sklearn_datasets.load_digits().data.astype(np.float32)[:600])
    code, text = said(
        capsys, "select", tmp_path / "digits.npy", "--sparsity", "topk", "l1", "--latents", 32, "--folds", 2,
        "--epochs", 4, "-o", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, text
    with open(tmp_path / "out" / "path.csv") as file:
        lines = list(csv.DictReader(file))
    assert {line["sparsity"] for line in lines} == {"topk", "l1"}
    assert sum(line["chosen"] == "True" for line in lines) == 2
    chosen = next(line for line in lines if line["chosen"] == "True" and line["sparsity"] == "topk")
    assert f"topk: l0 = {float(chosen['value']):g}" in text
    assert (tmp_path / "out" / "path.png").stat().st_size > 10_000


def test_mistakes_cost_a_sentence(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    np.save(tmp_path / "complex.npy", np.zeros((9, 4), complex))
    for arguments, sentence in [
        (("fit", "images", tmp_path / "nowhere", "-o", tmp_path / "a"), "nowhere"),
        (("fit", "table", "x.csv", "--size", 3, "-o", tmp_path / "a"), "size is for images and signals"),
        (("fit", "text", "x.txt", "--rate", 3, "-o", tmp_path / "a"), "rate is for signals"),
        (("fit", "images", photographs / "all", "-o", photographs / "run"), "already holds a run"),
        (("fit", "images", photographs / "all", "--preset", "topq", "-o", tmp_path / "a"), "topk"),
        (("denoise", tmp_path / "none.png", "--model", photographs / "run", "-o", tmp_path / "b.png"), "none.png"),
        (("denoise", photographs / "noisy.png", "--model", tmp_path, "-o", tmp_path / "b.png"), "run"),
        (("denoise", photographs / "noisy.png", "--model", photographs / "run", "-o", tmp_path / "b.mp3"), "b.mp3"),
        (("select", tmp_path / "none.npy"), "none.npy"),
        (("select", tmp_path / "complex.npy"), "complex.npy: expected real numbers"),
        (("fit", "images", photographs / "middle.png", "-o", tmp_path / "a"), "none can be held out"),
        (("fit", "images", photographs / "middle.png", "-o", tmp_path / "a", "--dry-run"), "none can be held out"),
        (("eval", photographs / "run", "--rows", 0), "rows must be at least 1"),
        (("eval", photographs / "run", "--rows", -5), "rows must be at least 1"),
        (("select", photographs / "middle.png"), "middle.png"),
    ]:
        code, text = said(capsys, *arguments)
        assert code == 2, (arguments, text)
        assert sentence in text, (arguments, text)
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b.png").exists()
