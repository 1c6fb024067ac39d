"""The optimizer: Adam, in one pass over each weight matrix, on gradients that are never written out as matrices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from gossamer import kernels
from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.decoders import Free, UnitRows
from gossamer.training.spec import Adam

__all__ = ["Optimizer"]


class Optimizer:
    """Adam for one autoencoder.

        with optimizer.gradients():
            loss.backward()
        optimizer.step(learning_rate)

    Matrices `(latents, width)` are done by `kernels.adam_rows`, the constraint on the decoder rows included; vectors by
    `torch.optim.Adam`.
    """

    def __init__(self, sae: SparseAutoencoder, spec: Adam) -> None:
        self._spec = spec
        self._constraints = sae.decoder.constraints()
        self._names = dict(sae.named_parameters())
        self._matrices = [p for p in sae.parameters() if p.dim() == 2]
        self._vectors = torch.optim.Adam(
            [p for p in sae.parameters() if p.dim() != 2],
            betas=(spec.beta1, spec.beta2),
            eps=spec.eps,
            fused=True,
        )
        dtype = getattr(torch, spec.moments)
        self._moments: dict[Tensor, tuple[Tensor, Tensor]] = {
            p: (torch.zeros_like(p, dtype=dtype), torch.zeros_like(p, dtype=dtype)) for p in self._matrices
        }
        self._steps = 0
        self._gradients: list[kernels.FactoredGradient] = []

    @contextmanager
    def gradients(self) -> Iterator[None]:
        """Forget the gradients of the last step, and collect those of the backward passes in this context."""
        self.clear()
        with kernels.factored_gradients(self._matrices) as self._gradients:
            yield

    def clear(self) -> None:
        """Forget the gradients."""
        self._gradients = []
        for parameter in self._names.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Change the weights by what was collected."""
        spec = self._spec
        self._steps += 1
        corrections = (1 - spec.beta1**self._steps, 1 - spec.beta2**self._steps)
        numbers = kernels.AdamStep(learning_rate, spec.beta1, spec.beta2, spec.eps, *corrections)
        for gradient in self._gradients:
            weight = gradient.weight
            moments = self._moments[weight]
            constraint = self._constraints.get(weight, Free())
            if isinstance(constraint, Free | UnitRows):
                kernels.adam_rows(gradient, *moments, numbers, unit_rows=isinstance(constraint, UnitRows))
            else:
                constraint.before_step(weight, gradient.write_out())
                kernels.adam_rows(gradient, *moments, numbers, unit_rows=False)
                constraint.after_step(weight)
        for group in self._vectors.param_groups:
            group["lr"] = learning_rate
        self._vectors.step()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the moments by the name of the parameter, and the number of steps."""
        state = {"steps": torch.tensor(self._steps)}
        for name, parameter in self._names.items():
            if parameter in self._moments:
                state |= zip((f"{name}.exp_avg", f"{name}.exp_avg_sq"), self._moments[parameter], strict=True)
            else:
                state |= {f"{name}.{key}": value for key, value in self._vectors.state[parameter].items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        self._steps = int(state["steps"])
        for name, parameter in self._names.items():
            saved = {n.removeprefix(f"{name}."): t for n, t in state.items() if n.startswith(f"{name}.")}
            if parameter in self._moments:
                for moment, key in zip(self._moments[parameter], ("exp_avg", "exp_avg_sq"), strict=True):
                    moment.copy_(saved[key])
            else:
                self._vectors.state[parameter] = {
                    key: t.clone() if key == "step" and t.device.type == "cpu" else t.to(parameter.device).clone()
                    for key, t in saved.items()
                }
