"""Trainee: one autoencoder in training, with its optimizer and its account of dead latents."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from gossamer import kernels
from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.initialise import start_from_data
from gossamer.autoencoder.tasks import Objective, Rows
from gossamer.autoencoder.trace import Loss, Moment
from gossamer.codes import Codes, active_rows, density, is_active
from gossamer.training.checkpoint import named
from gossamer.training.learner import Learner, Needs
from gossamer.training.optimizer import make_optimizer
from gossamer.training.sparsity_control import SparsityControl
from gossamer.training.spec import Derived, TrainSpec

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

    def revived(self) -> None:
        """Take note that the dead latents were started anew."""
        self.silent_rows[self.indices] = 0
        self.indices = self.indices[:0]

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


class Trainee(Learner):
    """Train one autoencoder, with its account of dead latents and the control of its sparsity."""

    def __init__(self, sae: SparseAutoencoder, objective: Objective, train: TrainSpec, derived: Derived) -> None:
        super().__init__(sae, sae.spec.name, train, derived)
        self.sae, self.objective = sae, objective
        self.optimizer = make_optimizer(sae, train.optimizer)
        self.density = Density(ragged=sae.spec.sparsity.ragged)
        self.dead = DeadLatents(sae.spec.latents, dead_after=derived.dead_after, device=self.device)
        target = sae.spec.target_l0
        self.control = None if target is None else SparsityControl(target, steps=train.steps, device=self.device)

    @property
    def steered(self) -> bool:
        """Say whether an L0 is steered to: the path that leads to it is as long as the run."""
        return self.control is not None

    def start(self, sample: Rows) -> None:
        """Measure scaling and biases on a sample."""
        start_from_data(self.sae, *self.sae.spec.task.rows(sample))

    def moment(self, step: int) -> Moment:
        """Return where the training stands before a step."""
        strength = 1.0 if self.control is None else self.control.strength
        return Moment(self.dead.indices, self.density.dense, min(1.0, step / self.steps), strength)

    def step(self, rows: Rows, step: int) -> None:
        """Train on a batch of rows by site."""
        with nullcontext() if self.density.dense else kernels.own_threads(self.sae.device):
            self._step(rows, step)

    def _step(self, rows: Rows, step: int) -> None:
        if self.control is not None and step == 0:
            self._begin(rows)
        with self.optimizer.gradients():
            loss = self.objective(self.sae, rows, self.moment(step))
            loss.total.backward()
        self.optimizer.step(self.derived.learning_rate_at(step, self.end))
        self.sae.sparsity.note(loss.codes)
        self.dead.update(loss.codes)
        l0 = is_active(loss.codes).count_nonzero() / loss.codes.rows
        if self.control is not None:
            reconstruction, penalty = self._steered(loss)
            self.control.update(l0, penalty / reconstruction.clamp_min(torch.finfo(torch.float32).tiny), step)
        if step % REFRESH == REFRESH - 1:
            self.dead.refresh()
            self.density.refresh(loss.codes)
        self._revive(rows, step)
        self.note(step, loss.total, {**loss.terms, "l0": l0})

    @torch.no_grad()
    def _begin(self, rows: Rows) -> None:
        """Let the first batch say how strong the penalty is to be at first."""
        assert self.control is not None
        self.control.begin(*self._steered(self.objective(self.sae, rows, self.moment(0))))

    def _steered(self, loss: Loss) -> tuple[Tensor, Tensor]:
        """Return the reconstruction's term of a loss and that of the penalty whose weight is steered."""
        steered = next(penalty.kind for penalty in self.sae.spec.penalties if penalty.weight is None)
        return next(iter(loss.terms.values())), loss.terms[steered]

    def _revive(self, rows: Rows, step: int) -> None:
        for auxiliary in self.sae.spec.auxiliaries:
            if auxiliary.due((step + 1) / self.steps, step / self.steps):
                self.dead.refresh()
                auxiliary.revive(self.sae, self.sae.spec.task.rows(rows)[0], self.dead.indices)
                self.optimizer.forget(self.dead.indices, self.sae.spec.latents)
                self.dead.revived()

    def backward(self, rows: Rows) -> None:
        """Go forward and backward on a batch; weights and optimizer stay as they are."""
        with self.optimizer.gradients():
            self.objective(self.sae, rows, self.moment(0)).total.backward()
        self.optimizer.clear()

    def needs(self, batch: int) -> Needs:
        """Return the kernels' buffers, and codes and gradients while codes are held as a matrix; sizes and sparsity."""
        spec, derived = self.sae.spec, self.derived
        weights = sum(p.numel() for p in self.sae.parameters())
        codes = 4 * (4 * spec.latents * batch + weights) if self.density.dense else 0
        return Needs(
            codes + kernels.workspace_bytes(weights // 2, spec.latents),
            batch * spec.latents * max(spec.input_width, spec.output_width),
            (
                f"learns   {spec.name}: {spec.input_width} → {spec.latents} latents, {spec.sparsity!r}",
                f"         learning rate {derived.learning_rate:.2g}, {derived.warmup_steps:,} steps up, "
                f"{derived.decay_steps:,} down; dead after {derived.dead_after:,} rows",
            ),
        )

    def finish(self) -> None:
        """Fold the scaling into the weights."""
        self.optimizer.clear()
        self.sae.fold()
        self.sae.eval()

    def verdict(self) -> str:
        """Return what a person should know at the end: that the L0 that was asked for was missed."""
        if self.control is None or not self.control.missed():
            return ""
        name, reached, target = self.sae.spec.name, self.control.reached(), self.control.target
        advice = (
            "no weight of its penalty changes that: ask for another L0"
            if self.control.exhausted()
            else "train it on more rows, or give the penalty a weight"
        )
        return (
            f"{name} missed its L0: asked for {target:g}, reached {reached:.1f} ({reached / target - 1:+.0%}); {advice}"
        )

    def log(self, *, last: bool = False) -> dict[str, float]:
        """Return the means since the last call, the share of dead latents, and what steers the sparsity.

        last: whether this is the end, where it is known whether the L0 was reached.
        """
        means = super().log(last=last)
        steered = {} if self.control is None else self.control.figures()
        if self.control is not None and last:
            steered |= {"reached_l0": self.control.reached(), "missed_l0": self.control.missed()}
        return {**means, "dead": self.dead.share().item(), **steered}

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that the next steps depend on, as named tensors."""
        state = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        state |= {f"optimizer.{name}": tensor for name, tensor in self.optimizer.state_dict().items()}
        state["dense"] = torch.tensor(self.density.dense)
        dead = {"silent_rows": self.dead.silent_rows, "indices": self.dead.indices}
        state |= {f"dead.{name}": tensor for name, tensor in dead.items()}
        if self.control is not None:
            state |= {f"control.{name}": tensor for name, tensor in self.control.state_dict().items()}
        return state | super().state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        device = self.sae.device
        self.sae.load_state_dict(named(state, "sae"))
        self.optimizer.load_state_dict(named(state, "optimizer"))
        if self.control is not None:
            self.control.load_state_dict(named(state, "control"))
        self.density.dense = bool(state["dense"])
        self.dead.silent_rows = state["dead.silent_rows"].to(device)
        self.dead.indices = state["dead.indices"].to(device)
        super().load_state_dict(state)
