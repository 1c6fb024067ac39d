"""Train one of Gossamer's presets with `gs.train`, L0 asked for as such and the learning rate derived, and score it.

The order of the rows is its own. The number of steps is that of the others: rows beyond the last full batch of an
epoch count as dropped.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import gossamer as gs

sys.path.append(str(Path(__file__).resolve().parents[1]))
from matched import MatchedTask
from score import score
from task import Clock, Result


def main() -> None:
    task = MatchedTask.from_arguments()
    rows, validation = task.load()
    spec = gs.preset(task.architecture, input_width=rows.shape[1], latents=task.latents, l0=task.l0)
    how = gs.TrainSpec(
        rows=task.steps(len(rows)) * task.batch,
        batch=task.batch,
        seed=task.seed,
        learning_rate=task.learning_rate,
        device="cpu",
    )
    clock = Clock()
    register_optimizer_step_post_hook(lambda *_: clock.tick())
    sae = spec.build(seed=task.seed)
    with tempfile.TemporaryDirectory() as folder:
        gs.train(sae, gs.Arrays(np.array(rows), validation=0.0), how, out=Path(folder) / "run")
        log = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    seconds = clock.total
    gs.save(sae, task.weights / "sae")

    @torch.no_grad()
    def reconstruct(given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        codes = sae.encode(torch.from_numpy(given))
        return sae.decode(codes).numpy(), codes.to_dense().numpy() > 0

    Result(
        score=score(validation, reconstruct, latents=task.latents),
        learning_rate=max(line["learning_rate"] for line in log),
        steps=log[-1]["step"],
        final_loss=log[-1]["loss"],
        seconds_per_step=clock.per_step,
        seconds=seconds,
        versions={"gossamer": gs.__version__, "torch": torch.__version__},
    ).write(task.output)


if __name__ == "__main__":
    main()
