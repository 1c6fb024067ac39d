"""An autoencoder as a folder (`spec.json`, `weights.safetensors`, `provenance.json`), codes as one safetensors file.

No pickle; written whole or not at all. Files of other libraries are read by the room `interop`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder
from gossamer.autoencoder.provenance import Provenance
from gossamer.codes import SparseCodes, require_valid
from gossamer.spec import Spec
from gossamer.storage import read_tensors, replace_file, replace_folder, write_tensors

__all__ = [
    "FILES",
    "SPEC",
    "WEIGHTS",
    "as_folded",
    "assemble",
    "find",
    "load",
    "load_codes",
    "load_mapped",
    "note_metrics",
    "save",
    "save_codes",
    "write_into",
]

SPEC, WEIGHTS, PROVENANCE = "spec.json", "weights.safetensors", "provenance.json"

Known = TypeVar("Known", bound=Spec)

FILES = frozenset({SPEC, WEIGHTS, PROVENANCE})
"""What the folder of an autoencoder consists of; the last one is absent if nothing is known."""

FORMAT, CODES = "gossamer.autoencoder.1", "gossamer.codes.1"


def save(sae: SparseAutoencoder, folder: str | Path) -> None:
    """Write an autoencoder, its scaling folded in: the saved weights act on rows in the input's own units.

    With linear parts: encoder.weight, decoder.weight: `(latents, input_width)`; encoder.bias: `(latents,)`;
    decoder.bias: `(input_width,)`; x̂ = sparsity(x W_encᵀ + b_enc) W_dec + b_dec.

    Raises ValueError if the folder holds something else, StorageError if it cannot be written; what was there
    before stays.
    """
    folder = Path(folder)
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if folder.is_file() or present - FILES:
        raise ValueError(f"{folder} holds something else than an autoencoder; choose another folder")
    replace_folder(folder, lambda temporary: write_into(temporary, sae))


def write_into(folder: Path, sae: SparseAutoencoder) -> None:
    """Write the files of an autoencoder into an empty folder."""
    (folder / SPEC).write_text(sae.spec.to_json(), encoding="utf-8")
    write_tensors(folder / WEIGHTS, as_folded(sae).state_dict(), {"format": FORMAT})
    if sae.provenance != Provenance():
        (folder / PROVENANCE).write_text(sae.provenance.to_json(), encoding="utf-8")


def as_folded(sae: SparseAutoencoder) -> SparseAutoencoder:
    """Return an autoencoder whose scaling is folded into its weights: a copy, or this one if it is so already."""
    neutral = _neutral_scaling(sae.spec, sae, sae.decoder.bias.dtype, sae.device)
    state = sae.state_dict()
    if not sae.scaler.folds or all(torch.equal(state[name], tensor) for name, tensor in neutral.items()):
        return sae
    folded = copy.deepcopy(sae)
    folded.fold()
    return folded


def load(folder: str | Path, *, device: str = "cpu") -> SparseAutoencoder:
    """Read an autoencoder: a folder that `save` wrote, or the folder of a run that holds one.

    Raises ValueError if there is none, if there are several (it names them), or if a file is damaged or does not
    match its spec.
    """
    sae = load_mapped(find(Path(folder)), device=device)
    state = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    sae.load_state_dict(state, assign=True)  # what is mapped would follow its file, and end with it
    return sae


def load_mapped(place: Path, *, device: str = "cpu") -> SparseAutoencoder:
    """Read a folder that `save` wrote as `load` does; its weights stay mapped from the file, which must not change."""
    spec = _read_spec(AutoencoderSpec, place / SPEC)
    tensors, _ = read_tensors(place / WEIGHTS, device=str(device))
    try:
        sae = assemble(spec, tensors)
    except ValueError as error:
        raise ValueError(f"{place / WEIGHTS} does not match {SPEC}: {error}") from error
    if (place / PROVENANCE).is_file():
        sae.provenance = _read_spec(Provenance, place / PROVENANCE)
    return sae


def assemble(spec: AutoencoderSpec, tensors: Mapping[str, Tensor]) -> SparseAutoencoder:
    """Return the autoencoder whose state is these tensors, which it holds as they are: nothing is copied or drawn.

    Scalings that are left out scale nothing. Raises ValueError for tensors that are missing, too many, of another shape
    or not all of one floating dtype.
    """
    with torch.device("meta"):
        sae = SparseAutoencoder(spec)
    bias = tensors.get("decoder.bias")
    dtype = torch.float32 if bias is None else bias.dtype
    state = {**_neutral_scaling(spec, sae, dtype, "cpu" if bias is None else bias.device), **tensors}
    expected = {name: tuple(t.shape) for name, t in sae.state_dict().items()}
    given = {name: tuple(t.shape) for name, t in state.items()}
    if given != expected:
        raise ValueError(f"it holds {given}, expected {expected}")
    kinds = {name: dtype if t.is_floating_point() else t.dtype for name, t in sae.state_dict().items()}
    wrong = [f"{name} {t.dtype}" for name, t in state.items() if t.dtype != kinds[name]]
    if wrong or not dtype.is_floating_point:
        raise ValueError(f"weights are numbers of one floating dtype, here {dtype}, but there is {', '.join(wrong)}")
    sae.load_state_dict(state, assign=True)
    return sae.eval()


def note_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Add what was measured to the provenance of the autoencoder in a folder; what is noted already is replaced.

    A figure that is not finite (the FVU of rows that are all the same) is left out: JSON has no number for it.
    """
    path = folder / PROVENANCE
    known = _read_spec(Provenance, path) if path.is_file() else Provenance()
    finite = {name: value for name, value in {**known.metrics, **metrics}.items() if math.isfinite(value)}
    text = known.replace(metrics=finite).to_json()
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


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


def find(folder: Path) -> Path:
    """Return the folder of the autoencoder in a folder or run; raises ValueError if there is none, or several."""
    for place in (folder, folder / "sae"):
        if (place / SPEC).is_file():
            return place
    several = sorted(path.parent for path in folder.glob(f"sae/*/{SPEC}"))
    if several:
        raise ValueError(f"{folder} holds {len(several)} autoencoders; choose one: {', '.join(map(str, several))}")
    if (folder / "transformer").is_dir():
        raise ValueError(
            f"{folder} holds a transformer, no autoencoder: gossamer generate, or gs.transformer.Translator"
        )
    raise ValueError(
        f"no autoencoder in {folder}: expected {SPEC} and {WEIGHTS} there or in {folder / 'sae'}; "
        f"if it is a run that was stopped, go on with it: gossamer train --resume {folder}"
    )


def _read_spec(kind: type[Known], path: Path) -> Known:
    try:
        return kind.from_json(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or of another version: {error}") from error


def _neutral_scaling(
    spec: AutoencoderSpec, sae: SparseAutoencoder, dtype: torch.dtype, device: torch.device | str
) -> dict[str, Tensor]:
    """Return the state of scalings that scale nothing, by its names in the autoencoder's state."""
    scalers: dict[str, nn.Module] = {"scaler": spec.scaling.build(input_width=spec.input_width)}
    if sae.target_scaler is not None:
        scalers["target_scaler"] = spec.scaling.build(input_width=spec.output_width)
    return {
        f"{name}.{own}": tensor.to(device, dtype)
        for name, scaler in scalers.items()
        for own, tensor in scaler.state_dict().items()
    }
