"""Vocabularies: text as ids and back, by characters, words, phonemes, or byte pairs.

Four ids mean the same in every vocabulary: PAD fills up, START begins a target, END ends it, UNKNOWN stands for what
the vocabulary has no id for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

from gossamer.spec import Spec

__all__ = [
    "END",
    "PAD",
    "SPECIAL",
    "START",
    "UNKNOWN",
    "BytePairs",
    "Characters",
    "Phonemes",
    "UnknownTokenError",
    "Vocabulary",
    "Words",
]

PAD, START, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")


class UnknownTokenError(ValueError):
    """A text holds something that the vocabulary has no id for."""


class Vocabulary(Spec):
    """The family of vocabularies. `len` is the number of ids, the four special ones included.

    noun: what one token is called. joint: what stands between two of them.
    """

    noun: ClassVar[str] = "token"
    joint: ClassVar[str] = ""

    def __len__(self) -> int:
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without START and END; raises UnknownTokenError for what has none."""
        raise NotImplementedError

    def cut(self, text: str) -> Sequence[str]:
        """Return the tokens of a text, known or not; texts with the same tokens say the same."""
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, up to the first END; PAD and START are left out."""
        raise NotImplementedError

    def token(self, index: int) -> str:
        """Return what an id stands for, to be shown."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Listed(Vocabulary):
    """A list of tokens; the id of the first is 4.

    limited: it leaves out tokens that texts have, so that these are read as UNKNOWN; otherwise they are an error.
    """

    tokens: tuple[str, ...]
    limited: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tokens:
            raise ValueError(f"a vocabulary of {self.noun}s needs at least one")
        twice = [token for token, count in Counter((*SPECIAL, *self.tokens)).items() if count > 1]
        if twice:
            raise ValueError(f"each {self.noun} has one id; twice there: {', '.join(map(repr, twice[:5]))}")

    @classmethod
    def learned(cls, texts: Iterable[str], *, size: int | None = None) -> Self:
        """Return the vocabulary of these texts, in the order of the alphabet.

        size: ids at most, the most frequent ones, and it is limited if there are more; None: all of them.
        """
        counts = Counter(token for text in texts for token in cls.cut(text))
        room = len(counts) if size is None else max(0, size - len(SPECIAL))
        kept = sorted(counts, key=lambda token: (-counts[token], token))[:room]
        return cls(tokens=tuple(sorted(set(kept) - set(SPECIAL))), limited=room < len(counts))

    def __len__(self) -> int:
        return len(SPECIAL) + len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without START and END; raises UnknownTokenError unless limited."""
        tokens = self.cut(text)
        if not self.limited:
            strange = sorted({token for token in tokens if token not in self._ids})
            if strange:
                known = self.tokens if len(self.tokens) < 100 else (*self.tokens[:20], "…")
                raise UnknownTokenError(
                    f"{text!r} holds {', '.join(map(repr, strange[:5]))}, which the vocabulary of {len(self.tokens)} "
                    f"{self.noun}s does not know; it knows {' '.join(known)}"
                )
        return [self._ids.get(token, UNKNOWN) for token in tokens]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, up to the first END."""
        return self.joint.join(self.token(index) for index in _until_end(ids))

    def token(self, index: int) -> str:
        """Return what an id stands for."""
        return SPECIAL[index] if index < len(SPECIAL) else self.tokens[index - len(SPECIAL)]

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.tokens, start=len(SPECIAL))}

    @classmethod
    def cut(cls, text: str) -> Sequence[str]:
        """Return the tokens of a text, known or not."""
        return text.split()


@dataclass(frozen=True, kw_only=True)
class Characters(Listed):
    """Every character is a token."""

    kind: ClassVar[str] = "characters"
    noun: ClassVar[str] = "character"

    @classmethod
    def cut(cls, text: str) -> Sequence[str]:
        """Return the characters of a text, known or not."""
        return list(text)


@dataclass(frozen=True, kw_only=True)
class Words(Listed):
    """What stands between white space is a token."""

    kind: ClassVar[str] = "words"
    noun: ClassVar[str] = "word"
    joint: ClassVar[str] = " "


@dataclass(frozen=True, kw_only=True)
class Phonemes(Listed):
    """Phonemes with white space between them, such as the ARPAbet's `G AA S AH M ER`."""

    kind: ClassVar[str] = "phonemes"
    noun: ClassVar[str] = "phoneme"
    joint: ClassVar[str] = " "


@dataclass(frozen=True, kw_only=True)
class BytePairs(Vocabulary):
    """Byte-pair encoding: frequent pairs of tokens become one. Sennrich et al. 2016 (https://arxiv.org/abs/1508.07909).

    tokenizer: the JSON of the `tokenizers` library, whose ids 0 … 3 are the special ones. Every text has ids, since
    all 256 bytes are tokens.
    """

    kind: ClassVar[str] = "byte-pairs"
    tokenizer: str

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            special = [self._tokenizer.id_to_token(index) for index in range(len(SPECIAL))]
        except Exception as error:  # tokenizers raises Exception itself
            raise ValueError(f"the tokenizer of a byte-pair vocabulary cannot be read: {error}") from error
        if special != list(SPECIAL):
            raise ValueError(f"the first tokens of a byte-pair vocabulary are {SPECIAL}, got {special}")

    @classmethod
    def learned(cls, texts: Iterable[str], *, size: int | None = None) -> Self:
        """Return the vocabulary of these texts, of 8,192 ids unless `size` says otherwise."""
        tokenizers = _tokenizers()
        model = tokenizers.Tokenizer(tokenizers.models.BPE())
        model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=8192 if size is None else size,
            special_tokens=list(SPECIAL),
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        model.train_from_iterator(texts, trainer)
        return cls(tokenizer=json.dumps(json.loads(model.to_str()), separators=(",", ":"), ensure_ascii=False))

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without START and END."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def cut(self, text: str) -> Sequence[str]:
        """Return the tokens of a text, as the tokenizer writes them."""
        return self._tokenizer.encode(text, add_special_tokens=False).tokens

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, up to the first END."""
        return self._tokenizer.decode(_until_end(ids), skip_special_tokens=True)

    def token(self, index: int) -> str:
        """Return what an id stands for; a token may be half a character."""
        return self._tokenizer.decode([index], skip_special_tokens=False)

    @cached_property
    def _tokenizer(self) -> Any:
        tokenizer = _tokenizers().Tokenizer.from_str(self.tokenizer)
        tokenizer.encode_special_tokens = True  # "<end>" in a text is text
        return tokenizer


def _until_end(ids: Iterable[int]) -> list[int]:
    kept: list[int] = []
    for index in ids:
        if index == END:
            break
        if index not in (PAD, START):
            kept.append(int(index))
    return kept


def _tokenizers() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise ValueError("byte pairs need the package tokenizers: `pip install gossamer[hf]`") from error
    return tokenizers
