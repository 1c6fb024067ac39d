"""Trainee: one autoencoder in training, with its optimizer and its account of dead latents."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from gossamer import kernels
from gossamer.autoencoder.autoencoder import Loss, SparseAutoencoder
from gossamer.codes import Codes, active_rows, density
from gossamer.training.optimizer import Optimizer
from gossamer.training.spec import Adam, Derived

__all__ = ["DeadLatents", "Density", "Trainee"]


REFRESH = 16
"""Steps after which the device is asked what only it knows: which latents are dead, and how dense codes are."""


class DeadLatents:
    """Count for how many rows each latent has been silent.

    silent_rows: `(latents,)` int64. A latent is dead once it has been silent for `dead_after` rows. `indices`, what
    the auxiliaries see, is brought up to date every `REFRESH` steps only, because its length is a question to the
    device.
    """

    def __init__(self, latents: int, *, dead_after: int, device: torch.device) -> None:
        self.dead_after = dead_after
        self.silent_rows = torch.zeros(latents, dtype=torch.int64, device=device)
        self.indices = torch.empty(0, dtype=torch.int64, device=device)

    def update(self, codes: Codes) -> None:
        """Take note of the latents that were active in a batch."""
        self.silent_rows.add_(codes.rows).mul_(active_rows(codes) == 0)

    def refresh(self) -> None:
        """Bring `indices` up to date."""
        self.indices = (self.silent_rows >= self.dead_after).nonzero()[:, 0]

    def share(self) -> Tensor:
        """Return the share of latents that are dead."""
        return (self.silent_rows >= self.dead_after).double().mean()


class Density:
    """Say whether codes shall be held as a matrix, which is faster while more than about a tenth of them is active.

    Ragged codes start dense. They become sparse when less than `LOW` is active, and dense again above `HIGH`: the gap
    keeps a run that is near the border from changing to and fro.
    """

    LOW, HIGH = 0.05, 0.1

    def __init__(self, *, ragged: bool) -> None:
        self.ragged = self.dense = ragged

    def refresh(self, codes: Codes) -> None:
        """Take note of a batch."""
        if self.ragged:
            self.dense = density(codes) > (self.LOW if self.dense else self.HIGH)


class Trainee:
    """Train one autoencoder on batches that somebody else hands out.

    Sums of the loss terms and of L0 since the last log line are kept on the device; `log` reads them out.
    """

    def __init__(self, sae: SparseAutoencoder, adam: Adam, derived: Derived, *, steps: int) -> None:
        self.sae, self.derived, self.steps = sae, derived, steps
        self.optimizer = Optimizer(sae, adam)
        device = sae.device
        self.density = Density(ragged=sae.spec.sparsity.ragged)
        self.dead = DeadLatents(sae.spec.latents, dead_after=derived.dead_after, device=device)
        kinds = dict.fromkeys(part.kind for part in (*sae.spec.penalties, *sae.spec.auxiliaries))
        self.names = ["loss", "reconstruction", *kinds, "l0"]
        self.sums = torch.zeros(len(self.names) + 1, dtype=torch.float64, device=device)
        self.first_bad_step = torch.full((), -1, dtype=torch.int64, device=device)

    def step(self, x: Tensor, step: int) -> None:
        """Train on `(rows, input_width)` rows."""
        with nullcontext() if self.density.dense else kernels.own_threads(self.sae.device):
            self._step(x, step)

    def _step(self, x: Tensor, step: int) -> None:
        with self.optimizer.gradients():
            loss = self.sae.loss(x, dead=self.dead.indices, dense=self.density.dense)
            loss.total.backward()
        self.optimizer.step(self.derived.learning_rate_at(step, self.steps))
        self.dead.update(loss.codes)
        if step % REFRESH == REFRESH - 1:
            self.dead.refresh()
            self.density.refresh(loss.codes)
        self._note(loss, step)

    def _note(self, loss: Loss, step: int) -> None:
        l0 = loss.codes.values.count_nonzero() / loss.codes.rows
        values = [loss.total.detach(), *loss.terms.values(), l0, torch.ones_like(l0)]
        self.sums += torch.stack([value.double() for value in values])
        bad = ~torch.isfinite(loss.total.detach()) & (self.first_bad_step < 0)
        self.first_bad_step = torch.where(bad, step, self.first_bad_step)

    def log(self) -> dict[str, float]:
        """Return the means since the last call, and the share of dead latents."""
        *sums, count = self.sums.tolist()
        self.sums.zero_()
        means = {name: total / count for name, total in zip(self.names, sums, strict=True)}
        return {**means, "dead": self.dead.share().item()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that the next steps depend on, as named tensors."""
        state = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        state |= {f"optimizer.{name}": tensor for name, tensor in self.optimizer.state_dict().items()}
        state["dense"] = torch.tensor(self.density.dense)
        dead = {"silent_rows": self.dead.silent_rows, "indices": self.dead.indices}
        state |= {f"dead.{name}": tensor for name, tensor in dead.items()}
        return state | {"sums": self.sums, "first_bad_step": self.first_bad_step}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        device = self.sums.device
        saved = {n.removeprefix("sae."): t for n, t in state.items() if n.startswith("sae.")}
        self.sae.load_state_dict(saved)
        saved = {n.removeprefix("optimizer."): t for n, t in state.items() if n.startswith("optimizer.")}
        self.optimizer.load_state_dict(saved)
        self.density.dense = bool(state["dense"])
        self.dead.silent_rows = state["dead.silent_rows"].to(device)
        self.dead.indices = state["dead.indices"].to(device)
        self.sums = state["sums"].to(device)
        self.first_bad_step = state["first_bad_step"].to(device)
