"""Whole numbers through a range coder, with histograms that learn from block to block.

Both sides start from the same histograms and add the counts of a block after it, so no table is ever stored. All that
decides a probability is an integer. The range coder itself is the package constriction, imported on first use.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

__all__ = ["Decoder", "Encoder", "Histogram", "Numbers", "Signs", "bit_length"]

DIRECT = 16
"""Numbers below this are tokens of their own; above, a token holds the exponent and the two bits after the first."""

TOKENS = DIRECT + 4 * 36
"""For numbers below 2^40."""

CHUNK = 16
"""Raw bits are written so many at a time, at most."""

MOST = 1 << 18
"""A histogram of more counts is halved: it forgets, and its sums stay small."""


class _Coder(Protocol):
    def encode(self, *arguments: Any) -> None: ...
    def decode(self, *arguments: Any) -> Any: ...


def _models() -> Any:
    try:
        import constriction
    except ImportError as error:
        raise ValueError("compression needs constriction: pip install 'gossamer[data]'") from error
    return constriction.stream  # pyright: ignore[reportAttributeAccessIssue]


class Encoder:
    """Collect numbers of known probability; `bytes()` is what they take."""

    def __init__(self) -> None:
        self._stream = _models()
        self._coder: _Coder = self._stream.queue.RangeEncoder()

    def symbols(self, symbols: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Add symbols below `len(weights)`, each of probability weight / sum."""
        self._coder.encode(symbols.astype(np.int32), categorical(self._stream, weights))
        return symbols

    def flags(self, flags: np.ndarray, probability: np.ndarray) -> np.ndarray:
        """Add zeros and ones; probability: of a one, in units of 2^-24."""
        self._coder.encode(flags.astype(np.int32), self._stream.model.Bernoulli(perfect=False), probability / 2.0**24)
        return flags

    def raw(self, numbers: np.ndarray, bits: int) -> np.ndarray:
        """Add numbers below 2^bits, all equally likely; bits: 1 to 16."""
        self._coder.encode(numbers.astype(np.int32), self._stream.model.Uniform(1 << bits))
        return numbers

    def bytes(self) -> bytes:
        """Return what was added, as little-endian 32-bit words."""
        return self._coder.get_compressed().astype("<u4").tobytes()  # pyright: ignore[reportAttributeAccessIssue]


class Decoder:
    """Give back what an Encoder collected, asked in the same order; the numbers given are those to read."""

    def __init__(self, data: bytes) -> None:
        self._stream = _models()
        self._coder: _Coder = self._stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def symbols(self, count: int, weights: np.ndarray) -> np.ndarray:
        """Return the next symbols."""
        return self._coder.decode(categorical(self._stream, weights), count).astype(np.int64)

    def flags(self, probability: np.ndarray) -> np.ndarray:
        """Return the next zeros and ones."""
        return self._coder.decode(self._stream.model.Bernoulli(perfect=False), probability / 2.0**24).astype(np.int64)

    def raw(self, count: int, bits: int) -> np.ndarray:
        """Return the next numbers."""
        return self._coder.decode(self._stream.model.Uniform(1 << bits), count).astype(np.int64)

    @property
    def finished(self) -> bool:
        """Whether nothing can be left."""
        return bool(self._coder.maybe_exhausted())  # pyright: ignore[reportAttributeAccessIssue]


def categorical(stream: Any, weights: np.ndarray) -> Any:
    """Return the range coder's model of integer weights, which are exact in its doubles."""
    return stream.model.Categorical(weights.astype(np.float64), perfect=False)


class Histogram:
    """Counts of symbols, and the weights that follow from them and from what is likely at first."""

    def __init__(self, symbols: int) -> None:
        self.counts = np.zeros(symbols, np.int64)

    def weights(self, parent: np.ndarray | None = None) -> np.ndarray:
        """Return positive integer weights; parent: weights that count like four observations."""
        weights = 64 * self.counts + 1
        if parent is None:
            return weights + np.maximum(64 >> np.minimum(np.arange(len(weights)), 6), 1)
        return weights + 256 * parent // parent.sum()

    def add(self, counts: np.ndarray) -> None:
        """Count what a block held."""
        self.counts += counts
        if self.counts.sum() > MOST:
            self.counts >>= 1


class _Family:
    """Histograms of several contexts, each leaning on the one of all contexts while it has seen little."""

    def __init__(self, symbols: int) -> None:
        self._all = Histogram(symbols)
        self._own: dict[int, Histogram] = {}
        self._weights: dict[int, np.ndarray] = {}
        self._seen: dict[int, np.ndarray] = {}

    def weights(self, context: int) -> np.ndarray:
        """Return the weights that hold in this block."""
        if context not in self._weights:
            parent = self._all.weights()
            own = self._own.get(context)
            self._weights[context] = parent if own is None else own.weights(parent)
        return self._weights[context]

    def saw(self, context: int, symbols: np.ndarray) -> None:
        """Remember symbols for the next block."""
        counts = np.bincount(symbols, minlength=len(self._all.counts))
        self._seen[context] = self._seen.get(context, 0) + counts

    def advance(self) -> None:
        """Learn from the block that ended."""
        for context, counts in self._seen.items():
            self._own.setdefault(context, Histogram(len(counts))).add(counts)
            self._all.add(counts)
        self._seen, self._weights = {}, {}


class Numbers:
    """Code whole numbers from 0 to 2^40 − 1, each in a context that both sides know."""

    def __init__(self) -> None:
        self._tokens = _Family(TOKENS)

    def write(self, coder: Encoder, numbers: np.ndarray, contexts: np.ndarray) -> None:
        """Add `(n,)` numbers in `(n,)` contexts: context by context, tokens and then the raw bits."""
        tokens, bits = _token_of(numbers)
        for context, places in _groups(contexts):
            here = tokens[places]
            coder.symbols(here, self._tokens.weights(context))
            self._tokens.saw(context, here)
            for size, which in _groups(bits[places]):
                rest = numbers[places][which] & ((1 << size) - 1)
                for low, width in _chunks(size):
                    coder.raw(rest >> low & ((1 << width) - 1), width)

    def read(self, coder: Decoder, contexts: np.ndarray) -> np.ndarray:
        """Return the numbers `(n,)` int64 in these contexts."""
        numbers = np.zeros(len(contexts), np.int64)
        for context, places in _groups(contexts):
            tokens = coder.symbols(len(places), self._tokens.weights(context))
            self._tokens.saw(context, tokens)
            first, bits = _start_of(tokens)
            for size, which in _groups(bits):
                for low, width in _chunks(size):
                    first[which] += coder.raw(len(which), width) << low
            numbers[places] = first
        return numbers

    def advance(self) -> None:
        """Learn from the block that ended."""
        self._tokens.advance()


class Signs:
    """Code whether numbers are negative, each in a context."""

    def __init__(self) -> None:
        self._flags = _Family(2)

    def write(self, coder: Encoder, negative: np.ndarray, contexts: np.ndarray) -> None:
        """Add `(n,)` zeros and ones."""
        for context, places in _groups(contexts):
            here = coder.symbols(negative[places].astype(np.int64), self._flags.weights(context))
            self._flags.saw(context, here)

    def read(self, coder: Decoder, contexts: np.ndarray) -> np.ndarray:
        """Return `(n,)` zeros and ones."""
        negative = np.zeros(len(contexts), np.int64)
        for context, places in _groups(contexts):
            negative[places] = here = coder.symbols(len(places), self._flags.weights(context))
            self._flags.saw(context, here)
        return negative

    def advance(self) -> None:
        """Learn from the block that ended."""
        self._flags.advance()


def bit_length(numbers: np.ndarray) -> np.ndarray:
    """Return how many bits each number from 0 to 2^52 takes: 0 for 0, 1 for 1, 2 for 2 and 3."""
    return np.frexp(numbers.astype(np.float64))[1].astype(np.int64)


def _token_of(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens and how many raw bits follow each."""
    if len(numbers) and int(numbers.max()) >= 1 << 40:
        raise ValueError("the data are too large for this step: a quantized number is over 2^40; take a coarser step")
    exponent = bit_length(numbers) - 1
    long = numbers >= DIRECT
    bits = np.where(long, exponent - 2, 0)
    tokens = np.where(long, DIRECT + 4 * (exponent - 4) + ((numbers >> bits) & 3), numbers)
    return tokens.astype(np.int64), bits


def _start_of(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least number of each token and how many raw bits follow."""
    long = tokens >= DIRECT
    bits = np.where(long, (tokens - DIRECT) // 4 + 2, 0)
    return np.where(long, (4 + (tokens - DIRECT) % 4) << bits, tokens), bits


def _groups(keys: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return each key that occurs, in rising order, with its places in rising order."""
    order = np.argsort(keys, kind="stable")
    ends = np.flatnonzero(np.diff(keys[order], append=-1)) + 1 if len(keys) else np.zeros(0, np.int64)
    starts = np.concatenate(([0], ends[:-1])) if len(ends) else ends
    return [(int(keys[order[a]]), order[a:b]) for a, b in zip(starts, ends, strict=True)]


def _chunks(size: int) -> list[tuple[int, int]]:
    """Return the lowest bit and the width of each part of so many raw bits."""
    return [(low, min(CHUNK, size - low)) for low in range(0, size, CHUNK)]
