"""eai-sparsify's training step, encoding and memory; run by `benchmarks.speed`, see `worker`.

Its `Trainer` keeps its step inside one loop over a language model's tokens. Here its `SparseCoder` makes the same
calls in the same order, without the language model, token masks and copies of activations around them: bias from the
first batch, decoder rows to norm 1, forward, its FVU as the loss, backward, gradient without its part along the
decoder rows, Adam, schedule, and the count of tokens since each latent fired.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from worker import STEPS, Library, Setup, claim_output, main

ANSWERS = claim_output()

import torch  # noqa: E402
from sparsify import SparseCoder, SparseCoderConfig  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers import get_linear_schedule_with_warmup  # noqa: E402


class Sparsify(Library):
    """`SparseCoder` with Adam, trained as its `Trainer` does."""

    def __init__(self, setup: Setup, rows: Tensor) -> None:
        setup.require("topk")
        self.versions = {"eai-sparsify": version("eai-sparsify")}
        torch.set_float32_matmul_precision("high")  # its Trainer does
        config = SparseCoderConfig(num_latents=setup.latents, k=setup.k)
        self.model = SparseCoder(setup.width, config, device=setup.device, dtype=torch.float32)
        self.model.b_dec.data = rows[: setup.batch].mean(0)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=setup.rate)
        self.schedule = get_linear_schedule_with_warmup(self.optimizer, 0, STEPS)
        self.since_fired = torch.zeros(setup.latents, dtype=torch.long, device=setup.device)
        self.fired = torch.zeros(setup.latents, dtype=torch.bool, device=setup.device)

    def step(self, x: Tensor) -> float:
        self.model.set_decoder_norm_to_unit_norm()
        out = self.model(x=x, y=x, dead_mask=None, total_variance=(x - x.mean(0)).pow(2).sum())
        self.fired[out.latent_indices.flatten()] = True
        loss = float(out.fvu.detach())
        out.fvu.backward()
        self.model.remove_gradient_parallel_to_decoder_directions()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.since_fired += len(x)
        self.since_fired[self.fired] = 0
        self.fired.zero_()
        return loss

    def encode(self, x: Tensor) -> object:
        return self.model.encode(x)

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.model.encode(x)
        on = torch.zeros(len(x), self.model.num_latents, dtype=torch.bool, device=x.device)
        on.scatter_(1, codes.top_indices, codes.top_acts > 0)
        return self.model.decode(codes.top_acts, codes.top_indices), on


if __name__ == "__main__":
    main(ANSWERS, Sparsify)
