"""SmolLM2-135M-Instruct from its quantized GGUF file to an ordinary Hugging Face folder.

Here lives what is particular to that file: names, the layout of rotary positions, the tokenizer. Where the file is and
where the folder goes is `assets`.
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

__all__ = ["convert_smollm2"]

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


def convert_smollm2(source: Path, folder: Path) -> None:
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
