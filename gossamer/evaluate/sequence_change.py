"""What a feature changes in the sequence that a model writes: taken out, or set to a value (steering).

    x′ = x + x̂(f with f_j = value) − x̂(f)        for a linear decoder: x + (value − f_j) d_j

A value of 0 takes the feature out (ablation). The activation keeps what the autoencoder does not explain, so that
nothing but the feature changes.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.codes import is_active, with_value
from gossamer.sources.hooks import replaced

__all__ = ["SequenceChange", "change_sequence", "changed_positions", "with_latents"]


@dataclass(frozen=True, kw_only=True)
class SequenceChange:
    """before, after: the tokens that were written as the model is and with the change. changed: positions of `before`
    that `after` does not have, and `added`: positions of `after` that are new. rows: how many rows passed the site in
    the changed run; active: on how many of them one of the latents was by itself; largest: their largest activation, a
    magnitude.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    changed: tuple[int, ...]
    added: tuple[int, ...]
    rows: int
    active: int
    largest: float


@torch.no_grad()
def with_latents(sae: SparseAutoencoder, x: Tensor, latents: Tensor, value: float) -> tuple[Tensor, Tensor]:
    """Return rows `(rows, width)` as if some latents had a value in each of them, and how strong these were.

    The strength `(rows,)` is the largest magnitude among the latents of a row, 0 where none was active.
    """
    codes, latents = sae.encode(x.to(sae.device, torch.float32)), latents.to(sae.device)
    difference = sae.decode(with_value(codes, latents, value), x.float()) - sae.decode(codes, x.float())
    given = codes.values.abs().masked_fill(~(torch.isin(codes.indices, latents) & is_active(codes)), 0)
    strength = given.new_zeros(len(x)).scatter_reduce(0, codes.row_of_entry(), given, "amax")
    return x + difference.to(x), strength


@torch.no_grad()
def change_sequence(
    write: Callable[[], Sequence[str]],
    model: nn.Module,
    sae: SparseAutoencoder,
    *,
    site: str,
    latents: Sequence[int],
    value: float = 0.0,
    first: int | None = 0,
    stop: int | None = None,
) -> SequenceChange:
    """Write a sequence twice, as the model does and with some latents at a value in every row of a site, and compare.

    write: runs the model on one input and returns the tokens it writes. value: in the units of the codes; 0 takes the
    latents out. first, stop: the positions of the site's sequence that are rows (those that the autoencoder was trained
    on); the others stay as they are. first None: those after the prompt. A model that writes one token at a time passes
    its decoder's sites once for the prompt and once per token, in order.

    Raises ValueError for latents that do not exist, a value that is not finite, and an autoencoder that gives back
    something else than it reads.
    """
    _check(sae, latents, value)
    chosen, seen = torch.tensor(sorted(set(latents))), 0
    found: list[Tensor] = []

    def change(x: Tensor) -> Tensor:
        nonlocal seen
        begin = 0 if x.shape[1] > 1 else seen  # several positions at once are the beginning of a sequence
        seen = begin + x.shape[1]
        prompt = x.shape[1] if begin == 0 else begin
        low = max((prompt if first is None else first) - begin, 0)
        high = x.shape[1] if stop is None else max(stop - begin, 0)
        part = x[:, low:high]
        if not part.numel():
            return x
        rows, strength = with_latents(sae, part.flatten(0, 1), chosen, value)
        found.append(strength)
        return torch.cat([x[:, :low], rows.reshape(part.shape), x[:, low + part.shape[1] :]], dim=1)

    before = tuple(write())
    with replaced(model, site, change):
        after = tuple(write())
    changed, added = changed_positions(before, after)
    strength = torch.cat(found) if found else torch.zeros(0)
    return SequenceChange(
        before=before,
        after=after,
        changed=changed,
        added=added,
        rows=len(strength),
        active=int(strength.count_nonzero()),
        largest=float(strength.max()) if len(strength) else 0.0,
    )


def changed_positions(before: Sequence[str], after: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the positions of `before` that are gone and those of `after` that are new, by the longest common blocks.

    Examples
    --------
    >>> changed_positions(["a", "b", "c"], ["a", "x", "c", "d"])
    ((1,), (1, 3))
    """
    blocks = difflib.SequenceMatcher(a=before, b=after, autojunk=False).get_opcodes()
    gone = tuple(place for kind, low, high, _, _ in blocks if kind != "equal" for place in range(low, high))
    new = tuple(place for kind, _, _, low, high in blocks if kind != "equal" for place in range(low, high))
    return gone, new


def _check(sae: SparseAutoencoder, latents: Sequence[int], value: float) -> None:
    if not sae.spec.task.same_rows or len(sae.spec.task.inputs) != 1:
        raise ValueError(f"{sae.spec.name} gives back something else than the rows of one site; take one that does")
    strange = [latent for latent in latents if not 0 <= latent < sae.spec.latents]
    if strange or not len(latents):
        given = strange or "none"
        raise ValueError(f"latents are numbered 0 to {sae.spec.latents - 1}, got {given}")
    if not math.isfinite(value):
        raise ValueError(f"a latent can be set to a finite value, got {value}")
