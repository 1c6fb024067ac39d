"""What a model of transformers writes: its own output, token by token, as ids.

One place that turns a `Decoding` into a call of `generate`. Texts in and out are the business of the room `pretrained`;
sources need the ids alone, to read a decoder at what it writes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.sources.hooks import evaluating
from gossamer.sources.models import quiet, reads_sound
from gossamer.transformer.generate import Decoding

__all__ = ["can_write", "end_ids", "room", "written"]


OTHER_SEARCHES = {
    **dict.fromkeys(("min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h", "penalty_alpha")),
    "num_return_sequences": 1,
}
"""What a model's folder may say of sampling: left aside, so that the same options mean the same everywhere."""


def can_write(model: nn.Module) -> bool:
    """Say whether a model of transformers has a head that writes tokens."""
    return bool(getattr(model, "can_generate", lambda: False)())


def end_ids(model: nn.Module) -> tuple[int, ...]:
    """Return the ids that end what a model writes; there may be none."""
    end = getattr(model, "generation_config").eos_token_id  # noqa: B009 - every model that writes has one
    return () if end is None else tuple(end) if isinstance(end, list) else (int(end),)


@torch.no_grad()
def written(model: nn.Module, arguments: Mapping[str, Tensor], decoding: Decoding) -> list[list[int]]:
    """Return what a model writes for each row of its input, the likeliest hypothesis.

    arguments: the model's input, a batch. An encoder–decoder's ids begin with the prompt that its decoder starts from
    (such as Whisper's start of transcript), a causal model's with the first id that is new. What follows the end, and
    the end itself, is left out. The state of torch's random numbers stays as it is.

    Raises ValueError for a model that has no decoder or no head, or for more ids, read or written, than its table of
    positions holds.
    """
    if not can_write(model):
        raise ValueError(
            f"{type(model).__name__} has no decoder with a head that writes tokens; load a model that was saved as a "
            "causal language model or as an encoder–decoder for generation"
        )
    config: Any = getattr(model, "config")  # noqa: B009
    read = arguments["input_ids"].shape[1] if "input_ids" in arguments else 0
    given = 0 if config.is_encoder_decoder else read
    _require_room(config, read, given, decoding)
    devices = [parameter.device for parameter in [next(model.parameters())] if parameter.is_cuda]
    with quiet(), evaluating(model), torch.random.fork_rng(devices=devices):
        torch.manual_seed(decoding.seed)
        rows = _generate(model, arguments, decoding)[:, given:].tolist()
    ends = end_ids(model)
    first = int(config.is_encoder_decoder)  # some decoders start from the very id that ends them
    return [_until(ends, row, first) for row in rows]


def _generate(model: Any, arguments: Mapping[str, Tensor], decoding: Decoding) -> Tensor:
    settings = copy.deepcopy(model.generation_config)
    settings.update(
        max_length=None,
        max_new_tokens=decoding.longest,
        do_sample=decoding.draws,
        num_beams=decoding.beam,
        length_penalty=decoding.length_penalty,
        early_stopping=False,
        temperature=(decoding.temperature or 1.0) if decoding.draws else None,
        top_k=(decoding.top_k or 0) if decoding.draws else None,
        top_p=(decoding.top_p or 1.0) if decoding.draws else None,
        **OTHER_SEARCHES,
        return_dict_in_generate=True,
    )
    if settings.pad_token_id is None:
        settings.pad_token_id = next(iter(end_ids(model)), 0)
    options: dict[str, Any] = {}
    if reads_sound(model):
        # Whisper's own `generate` takes the temperature as an argument, and else cuts the prompt off.
        options = {"temperature": settings.temperature, "return_dict_in_generate": True}
        options["force_unique_generate_call"] = True
    saved, model.generation_config = model.generation_config, settings  # what is None there is filled from the model's
    try:
        return model.generate(**arguments, generation_config=settings, **options).sequences
    finally:
        model.generation_config = saved


def room(config: Any) -> int | None:
    """Return for how many positions a model has a table, as its configuration says; None if there is no limit."""
    if hasattr(config, "relative_attention_num_buckets"):  # T5: its number is that of the training, and no limit
        return None
    names = ("max_target_positions", "n_positions", "max_position_embeddings")
    return next((getattr(config, name) for name in names if isinstance(getattr(config, name, None), int)), None)


def _require_room(config: Any, read: int, given: int, decoding: Decoding) -> None:
    table = room(config)
    if table is None:
        return
    if read > table:
        raise ValueError(f"a text of {read} tokens is longer than the model's table of {table} positions; cut it")
    if given + decoding.longest > table:
        more = f"{f'a prompt of {given} and ' if given else ''}{decoding.longest} more tokens"
        raise ValueError(f"{more} are longer than the model's table of {table} positions; lower longest")


def _until(ends: tuple[int, ...], row: list[int], first: int) -> list[int]:
    place = next((place for place, index in enumerate(row) if place >= first and index in ends), len(row))
    return row[:place]
