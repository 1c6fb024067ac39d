"""What a model writes, as a person reads it: as it is, or with features of an autoencoder inside it set to a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gossamer.evaluate.sequence_change import SequenceChange, change_sequence
from gossamer.pretrained.writer import Given, Writer
from gossamer.sources.activations import model_fingerprint
from gossamer.training.run import Run, RunSpec
from gossamer.transformer.generate import Decoding

__all__ = ["Latents", "change_run", "marked", "parse_ablation", "parse_steering", "show"]


@dataclass(frozen=True)
class Latents:
    """Latents of a run's autoencoder, and the value that they are set to. folder: of the run; numbers: at least one;
    value: in the units of the codes, 0 takes them out."""

    folder: Path
    numbers: tuple[int, ...]
    value: float = 0.0


def show(writer: Writer, given: Sequence[Given], decoding: Decoding, *, change: Latents | None = None) -> None:
    """Print what a model writes for each input; with `change`, also what it writes with those latents set."""
    if change is None:
        for written in writer.write(given, decoding):
            print(written.text)
        return
    names = " and ".join(map(str, change.numbers))
    before, after = ("with", "without") if change.value == 0 else ("as it is", f"at {change.value:g}")
    width = max(len(before), len(after))
    for found in change_run(writer, given, change, decoding):
        print(f"{before:{width}}  {marked(found.before, found.changed, joint=writer.joint)}")
        print(f"{after:{width}}  {marked(found.after, found.added, joint=writer.joint)}")
        active = f"active on {found.active:,} of {found.rows:,} rows, at most {found.largest:.3g}"
        tokens = f"{len(found.changed)} of {len(found.before)} tokens changed"
        print(f"{'':{width}}  latent {names}: {active}; {tokens}")


def parse_ablation(text: str) -> Latents:
    """Read `runs/x:123` or `runs/x:12,345`; raises ValueError for anything else."""
    folder, colon, numbers = text.rpartition(":")
    parts = numbers.split(",")
    if not colon or not folder or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"latents are written RUN:NUMBER or RUN:NUMBER,NUMBER, such as runs/whisper:123; got {text!r}")
    return Latents(Path(folder), tuple(int(part) for part in parts))


def parse_steering(text: str) -> Latents:
    """Read `runs/x:123=8` or `runs/x:12,345=-2.5`; raises ValueError for anything else."""
    latents, _, value = text.rpartition("=")
    try:
        return replace(parse_ablation(latents), value=float(value))
    except ValueError as error:
        raise ValueError(
            f"what to steer with is written RUN:NUMBER=VALUE, such as runs/smollm2-topk:123=40; got {text!r}"
        ) from error


def change_run(writer: Writer, given: Sequence[Given], latents: Latents, decoding: Decoding) -> list[SequenceChange]:
    """Return for each input what a model writes as it is, and with some latents of a run's autoencoder at a value.

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

        where = {"site": site, "first": places.first, "stop": places.stop}
        change = {"latents": latents.numbers, "value": latents.value}
        found.append(change_sequence(write, writer.model, sae.to(device), **change, **where))
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
