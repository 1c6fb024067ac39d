"""What a whole `gs.train` costs beyond its isolated training steps: logging, bookkeeping and feeding rows."""

from __future__ import annotations

import tempfile
import time

import torch

import gossamer as gs
from benchmarks import inputs
from benchmarks.contest import How, Setting
from benchmarks.timings import Overhead
from gossamer.autoencoder.initialise import start_from_data
from gossamer.training.metrics import read_metrics
from gossamer.training.spec import derive
from gossamer.training.trainee import Trainee

STEPS = 60
FROM = 20
"""Step from which on a run is timed: what comes before allocates and warms up."""
ROWS = 131_072


def measure(setting: Setting, how: How) -> Overhead:
    """Train and take isolated steps in turn, in this process."""
    rows = torch.from_numpy(inputs.synthetic(max(ROWS, 2 * setting.batch), setting.width))
    spec = gs.preset("topk", input_width=setting.width, latents=setting.latents, l0=setting.k)
    train = gs.TrainSpec(
        rows=STEPS * setting.batch,
        batch=setting.batch,
        seed=how.seed,
        dead_after=10 * STEPS * setting.batch,  # so that reviving dead latents is in neither
        log_every=FROM,
        device=how.device,
    )
    whole, isolated = [], []
    for number in range(how.rounds):
        isolated.append(_isolated(spec, train, rows))
        whole.append(_whole(spec, train, rows))
        print(
            f"  {setting}: round {number + 1}, run {whole[-1]:.1f} ms/step, isolated {isolated[-1]:.1f} ms", flush=True
        )
    about = {"versions": {"gossamer": gs.__version__}, "torch": torch.__version__, "threads": torch.get_num_threads()}
    return Overhead(whole=whole, isolated=isolated, about=about)


def _whole(spec: gs.AutoencoderSpec, train: gs.TrainSpec, rows: torch.Tensor) -> float:
    with tempfile.TemporaryDirectory() as folder:
        gs.train(spec.build(seed=0), gs.Arrays(rows, validation=0.0), train, out=f"{folder}/run", quiet=True)
        log = {line["step"]: line["seconds"] for line in read_metrics(f"{folder}/run")}
    return 1000 * (log[STEPS] - log[FROM]) / (STEPS - FROM)


def _isolated(spec: gs.AutoencoderSpec, train: gs.TrainSpec, rows: torch.Tensor) -> float:
    """Time the steps that the run is timed over, on batches that are there already."""
    batches = rows.to(train.device).split(train.batch)
    sae = spec.build(seed=0).to(train.device)
    start_from_data(sae, batches[0])
    trainee = Trainee(sae, spec.task.bind(None), train, derive(train, spec))
    start = 0.0
    for step in range(STEPS):
        if step == FROM:
            _wait(train.device)
            start = time.perf_counter()
        trainee.step({"": batches[step % (len(rows) // train.batch)]}, step)
    _wait(train.device)
    return 1000 * (time.perf_counter() - start) / (STEPS - FROM)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
