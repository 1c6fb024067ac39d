"""A transformer as a folder (`transformer.json`, `weights.safetensors`), its vocabularies as a JSON file. No pickle."""

from __future__ import annotations

import json
from pathlib import Path

from gossamer.storage import read_tensors, replace_file, replace_folder, write_tensors
from gossamer.transformer.model import Transformer, TransformerSpec
from gossamer.transformer.vocabulary import Vocabulary

__all__ = ["SPEC", "load_transformer", "load_vocabularies", "save_transformer", "save_vocabularies"]

SPEC, WEIGHTS = "transformer.json", "weights.safetensors"
FORMAT = "gossamer.transformer.1"


def save_transformer(model: Transformer, folder: str | Path) -> None:
    """Write a transformer; raises StorageError if it cannot be written, and what was there before stays."""
    tensors = dict(model.named_parameters())  # what is tied counts once

    def write(temporary: Path) -> None:
        (temporary / SPEC).write_text(model.spec.to_json(), encoding="utf-8")
        write_tensors(temporary / WEIGHTS, tensors, {"format": FORMAT})

    replace_folder(Path(folder), write)


def load_transformer(folder: str | Path, *, device: str = "cpu") -> Transformer:
    """Read what `save_transformer` wrote.

    Raises ValueError, naming the file, for one that is missing or damaged, or weights of another spec.
    """
    folder = Path(folder)
    if not (folder / SPEC).is_file():
        raise ValueError(f"no transformer in {folder}: expected {SPEC} and {WEIGHTS} there")
    try:
        spec = TransformerSpec.from_json((folder / SPEC).read_text(encoding="utf-8"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / SPEC} does not describe a transformer: {error}") from error
    tensors, metadata = read_tensors(folder / WEIGHTS)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{folder / WEIGHTS} has format {metadata.get('format')!r}, expected {FORMAT!r}")
    model = Transformer(spec)
    wanted = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != found:
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        shown = ", ".join(f"{name} {found.get(name, 'missing')}, not {wanted.get(name)}" for name in differing[:3])
        raise ValueError(f"{folder / WEIGHTS} holds the weights of another transformer than {SPEC} describes: {shown}")
    model.load_state_dict(tensors, strict=False)
    return model.to(device).eval()


def save_vocabularies(source: Vocabulary | None, target: Vocabulary | None, path: str | Path) -> None:
    """Write the vocabularies of both sides; None for a side that there is not."""
    sides = {name: side.to_dict() for name, side in (("source", source), ("target", target)) if side is not None}
    text = json.dumps(sides, indent=1, ensure_ascii=False) + "\n"
    replace_file(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def load_vocabularies(path: str | Path) -> tuple[Vocabulary | None, Vocabulary | None]:
    """Read what `save_vocabularies` wrote; raises ValueError, naming the file, if it is missing or damaged."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; is {path.parent} the folder of a transformer's run?")
    try:
        sides = json.loads(path.read_text(encoding="utf-8"))
        read = [
            Vocabulary.from_dict(sides[name], where=name) if name in sides else None for name in ("source", "target")
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return read[0], read[1]
