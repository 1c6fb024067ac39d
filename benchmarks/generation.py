"""What our transformer costs beside others of the same shape: generating, and a training step.

    python -m benchmarks.generation [--rounds 7] [--width 256] [--hidden 512] [--layers 3] [--vocabulary 1000]

In each round, in turn: ours, Hugging Face's T5 and Marian with `generate`, and `torch.nn.Transformer` without a cache.
All have the same layers, width, heads, hidden width and vocabulary, random weights, and say exactly as many ids as
asked for: greedily in float32, then in bfloat16, then with five beams. Beside them stand the products with weights that
all of them need, and nothing else, by torch. Then a training step of ours and of
`torch.nn.Transformer`: embeddings, forward pass with dropout, cross-entropy, backward pass, Adam. Printed are medians
over the rounds, and ratios of them.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gossamer.training.optimizer import PlainAdam
from gossamer.training.spec import Adam
from gossamer.transformer import Block, Transformer, TransformerSpec
from gossamer.transformer.vocabulary import END, PAD, START


class TorchTransformer(nn.Module):
    """torch.nn.Transformer with what it lacks: embeddings, positions, the map to logits. Greedy, without a cache."""

    def __init__(self, spec: TransformerSpec, longest: int) -> None:
        super().__init__()
        assert spec.source is not None
        assert spec.target is not None
        self.source, self.target = nn.Embedding(spec.source, spec.width), nn.Embedding(spec.target, spec.width)
        self.positions = nn.Parameter(0.02 * torch.randn(longest, spec.width))
        self.body = nn.Transformer(
            spec.width,
            spec.heads,
            spec.encoder_layers,
            spec.decoder_layers,
            spec.hidden,
            dropout=spec.block.dropout,
            batch_first=True,
        )
        self.output = nn.Linear(spec.width, spec.target, bias=False)
        self.output.weight = self.target.weight
        nn.init.normal_(self.target.weight, std=spec.width**-0.5)

    def embed(self, table: nn.Embedding, ids: Tensor) -> Tensor:
        return table(ids) * math.sqrt(self.positions.shape[1]) + self.positions[: ids.shape[1]]

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        hidden = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        x, y = self.embed(self.source, source), self.embed(self.target, target)
        return self.output(self.body(x, y, tgt_mask=hidden, tgt_is_causal=True))

    @torch.no_grad()
    def generate(self, source: Tensor, longest: int) -> Tensor:
        memory = self.body.encoder(self.embed(self.source, source))
        ids = torch.full((len(source), 1), START)
        for _ in range(longest):
            hidden = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
            y = self.body.decoder(self.embed(self.target, ids), memory, tgt_mask=hidden, tgt_is_causal=True)
            logits = self.output(y[:, -1])
            logits[:, [PAD, START, END]] = -torch.inf
            ids = torch.cat([ids, logits.argmax(dim=1, keepdim=True)], dim=1)
        return ids[:, 1:]


def t5(spec: TransformerSpec) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=spec.target or 0,
        d_model=spec.width,
        d_kv=spec.width // spec.heads,
        d_ff=spec.hidden,
        num_layers=spec.encoder_layers,
        num_decoder_layers=spec.decoder_layers,
        num_heads=spec.heads,
        pad_token_id=PAD,
        eos_token_id=END,
    )
    config.decoder_start_token_id = START
    return T5ForConditionalGeneration(config).eval()


def marian(spec: TransformerSpec) -> Any:
    from transformers import MarianConfig, MarianMTModel

    return MarianMTModel(
        MarianConfig(
            vocab_size=spec.target or 0,
            d_model=spec.width,
            encoder_ffn_dim=spec.hidden,
            decoder_ffn_dim=spec.hidden,
            encoder_layers=spec.encoder_layers,
            decoder_layers=spec.decoder_layers,
            encoder_attention_heads=spec.heads,
            decoder_attention_heads=spec.heads,
            pad_token_id=PAD,
            decoder_start_token_id=START,
            eos_token_id=END,
            forced_eos_token_id=None,
            max_position_embeddings=1024,
        )
    ).eval()


def products(spec: TransformerSpec, batch: int, longest: int, dtype: torch.dtype) -> Callable[[], Tensor]:
    """Nothing but the products with weights that greedy generation takes in any library, by torch."""
    width, hidden = spec.width, spec.hidden
    layer = [(3 * width, width), (width, width), (hidden, width), (width, hidden)]
    once = spec.encoder_layers * layer + spec.decoder_layers * [(2 * width, width)]  # keys and values of the memory
    each = spec.decoder_layers * [*layer, (width, width), (width, width)] + [(spec.target or 0, width)]

    def factors(rows: int, shapes: list[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
        return [(torch.randn(rows, inner).to(dtype), torch.randn(outer, inner).to(dtype)) for outer, inner in shapes]

    first, later = factors(batch * longest, once), factors(batch, each)

    def multiply() -> Tensor:
        for x, weight in (*first, *(later * longest)):
            x @ weight.T
        return torch.empty(batch, longest)

    return multiply


def generators(
    spec: TransformerSpec, source: Tensor, longest: int, dtype: torch.dtype, beam: int
) -> dict[str, Callable[[], Tensor]]:
    """What each library does when it generates; the transformer without a cache knows no beams."""
    ours, plain = spec.build(seed=0).eval().to(dtype), TorchTransformer(spec, 1024).eval().to(dtype)
    with torch.no_grad():  # END is never the likeliest, so that all ids are said
        ours.decoding()[1].weight[END] = 0
    work: dict[str, Callable[[], Tensor]] = {
        "gossamer": lambda: ours.generate(source, longest=longest, beam=beam).ids[:, 0]
    }
    for name, make in (("transformers T5", t5), ("transformers Marian", marian)):
        model = make(spec).to(dtype)
        options = {"max_new_tokens": longest, "min_new_tokens": longest, "do_sample": False, "num_beams": beam}
        mask = torch.ones_like(source)
        work[name] = lambda model=model, options=options, mask=mask: model.generate(
            source, attention_mask=mask, **options
        )[:, 1:]
    if beam == 1:
        work["torch.nn.Transformer, no cache"] = lambda: plain.generate(source, longest)
        work["products with weights alone"] = products(spec, len(source), longest, dtype)
    return work


def trainers(spec: TransformerSpec, source: Tensor, target: Tensor) -> dict[str, Callable[[], Tensor]]:
    """What each library does in a training step."""

    def step(model: nn.Module, loss: Callable[[], Tensor], low: bool) -> Callable[[], Tensor]:
        optimizer = PlainAdam(model, Adam())

        def work() -> Tensor:
            with optimizer.gradients(), torch.autocast("cpu", torch.bfloat16, enabled=low):
                value = loss()
            value.backward()
            optimizer.step(1e-4)
            return value

        return work

    made: dict[str, Callable[[], Tensor]] = {}
    for name, low in (("float32", False), ("bfloat16", True)):
        ours, plain = Transformer(spec).train(), TorchTransformer(spec, 1024).train()
        made[f"gossamer, {name}"] = step(ours, lambda model=ours: model.loss(source, target), low)

        def theirs(model: TorchTransformer = plain) -> Tensor:
            logits = model(source, target[:, :-1]).flatten(0, 1).float()
            return cross_entropy(logits, target[:, 1:].flatten(), ignore_index=PAD)

        made[f"torch.nn.Transformer, {name}"] = step(plain, theirs, low)
    return made


def in_turns(work: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, do in work.items():
            start = time.perf_counter()
            do()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="What our transformer costs beside others of the same shape.")
    for name, default in (
        *(("rounds", 7), ("batch", 64), ("length", 32), ("width", 256), ("hidden", 512)),
        *(("layers", 3), ("heads", 4), ("vocabulary", 1000)),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    spec = TransformerSpec(
        source=given.vocabulary,
        target=given.vocabulary,
        width=given.width,
        hidden=given.hidden,
        heads=given.heads,
        encoder_layers=given.layers,
        decoder_layers=given.layers,
        block=Block(norm="post"),
        label_smoothing=0.0,
    )
    generator = torch.Generator().manual_seed(0)
    source, target = (
        torch.randint(4, given.vocabulary, (given.batch, given.length), generator=generator) for _ in range(2)
    )
    torch.manual_seed(0)
    print(
        f"{torch.get_num_threads()} threads; {given.layers} + {given.layers} layers, width {given.width}, hidden "
        f"{given.hidden}, {given.heads} heads, {given.vocabulary} ids; batch {given.batch}, {given.length} ids"
    )
    for dtype, beam in ((torch.float32, 1), (torch.bfloat16, 1), (torch.float32, 5)):
        work = generators(spec, source, given.length, dtype, beam)
        for name, do in work.items():
            assert tuple(do().shape) == (given.batch, given.length), name
        seconds = in_turns(work, given.rounds)
        for name, value in seconds.items():
            rate, ratio = given.batch * given.length / value, value / seconds["gossamer"]
            kind = f"{str(dtype).removeprefix('torch.')}, {beam} beam{'s' * (beam > 1)}"
            print(f"{name:32} {kind:17} {rate:10,.0f} ids/s   {ratio:5.2f} times the time of gossamer")
    seconds = in_turns(trainers(spec, source, target), given.rounds)
    for name, value in seconds.items():
        ratio = value / seconds["gossamer, " + name.split(", ")[1]]
        print(f"{name:34} {1000 * value:10.1f} ms a step {ratio:5.2f} times")


if __name__ == "__main__":
    main()
