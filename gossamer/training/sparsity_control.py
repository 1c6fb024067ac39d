"""SparsityControl: the weight of a penalty, steered until the codes have the L0 that was asked for."""

from __future__ import annotations

import os
import torch
from torch import Tensor

__all__ = ["SparsityControl"]
KP=float(os.environ.get('KP','0.5')); KI=float(os.environ.get('KI','0.05')); MEM=float(os.environ.get('MEM','0.5')); WAIT=float(os.environ.get('WAIT','0.1')); SPAN=float(os.environ.get('SPAN','0.4')); FRAC=float(os.environ.get('FRAC','0.05'))

class SparsityControl:
    """placeholder"""

    def __init__(self, target: float, *, steps: int, device: torch.device) -> None:
        self.target, self.steps = target, steps
        self.log_strength = torch.zeros((), dtype=torch.float64, device=device)
        self.error = torch.zeros((), dtype=torch.float64, device=device)

    @property
    def strength(self) -> Tensor:
        return self.log_strength.exp().float()

    def begin(self, reconstruction, penalty):
        self.log_strength = (FRAC * reconstruction.double() / penalty.double().clamp_min(1e-12)).log()

    def update(self, l0: Tensor, step: int) -> None:
        level = (l0.double().clamp_min(1e-2) / self.target).log().clamp(-3,3)
        wait = WAIT * self.steps
        if step == 0: self.level = level; self.first = level
        self.level = torch.lerp(level, self.level, MEM)
        if step < wait:
            self.first = self.level
            self.error = torch.zeros_like(level)
            return
        ref = self.first * max(0.0, 1 - (step - wait) / (SPAN * self.steps))
        new = self.level - ref
        self.log_strength = self.log_strength + (KP*(new - self.error) + KI * new).clamp(-.2,.2)
        self.error = new

    def figures(self) -> dict[str, float]:
        return {"strength": self.strength.item(), "target_l0": self.target}

    def state_dict(self) -> dict[str, Tensor]:
        return {"log_strength": self.log_strength, "error": self.error}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.log_strength = state["log_strength"].to(self.log_strength).clone()
        self.error = state["error"].to(self.error).clone()
