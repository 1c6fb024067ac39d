"""Reading and replacing what flows through a model's modules. Hooks never outlive the call that needs them."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from gossamer.spec import nearest

__all__ = ["capture", "evaluating", "frozen", "observed", "replaced", "resolve"]


class _Stop(BaseException):
    """Ends a forward pass once everything wanted has been seen; no handler of the model's own may swallow it."""


def resolve(model: nn.Module, patterns: str | Sequence[str]) -> list[str]:
    """Return the module paths that match the patterns (fnmatch), in the model's order.

    Raises ValueError for a pattern that matches nothing, naming the nearest module paths.
    """
    names = [name for name, _ in model.named_modules() if name]
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not patterns:
        raise ValueError("no hook point given; name a module path such as 'model.layers.8'")
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"no module of {type(model).__name__} is called {pattern!r}; {nearest(pattern, names)}")
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def capture(model: nn.Module, sites: Sequence[str], call: Callable[[], Any]) -> dict[str, Tensor]:
    """Run `call()`, which runs the model, and return the output of each site.

    The pass stops as soon as every site has been seen; a site that is passed several times counts the first time.
    A module that returns a tuple counts by its first entry.

    Raises ValueError if a site was not reached.
    """
    seen: dict[str, Tensor] = {}

    def hook_of(site: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            seen.setdefault(site, _first(output, site))
            if len(seen) == len(sites):
                raise _Stop

        return hook

    handles = [model.get_submodule(site).register_forward_hook(hook_of(site)) for site in sites]
    try:
        call()
    except _Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()
    unseen = [site for site in sites if site not in seen]
    if unseen:
        raise ValueError(f"the forward pass never reached {', '.join(unseen)}")
    return seen


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the context, put every module into evaluation mode; afterwards each is in the mode that it had."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def replaced(model: nn.Module, site: str, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the context, replace the output of a site by a function of it."""

    def hook(module: nn.Module, arguments: Any, output: Any) -> Any:
        new = function(_first(output, site))
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = model.get_submodule(site).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def observed(model: nn.Module, sites: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within the context, note the output of each site, as of its last call."""
    seen: dict[str, Tensor] = {}

    def hook_of(site: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            seen[site] = _first(output, site)

        return hook

    handles = [model.get_submodule(site).register_forward_hook(hook_of(site)) for site in sites]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within the context, no parameter asks for a gradient; afterwards those do that did."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _first(output: Any, site: str) -> Tensor:
    value = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(value, Tensor):
        raise ValueError(f"the output of {site} is no tensor but {type(value).__name__}; hook a module inside it")
    return value
