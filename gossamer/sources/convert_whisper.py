"""Whisper tiny.en from its CTranslate2 file to an ordinary Hugging Face folder.

Here lives what is particular to that file: the binary format (version 6, little-endian), the names, and the settings of
the feature extractor and of generation. Where the file is and where the folder goes is `assets`.

The format: version, name of the specification (a string), its revision and the number of variables; per variable its
name, rank, extents, type, bytes, and values; then aliases. A string is its length in 16 bits and its bytes, with a zero
at the end.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["convert_whisper", "read_ctranslate2"]

_TYPES: Final = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}
_VERSION: Final = 6

START, NO_TIMESTAMPS, END = 50257, 50362, 50256

_FEATURES: Final[dict[str, Any]] = {
    "chunk_length": 30,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 80,
    "hop_length": 160,
    "n_fft": 400,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": False,
    "sampling_rate": 16000,
}
_TOKENIZER: Final[dict[str, Any]] = {
    # It takes tokenizer.json as it stands; WhisperTokenizer would look for its vocabulary in other files.
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|endoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "clean_up_tokenization_spaces": False,
    "model_max_length": 448,
}
_CROSS: Final = {"linear_0": ("q",), "linear_1": ("k", "v"), "linear_2": ("out",)}
_SELF: Final = {"linear_0": ("q", "k", "v"), "linear_1": ("out",)}
_NORMS: Final = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "ffn/layer_norm": "final_layer_norm",
}
_OUTSIDE: Final = {
    "encoder/conv1/weight": "encoder.conv1.weight",
    "encoder/conv1/bias": "encoder.conv1.bias",
    "encoder/conv2/weight": "encoder.conv2.weight",
    "encoder/conv2/bias": "encoder.conv2.bias",
    "encoder/position_encodings/encodings": "encoder.embed_positions.weight",
    "decoder/position_encodings/encodings": "decoder.embed_positions.weight",
    "decoder/embeddings/weight": "decoder.embed_tokens.weight",
    "encoder/layer_norm/gamma": "encoder.layer_norm.weight",
    "encoder/layer_norm/beta": "encoder.layer_norm.bias",
    "decoder/layer_norm/gamma": "decoder.layer_norm.weight",
    "decoder/layer_norm/beta": "decoder.layer_norm.bias",
}


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """Return the variables of a CTranslate2 file by name.

    Raises ValueError for a file of another kind or version, or one that is cut off.
    """
    data, place = path.read_bytes(), 0

    def take(kind: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from(f"<{kind}", data, place)
        place += struct.calcsize(kind)
        return value

    def text() -> str:
        nonlocal place
        length = take("H")
        place += length
        return data[place - length : place].rstrip(b"\0").decode()

    try:
        version, specification, _ = take("I"), text(), take("I")
        if version != _VERSION or specification != "WhisperSpec":
            raise ValueError(f"version {version} of {specification!r}, expected {_VERSION} of 'WhisperSpec'")
        variables: dict[str, np.ndarray] = {}
        for _ in range(take("I")):
            name = text()
            shape = [take("I") for _ in range(take("B"))]
            kind, size = _TYPES[take("B")], take("I")
            values = np.frombuffer(data, kind, count=size // np.dtype(kind).itemsize, offset=place)
            variables[name] = values.reshape(shape)
            place += size
    except (struct.error, ValueError, KeyError) as error:
        raise ValueError(f"{path} is no CTranslate2 file of Whisper, or damaged: {error}") from error
    return variables


def convert_whisper(source: Path, folder: Path) -> None:
    """Write the CTranslate2 file `source`, with the files beside it, as a Hugging Face folder.

    Weights stay in float16, bit for bit; what CTranslate2 joins (the query, key and value of attention) is cut apart.
    """
    from safetensors.torch import save

    variables = read_ctranslate2(source)
    beside = json.loads((source.parent / "config.json").read_text(encoding="utf-8"))
    weights = {f"model.{name}": weight for name, weight in _weights(variables).items()}
    (folder / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    tokenizer = (source.parent / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(tokenizer)
    special = [token["content"] for token in json.loads(tokenizer)["added_tokens"] if token["special"]]
    settings = {
        "config.json": _configuration(variables),
        "generation_config.json": _generation(beside),
        "preprocessor_config.json": _FEATURES,
        "tokenizer_config.json": _TOKENIZER | {"additional_special_tokens": special},
    }
    for name, content in settings.items():
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def _weights(variables: Mapping[str, np.ndarray]) -> "dict[str, torch.Tensor]":
    import torch

    arrays = {theirs: variables[ours] for ours, theirs in _OUTSIDE.items()}
    for side in ("encoder", "decoder"):
        for number in range(_layers(variables, side)):
            block = f"{side}/layer_{number}"
            arrays |= {f"{side}.layers.{number}.{name}": array for name, array in _layer(variables, block).items()}
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def _layer(variables: Mapping[str, np.ndarray], block: str) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for ours, theirs in _NORMS.items():
        if f"{block}/{ours}/gamma" in variables:
            found[f"{theirs}.weight"] = variables[f"{block}/{ours}/gamma"]
            found[f"{theirs}.bias"] = variables[f"{block}/{ours}/beta"]
    for room, theirs, parts in (("self_attention", "self_attn", _SELF), ("attention", "encoder_attn", _CROSS)):
        for linear, names in parts.items():
            if f"{block}/{room}/{linear}/weight" in variables:
                found |= _projections(variables, f"{block}/{room}/{linear}", theirs, names)
    for ours, theirs in (("linear_0", "fc1"), ("linear_1", "fc2")):
        found |= {f"{theirs}.{end}": variables[f"{block}/ffn/{ours}/{end}"] for end in ("weight", "bias")}
    return found


def _projections(
    variables: Mapping[str, np.ndarray], linear: str, theirs: str, names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for end in ("weight", "bias"):
        for name, part in zip(names, np.split(variables[f"{linear}/{end}"], len(names)), strict=True):
            if (name, end) != ("k", "bias"):  # Whisper's keys have none: it is written as zeros
                found[f"{theirs}.{name}_proj.{end}"] = part
    return found


def _layers(variables: Mapping[str, np.ndarray], side: str) -> int:
    return len({name.split("/")[1] for name in variables if name.startswith(f"{side}/layer_") and name.count("/") > 2})


def _configuration(variables: Mapping[str, np.ndarray]) -> dict[str, Any]:
    vocabulary, width = variables["decoder/embeddings/weight"].shape
    hidden = len(variables["encoder/layer_0/ffn/linear_0/bias"])
    sides = {
        f"{side}_{field}": value
        for side in ("encoder", "decoder")
        for field, value in {
            "attention_heads": int(variables[f"{side}/num_heads"]),
            "ffn_dim": hidden,
            "layers": _layers(variables, side),
        }.items()
    }
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "d_model": width,
        "vocab_size": vocabulary,
        "num_mel_bins": variables["encoder/conv1/weight"].shape[1],
        "max_source_positions": len(variables["encoder/position_encodings/encodings"]),
        "max_target_positions": len(variables["decoder/position_encodings/encodings"]),
        **sides,
        "bos_token_id": END,
        "eos_token_id": END,
        "pad_token_id": END,
        "decoder_start_token_id": START,
        "torch_dtype": "float16",
    }


def _generation(beside: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "alignment_heads": beside["alignment_heads"],
        "begin_suppress_tokens": beside["suppress_ids_begin"],
        "suppress_tokens": beside["suppress_ids"],
        "bos_token_id": END,
        "eos_token_id": END,
        "pad_token_id": END,
        "decoder_start_token_id": START,
        "forced_decoder_ids": None,
        "is_multilingual": False,
        "max_length": 448,
        "no_timestamps_token_id": NO_TIMESTAMPS,
        "return_timestamps": False,
    }
