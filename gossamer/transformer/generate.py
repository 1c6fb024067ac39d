"""Generation: one id after the other, greedily, by beam search, or at random.

Keys and values of earlier positions are kept, so that a step costs one position; rows that have ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gossamer.kernels import backend
from gossamer.kernels.threads import in_blocks, thread_count
from gossamer.spec import Spec
from gossamer.transformer.steps import NEVER, JointSteps, Steps
from gossamer.transformer.vocabulary import END, PAD

if TYPE_CHECKING:
    from gossamer.transformer.model import Transformer

__all__ = ["Decoding", "Generated", "generate", "generate_jointly"]


ROWS = 8
"""Rows that are worth a thread of their own."""

WORTH = 1024
"""Ids to say from which on compiled loops are used: on a machine's first generation, compiling takes ten seconds."""


@dataclass(frozen=True, kw_only=True)
class Decoding(Spec):
    """How targets are searched for. longest: ids at most, END included, START not.

    Greedy by default: the likeliest id at each step.

    beam: keep so many hypotheses y and rank them, ended or not, by log p(y | x) / ((5 + |y|) / 6)^length_penalty
    (Wu et al. 2016, https://arxiv.org/abs/1609.08144, equation 14). The search of a row stops early once its best
    hypothesis has ended and none that goes on can overtake it.

    temperature T: draw ids from softmax(logits / T) instead; top_k: from the k likeliest only (Fan et al. 2018,
    https://arxiv.org/abs/1805.04833); top_p: from the likeliest that together have the probability p (Holtzman et al.
    2019, https://arxiv.org/abs/1904.09751). Either alone means a temperature of 1. seed: of the draws.
    """

    longest: int = 64
    beam: int = 1
    length_penalty: float = 1.0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, lowest in (("longest", 1), ("beam", 1), ("top_k", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {value}")
        if self.length_penalty < 0:
            raise ValueError(f"length_penalty must not be negative, got {self.length_penalty}")
        if self.temperature is not None and self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}; leave it out for the likeliest id")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is a probability above 0, at most 1; got {self.top_p}")
        if self.draws and self.beam > 1:
            raise ValueError("beam search looks for the likeliest target, drawing does not; give one of the two")

    @property
    def draws(self) -> bool:
        """Say whether ids are drawn at random."""
        return any(value is not None for value in (self.temperature, self.top_k, self.top_p))

    def after(self, rows: int) -> Decoding:
        """Return how to go on with the next batch after so many rows: its draws are others than those before."""
        if not (self.draws and rows):
            return self
        return self.replace(seed=int(np.random.SeedSequence([self.seed, rows]).generate_state(1)[0]))


@dataclass(frozen=True, eq=False)
class Generated:
    """Targets for each row of the batch, the best first.

    ids: `(batch, hypotheses, length)` int64, without START, padded after END. log_probabilities: log p(y | x) in nats,
    `(batch, hypotheses)`. scores: what hypotheses are ranked by. Without beam search there is one hypothesis.
    """

    ids: Tensor
    log_probabilities: Tensor
    scores: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Generated]) -> Generated:
        """Return what was generated for consecutive rows as one."""
        pairs = ((part.ids, part.log_probabilities, part.scores) for part in parts)
        return cls(*map(torch.cat, zip(*pairs, strict=True)))

    def best(self) -> list[list[int]]:
        """Return the ids of each row's best hypothesis, without END and padding."""
        return [[index for index in row if index not in (END, PAD)] for row in self.ids[:, 0].tolist()]


def generate(model: Transformer, source: Tensor | None, prompt: Tensor | None, decoding: Decoding) -> Generated:
    """Return targets; see `Transformer.generate`.

    Raises ValueError for a source or prompt that is missing or empty, a beam larger than the vocabulary, or targets
    longer than the table of positions.
    """
    return generate_jointly([model], [source], prompt, decoding)


def generate_jointly(
    models: Sequence[Transformer], sources: Sequence[Tensor | None], prompt: Tensor | None, decoding: Decoding
) -> Generated:
    """Return targets that several models say together: p(y_t | y_<t, x) is the mean of their probabilities.

    sources: of each model, in its own vocabulary; row by row they mean the same. Raises ValueError as `generate` does,
    and for models with different target vocabularies or on different devices.
    """
    prompts = [_checked(*one, prompt, decoding) for one in zip(models, sources, strict=True)]
    prompt, longest = prompts[0], prompts[0].shape[1] + decoding.longest
    kinds = {(model.decoding()[1].out_features, model.device) for model in models}
    if len(kinds) > 1 or len(set(map(len, prompts))) > 1:
        raise ValueError("models that speak together have one target vocabulary, one device, and a source for each row")
    worth = len(prompt) * decoding.beam * decoding.longest >= WORTH
    compiled = [_compiled(model) if worth else None for model in models]

    @torch.no_grad()
    def search(first: int, last: int) -> Generated:
        begun = prompt[first:last]
        read = [None if source is None else source[first:last] for source in sources]
        members = [
            (make or Steps)(model, ids, batch=len(begun) * decoding.beam, longest=longest)
            for make, model, ids in zip(compiled, models, read, strict=True)
        ]
        steps = members[0] if len(members) == 1 else JointSteps(members)
        return _Beams(steps, begun, decoding).search() if decoding.beam > 1 else _single(steps, begun, decoding)

    training = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        if None in compiled or decoding.draws:  # rows that are drawn share one generator
            return search(0, len(prompt))
        block = max(ROWS, -(-len(prompt) // thread_count()))
        return Generated.joined(in_blocks(search, len(prompt), block=block))
    finally:
        for model, was in zip(models, training, strict=True):
            model.train(was)


def _compiled(model: Transformer) -> Callable[..., Steps] | None:
    """Return what makes `Steps` by compiled loops, where they serve the model."""
    if model.device.type != "cpu" or backend("cpu") != "numba":
        return None
    from gossamer.transformer.compiled import CompiledSteps, DecoderArrays

    arrays = DecoderArrays.of(model)
    return None if arrays is None else partial(CompiledSteps, arrays)


def _single(steps: Steps, prompt: Tensor, decoding: Decoding) -> Generated:
    """Generate one target per row: the likeliest id at each step, or one that is drawn."""
    (batch, given), device = prompt.shape, prompt.device
    longest = given + decoding.longest
    ids = torch.full((batch, longest), PAD, dtype=torch.int64, device=device)
    ids[:, :given] = prompt
    total = torch.zeros(batch, dtype=torch.float64, device=device)
    left = (prompt != PAD).sum(dim=1) + decoding.longest  # where each row must end
    alive, generator = torch.arange(batch, device=device), torch.Generator(device).manual_seed(decoding.seed)
    seen, end = 0, int((prompt != PAD).sum(dim=1).min())
    while end < longest:
        recent = ids[alive, seen:end]
        chosen, gains = _drawn(steps.logits(recent), decoding, generator) if decoding.draws else steps.likeliest(recent)
        going = chosen != END
        if end < given:  # prompts of some rows go on
            said = ids[alive, end]
            chosen, gains = torch.where(said == PAD, chosen, said), gains.where(said == PAD, 0)
            going |= said != PAD
        total[alive] += gains
        ids[alive, end] = chosen
        seen, end = end, end + 1
        going &= left[alive] > end
        if not bool(going.all()):
            kept = going.nonzero()[:, 0]
            if not len(kept):
                break
            alive = alive[kept]
            steps.rows(kept, kept)
    targets = _without_prompts(ids, prompt)[:, None]
    return Generated(targets, total[:, None], total[:, None])


class _Beams:
    """Beam search. The hypotheses of a row are ranked together, ended or not; so a beam of 1 is greedy."""

    def __init__(self, steps: Steps, prompt: Tensor, decoding: Decoding) -> None:
        batch, self.given = prompt.shape
        beam, device = decoding.beam, prompt.device
        self.steps = steps
        self.beam, self.penalty, self.longest = beam, decoding.length_penalty, decoding.longest
        self.ids = torch.full((batch, beam, self.given + self.longest), PAD, dtype=torch.int64, device=device)
        self.ids[:, :, : self.given] = prompt[:, None]
        self.total = torch.full((batch, beam), -torch.inf, dtype=torch.float64, device=device)
        self.total[:, 0] = 0  # all hypotheses are the prompt; one of them goes on
        self.length = torch.zeros(batch, beam, dtype=torch.int64, device=device)
        self.ended = torch.zeros(batch, beam, dtype=torch.bool, device=device)
        self.alive = torch.arange(batch, device=device)

    def search(self) -> Generated:
        """Go on until every row's best hypothesis is known."""
        seen = 0
        for end in range(self.given, self.given + self.longest):
            logits = self.steps.logits(self.ids[self.alive, :, seen:end].flatten(0, 1))
            self._extend(logits.log_softmax(dim=1).unflatten(0, (-1, self.beam)), end)
            seen = end
            going = self._undecided()
            if not bool(going.any()):
                break
            if not bool(going.all()):
                kept = going.nonzero()[:, 0]
                self.alive = self.alive[kept]
                rows = kept[:, None] * self.beam + torch.arange(self.beam, device=kept.device)
                self.steps.rows(rows.flatten(), kept)
        scores = self._score(self.total, self.length)
        return Generated(self.ids[:, :, self.given :], self.total, scores)

    def _extend(self, gains: Tensor, end: int) -> None:
        """Replace the hypotheses of the rows that go on by the best of all their continuations.

        gains: log p of each id after each hypothesis, `(rows, beam, ids)`. Continuations of one hypothesis are ranked
        by these alone, so that the best of a row are among the `beam` best of each.
        """
        alive, rows = self.alive, len(self.alive)
        ended = self.ended[alive]
        gains[:, :, NEVER] = -torch.inf
        likely = gains.topk(self.beam, dim=2)
        stays = torch.full_like(likely.values, -torch.inf)
        stays[:, :, 0] = 0  # what has ended has one continuation: itself
        totals = self.total[alive][:, :, None] + torch.where(ended[:, :, None], stays, likely.values).double()
        choices = likely.indices.masked_fill(ended[:, :, None], PAD)
        lengths = self.length[alive] + (~ended).long()
        best = self._score(totals, lengths[:, :, None]).flatten(1).topk(self.beam, dim=1).indices
        parent, chosen = best // self.beam, choices.flatten(1).gather(1, best)
        history = self.ids[alive].gather(1, parent[:, :, None].expand(-1, -1, self.ids.shape[2]))
        history[:, :, end] = chosen
        self.ids[alive] = history
        self.total[alive] = totals.flatten(1).gather(1, best)
        self.length[alive] = lengths.gather(1, parent)
        self.ended[alive] = ended.gather(1, parent) | (chosen == END)
        first = torch.arange(rows, device=parent.device)[:, None] * self.beam
        self.steps.rows((first + parent).flatten(), None)

    def _undecided(self) -> Tensor:
        """Say which rows have a hypothesis that goes on and could still be ranked first, `(rows that go on,)`."""
        ended, total = self.ended[self.alive], self.total[self.alive]
        scores = self._score(total, self.length[self.alive])
        settled = scores.masked_fill(~ended, -torch.inf).amax(dim=1)
        # A total only falls, and no length divides it by more than the longest.
        hope = self._score(total, torch.full_like(self.length[self.alive], self.longest))
        return hope.masked_fill(ended, -torch.inf).amax(dim=1) > settled

    def _score(self, total: Tensor, length: Tensor) -> Tensor:
        return total / ((5 + length.double()) / 6) ** self.penalty


def _drawn(logits: Tensor, decoding: Decoding, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw an id for each row, `(rows,)`; return it, and its log p without temperature and choice, in float64."""
    gains = logits.log_softmax(dim=1)
    logits[:, NEVER] = -torch.inf
    logits = logits / (decoding.temperature or 1.0)
    if decoding.top_k is not None and decoding.top_k < logits.shape[1]:
        least = logits.topk(decoding.top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if decoding.top_p is not None:
        ordered, order = logits.sort(dim=1, descending=True, stable=True)
        before = ordered.softmax(dim=1).cumsum(dim=1) - ordered.softmax(dim=1)
        ordered = ordered.masked_fill(before >= decoding.top_p, -torch.inf)  # the first always stays
        logits = torch.empty_like(logits).scatter_(1, order, ordered)
    chosen = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)
    return chosen[:, 0], gains.gather(1, chosen)[:, 0].double()


def _checked(model: Transformer, source: Tensor | None, prompt: Tensor | None, decoding: Decoding) -> Tensor:
    """Return the prompt; raise ValueError for what cannot be generated."""
    decoder, output = model.decoding()
    if (source is None) != (model.encoder is None):
        raise ValueError("a source is missing" if source is None else "there is no encoder to read the source")
    if prompt is None:
        prompt = model.start(1 if source is None else len(source))
    prompt = model.require_ids(prompt, decoder, "target")
    if bool((prompt[:, 0] == PAD).any()):
        raise ValueError(f"a prompt holds at least one id per row, shape (batch, length); got {tuple(prompt.shape)}")
    if source is not None and len(source) != len(prompt):
        raise ValueError(f"{len(source)} sources, but {len(prompt)} prompts")
    vocabulary = output.out_features
    if decoding.beam > vocabulary:
        raise ValueError(f"a beam of {decoding.beam} is larger than the target's vocabulary of {vocabulary} ids")
    if decoding.beam > 1 and bool((prompt == PAD).any()):
        raise ValueError("beam search needs prompts of one length; generate for each length apart")
    longest = prompt.shape[1] + decoding.longest
    if longest > decoder.order.longest:
        raise ValueError(
            f"a prompt of {prompt.shape[1]} and {decoding.longest} more ids are longer than the table of "
            f"{decoder.order.longest} positions; lower longest"
        )
    return prompt.to(model.device)


def _without_prompts(ids: Tensor, prompt: Tensor) -> Tensor:
    """Return what was generated, moved to the left by the length of each row's prompt."""
    given = (prompt != PAD).sum(dim=1, keepdim=True)
    place = given + torch.arange(ids.shape[1] - prompt.shape[1], device=ids.device)
    return ids.gather(1, place)
