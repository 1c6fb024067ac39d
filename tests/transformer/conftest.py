"""Small transformers and batches of ids, some of them padded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gossamer.transformer import Block, Learned, Rotary, Sinusoidal, Transformer, TransformerSpec
from gossamer.transformer.vocabulary import END, PAD, START

SOURCE, TARGET = 17, 13

CASES = {
    "pre-sinusoidal": {"block": Block(norm="pre", dropout=0.0), "tied": "none"},
    "post-learned": {
        "block": Block(norm="post", activation="gelu", dropout=0.0),
        "positions": Learned(longest=64),
        "tied": "none",
    },
    "pre-rotary": {
        "block": Block(norm="pre", activation="swish", dropout=0.0),
        "positions": Rotary(longest=64),
        "tied": "none",
    },
    "decoder-only": {"encoder_layers": 0, "source": None, "positions": Sinusoidal(longest=64)},
}


def spec_of(name: str = "pre-sinusoidal", **changes: object) -> TransformerSpec:
    parts: dict = {"source": SOURCE, "target": TARGET, "width": 24, "hidden": 40, "heads": 3, "label_smoothing": 0.0}
    return TransformerSpec(**{**parts, "encoder_layers": 2, "decoder_layers": 2, **CASES[name], **changes})


@pytest.fixture(params=CASES)
def model(request: pytest.FixtureRequest) -> Transformer:
    """One of each kind, its weights far from where they start."""
    return lively(spec_of(request.param))


def lively(spec: TransformerSpec, *, seed: int = 2) -> Transformer:
    """A transformer whose attention and logits are far from uniform, so that a mistake shows."""
    model = spec.build(seed=1).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_((0.5 if weight.dim() == 2 else 0.1) * torch.randn(weight.shape, generator=generator))
    return model


def sequences(rows: int, ids: int, *, seed: int, start: bool = False, longest: int = 9) -> Tensor:
    """Random ids of random lengths, END last, START first if wanted, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.full((rows, longest), PAD)
    for row in range(rows):
        length = int(torch.randint(3, longest + 1, (), generator=generator))
        made[row, :length] = torch.randint(4, ids, (length,), generator=generator)
        made[row, length - 1] = END
        if start:
            made[row, 0] = START
    made[0, -2] = 4 if made[0, -2] in (PAD, END) else made[0, -2]  # one row of full length
    made[0, :-1] = torch.where(made[0, :-1].eq(PAD) | made[0, :-1].eq(END), 5, made[0, :-1])
    made[0, -1] = END
    return made


def sources_of(model: Transformer, rows: int = 5) -> Tensor | None:
    return None if model.encoder is None else sequences(rows, SOURCE, seed=3)
