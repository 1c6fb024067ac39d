"""What a model writes, as a person reads it: as it is, or with features of an autoencoder inside it taken out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gossamer.evaluate.sequence_ablation import SequenceAblation, ablate_sequence
from gossamer.pretrained.writer import Given, Writer
from gossamer.sources.activations import model_fingerprint
from gossamer.training.run import Run, RunSpec
from gossamer.transformer.generate import Decoding

__all__ = ["Latents", "ablate_run", "marked", "parse_latents", "show"]


@dataclass(frozen=True)
class Latents:
    """Latents of a run's autoencoder. folder: of the run; numbers: at least one."""

    folder: Path
    numbers: tuple[int, ...]


def show(writer: Writer, given: Sequence[Given], decoding: Decoding, *, ablate: Latents | None = None) -> None:
    """Print what a model writes for each input; with `ablate`, also what it writes without those latents."""
    if ablate is None:
        for written in writer.write(given, decoding):
            print(written.text)
        return
    names = " and ".join(map(str, ablate.numbers))
    for found in ablate_run(writer, given, ablate, decoding):
        print(f"with     {marked(found.before, found.changed, joint=writer.joint)}")
        print(f"without  {marked(found.after, found.added, joint=writer.joint)}")
        active = f"active on {found.active:,} of {found.rows:,} rows, at most {found.largest:.3g}"
        print(f"         latent {names}: {active}; {len(found.changed)} of {len(found.before)} tokens changed")


def parse_latents(text: str) -> Latents:
    """Read `runs/x:123` or `runs/x:12,345`; raises ValueError for anything else."""
    folder, colon, numbers = text.rpartition(":")
    parts = numbers.split(",")
    if not colon or not folder or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"latents are written RUN:NUMBER or RUN:NUMBER,NUMBER, such as runs/whisper:123; got {text!r}")
    return Latents(Path(folder), tuple(int(part) for part in parts))


def ablate_run(writer: Writer, given: Sequence[Given], latents: Latents, decoding: Decoding) -> list[SequenceAblation]:
    """Return for each input what a model writes with some latents of a run's autoencoder and without them.

    Raises ValueError if the run is of another model, has several autoencoders, or reads several sites.
    """
    spec = RunSpec.read(latents.folder)
    sae = Run.open(latents.folder).autoencoder
    _require_same_model(spec, writer)
    sites = spec.fingerprint["sites"].split(", ")
    site = next(iter(sae.spec.task.inputs)) or sites[0]
    device = next(writer.model.parameters()).device
    found = []
    for one in given:
        places = writer.places(one, site)

        def write(one: Given = one) -> tuple[str, ...]:
            return writer.write([one], decoding)[0].tokens

        where = {"site": site, "latents": latents.numbers, "first": places.first, "stop": places.stop}
        found.append(ablate_sequence(write, writer.model, sae.to(device), **where))
    return found


def marked(tokens: Sequence[str], positions: Sequence[int], *, joint: str = "") -> str:
    """Return tokens as one line, with those at some positions in brackets.

    Examples
    --------
    >>> marked(["All", " cir", "cuits", " are"], [1, 2])
    'All[ circuits] are'
    """
    chosen = set(positions)
    parts: list[str] = []
    for place, token in enumerate(tokens):
        opens = place in chosen and place - 1 not in chosen
        closes = place in chosen and place + 1 not in chosen
        parts.append(f"{'[' if opens else ''}{token}{']' if closes else ''}")
    return joint.join(parts).strip()


def _require_same_model(spec: RunSpec, writer: Writer) -> None:
    ours = model_fingerprint(writer.model)
    theirs = {name: spec.fingerprint.get(name) for name in ours}
    compared = ("model", "weights") if theirs["dtype"] == ours["dtype"] else ("model",)
    if any(theirs[name] != ours[name] for name in compared):
        trained = theirs["model"] or f"rows of kind {spec.source.kind!r}"
        raise ValueError(
            f"the autoencoder was trained on another model ({trained}) than {writer.name} ({ours['model']})"
        )
