"""gossamer generate."""

from __future__ import annotations

from typing import Annotated

import tyro

__all__ = ["generate"]


def generate(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    given: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TEXT|FILE [TEXT|FILE ...]")],
    *,
    longest: int = 64,
    beam: int = 1,
    length_penalty: float = 1.0,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    ablate: str | None = None,
    steer: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Print what a model writes: how it goes on with a text, its translation of one, or the transcript of a sound file.

    Args:
        model: whisper-tiny.en, smollm2-135m, a folder, a name on the Hugging Face hub, or a run of our own transformer.
        given: Texts, or sound files for Whisper (any rate; they are resampled).
        longest: Tokens at most; of a recording, per 30 s.
        beam: Hypotheses kept; 1 is greedy.
        length_penalty: Of beam search: above 1 favors long outputs.
        temperature: Draw at random from the probabilities to the power 1 / temperature.
        top_k: Draw from so many of the likeliest tokens.
        top_p: Draw from the likeliest tokens that together have this probability.
        seed: Of the draws.
        ablate: RUN:LATENT, a feature of an autoencoder inside this model: say what changes when it is taken out.
        steer: RUN:LATENT=VALUE: say what changes when it has this value in every row of its site.
        device: cpu, cuda, cuda:1, ...; auto is the GPU if there is one.
        dtype: auto, float32, bfloat16 or float16; auto is bfloat16 where that is fast.
    """
    from gossamer.evaluate.writing import parse_ablation, parse_steering, show
    from gossamer.pretrained.generate import open_writer
    from gossamer.training.devices import resolve_device
    from gossamer.transformer.generate import Decoding

    decoding = Decoding(
        longest=longest,
        beam=beam,
        length_penalty=length_penalty,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )
    if ablate is not None and steer is not None:
        raise ValueError("--ablate is --steer with a value of 0; give one of the two")
    change = None
    if ablate is not None:
        change = parse_ablation(ablate)
    elif steer is not None:
        change = parse_steering(steer)
    if not given:
        raise ValueError("nothing is given to write about: add a text, or a sound file for Whisper")
    writer = open_writer(model, device=str(resolve_device(device)), dtype=dtype)
    show(writer, given, decoding, change=change)
