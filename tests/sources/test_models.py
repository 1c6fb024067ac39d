"""Models load by name in evaluation mode, quietly, and a model that cannot be used is refused with the reason."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from gossamer.sources import assets, models
from gossamer.sources.assets import INSTALL_COMMAND, MissingAsset
from gossamer.sources.models import load_model

transformers: Any = pytest.importorskip("transformers", reason="pip install gossamer[hf]")

HUB_ANSWERS = models._hub_answers
SMALL = {
    "GPT2": {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 5, "bos_token_id": 1, "eos_token_id": 1},
    "Bert": {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 5},
    "T5": {"num_layers": 1, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_heads": 2, "vocab_size": 5},
}


@pytest.fixture
def save(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[[str], Path]:
    """Save a small random model of a class, with a tokenizer, and forget what transformers printed meanwhile."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = WordLevel({"[UNK]": 0, "a": 1, "b": 2, "text": 3, "d": 4}, unk_token="[UNK]")

    def make(name: str) -> Path:
        folder = tmp_path / name
        (family,) = (family for family in SMALL if name.startswith(family))
        config = getattr(transformers, f"{family}Config")(**SMALL[family])
        getattr(transformers, name)(config).save_pretrained(folder)
        transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words)).save_pretrained(folder)
        capfd.readouterr()
        return folder

    return make


@pytest.fixture(autouse=True)
def one_thread_and_no_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep tests off the network, and torch to one thread: several that wait for each other beside others are slow."""
    monkeypatch.setattr(models, "_hub_answers", lambda name: False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load_asset(name: str) -> models.LoadedModel:
    try:
        return load_model(name)
    except MissingAsset:
        pytest.skip(f"install the assets with {INSTALL_COMMAND}")


class TestPackagedModels:
    def test_smollm2_goes_on_with_a_sentence(self):
        loaded = load_asset("smollm2-135m")
        assert (type(loaded.model).__name__, loaded.name) == ("LlamaForCausalLM", "smollm2-135m")
        tokens = loaded.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            best = int(loaded.model(input_ids=tokens).logits[0, -1].argmax())
        assert loaded.tokenizer.decode(best) == " Paris"

    def test_minilm_finds_like_sentences_alike(self):
        loaded = load_asset("minilm")
        assert type(loaded.model).__name__ == "BertModel"
        sentences = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose in March."]
        batch = loaded.tokenizer(sentences, padding=True, return_tensors="pt")
        with torch.inference_mode():
            hidden = loaded.model(**batch).last_hidden_state.float()
        mask = torch.as_tensor(batch["attention_mask"])[..., None]
        means = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
        assert means[0] @ means[1] > 0.5 > 0.3 > means[0] @ means[2]


class TestLoading:
    @pytest.mark.parametrize(
        ("saved", "expected"),
        [
            ("GPT2LMHeadModel", "GPT2LMHeadModel"),
            ("GPT2Model", "GPT2Model"),
            ("BertModel", "BertModel"),
            ("T5ForConditionalGeneration", "T5ForConditionalGeneration"),
            ("T5Model", "T5Model"),
        ],
    )
    def test_a_model_that_writes_keeps_its_head_and_others_are_bare(self, save: Callable, saved: str, expected: str):
        folder = save(saved)
        loaded = load_model(str(folder), dtype="float32")
        assert type(loaded.model).__name__ == expected
        assert loaded.name == str(folder)
        assert not loaded.model.training
        assert not any(weight.requires_grad for weight in loaded.model.parameters())
        assert loaded.tokenizer("text").input_ids == [3]
        assert loaded.features is None

    @pytest.mark.parametrize(
        ("dtype", "fast", "expected"),
        [
            ("float32", True, torch.float32),
            ("bfloat16", False, torch.bfloat16),
            ("float16", False, torch.float16),
            ("auto", True, torch.bfloat16),
            ("auto", False, torch.float32),
        ],
    )
    def test_dtype(
        self, save: Callable, monkeypatch: pytest.MonkeyPatch, dtype: str, fast: bool, expected: torch.dtype
    ):
        monkeypatch.setattr(models, "fast_bfloat16", lambda device: fast)
        loaded = load_model(str(save("GPT2LMHeadModel")), dtype=dtype)
        assert {weight.dtype for weight in loaded.model.parameters()} == {expected}

    def test_is_silent(self, save: Callable, capfd: Any, caplog: pytest.LogCaptureFixture, settings: Any):
        folder = save("BertForMaskedLM")
        settings.set_verbosity_info()
        settings.enable_progress_bar()
        settings.add_handler(caplog.handler)
        with pytest.warns(UserWarning, match="no weights for the pooler .* starts at random"):
            load_model(str(folder))
        settings.remove_handler(caplog.handler)
        assert (caplog.records, capfd.readouterr()) == ([], ("", ""))

    @pytest.mark.parametrize("bars", [False, True])
    @pytest.mark.parametrize("downloads", [False, True])
    def test_puts_the_settings_of_transformers_back(self, settings: Any, bars: bool, downloads: bool):
        from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

        settings.set_verbosity_info()
        (settings.enable_progress_bar if bars else settings.disable_progress_bar)()
        (enable_progress_bars if downloads else disable_progress_bars)()
        with suppress(KeyboardInterrupt), models.quiet():
            assert not settings.is_progress_bar_enabled()
            assert are_progress_bars_disabled() is not downloads
            raise KeyboardInterrupt
        assert settings.get_verbosity() == logging.INFO
        assert settings.is_progress_bar_enabled() is bars
        assert are_progress_bars_disabled() is not downloads

    @pytest.fixture
    def settings(self) -> Iterator[Any]:
        module = transformers.utils.logging
        verbosity, bars = module.get_verbosity(), module.is_progress_bar_enabled()
        yield module
        module.set_verbosity(verbosity)
        (module.enable_progress_bar if bars else module.disable_progress_bar)()

    def test_a_cached_hub_model_loads_without_the_hub(
        self, save: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        cached = tmp_path / "models--some--model"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs/main").write_text("abc")
        (cached / "snapshots").mkdir()
        save("GPT2LMHeadModel").rename(cached / "snapshots/abc")
        load = Mock(wraps=models._load_weights)
        monkeypatch.setattr(models, "_load_weights", load)
        assert type(load_model("some/model").model).__name__ == "GPT2LMHeadModel"
        assert load.call_args.args[:2] == ("some/model", True)  # local files only


class TestRefusals:
    def test_weights_that_are_missing_or_have_another_shape(self, save: Callable):
        from safetensors.torch import load_file, save_file

        folder = save("GPT2LMHeadModel")
        weights = load_file(folder / "model.safetensors")
        del weights["transformer.wpe.weight"]
        weights["transformer.wte.weight"] = torch.zeros(5, 4)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"lack 2 .*, or have other shapes: transformer\.wpe\.weight, .*wte"):
            load_model(str(folder))

    @pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
    def test_a_broken_file(self, save: Callable, file: str):
        folder = save("GPT2LMHeadModel")
        (folder / file).write_bytes(b"broken")
        with pytest.raises(ValueError, match="cannot load the model"):
            load_model(str(folder))

    def test_weights_that_are_not_safetensors(self, save: Callable):
        folder = save("GPT2LMHeadModel")
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(ValueError, match="only safetensors are read"):
            load_model(str(folder))

    @pytest.mark.parametrize("name", ["GPT2LMHeadModel", "BertModel", "T5ForConditionalGeneration"])
    def test_no_tokenizer(self, save: Callable, name: str):
        folder = save(name)
        for file in folder.glob("tokenizer*"):
            file.unlink()
        with pytest.raises(ValueError, match=r"has no tokenizer \(save one there"):
            load_model(str(folder))

    def test_an_empty_tokenizer(self, save: Callable):
        folder = save("GPT2LMHeadModel")
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
        with pytest.raises(ValueError, match="has an empty vocabulary"):
            load_model(str(folder))

    def test_code_that_comes_with_a_model(self, save: Callable):
        folder = save("GPT2LMHeadModel")
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
        with pytest.raises(ValueError, match="code that comes with a model is never run"):
            load_model(str(folder))
        assert not (folder / "ran").exists()

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("smolm2", "hub, where it might be, cannot be reached; the nearest packaged models are smollm2-135m"),
            ("./smollm2", r"there is no folder '\./smollm2', and it is not a hub id"),
            ("not a name", "there is no folder 'not a name'"),
            ("", "there is no folder ''"),
        ],
    )
    def test_an_unknown_name(self, name: str, said: str):
        with pytest.raises(ValueError, match=said):
            load_model(name)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"dtype": "int8"}, "dtype must be one of auto, float32, bfloat16, float16, got 'int8'"),
            ({"device": "toaster"}, "there is no device 'toaster' here"),
            ({"device": "cuda:99"}, "there is no device 'cuda:99' here .* device='cpu' always works"),
        ],
    )
    def test_options_are_checked_before_the_model_is_looked_for(
        self, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], said: str
    ):
        monkeypatch.setitem(assets.MODELS, "minilm", lambda: pytest.fail("looked for"))
        with pytest.raises(ValueError, match=said):
            load_model("minilm", **options)

    def test_no_transformers(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ValueError, match=r"pip install gossamer\[hf\]"):
            load_model("minilm")


def test_any_answer_of_the_hub_counts(monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    results = [HfHubHTTPError.__new__(HfHubHTTPError), ConnectionError(), None]
    monkeypatch.setattr(HfApi, "model_info", Mock(side_effect=results))
    assert [HUB_ANSWERS("some/model") for _ in results] == [True, False, True]


def test_importing_the_module_does_not_import_transformers():
    code = "import sys, gossamer.sources.models; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
