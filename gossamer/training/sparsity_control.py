"""SparsityControl: the weight of a penalty, steered until the codes have the L0 that was asked for."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["SparsityControl"]


class SparsityControl:
    """Steer ln λ by how far ln L0 is from a path that leads to the target.

        e_t = smoothed ln L0 − reference,   Δ ln λ = P (e_t − e_{t−1}) + I e_t,  within ±`MOST` a step

    The penalty starts at `BEGIN` times the reconstruction loss of the first batch. For the first `WAIT` of the training
    λ stays, because L0 swings while directions form. From where it then is, the reference leads to the target, on a
    parabola in ln L0 that levels off, within the next `SPAN` of the training. A path instead of a jump: a weight that
    overshoots closes latents quickly, and they open again slowly.

    The numbers are the same for every penalty, model and data set. Adam's steps do not depend on the size of the
    gradient, so that neither does the time that L0 takes to follow λ, some tens of steps; I is the inverse of such a
    time, and P damps what would swing.

    λ is not lowered where the penalty is less than 1/`RANGE` of the reconstruction loss, and not raised where it is
    more than `RANGE` times it: beyond, it changes nothing now and takes long to come back.

    `REACHED`: how far from the target, relatively, the mean L0 of the last tenth of a run may be.
    """

    P, I, MOST = 5.0, 0.4, 0.2  # noqa: E741 - as in the literature on control
    MEMORY = 0.5
    BEGIN, WAIT, SPAN = 0.05, 0.1, 0.5
    RANGE = 100.0
    REACHED = 0.05
    STATE = ("log_strength", "level", "first", "error", "share", "late")

    def __init__(self, target: float, *, steps: int, device: torch.device) -> None:
        self.target, self.steps, self._device = target, steps, device
        zeros = torch.zeros(len(self.STATE), dtype=torch.float64, device=device)
        self.log_strength, self.level, self.first, self.error, self.share, self.late = zeros.unbind()

    @property
    def strength(self) -> Tensor:
        """The weight λ, `()`."""
        return self.log_strength.exp().float()

    def begin(self, reconstruction: Tensor, penalty: Tensor) -> None:
        """Set λ by the loss terms of the first batch, the penalty's for λ = 1."""
        cost = reconstruction.double().clamp_min(torch.finfo(torch.float32).tiny)
        penalty = torch.where(penalty > 0, penalty.double(), cost)  # nothing is active yet
        self.log_strength = (self.BEGIN * cost / penalty).log()

    def update(self, l0: Tensor, share: Tensor, step: int) -> None:
        """Take note of a step and change λ for the next.

        l0: mean number of active latents. share: the penalty, times λ, divided by the reconstruction loss.
        """
        level = (l0.double().clamp_min(self.target / 100) / self.target).log()
        self.level = level if step == 0 else torch.lerp(level, self.level, self.MEMORY)
        last = min(-(-9 * self.steps // 10), self.steps - 1)  # from here on
        if step >= last:
            self.late = self.late + l0.double() / (self.steps - last)
        self.share = share.double()
        waited = step - self.WAIT * self.steps
        if waited < 0:
            self.first = self.level
            return
        error = self.level - self.first * max(0.0, 1 - waited / (self.SPAN * self.steps)) ** 2
        change = self.P * (error - self.error) + self.I * error
        rise, fall = -(self.share / self.RANGE).log(), -(self.share * self.RANGE).log()
        change = change.clamp(-self.MOST, self.MOST).clamp(fall.clamp_max(0), rise.clamp_min(0))
        self.log_strength = self.log_strength + change
        self.error = error

    def figures(self) -> dict[str, float]:
        """Return what a log line says: the weight, and the target."""
        return {"strength": self.strength.item(), "target_l0": self.target}

    def reached(self) -> float:
        """Return the mean L0 over the last tenth of the training, once it is over."""
        return self.late.item()

    def missed(self) -> bool:
        """Say whether the target was missed, once the training is over."""
        return abs(self.reached() / self.target - 1) > self.REACHED

    def exhausted(self) -> bool:
        """Say whether the training ended with a weight at the border of what has an effect."""
        return not 2 / self.RANGE < self.share.item() < self.RANGE / 2

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that the next steps depend on, as named tensors."""
        return {name: getattr(self, name).clone() for name in self.STATE}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        for name in self.STATE:
            setattr(self, name, state[name].to(self._device))
