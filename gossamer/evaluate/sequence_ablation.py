"""What the absence of a feature changes in the sequence that a model writes.

    x′ = x − (x̂(f) − x̂(f without the latent))        for a linear decoder: x − f_j d_j

The activation keeps what the autoencoder does not explain, so that nothing but the feature changes.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.codes import SparseCodes, is_active
from gossamer.sources.hooks import replaced

__all__ = ["SequenceAblation", "ablate_sequence", "changed_positions", "without_latents"]


@dataclass(frozen=True, kw_only=True)
class SequenceAblation:
    """before, after: the tokens that were written with the feature and without it. changed: positions of `before` that
    `after` does not have, and `added`: positions of `after` that are new. rows: how many rows passed the site in the
    changed run; active: on how many of them one of the latents was; largest: their largest activation, a magnitude.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    changed: tuple[int, ...]
    added: tuple[int, ...]
    rows: int
    active: int
    largest: float


@torch.no_grad()
def without_latents(sae: SparseAutoencoder, x: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows `(rows, width)` less what some latents add to their reconstruction, and how strong they were.

    The strength `(rows,)` is the largest magnitude among the latents of a row, 0 where none was active.
    """
    codes = sae.encode(x.to(sae.device, torch.float32))
    gone = torch.isin(codes.indices, latents.to(codes.indices.device))
    kept: SparseCodes = codes.replace_values(codes.values.masked_fill(gone, 0))
    difference = sae.decode(codes, x.float()) - sae.decode(kept, x.float())
    taken = codes.values.abs().masked_fill(~(gone & is_active(codes)), 0)
    strength = taken.new_zeros(len(x)).scatter_reduce(0, codes.row_of_entry(), taken, "amax")
    return x - difference.to(x), strength


@torch.no_grad()
def ablate_sequence(
    write: Callable[[], Sequence[str]],
    model: nn.Module,
    sae: SparseAutoencoder,
    *,
    site: str,
    latents: Sequence[int],
    first: int | None = 0,
    stop: int | None = None,
) -> SequenceAblation:
    """Write a sequence twice, as the model does and without some latents at a site, and compare.

    write: runs the model on one input and returns the tokens it writes. first, stop: the positions of the site's
    sequence that are rows (those that the autoencoder was trained on); the others stay as they are. first None: those
    after the prompt. A model that writes one token at a time passes its decoder's sites once for the prompt and once
    per token, in order.

    Raises ValueError for latents that do not exist, and an autoencoder that gives back something else than it reads.
    """
    _check(sae, latents)
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
        rows, strength = without_latents(sae, part.flatten(0, 1), chosen)
        found.append(strength)
        return torch.cat([x[:, :low], rows.reshape(part.shape), x[:, low + part.shape[1] :]], dim=1)

    before = tuple(write())
    with replaced(model, site, change):
        after = tuple(write())
    changed, added = changed_positions(before, after)
    strength = torch.cat(found) if found else torch.zeros(0)
    return SequenceAblation(
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


def _check(sae: SparseAutoencoder, latents: Sequence[int]) -> None:
    if not sae.spec.task.same_rows or len(sae.spec.task.inputs) != 1:
        raise ValueError(
            f"{sae.spec.name} gives back something else than the rows of one site; ablate in one that does"
        )
    strange = [latent for latent in latents if not 0 <= latent < sae.spec.latents]
    if strange or not len(latents):
        given = strange or "none"
        raise ValueError(f"latents are numbered 0 to {sae.spec.latents - 1}, got {given}")
