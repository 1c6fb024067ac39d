"""A comparison of all methods on digits: equal parameters, equal seconds, an order that makes sense, and going on."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gossamer as gs
from gossamer.cli.main import main
from gossamer.compare.data import Classes
from gossamer.compare.figures import Figures
from gossamer.compare.methods import Plain
from gossamer.compare.recipe import SLACK, Comparison
from gossamer.compare.run import compare
from gossamer.sources.arrays import ArraysSpec
from gossamer.training.interrupt import Interrupted

pytest.importorskip("matplotlib")
pytest.importorskip("constriction")


@pytest.fixture(scope="module")
def run(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, list[Figures]]:
    """All methods, once."""
    comparison = Comparison.from_dict(settings | {"out": str(tmp_path_factory.mktemp("compare") / "out")})
    return comparison, compare(comparison)


@pytest.fixture(scope="module")
def at_seconds(run: tuple[Comparison, list[Figures]]) -> dict[str, Figures]:
    return {one.kind: one for one in run[1] if one.at == "seconds"}


def test_all_are_measured_twice(run: tuple[Comparison, list[Figures]]):
    comparison, figures = run
    assert [(one.at, one.kind) for one in figures] == [
        (at, method.kind) for at in ("rows", "seconds") for method in comparison.method
    ]
    for one in figures:
        assert 0 < one.fvu < (2 if one.kind == "transformer" else 1), one.title  # a second is too short for it
        assert one.encode_microseconds > 0 < one.memory, one.title
        assert one.parameters == pytest.approx(2 * 64 * 64 + 128, rel=SLACK) or one.kind == "pca", one.title


def test_rows_are_equal_and_then_seconds(run: tuple[Comparison, list[Figures]]):
    comparison, figures = run
    for one in figures:
        if one.kind == "pca":
            continue
        if one.at == "rows":
            assert 0 <= one.rows - comparison.rows < comparison.batch, one.title
        else:
            assert 0.5 * comparison.seconds < one.seconds < 2 * comparison.seconds, one.title


def test_codes_have_as_many_numbers_as_was_asked_for(at_seconds: dict[str, Figures]):
    for kind in ("pca", "plain", "topk", "dictionary-learning", "transformer"):
        assert at_seconds[kind].l0 == pytest.approx(6, abs=0.1), kind
    assert at_seconds["l1"].l0 == pytest.approx(6, rel=0.35)
    assert at_seconds["l2"].l0 > 15, "L2 makes nothing exactly zero"


def test_the_order_is_that_of_the_literature(at_seconds: dict[str, Figures]):
    """Codes that may choose among many directions beat as many fixed ones, and classes are easier to tell from them."""
    fvu = {kind: one.fvu for kind, one in at_seconds.items()}
    assert fvu["topk"] < fvu["pca"]
    assert fvu["dictionary-learning"] < fvu["topk"]
    assert at_seconds["topk"].probe > at_seconds["pca"].probe > 0.7
    assert at_seconds["dictionary-learning"].encode_microseconds > 5 * at_seconds["topk"].encode_microseconds
    assert at_seconds["l2"].bits > 1.3 * at_seconds["topk"].bits


def test_what_is_written_can_be_read_again(run: tuple[Comparison, list[Figures]]):
    comparison, figures = run
    folder = Path(comparison.out)
    assert Comparison.read(folder / "compare.toml") == comparison
    text = (folder / "compare.md").read_text()
    assert all(f"{one.fvu:.4f}" in text for one in figures)
    assert len((folder / "compare.csv").read_text().splitlines()) == 1 + len(figures)
    page = (folder / "compare.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page.replace("http-equiv", "")
    for name in ("bits", "costs"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    sae = gs.load(folder / "methods" / "seconds-sparse-topk")
    source = comparison.source.build()
    assert gs.measure(sae, source, rows=400).reconstruction.fvu == pytest.approx(
        next(one.fvu for one in figures if (one.at, one.kind) == ("seconds", "topk")), rel=1e-4
    )


def test_a_rerun_trains_nothing_and_says_the_same(run: tuple[Comparison, list[Figures]], monkeypatch: Any):
    comparison, figures = run
    monkeypatch.setattr("gossamer.compare.run._one", lambda *_: pytest.fail("trained again"))
    assert compare(comparison) == figures


def test_other_rows_in_the_same_folder_are_refused(comparison: Comparison, tmp_path: Path):
    rows, classes = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32), np.arange(600) % 2 * 2 - 1
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "y.npy", classes)
    (pca,) = (method for method in comparison.method if method.kind == "pca")
    few = comparison.replace(
        source=ArraysSpec(path=str(tmp_path / "x.npy"), validation=0.3),
        labels=Classes(path=str(tmp_path / "y.npy")),
        method=(pca,),
        latents=4,
        l0=2,
        rows=256,
        held_out=100,
        seconds=0.05,
        out=str(tmp_path / "out"),
    )
    found = compare(few)
    assert compare(few) == found
    np.save(tmp_path / "x.npy", rows + 1)
    with pytest.raises(ValueError, match="holds a comparison on other rows or labels"):
        compare(few)
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "y.npy", -classes)
    with pytest.raises(ValueError, match="holds a comparison on other rows or labels"):
        compare(few)
    np.savez(tmp_path / "y.npz", classes)
    with pytest.raises(ValueError, match="holds several arrays"):
        compare(few.replace(labels=Classes(path=str(tmp_path / "y.npz")), out=str(tmp_path / "other")))


def test_other_settings_in_the_same_folder_are_refused(run: tuple[Comparison, list[Figures]]):
    comparison, _ = run
    with pytest.raises(ValueError, match=r"other settings.*\n.*latents: saved 64, given 65"):
        compare(comparison.replace(latents=65))


def test_what_was_finished_before_a_stop_is_kept(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    few = comparison.replace(
        method=tuple(m for m in comparison.method if m.kind in ("pca", "plain")), rows=256, seconds=0.05, labels=None
    )

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Plain, "fit", stop)
        with pytest.raises(Interrupted, match="1 of 4 trainings are finished and kept"):
            compare(few)
    before = (Path(few.out) / "methods" / "rows-pca.json").read_bytes()
    found = compare(few)
    assert [one.kind for one in found] == ["pca", "plain"] * 2
    assert all(one.probe is None for one in found)
    assert (Path(few.out) / "methods" / "rows-pca.json").read_bytes() == before
    assert math.isfinite(json.loads(before)["fvu"])
    assert "Equal parameters, equal training time" in capsys.readouterr().out


def test_a_folder_that_holds_something_else_is_left_alone(comparison: Comparison):
    folder = Path(comparison.out)
    folder.mkdir()
    (folder / "thesis.txt").write_text("words")
    with pytest.raises(ValueError, match="is not empty and holds no comparison"):
        compare(comparison)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_from_the_command_line(comparison: Comparison, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe = tmp_path / "compare-digits.toml"
    recipe.write_text(comparison.to_toml())
    assert main(["compare", str(recipe), "-o", str(tmp_path / "other"), "--l0", "5", "--dry-run"]) == 0
    assert "5 components" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    assert main(["compare", str(tmp_path / "none.toml")]) == 2
