"""Token text made fit to read: white space shown, activations as highlights. No HTML is written here."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

from gossamer.report.data import Context

__all__ = ["LEVELS", "Piece", "Segment", "level", "number", "pieces", "segments", "snippet"]

LEVELS = 8
SYMBOLS = {"\n": "↵", "\r": "␍", "\t": "⇥", "\u00a0": "⍽", "\ufeff": "⟨BOM⟩", "\u200b": "⟨ZWSP⟩"}


class Piece(NamedTuple):
    """Part of a token: text as it is, or a symbol that stands for a character one could not see."""

    text: str
    symbol: bool


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Stretch of a context that is shown alike: one active token, or all the silent text up to the next one.

    ``level`` runs from -LEVELS to LEVELS; 0 is silent. ``title`` is the activation, for the tooltip.
    """

    pieces: tuple[Piece, ...]
    level: int = 0
    title: str = ""
    focus: bool = False

    @property
    def active(self) -> bool:
        """Return whether the segment is a token to point at: an active one, or the one in focus."""
        return self.level != 0 or self.focus

    @property
    def style(self) -> str:
        """Return the names of its CSS classes."""
        names = [f"h{self.level}"] if self.level > 0 else [f"n{-self.level}"] if self.level < 0 else []
        return " ".join([*names, "focus"] if self.focus else names)


def number(value: float) -> str:
    """Write an activation or a logit with three significant digits.

    Examples
    --------
    >>> number(12.345), number(-0.0312), number(1234.0), number(0.00005), number(0.0)
    ('12.3', '−0.0312', '1234', '5.00e−5', '0')
    """
    if not math.isfinite(value):
        return "–"
    whole = value == 0 or 1000 <= abs(value) < 1e6
    text = f"{value:.0f}" if whole else f"{value:#.3g}".rstrip(".")
    return re.sub(r"e([+-])0*", r"e\1", text).replace("e+", "e").replace("-", "−")


def level(activation: float, scale: float) -> int:
    """Return the step of the color scale for an activation, from -LEVELS to LEVELS.

    Any activity is at least one step.

    Examples
    --------
    >>> level(0.0, 4.0), level(0.01, 4.0), level(2.0, 4.0), level(4.0, 4.0), level(-4.0, 4.0), level(9.0, 4.0)
    (0, 1, 4, 8, -8, 8)
    """
    if activation == 0 or not math.isfinite(activation):
        return 0
    share = min(1.0, abs(activation) / scale) if scale > 0 else 1.0
    step = max(1, math.ceil(share * LEVELS - 1e-9))
    return step if activation > 0 else -step


def pieces(text: str, *, spaces: bool) -> tuple[Piece, ...]:
    """Split text into what can be read and symbols for what cannot.

    Line breaks, tabs, control characters, marks that turn the direction of writing and halves of characters
    become symbols. A single space stays a space, so that lines wrap, unless ``spaces`` is set or it stands
    beside another.

    Examples
    --------
    >>> [piece.text for piece in pieces("a b\\n", spaces=False)]
    ['a b', '↵']
    >>> [piece.text for piece in pieces(" the", spaces=True)]
    ['·', 'the']
    """
    found: list[Piece] = []
    for position, character in enumerate(text):
        beside = text[position - 1 : position] == " " or text[position + 1 : position + 2] == " "
        shown = _symbol(character, dotted=spaces or beside)
        piece = Piece(shown or character, shown is not None)
        if found and found[-1].symbol == piece.symbol:
            piece = Piece(found.pop().text + piece.text, piece.symbol)
        found.append(piece)
    return tuple(found)


def _symbol(character: str, *, dotted: bool) -> str | None:
    """Return what to show instead of a character, or None where it can be shown itself."""
    if character == " ":
        return "·" if dotted else None
    if character in SYMBOLS:
        return SYMBOLS[character]
    category = unicodedata.category(character)
    if category == "Cc" and ord(character) < 0x20:
        return chr(0x2400 + ord(character))
    # Surrogates cannot be written as UTF-8; format and private characters are invisible, and some reorder the
    # page. The two joiners stay: scripts and emoji are wrong without them.
    if category in ("Cc", "Cs", "Cf", "Co", "Cn", "Zl", "Zp") and character not in "\u200c\u200d":
        return f"⟨{ord(character):02X}⟩"
    return None


def segments(context: Context, *, scale: float) -> tuple[Segment, ...]:
    """Return a context as stretches to highlight, with the leading space of a word outside its highlight.

    The space before the first word is left out.
    """
    found: list[Segment] = []
    silent = ""
    for index, (token, activation) in enumerate(zip(context.tokens, context.activations, strict=True)):
        focus = index == context.focus
        if index == 0 and token.startswith(" ") and token.strip(" "):
            token = token[1:]
        if activation == 0 and not focus:
            silent += token
            continue
        if token[:1] == " " and token[1:2] not in ("", " "):
            silent += " "
            token = token[1:]
        if silent:
            found.append(Segment(pieces=pieces(silent, spaces=False)))
            silent = ""
        found.append(
            Segment(
                pieces=pieces(token, spaces=not token.strip(" ")) or (Piece("⟨empty⟩", True),),
                level=level(activation, scale),
                title=number(activation),
                focus=focus,
            )
        )
    if silent:
        found.append(Segment(pieces=pieces(silent, spaces=False)))
    return tuple(found)


def snippet(context: Context, *, before: int = 14, after: int = 14) -> Context:
    """Return the few tokens around the one in focus, for a preview of one line.

    Examples
    --------
    >>> context = Context(tokens=tuple("abcdef"), activations=(0, 0, 0, 2, 0, 0), focus=3)
    >>> snippet(context, before=1, after=1).tokens
    ('c', 'd', 'e')
    """
    first = max(0, context.focus - before)
    last = context.focus + after + 1
    return Context(
        tokens=context.tokens[first:last],
        activations=context.activations[first:last],
        focus=context.focus - first,
        origin=context.origin,
    )
