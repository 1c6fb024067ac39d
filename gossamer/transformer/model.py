"""Transformer: encoder and decoder, or one of them alone, and TransformerSpec, which says what it is made of.

    memory = encoder(source)                      every position sees the whole source
    logits = decoder(target, memory) Uᵀ           position t sees the target up to t, and all of the memory
    log p(y | x) = Σ_t log p(y_t | y_<t, x)        with p(y_t | …) = softmax(logits_t)

Vaswani et al. 2017, "Attention is all you need" (https://arxiv.org/abs/1706.03762).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gossamer.spec import Spec
from gossamer.transformer.attention import Attention, CrossAttention, SelfAttention
from gossamer.transformer.generate import Decoding, Generated, generate
from gossamer.transformer.layers import Block, Stack, visible
from gossamer.transformer.positions import Positions, Sinusoidal
from gossamer.transformer.vocabulary import PAD, SPECIAL, START

__all__ = ["Attended", "Transformer", "TransformerSpec"]


@dataclass(frozen=True, kw_only=True)
class TransformerSpec(Spec):
    """Say what a transformer is made of.

    source, target: ids of either vocabulary; None: as many as the data have. width: of the residual stream. hidden: of
    the feed-forward networks. encoder_layers, decoder_layers: 0 leaves a side out, so that it is encoder-only (such as
    BERT) or decoder-only (such as GPT). tied: which embeddings are one matrix: "none"; "target": those of the target
    and of the output (Press & Wolf 2017, https://arxiv.org/abs/1608.05859); "all": those of the source, too.
    label_smoothing: share of the target's probability that training gives to all ids alike (Szegedy et al. 2016,
    https://arxiv.org/abs/1512.00567).
    """

    source: int | None = None
    target: int | None = None
    width: int = 256
    hidden: int = 1024
    heads: int = 4
    encoder_layers: int = 3
    decoder_layers: int = 3
    block: Block = Block()
    positions: Positions = Sinusoidal()
    tied: Literal["none", "target", "all"] = "target"
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "hidden", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got width {self.width} and {self.heads} heads")
        if min(self.encoder_layers, self.decoder_layers) < 0 or not self.encoder_layers + self.decoder_layers:
            raise ValueError(f"a transformer has layers; got {self.encoder_layers} and {self.decoder_layers}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing lies in [0, 1), got {self.label_smoothing}")
        for name in ("source", "target"):
            ids = getattr(self, name)
            if ids is not None and ids <= len(SPECIAL):
                raise ValueError(f"{name} counts ids, {len(SPECIAL)} special ones among them; got {ids}")
        if self.tied == "all" and self.source != self.target:
            raise ValueError(
                f"tied = 'all' needs one vocabulary for both sides; source has {self.source} ids, target {self.target}"
            )

    @property
    def name(self) -> str:
        """What logs call it."""
        return "transformer" if self.encoder_layers else "decoder"

    def build(self, *, seed: int = 0) -> Transformer:
        """Return the transformer with seeded random weights; same seed, same weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Transformer(self)


@dataclass(frozen=True, eq=False)
class Attended:
    """What each position attended to, per layer: weights `(batch, heads, positions, positions seen)`, rows sum to 1.

    encoder: the source to itself; decoder: the target to itself; cross: the target to the source.
    """

    encoder: list[Tensor]
    decoder: list[Tensor]
    cross: list[Tensor]


class Transformer(nn.Module):
    """Map a source sequence to the log-probabilities of a target sequence.

    Sequences are `(batch, length)` int64 ids, padded with PAD on the right. A target begins with START; logits at its
    position t are for the id at t + 1. What is padded changes nothing.

    Without a decoder, `forward(source)` returns `(batch, length, width)` states; without an encoder,
    `forward(None, target)` is a language model.
    """

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.spec = spec
        shape = {"width": spec.width, "hidden": spec.hidden, "heads": spec.heads}
        parts = {"positions": spec.positions, "block": spec.block}
        encodes, decodes = spec.encoder_layers > 0, spec.decoder_layers > 0
        self.encoder = self.decoder = self.output = None
        if encodes:
            ids = _known(spec.source, "source")
            self.encoder = Stack(vocabulary=ids, layers=spec.encoder_layers, **shape, **parts)
        if decodes:
            ids = _known(spec.target, "target")
            self.decoder = Stack(
                vocabulary=ids, layers=spec.decoder_layers, causal=True, cross=encodes, **shape, **parts
            )
            self.output = nn.Linear(spec.width, ids, bias=False)
            if spec.tied != "none":
                self.output.weight = self.decoder.embedding.weight
        if spec.tied == "all" and self.encoder is not None and self.decoder is not None:
            self.encoder.embedding.weight = self.decoder.embedding.weight
        for weight in (p for layer in self.modules() if isinstance(layer, Attention) for p in layer.parameters()):
            if weight.dim() == 2:
                nn.init.xavier_uniform_(weight)
            else:
                nn.init.zeros_(weight)

    def forward(self, source: Tensor | None, target: Tensor | None = None) -> Tensor:
        """Return logits `(batch, target length, target ids)`; without a decoder, the source's states."""
        if self.decoder is None:
            return self.encode(source)
        memory = None if self.encoder is None else self.encode(source)
        mask = None if source is None else visible(source, PAD)
        decoder, output = self.decoding()
        return output(decoder(self.require_ids(target, decoder, "target"), memory=memory, memory_mask=mask))

    def encode(self, source: Tensor | None) -> Tensor:
        """Return the memory `(batch, source length, width)`; raises ValueError if there is no encoder."""
        if self.encoder is None:
            raise ValueError("this transformer has no encoder (encoder_layers = 0)")
        source = self.require_ids(source, self.encoder, "source")
        return self.encoder(source, visible(source, PAD))

    def decoding(self) -> tuple[Stack, nn.Linear]:
        """Return the decoder and the map to logits; raises ValueError if there is none."""
        if self.decoder is None or self.output is None:
            raise ValueError("this transformer has no decoder (decoder_layers = 0), so it cannot generate")
        return self.decoder, self.output

    def loss(self, source: Tensor | None, target: Tensor) -> Tensor:
        """Return the training loss, `()`: mean over all ids to be predicted of −log p, with the spec's smoothing.

        Teacher forcing: position t is given the true ids before t. target: `(batch, length)`, START first, END last.
        """
        self.decoding()
        logits = self(source, target[:, :-1])
        wanted = target[:, 1:]
        smoothing = self.spec.label_smoothing
        return cross_entropy(
            logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=PAD, label_smoothing=smoothing
        )

    def log_likelihood(self, source: Tensor | None, target: Tensor) -> Tensor:
        """Return log p(y | x) = Σ_t log p(y_t | y_<t, x) in nats, `(batch,)`; target as in `loss`."""
        self.decoding()
        logits = self(source, target[:, :-1]).float()
        costs = cross_entropy(logits.transpose(1, 2), target[:, 1:], ignore_index=PAD, reduction="none")
        return -costs.sum(dim=1, dtype=torch.float64)

    @torch.no_grad()
    def generate(
        self,
        source: Tensor | None = None,
        *,
        prompt: Tensor | None = None,
        longest: int = 64,
        beam: int = 1,
        length_penalty: float = 1.0,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> Generated:
        """Return targets for sources `(batch, length)`, or that continue prompts: see `Decoding` for the options.

        prompt: `(batch, length)` ids that targets begin with, padded on the right; START by default.
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
        return generate(self, source, prompt, decoding)

    @torch.no_grad()
    def attention(self, source: Tensor | None, target: Tensor | None = None) -> Attended:
        """Return what each position attended to in a forward pass."""
        seen: dict[int, Tensor] = {}

        def note(part: nn.Module, given: tuple) -> None:
            assert isinstance(part, SelfAttention | CrossAttention)
            seen[id(part)] = part.weights(*given) if isinstance(part, CrossAttention) else part.weights(*given[:2])

        modules = [module for module in self.modules() if isinstance(module, Attention)]
        handles = [module.register_forward_pre_hook(note) for module in modules]
        try:
            self(source, target)
        finally:
            for handle in handles:
                handle.remove()
        encoder = [] if self.encoder is None else [seen[id(layer.self_attention)] for layer in self.encoder.layers]
        layers = [] if self.decoder is None else list(self.decoder.layers)
        cross = [seen[id(layer.cross_attention)] for layer in layers if layer.cross_attention is not None]
        return Attended(encoder, [seen[id(layer.self_attention)] for layer in layers], cross)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def start(self, batch: int) -> Tensor:
        """Return `(batch, 1)` targets that hold START only."""
        return torch.full((batch, 1), START, dtype=torch.int64, device=self.device)

    def require_ids(self, ids: Tensor | None, stack: Stack, side: str) -> Tensor:
        """Return the ids; raise ValueError unless they are sequences that a side can read."""
        if ids is None:
            part = "an encoder" if side == "source" else "a decoder"
            raise ValueError(f"the {side} is missing: this transformer has {part}")
        if ids.dim() != 2 or ids.is_floating_point():
            kind = f"{ids.dtype} of shape {tuple(ids.shape)}"
            raise ValueError(f"the {side} must be integer ids of shape (batch, length), got {kind}")
        if 0 in ids.shape:
            raise ValueError(f"the {side} is empty: shape {tuple(ids.shape)}")
        if torch.compiler.is_compiling():
            return ids
        known = stack.embedding.num_embeddings
        low, high = (int(bound) for bound in ids.aminmax())
        if low < 0 or high >= known:
            raise ValueError(
                f"the {side} holds id {low if low < 0 else high}, but its vocabulary has ids 0 … {known - 1}; was it "
                "encoded with another vocabulary?"
            )
        return ids

    def extra_repr(self) -> str:
        """Return the sizes that `print` shows."""
        spec = self.spec
        return f"{spec.encoder_layers} + {spec.decoder_layers} layers, width {spec.width}, {spec.heads} heads"


def _known(ids: int | None, side: str) -> int:
    if ids is None:
        raise ValueError(f"{side} is missing: say how many ids the {side}'s vocabulary has")
    return ids
