"""The command line as a person meets it: what it prints, what it returns, and what a mistake costs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gossamer.cli.main import main

RECIPE = """
out = "{out}"
[[preset]]
name = "topk"
latents = 128
l0 = 4
[source]
kind = "arrays"
path = "{path}"
[train]
rows = {rows}
batch = 128
checkpoint_every = 5
log_every = 5
"""


@pytest.fixture
def recipe(tmp_path) -> Path:
    """A small run on plain rows."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", (rng.standard_normal((2000, 24)) @ rng.standard_normal((24, 24))).astype(np.float32))
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(out=tmp_path / "run", path=tmp_path / "x.npy", rows=2560))
    return path


def said(capsys, *arguments: object) -> tuple[int, str]:
    """Run the command line in this process; return its exit code and all it printed, with line breaks taken out."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, re.sub(r"[\s│]+", " ", captured.out + captured.err)


def test_help_names_the_verbs_and_needs_no_torch():
    code = (
        "import sys; from gossamer.cli.main import main; code = main(['--help']);"
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules), 'a heavy import'; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for verb in ("train", "eval", "report", "doctor"):
        assert verb in done.stdout


def test_importing_gossamer_imports_nothing_heavy():
    code = "import sys, gossamer; assert not {'torch', 'numpy', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version(capsys):
    assert said(capsys, "--version")[1].startswith("gossamer 0.")


def test_train_eval_and_report_leave_a_complete_folder(recipe, tmp_path, capsys):
    code, text = said(capsys, "train", recipe)
    assert code == 0
    assert "24 → 128 latents" in text
    out = tmp_path / "run"
    code, text = said(capsys, "eval", out)
    assert code == 0
    assert "FVU" in text
    figures = json.loads((out / "evaluation.json").read_text())
    assert 0 < figures[0]["fvu"] < 1
    assert figures[0]["rows"] == 100
    assert said(capsys, "report", out, "--features", "7")[0] == 0
    page = (out / "report.html").read_text()
    assert page.count('id="latent-') == 7
    assert f"{figures[0]['fvu']:.4f}" in page


def test_flags_override_the_recipe(recipe, tmp_path, capsys):
    flags = ("--latents", 64, "--l0", 3, "--rows", 1280, "--out", tmp_path / "other", "--seed", 5, "--device", "cpu")
    assert said(capsys, "train", recipe, *flags)[0] == 0
    text = (tmp_path / "other" / "run.toml").read_text()
    for line in ("latents = 64", "k = 3", "rows = 1280", "seed = 5", 'device = "cpu"'):
        assert line in text
    assert not (tmp_path / "run").exists()


def test_dry_run_prints_the_plan_and_writes_nothing(recipe, tmp_path, capsys):
    code, text = said(capsys, "train", recipe, "--dry-run")
    assert code == 0
    assert "2,560 in 20 steps of 128" in text
    assert not (tmp_path / "run").exists()


def test_doctor_says_what_is_there(capsys):
    code, text = said(capsys, "doctor")
    assert code == 0
    for word in ("torch", "kernels", "bfloat16", "extra hf", "extra report", "asset"):
        assert word in text


def test_doctor_names_the_command_for_what_is_missing(capsys, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "jinja2" else find(name, *rest)
    )
    assert 'pip install "gossamer[report]"' in said(capsys, "doctor")[1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "topk"', 'name = "topkk"', r"unknown preset 'topkk'; did you mean 'topk'"),
        ("latents = 128", "latent = 128", r"unknown field 'latent'; did you mean 'latents'"),
        ("latents = 128", "latents = 3", r"l0 = 4 .* more than the 3 latents"),
        ("latents = 128", 'latents = "many"', r"latents: expected int, got 'many'"),
        ("l0 = 4", "l1 = 0.1", r"takes no 'l1'; did you mean 'l0'"),
        ('kind = "arrays"', 'kind = "array"', r"kind is unknown: 'array'; did you mean 'arrays'"),
        ("x.npy", "y.npy", r"y\.npy does not exist"),
        ("batch = 128", "batch = 100000", r"less than one batch"),
        ("batch = 128", 'device = "tpu"', r"no device 'tpu'"),
        ("[train]", "[trian]", r"unknown field 'trian'; did you mean 'train'"),
        ("[train]", "[train", r"recipe\.toml: "),
    ],
)
def test_a_mistake_in_the_recipe_is_named_exits_2_and_leaves_nothing(recipe, tmp_path, capsys, old, new, message):
    recipe.write_text(recipe.read_text().replace(old, new))
    code, text = said(capsys, "train", recipe)
    assert code == 2
    assert re.search(message, text), text
    assert "Traceback" not in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], r"either a recipe or --resume"),
        (["train", "no-such.toml"], r"no recipe no-such\.toml"),
        (["train", "RECIPE", "--latent", "3"], r"--latents"),
        (["train", "RECIPE", "--rows", "many"], r"many"),
        (["train", "--resume", "nowhere"], r"run\.toml does not exist; is nowhere the folder of a run"),
        (["train", "--resume", "nowhere", "--rows", "5"], r"leave out --rows"),
        (["trian", "RECIPE"], r"train"),
        (["eval", "nowhere"], r"nowhere the folder of a run"),
        (["report", "nowhere"], r"nowhere the folder of a run"),
    ],
)
def test_a_wrong_command_is_named_and_exits_2(recipe, capsys, arguments, message):
    code, text = said(capsys, *(str(recipe) if argument == "RECIPE" else argument for argument in arguments))
    assert code == 2
    assert re.search(message, text), text
    assert "Traceback" not in text


def test_a_folder_that_holds_a_run_is_refused_before_the_source_is_read(recipe, tmp_path, capsys):
    assert said(capsys, "train", recipe)[0] == 0
    (tmp_path / "x.npy").unlink()
    code, text = said(capsys, "train", recipe)
    assert code == 2
    assert "already holds a run" in text


def test_a_truncated_array_is_named(recipe, tmp_path, capsys):
    path = tmp_path / "x.npy"
    path.write_bytes(path.read_bytes()[:200])
    code, text = said(capsys, "train", recipe)
    assert code == 2
    assert "x.npy is damaged" in text


def test_the_run_of_an_unfinished_folder_says_how_to_go_on(recipe, tmp_path, capsys):
    assert said(capsys, "train", recipe)[0] == 0
    shutil.rmtree(tmp_path / "run" / "sae")
    code, text = said(capsys, "eval", tmp_path / "run")
    assert code == 2
    assert f"gossamer train --resume {tmp_path / 'run'}" in text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_says_how_to_go_on_and_going_on_finishes(recipe, tmp_path, number, code):
    recipe.write_text(recipe.read_text().replace("rows = 2560", "rows = 2_000_000"))
    command = [sys.executable, "-m", "gossamer.cli.main", "train"]
    process = subprocess.Popen([*command, str(recipe)], stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code
    assert f"gossamer train --resume {tmp_path / 'run'}" in errors
    assert "Traceback" not in errors
    step = int(re.search(r"saved at step ([\d,]+)", errors)[1].replace(",", ""))
    saved = tmp_path / "run" / "checkpoints" / f"step-{step:08d}"
    assert saved.is_dir()


def test_a_full_disk_is_named_exits_1_and_leaves_the_last_good_checkpoint(recipe, tmp_path):
    recipe.write_text(recipe.read_text().replace("rows = 2560", "rows = 256_000"))
    limited = (
        "import resource, signal, sys, pathlib, gossamer.training.checkpoint as c\n"
        "from gossamer.cli.main import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "write = c.write\n"
        "def fill(folder, checkpoint):\n"
        "    if checkpoint.step == 15: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "    return write(folder, checkpoint)\n"
        "c.write = fill\n"
        f"sys.exit(main(['train', {str(recipe)!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert "cannot write" in done.stderr
    assert "Free space" in done.stderr
    assert "Traceback" not in done.stderr
    places = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert places == ["step-00000005", "step-00000010"]
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0


def test_errors_show_their_traceback_on_request(recipe, monkeypatch):
    monkeypatch.setitem(os.environ, "GOSSAMER_TRACEBACK", "1")
    with pytest.raises(ValueError, match="does not exist"):
        main(["train", "--resume", "nowhere"])
