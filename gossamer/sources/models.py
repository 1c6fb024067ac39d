"""Loading a transformer, with its tokenizer, to read activations from.

Here lives the way from a name to a model in evaluation mode on a device, and the choice of its number format.
Where the packaged models are is `assets`; hooks and activations are other modules. Only safetensors are read,
and code that comes with a model is never run.
"""

import difflib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from gossamer.kernels.capability import fast_bfloat16
from gossamer.sources.assets import MODELS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, SequenceFeatureExtractor

_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_TOKENIZER_FILES: Final = ("tokenizer", "vocab", "merges", "spiece", "sentencepiece")
_HUB_TIMEOUT_SECONDS: Final = 10.0


@dataclass(frozen=True)
class LoadedModel:
    """Hold a model in evaluation mode, its tokenizer, and the name it was asked for by.

    No parameter of `model` requires a gradient; gradients with respect to its inputs still flow. features: of a model
    that reads sound, what turns samples into its input.
    """

    model: torch.nn.Module
    tokenizer: "PreTrainedTokenizerBase"
    name: str
    features: "SequenceFeatureExtractor | None" = None


def load_model(name: str, *, device: str = "cpu", dtype: str = "auto") -> LoadedModel:
    """Load a model and its tokenizer from a packaged model, a folder or the Hugging Face hub.

    `name` is a key of `gossamer.sources.assets.MODELS`, else a folder with a configuration, a tokenizer and
    safetensors, else a hub id. A model that was saved as a causal language model, or as an encoder–decoder that
    writes text, is loaded as one, with its head; any other, such as a sentence encoder, as its bare body (`AutoModel`).

    `dtype` is "float32", "bfloat16", "float16" or "auto": bfloat16 where `fast_bfloat16` finds it fast, else
    float32. "auto" rests on a measurement; a run that must be repeated exactly should note what it got,
    `model.dtype`.

    Raises `ValueError` for an unknown name, device or dtype, for a model without safetensors, without a
    tokenizer or with some weights missing, for one that needs code of its own, and if transformers is not
    installed. Warns if only the pooling layer on top has no weights: it then starts at random, and nothing
    else depends on it.
    """
    where, wanted = checked_device(device), checked_dtype(dtype)
    if importlib.util.find_spec("transformers") is None:
        raise ValueError("loading a model needs transformers: `pip install gossamer[hf]`")
    with quiet():
        source, local_files_only = _resolve(name)
        if wanted is None:
            wanted = torch.bfloat16 if fast_bfloat16(where) else torch.float32
        try:
            tokenizer = _load_tokenizer(source, local_files_only)
            model, missing = _load_weights(source, local_files_only, wanted)
            features = _load_features(source, local_files_only) if reads_sound(model) else None
        except Exception as error:  # from a broken file the loaders raise nearly anything
            reason = f"{_first_line(error)}{_remedy(source, error)}"
            raise ValueError(f"cannot load the model {name!r}: {reason}") from error
    _check_missing(name, missing)
    model.to(where).eval().requires_grad_(False)
    return LoadedModel(model=model, tokenizer=tokenizer, name=name, features=features)


def reads_sound(model: torch.nn.Module) -> bool:
    """Say whether a model of transformers has sound as its input rather than tokens."""
    return getattr(model, "main_input_name", "input_ids") in ("input_features", "input_values")


def checked_dtype(name: str) -> torch.dtype | None:
    """Return the dtype of a name, None for "auto"; raises ValueError for any other."""
    if name == "auto":
        return None
    if name not in _DTYPES:
        raise ValueError(f"dtype must be one of auto, {', '.join(_DTYPES)}, got {name!r}")
    return _DTYPES[name]


def checked_device(device: str) -> torch.device:
    """Return the device of a name; raises ValueError if it is not here."""
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = _first_line(error)
        raise ValueError(f"there is no device {device!r} here ({reason}); device='cpu' always works") from error
    return where


def _resolve(name: str) -> tuple[str, bool]:
    """Return the folder or hub id that a name stands for, and whether to use files on this machine only."""
    if name in MODELS:
        return str(MODELS[name]()), True
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return str(folder), True
    close = difflib.get_close_matches(name.lower(), MODELS, n=2, cutoff=0.4) or sorted(MODELS)
    known = f"the nearest packaged models are {', '.join(close)}"
    if name.startswith((".", "/", "~")) or not _is_hub_id(name):
        raise ValueError(f"there is no folder {name!r}, and it is not a hub id; {known}")
    reachable = _hub_answers(name)
    if not reachable and not _is_cached(name):
        raise ValueError(
            f"there is no packaged model or folder {name!r}, and the Hugging Face hub, where it might be, "
            f"cannot be reached; {known}"
        )
    return name, not reachable


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _hub_answers(name: str) -> bool:
    """Ask the hub once, because the loaders below repeat a failing request for 20 seconds and more."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().model_info(name, timeout=_HUB_TIMEOUT_SECONDS)
    except HfHubHTTPError:
        # An answer, such as "no such model": the loader gets the same one and says what it means.
        return True
    except Exception:  # the classes of network errors depend on the HTTP library that the hub client uses
        return False
    return True


def _is_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def _load_tokenizer(source: str, local_files_only: bool) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    folder = Path(source)
    if folder.is_dir() and not any(file.name.startswith(_TOKENIZER_FILES) for file in folder.iterdir()):
        # Not left to transformers, which makes up an empty tokenizer for some architectures.
        raise ValueError(f"{source} has no tokenizer (save one there with tokenizer.save_pretrained)")
    options = {"local_files_only": local_files_only, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    if not tokenizer("text", add_special_tokens=False)["input_ids"]:
        raise ValueError(f"the tokenizer of {source} has an empty vocabulary")
    return tokenizer


def _load_weights(source: str, local_files_only: bool, dtype: torch.dtype) -> tuple[torch.nn.Module, set[str]]:
    """Return the model on the CPU, and the names of the parameters that the files have no usable values for."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source, local_files_only=local_files_only, trust_remote_code=False)
    model, report = _auto_class(config).from_pretrained(
        source,
        config=config,
        dtype=dtype,
        ignore_mismatched_sizes=True,  # they are reported, so that the error can name them
        local_files_only=local_files_only,
        output_loading_info=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    return model, {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}


def _load_features(source: str, local_files_only: bool) -> "SequenceFeatureExtractor":
    from transformers import AutoFeatureExtractor

    return AutoFeatureExtractor.from_pretrained(source, local_files_only=local_files_only, trust_remote_code=False)


def _auto_class(config: Any) -> Any:
    """Choose by the class that was saved: nearly every architecture, even BERT, has a causal form."""
    import transformers
    from transformers.models.auto import modeling_auto

    written = {
        transformers.AutoModelForCausalLM: modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        transformers.AutoModelForSeq2SeqLM: modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        transformers.AutoModelForSpeechSeq2Seq: modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    }
    for auto, names in written.items():
        if names.get(config.model_type) in (config.architectures or ()):
            return auto
    return transformers.AutoModel


def _check_missing(name: str, missing: set[str]) -> None:
    if not missing:
        return
    some = ", ".join(sorted(missing)[:3]) + (", …" if len(missing) > 3 else "")
    if all("pooler." in weight for weight in missing):
        warnings.warn(f"no weights for the pooler of {name!r} ({some}): it starts at random", stacklevel=3)
    else:
        count = len(missing)
        raise ValueError(f"the files of the model {name!r} lack {count} of its weights, or have other shapes: {some}")


def _remedy(source: str, error: Exception) -> str:
    """Say what to do about the two refusals of transformers that are this library's wish."""
    text = str(error)
    if "trust_remote_code" in text:
        return " (code that comes with a model is never run here: load it yourself, pass the torch module)"
    if "safetensors" in text:
        return f" (only safetensors are read: a program that trusts {source} can save it so)"
    return ""


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the loaders' advice and bars, but not the bars for downloads; at the end put all back."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    bars, downloads = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()

    def set_bars(switch: Callable[[], None]) -> None:
        if bars:  # and put the hub's bars, which transformers' switch turns as well, where they were
            switch()
            (enable_progress_bars if downloads else disable_progress_bars)()

    logging.set_verbosity_error()
    set_bars(logging.disable_progress_bar)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        set_bars(logging.enable_progress_bar)
