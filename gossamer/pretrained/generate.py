"""From a model's name to what it writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gossamer.pretrained.own import TransformerWriter, is_run
from gossamer.pretrained.speech import SpeechWriter
from gossamer.pretrained.text import TextWriter
from gossamer.pretrained.writer import Given, Writer, Written
from gossamer.sources.generation import can_write
from gossamer.sources.models import checked_device, checked_dtype, load_model, reads_sound
from gossamer.transformer.generate import Decoding

__all__ = ["generate", "open_writer"]


def open_writer(name: str | Path, *, device: str = "cpu", dtype: str = "auto") -> Writer:
    """Open a model that writes: a packaged one, a folder, a name in the cache or on the Hugging Face hub, or a run.

    Causal language models (GPT-2, Llama, …), encoder–decoders (T5, BART, Marian, …) and Whisper; safetensors only, and
    code that comes with a model is never run. A run is that of a transformer of ours, such as `runs/g2p`. dtype: as in
    `load_model`; of a run, "auto" is float32.

    Raises ValueError as `load_model` does, and for a model without a decoder that writes.
    """
    if is_run(name):
        return TransformerWriter(name, device=str(checked_device(device)), dtype=checked_dtype(dtype))
    loaded = load_model(str(name), device=device, dtype=dtype)
    if not can_write(loaded.model):
        raise ValueError(
            f"{name} is a {type(loaded.model).__name__}, which has no decoder with a head that writes tokens; give a "
            "causal language model, an encoder–decoder such as T5, or Whisper"
        )
    return SpeechWriter(loaded) if reads_sound(loaded.model) else TextWriter(loaded)


def generate(
    model: str | Path | Writer,
    given: Given | Sequence[Given],
    *,
    longest: int = 64,
    beam: int = 1,
    length_penalty: float = 1.0,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> list[Written]:
    """Return what a model writes for texts, or for sound files.

    model: what `open_writer` takes, or what it returned. given: one input or several. The other options are those of
    `Decoding`: greedy by default, by beam search with beam above 1, at random with a temperature, top_k or top_p.
    longest: tokens at most; of a recording, per window of 30 s.

    Raises ValueError for an input that is empty or no sound, and for options that make no sense together.
    """
    decoding = Decoding(
        longest=longest,
        beam=beam,
        length_penalty=length_penalty,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )
    inputs = list(given) if isinstance(given, list | tuple) else [given]
    if not inputs:
        raise ValueError("nothing is given to write about")
    writer = model if isinstance(model, Writer) else open_writer(model)
    return writer.write(inputs, decoding)  # pyright: ignore[reportArgumentType]
