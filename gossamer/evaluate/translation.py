"""A transformer's run, measured on the sources that it never saw: error rates, its errors, attention pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gossamer.evaluate.sequences import SequenceScore, score_sequences
from gossamer.figures.attention import attention_map
from gossamer.figures.style import require_matplotlib
from gossamer.progress import Progress
from gossamer.sources.pairs import SequencesSpec
from gossamer.storage import replace_file
from gossamer.training.devices import resolve_device
from gossamer.training.run import RunSpec
from gossamer.transformer.generate import Decoding
from gossamer.transformer.translator import Translation, Translator

__all__ = ["TranslationScore", "draw_attention", "evaluate_translations", "picture_kind"]

CHUNK = 512
"""Sources between two signs of progress."""

PICTURE_KINDS = ("png", "svg", "pdf", "jpg", "webp")
"""How pictures can be written."""

PICTURES = 3
"""Sources whose attention is drawn."""

LEAST = 64
"""Ids that a target may always have, if there are positions for them."""


@dataclass(frozen=True)
class TranslationScore:
    """Error rates of a run, and how they were measured. seconds: for all sources. together: runs that had a say."""

    score: SequenceScore
    decoding: Decoding
    seconds: float
    together: tuple[str, ...] = ()

    def summary(self) -> dict[str, object]:
        """Return the figures as plain values."""
        return {
            "error_rate": self.score.error_rate,
            "token_error_rate": self.score.token_error_rate,
            "sources": self.score.sources,
            "decoding": self.decoding.to_dict(),
            "seconds": round(self.seconds, 1),
            "together": list(self.together),
        }


def evaluate_translations(
    run: str | Path,
    *,
    together: Sequence[str | Path] = (),
    beam: int = 1,
    length_penalty: float = 1.0,
    longest: int | None = None,
    sources: int | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> TranslationScore:
    """Measure a finished run on sources that its training never saw; any of several references counts.

    Writes into the run's folder evaluation.json, errors.tsv (source, what was said, the nearest reference, edits) and
    attention.png. together: other runs that have a say in each id. beam, length_penalty, longest: as in `Decoding`, but
    targets may be twice as long as the longest reference by default, and have 64 ids. sources: so many, drawn at
    random; None: all.

    Raises ValueError if the run is none of a transformer's, has not finished, or its source cannot be built again.
    """
    run = Path(run)
    spec = RunSpec.read(run).source
    if not isinstance(spec, SequencesSpec):
        raise ValueError(f"{run} is no run of a transformer on pairs (its source is {spec.kind!r}); try gossamer eval")
    if sources is not None and sources < 1:
        raise ValueError(f"sources must be at least 1, got {sources}")
    require_matplotlib()
    translator = Translator.open(run, together=together, device=str(resolve_device(device)))
    references = spec.references()
    names = list(references)
    chosen = [names[number] for number in np.random.default_rng(0).permutation(len(names))[:sources]]
    if longest is None:
        ids = max(len(translator.target.encode(text)) + 1 for name in chosen for text in references[name])
        longest = min(max(LEAST, 2 * ids), translator.longest)
    decoding = Decoding(beam=beam, length_penalty=length_penalty, longest=longest)
    began = time.monotonic()
    made: list[Translation] = []
    with Progress(len(chosen), quiet=quiet, unit="source") as progress:
        for start in range(0, len(chosen), CHUNK):
            made += translator.translate(chosen[start : start + CHUNK], decoding)
            progress.advance(len(made), {})
    seconds = time.monotonic() - began
    said, right = [one.text for one in made], [references[name] for name in chosen]
    score = score_sequences(chosen, said, right, cut=translator.target.cut)
    result = TranslationScore(score, decoding, seconds, tuple(map(str, together)))
    _write(run, result)
    draw_attention(translator, made[:PICTURES], run / "attention.png")
    return result


def picture_kind(path: str | Path) -> str:
    """Return the format of a picture to be drawn; raises ValueError for an unknown one, or without matplotlib."""
    kind = Path(path).suffix[1:].lower()
    if kind not in PICTURE_KINDS:
        raise ValueError(f"{path}: a picture is written as {', '.join(PICTURE_KINDS)}, not as {kind or 'nothing'!r}")
    require_matplotlib()
    return kind


def draw_attention(translator: Translator, translations: Sequence[Translation], path: str | Path) -> None:
    """Draw what the best targets attended to, mean over the heads of the last layer, into a picture."""
    kind = picture_kind(path)
    maps = []
    for one in translations:
        weights, source, target = translator.attention(one.source, one.hypotheses[0].ids)
        maps.append((one.source, weights[-1].mean(dim=0).numpy(), source, target))
    figure = attention_map(maps)
    replace_file(Path(path), lambda temporary: figure.savefig(temporary, format=kind, dpi=120))


def _write(run: Path, result: TranslationScore) -> None:
    text = json.dumps(result.summary(), indent=2) + "\n"
    replace_file(run / "evaluation.json", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    lines = ["source\tsaid\tnearest reference\tedits", *("\t".join(map(str, one)) for one in result.score.mistakes)]
    errors = "\n".join(lines) + "\n"
    replace_file(run / "errors.tsv", lambda temporary: temporary.write_text(errors, encoding="utf-8"))
