"""An autoencoder as a folder (`spec.json`, `weights.safetensors`), codes as one safetensors file.

No pickle; written whole or not at all.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder
from gossamer.codes import SparseCodes, require_valid
from gossamer.storage import read_tensors, replace_file, replace_folder, write_tensors

__all__ = ["SPEC", "load", "load_codes", "save", "save_codes"]

SPEC, WEIGHTS = "spec.json", "weights.safetensors"
CODES = "gossamer.codes.1"


def save(sae: SparseAutoencoder, folder: str | Path) -> None:
    """Write an autoencoder, its scaling folded in: the saved weights act on rows in the input's own units.

    With linear parts: encoder.weight, decoder.weight: `(latents, input_width)`; encoder.bias: `(latents,)`;
    decoder.bias: `(input_width,)`; x̂ = sparsity(x W_encᵀ + b_enc) W_dec + b_dec.

    Raises ValueError if the folder holds something else, StorageError if it cannot be written; what was there
    before stays.
    """
    folder = Path(folder)
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if folder.is_file() or (SPEC not in present and present - {WEIGHTS}):
        raise ValueError(f"{folder} holds something else than an autoencoder; choose another folder")
    folded = copy.deepcopy(sae)
    folded.fold()

    def write(temporary: Path) -> None:
        (temporary / SPEC).write_text(sae.spec.to_json(), encoding="utf-8")
        write_tensors(temporary / WEIGHTS, folded.state_dict(), {"format": "gossamer.autoencoder.1"})

    replace_folder(folder, write)


def load(folder: str | Path, *, device: str = "cpu") -> SparseAutoencoder:
    """Read an autoencoder: a folder that `save` wrote, or the folder of a run that holds one.

    Raises ValueError if there is none, if there are several (it names them), or if a file is damaged or does not
    match its spec.
    """
    place = _find(Path(folder))
    try:
        spec = AutoencoderSpec.from_json((place / SPEC).read_text(encoding="utf-8"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{place / SPEC} is damaged or of another version: {error}") from error
    tensors, _ = read_tensors(place / WEIGHTS, device=str(device))
    sae = spec.build().to(device)
    expected = {name: tuple(t.shape) for name, t in sae.state_dict().items()}
    given = {name: tuple(t.shape) for name, t in tensors.items()}
    if given != expected:
        raise ValueError(f"{place / WEIGHTS} does not match {SPEC}: it holds {given}, expected {expected}")
    sae.to(tensors["decoder.bias"].dtype).load_state_dict(tensors)
    return sae.eval()


def save_codes(codes: SparseCodes, path: str | Path) -> None:
    """Write codes to a safetensors file, in compressed sparse row form.

    offsets: `(rows + 1,)` int64; indices: `(entries,)`, int32 where that is enough; values: `(entries,)`; the number of
    latents is in the metadata. Raises StorageError if it cannot be written; what was there before stays.
    """
    small = codes.latents <= torch.iinfo(torch.int32).max
    tensors = {
        "offsets": codes.offsets,
        "indices": codes.indices.int() if small else codes.indices,
        "values": codes.values,
    }
    metadata = {"format": CODES, "latents": str(codes.latents), "level": str(codes.level)}
    replace_file(Path(path), lambda temporary: write_tensors(temporary, tensors, metadata))


def load_codes(path: str | Path, *, device: str = "cpu") -> SparseCodes:
    """Read codes that `save_codes` wrote.

    Raises ValueError if the file is missing, damaged, or holds something else.
    """
    tensors, metadata = read_tensors(Path(path), device=device)
    if metadata.get("format") != CODES or set(tensors) != {"offsets", "indices", "values"}:
        raise ValueError(f"{path} holds no codes: it has format {metadata.get('format')!r} and {sorted(tensors)}")
    codes = SparseCodes(
        offsets=tensors["offsets"],
        indices=tensors["indices"].long(),
        values=tensors["values"],
        latents=int(metadata["latents"]),
        level=float(metadata.get("level", 0)),
    )
    try:
        require_valid(codes.to("cpu"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return codes


def _find(folder: Path) -> Path:
    for place in (folder, folder / "sae"):
        if (place / SPEC).is_file():
            return place
    several = sorted(path.parent for path in folder.glob(f"sae/*/{SPEC}"))
    if several:
        raise ValueError(f"{folder} holds {len(several)} autoencoders; choose one: {', '.join(map(str, several))}")
    raise ValueError(
        f"no autoencoder in {folder}: expected {SPEC} and {WEIGHTS} there or in {folder / 'sae'}; "
        f"if it is a run that was stopped, go on with it: gossamer train --resume {folder}"
    )
