"""Optimizers: Adam in one pass over each weight matrix, on gradients never written out; plain Adam; Muon; SGD."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gossamer import kernels
from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.constraints import Free, UnitRows
from gossamer.training.spec import SGD, Adam, Muon, OptimizerSpec
from gossamer.transformer.layers import Layer

__all__ = ["AdamOptimizer", "MuonOptimizer", "Optimizer", "PlainAdam", "SGDOptimizer", "make_optimizer", "polar"]


class Optimizer(ABC):
    """Change the weights of one model by their gradients.

    with optimizer.gradients():
        loss.backward()
    optimizer.step(learning_rate)
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._of_rows = model.decoder.bias if isinstance(model, SparseAutoencoder) else None

    @contextmanager
    def gradients(self) -> Iterator[None]:
        """Forget the gradients of the last step, and collect those of the backward passes in this context."""
        self.clear()
        yield

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in self._names.values():
            parameter.grad = None

    @abstractmethod
    def step(self, learning_rate: float) -> None:
        """Change the weights by what was collected."""

    @abstractmethod
    def moments(self) -> dict[Tensor, list[Tensor]]:
        """Return what is remembered of past gradients, by parameter, in tensors of the parameter's shape."""

    def forget(self, latents: Tensor, of: int) -> None:
        """Forget the past gradients of some latents, of so many."""
        for parameter, moments in self.moments().items():
            if parameter.shape[0] == of and parameter is not self._of_rows:
                for moment in moments:
                    moment[latents] = 0

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that the next steps depend on, as named tensors."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""


class PlainAdam(Optimizer):
    """Adam on every parameter, by `torch.optim.Adam`; gradients of a norm above `CLIP` are shortened to it.

    only: the parameters, by name; by default all of the model.
    """

    CLIP = 1.0

    def __init__(self, model: nn.Module, spec: Adam, only: Mapping[str, nn.Parameter] | None = None) -> None:
        super().__init__(model)
        self._names = self._names if only is None else dict(only)
        self._adam = torch.optim.Adam(self._names.values(), betas=(spec.beta1, spec.beta2), eps=spec.eps, fused=True)

    def step(self, learning_rate: float) -> None:
        """Change the weights by what was collected."""
        torch.nn.utils.clip_grad_norm_(self._names.values(), self.CLIP)
        self.unclipped(learning_rate)

    def unclipped(self, learning_rate: float) -> None:
        """Change the weights by the gradients as they are."""
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        self._adam.step()

    def moments(self) -> dict[Tensor, list[Tensor]]:
        """Return both moments of every parameter."""
        states = self._adam.state
        return {p: [states[p]["exp_avg"], states[p]["exp_avg_sq"]] for p in self._names.values() if states.get(p)}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the moments and the number of steps by the name of the parameter."""
        found = {name: self._adam.state.get(p, {}) for name, p in self._names.items()}
        return {f"{name}.{key}": value for name, state in found.items() for key, value in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        for name, parameter in self._names.items():
            saved = {n.removeprefix(f"{name}."): t for n, t in state.items() if n.startswith(f"{name}.")}
            if saved:
                self._adam.state[parameter] = {key: t.to(parameter.device, copy=True) for key, t in saved.items()}


class AdamOptimizer(Optimizer):
    """Adam. Matrices `(latents, width)` are done by `kernels.adam_rows`, the constraint on the decoder rows included;
    vectors by `torch.optim.Adam`."""

    def __init__(self, sae: SparseAutoencoder, spec: Adam) -> None:
        super().__init__(sae)
        self._spec = spec
        self._constraints = sae.decoder.constraints()
        self._matrices = [p for p in self._names.values() if p.dim() == 2]
        vectors = {name: p for name, p in self._names.items() if p.dim() != 2}
        self._vectors = PlainAdam(sae, spec, vectors)
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
        super().clear()
        self._gradients = []

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
                continue
            if constraint.before:
                constraint.before_step(weight, gradient.write_out())
            kernels.adam_rows(gradient, *moments, numbers, unit_rows=False)
            constraint.after_step(weight)
        self._vectors.unclipped(learning_rate)

    def moments(self) -> dict[Tensor, list[Tensor]]:
        """Return both moments of every parameter."""
        return {**{p: list(pair) for p, pair in self._moments.items()}, **self._vectors.moments()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the moments by the name of the parameter, and the number of steps."""
        state = {"steps": torch.tensor(self._steps)}
        for name, parameter in self._names.items():
            if parameter in self._moments:
                state |= zip((f"{name}.exp_avg", f"{name}.exp_avg_sq"), self._moments[parameter], strict=True)
        return state | self._vectors.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        self._steps = int(state["steps"])
        for name, parameter in self._names.items():
            if parameter in self._moments:
                for moment, key in zip(self._moments[parameter], ("exp_avg", "exp_avg_sq"), strict=True):
                    moment.copy_(state[f"{name}.{key}"])
        self._vectors.load_state_dict(state)


class MuonOptimizer(Optimizer):
    """Muon on the weight matrices of an autoencoder, or of a transformer's layers; `PlainAdam` on all else."""

    def __init__(self, model: nn.Module, spec: Muon) -> None:
        super().__init__(model)
        self._spec = spec
        self._decoder = model.decoder if isinstance(model, SparseAutoencoder) else None
        layers = [layer for layer in model.modules() if isinstance(layer, Layer)] if self._decoder is None else [model]
        inside = {p for layer in layers for p in layer.parameters()}
        self._matrices = {name: p for name, p in self._names.items() if p.dim() == 2 and p in inside}
        self._momentum: dict[Tensor, Tensor] = {p: torch.zeros_like(p) for p in self._matrices.values()}
        rest = {name: p for name, p in self._names.items() if name not in self._matrices}
        self._adam = PlainAdam(model, spec.adam, rest)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Change the weights by what was collected."""
        spec = self._spec
        if self._decoder is not None:
            self._decoder.before_step()
        alike: dict[torch.Size, dict[Tensor, Tensor]] = defaultdict(dict)
        for weight, momentum in self._momentum.items():
            if weight.grad is not None:
                momentum.lerp_(weight.grad, 1 - spec.momentum)
                alike[weight.shape][weight] = weight.grad.lerp(momentum, spec.momentum)
        for shape, ahead in alike.items():
            for weight, direction in zip(ahead, polar(torch.stack(list(ahead.values()))), strict=True):
                weight.mul_(1 - learning_rate * spec.weight_decay)
                weight.add_(direction, alpha=-0.2 * max(shape) ** 0.5 * learning_rate)
        self._adam.step(learning_rate * spec.adam_share)
        if self._decoder is not None:
            self._decoder.after_step()

    def moments(self) -> dict[Tensor, list[Tensor]]:
        """Return the momentum of every matrix, and both moments of all else."""
        return {**{p: [momentum] for p, momentum in self._momentum.items()}, **self._adam.moments()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the momentum by the name of the parameter, and what Adam remembers."""
        momentum = {f"{name}.momentum": self._momentum[p] for name, p in self._matrices.items()}
        return momentum | self._adam.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        for name, parameter in self._matrices.items():
            self._momentum[parameter].copy_(state[f"{name}.momentum"])
        self._adam.load_state_dict(state)


def polar(matrices: Tensor) -> Tensor:
    """Return about U Vᵀ of each matrix U Σ Vᵀ, `(count, rows, columns)`: singular values near 1, small ones lower.

    Five times X ← a X + (b A + c A²) X with A = X Xᵀ, from X = matrix / ‖matrix‖; in bfloat16 where that is fast.
    Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).to(getattr(torch, kernels.products(matrices.device)))
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class SGDOptimizer(Optimizer):
    """Stochastic gradient descent on every parameter, by `torch.optim.SGD`."""

    def __init__(self, sae: SparseAutoencoder, spec: SGD) -> None:
        super().__init__(sae)
        self._decoder = sae.decoder
        self._sgd = torch.optim.SGD(self._names.values(), lr=0.0, momentum=spec.momentum)

    def step(self, learning_rate: float) -> None:
        """Change the weights by what was collected."""
        for group in self._sgd.param_groups:
            group["lr"] = learning_rate
        self._decoder.before_step()
        self._sgd.step()
        self._decoder.after_step()

    def moments(self) -> dict[Tensor, list[Tensor]]:
        """Return the momentum of every parameter, if there is any."""
        found = {p: self._sgd.state[p].get("momentum_buffer") for p in self._names.values()}
        return {p: [buffer] for p, buffer in found.items() if buffer is not None}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the momentum by the name of the parameter."""
        moments = self.moments()
        return {f"{name}.momentum": moments[p][0] for name, p in self._names.items() if p in moments}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        for name, parameter in self._names.items():
            if f"{name}.momentum" in state:
                self._sgd.state[parameter]["momentum_buffer"] = state[f"{name}.momentum"].to(parameter).clone()


def make_optimizer(model: nn.Module, spec: OptimizerSpec) -> Optimizer:
    """Return the optimizer that a spec describes; raises ValueError for one that a model is not trained with."""
    if isinstance(spec, Muon):
        return MuonOptimizer(model, spec)
    if not isinstance(model, SparseAutoencoder):
        if isinstance(spec, Adam):
            return PlainAdam(model, spec)
        raise ValueError(f"a transformer is trained with Adam or Muon, not with {spec.kind!r}")
    if isinstance(spec, Adam):
        return AdamOptimizer(model, spec)
    assert isinstance(spec, SGD)
    return SGDOptimizer(model, spec)
