"""Small random models of other people's architectures, saved as they are saved, and the real Whisper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gossamer.sources.assets import MissingAsset
from gossamer.sources.datasets import dataset
from gossamer.sources.models import LoadedModel, load_model

transformers: Any = pytest.importorskip("transformers", reason="pip install gossamer[hf]")

SENTENCES = "translate English to German : The house is wonderful . Das Haus ist wunderbar"
WORDS = [*SENTENCES.split(), "</s>", "<pad>", "[UNK]"]
ENDS = {"pad_token_id": WORDS.index("<pad>"), "eos_token_id": WORDS.index("</s>"), "vocab_size": len(WORDS)}
TWO = {"encoder_layers": 1, "decoder_layers": 2, "d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 40}
ONE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "T5": (
        "T5ForConditionalGeneration",
        {"num_layers": 2, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2, "decoder_start_token_id": 15},
    ),
    "Bart": ("BartForConditionalGeneration", {**TWO, **HEADS, "decoder_start_token_id": 14, "bos_token_id": 0}),
    "Marian": ("MarianMTModel", {**TWO, **HEADS, "decoder_start_token_id": 15}),
    "GPT2": ("GPT2LMHeadModel", {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 40, "bos_token_id": 14}),
    "Llama": ("LlamaForCausalLM", {**ONE, "num_key_value_heads": 1, "bos_token_id": 14}),
    "Bert": ("BertModel", ONE),
}


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a small random model of a family, with a tokenizer made by the tokenizers library."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folders: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in folders:
            folder = folders[family] = tmp_path_factory.mktemp(family)
            name, settings = FAMILIES[family]
            torch.manual_seed(1)
            with torch.no_grad():
                model = getattr(transformers, name)(getattr(transformers, f"{family}Config")(**ENDS, **settings))
                for weight in model.parameters():
                    if weight.dim() > 1:  # else what is written does not depend on what is read
                        weight.copy_(0.5 * torch.randn_like(weight))
            model.save_pretrained(folder)
            words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
            words.pre_tokenizer = pre_tokenizers.Whitespace()
            ends = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "[UNK]"}
            transformers.PreTrainedTokenizerFast(tokenizer_object=words, **ends).save_pretrained(folder)
        return folders[family]

    return make


@pytest.fixture(scope="session")
def whisper() -> LoadedModel:
    """The real Whisper tiny.en."""
    try:
        return load_model("whisper-tiny.en")
    except MissingAsset as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def prompts() -> Path:
    """Real speech: telephone prompts at 8 kHz."""
    try:
        return dataset("speech")
    except MissingAsset as missing:
        pytest.skip(str(missing))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
