"""Translator: a trained transformer with its vocabularies, from text to text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gossamer.transformer.files import SPEC, load_transformer, load_vocabularies
from gossamer.transformer.generate import Decoding, generate_jointly
from gossamer.transformer.model import Transformer
from gossamer.transformer.vocabulary import END, PAD, START, Vocabulary

__all__ = ["MODEL", "VOCABULARIES", "Translation", "Translator", "padded", "trimmed"]

MODEL, VOCABULARIES = "transformer", "vocabularies.json"
"""What the folder of a transformer's run calls the model's folder, and the file with its vocabularies."""

TOKENS = 4096
"""Source ids that are translated together, about."""


class Hypothesis(NamedTuple):
    """A target: its text, its ids, and log p(y | x) in nats."""

    text: str
    ids: list[int]
    log_probability: float


@dataclass(frozen=True)
class Translation:
    """A source and its targets, the best first."""

    source: str
    hypotheses: tuple[Hypothesis, ...]

    @property
    def text(self) -> str:
        """The best target."""
        return self.hypotheses[0].text


class Translator:
    """Map texts to texts.

    others: further translators that have a say in every id, each with sources of its own: `generate_jointly`.
    """

    def __init__(
        self, model: Transformer, source: Vocabulary, target: Vocabulary, *, others: Sequence[Translator] = ()
    ) -> None:
        for side, vocabulary, ids in (("source", source, model.spec.source), ("target", target, model.spec.target)):
            if len(vocabulary) != ids:
                raise ValueError(f"the {side}'s vocabulary has {len(vocabulary)} ids, but the transformer knows {ids}")
        if any(other.target != target for other in others):
            raise ValueError("translators that speak together need the same target vocabulary")
        self.model, self.source, self.target, self.others = model, source, target, tuple(others)

    @classmethod
    def open(cls, run: str | Path, *, together: Sequence[str | Path] = (), device: str = "cpu") -> Translator:
        """Open the run of a transformer that has finished, and others that have a say.

        run: its folder; of a run that trained several, one of the folders in its `transformer`. Raises ValueError for
        any other folder, and for a run that has not finished.
        """
        run, others = Path(run), [cls.open(other, device=device) for other in together]
        place, home = run / MODEL, run
        if (run / SPEC).is_file():
            place, home = run, next((one for one in run.parents[:2] if (one / VOCABULARIES).is_file()), run)
        source, target = load_vocabularies(home / VOCABULARIES)
        if not place.is_dir():
            raise ValueError(f"{run} has not finished; go on with it: gossamer train --resume {run}")
        several = sorted(path.parent for path in place.glob(f"*/{SPEC}"))
        if several:
            raise ValueError(f"{run} holds {len(several)} transformers; choose one: {', '.join(map(str, several))}")
        model = load_transformer(place, device=device)
        if source is None or target is None:
            raise ValueError(f"{run} holds a transformer with one side only; it cannot translate")
        return cls(model, source, target, others=others)

    def translate(self, texts: Sequence[str], decoding: Decoding | None = None) -> list[Translation]:
        """Return the targets of texts, in their order; texts of like length are translated together.

        Raises ValueError for a text that is empty, too long, or holds what the vocabulary does not know, and if logits
        are not finite.
        """
        decoding = decoding or Decoding()
        members = (self, *self.others)
        models, ids = [one.model for one in members], [[one.encode(text) for text in texts] for one in members]
        lengths = [max(map(len, one)) for one in zip(*ids, strict=True)]
        order = sorted(range(len(texts)), key=lengths.__getitem__, reverse=True)
        done: dict[int, Translation] = {}
        while order:
            batch = max(1, TOKENS // (lengths[order[0]] * decoding.beam))
            rows, order = order[:batch], order[batch:]
            sources = [padded([side[row] for row in rows]).to(self.model.device) for side in ids]
            made = generate_jointly(models, sources, None, decoding.after(len(done)))
            for row, hypotheses, totals in zip(rows, made.ids.tolist(), made.log_probabilities.tolist(), strict=True):
                likely = [pair for pair in zip(hypotheses, totals, strict=True) if pair[1] > -math.inf]
                if not likely:
                    raise ValueError(f"nothing can be said of {texts[row]!r}: the model's logits are not finite")
                done[row] = Translation(texts[row], tuple(self._hypothesis(*pair) for pair in likely))
        return [done[row] for row in range(len(texts))]

    @property
    def longest(self) -> int:
        """Ids of a target that there are positions for, END included."""
        return min(one.model.decoding()[0].order.longest for one in (self, *self.others)) - 1

    def attention(self, text: str, target: Sequence[int]) -> tuple[Tensor, list[str], list[str]]:
        """Return what a target attended to in this translator's own model: weights, and the tokens of either side.

        target: its ids, without START. weights: `(layers, heads, target length, source length)`; row t is what the
        decoder saw when it said token t.
        """
        source, forced = padded([self.encode(text)]), torch.tensor([[START, *target]])
        seen = self.model.attention(source.to(self.model.device), forced[:, :-1].to(self.model.device))
        tokens = [self.source.token(index) for index in source[0].tolist()]
        return torch.cat(seen.cross).cpu(), tokens, [self.target.token(index) for index in target]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a source, END last."""
        if not text.strip():
            raise ValueError("a source is empty; give it some text")
        return [*self.source.encode(text), END]

    def _hypothesis(self, ids: list[int], log_probability: float) -> Hypothesis:
        kept = ids[: ids.index(END) + 1] if END in ids else [index for index in ids if index != PAD]
        return Hypothesis(self.target.decode(ids), kept, log_probability)


def padded(sequences: Sequence[Sequence[int]]) -> Tensor:
    """Return `(sequences, longest)` int64 ids, padded on the right."""
    longest = max(map(len, sequences))
    return torch.tensor([[*sequence, *[PAD] * (longest - len(sequence))] for sequence in sequences])


def trimmed(ids: Tensor) -> Tensor:
    """Return `(rows, length)` ids without the columns that are padding in every row."""
    return ids[:, : int((ids != PAD).sum(dim=1).max())]
