"""overcomplete's training step, encoding and memory; run by `benchmarks.speed`, see `worker`.

The step is its `train_sae` over one batch, with the mean squared error that its documentation shows, gradient clipping
at its default of 1, and monitoring off.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from absent import stand_in_for, without_init
from worker import Library, Setup, claim_output, main

ANSWERS = claim_output()

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

stand_in_for("PIL", "scipy", "sklearn")  # for images, and methods that are not autoencoders
without_init("overcomplete")  # it imports what plots and loads vision models

from overcomplete.sae import TopKSAE, train_sae  # noqa: E402


def criterion(x: Tensor, x_hat: Tensor, pre_codes: Tensor, codes: Tensor, dictionary: Tensor) -> Tensor:
    """Give the mean squared error; the library leaves the loss to its user."""
    return torch.nn.functional.mse_loss(x_hat, x)


class Overcomplete(Library):
    """`TopKSAE` with its default linear encoder and Adam."""

    def __init__(self, setup: Setup, rows: Tensor) -> None:
        setup.require("topk")
        self.versions = {"overcomplete": version("overcomplete")}
        self.device = setup.device
        self.model = TopKSAE(setup.width, nb_concepts=setup.latents, top_k=setup.k, device=setup.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=setup.rate)

    def step(self, x: Tensor) -> None:
        train_sae(self.model, [x], criterion, self.optimizer, nb_epochs=1, monitoring=0, device=self.device)

    def before_encoding(self) -> None:
        self.model.eval()

    def encode(self, x: Tensor) -> object:
        return self.model.encode(x)

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.model.eval()
        _, codes, reconstruction = self.model(x)
        return reconstruction, codes > 0


if __name__ == "__main__":
    main(ANSWERS, Overcomplete)
