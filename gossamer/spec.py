"""What every configurable part shares: a frozen, strict, printable description of itself.

A `Spec` names a part, carries its numbers and builds it. Reading is strict: an unknown field or kind, a missing
field or a value of the wrong type is an error that says where it is and what was expected. Nothing here knows
about autoencoders or torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import numbers
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

__all__ = ["Spec", "nearest"]


def nearest(name: object, known: Iterable[str]) -> str:
    """Return the sentence that helps after a misspelt name: the closest known ones, or all of them."""
    known = sorted(known)
    if not known:
        return "none are known"
    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(candidate) for candidate in close) + "?"
    return "known: " + ", ".join(known)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Describe one part: frozen numbers that print themselves and survive TOML and JSON unchanged.

    A concrete part of a family (an encoder, a sparsity, ...) sets `kind`, the name it has in files; the family is
    the class it derives from. A spec without a family (a whole autoencoder, a run) has no kind. A variant defined
    outside the package is known as soon as its class is: there is no registry to add it to.

    Round trip: `type(spec).from_dict(spec.to_dict()) == spec`, and the same through TOML and JSON.
    """

    kind: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Check every field against its annotation, however the spec is made; a subclass that adds checks calls it."""
        for name, hint in _hints(type(self)).items():
            object.__setattr__(self, name, _read(hint, getattr(self, name), f"{type(self).__name__}.{name}"))

    def build(self, **_: Any) -> Any:
        """Return the part; a part without tensors of its own is its spec."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and scalars; fields that are None are left out."""
        values = {name: _plain(getattr(self, name)) for name in _fields(type(self))}
        present = {name: value for name, value in values.items() if value is not None}
        return ({"kind": self.kind} if self.kind else {}) | present

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str = "") -> Self:
        """Read what `to_dict` wrote.

        Raises ValueError naming the place, the unknown field or kind and the nearest known ones; TypeError for a
        value of the wrong type.
        """
        if not isinstance(data, Mapping):
            raise TypeError(f"{where or cls.__name__}: expected a table, got {data!r}")
        values = dict(data)
        target = cls._of_kind(values.pop("kind", None), where)
        known = _fields(target)
        place = where or target.__name__
        for name in values:
            if name not in known:
                raise ValueError(f"{place}: unknown field {name!r}; {nearest(name, known)}")
        missing = [name for name, field in known.items() if _required(field) and name not in values]
        if missing:
            raise ValueError(f"{place}: missing field {', '.join(map(repr, missing))}")
        hints = _hints(target)
        read = {name: _read(hints[name], value, f"{place}.{name}") for name, value in values.items()}
        return typing.cast(Self, target(**read))

    def to_json(self) -> str:
        """Return the spec as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read JSON, strictly."""
        return cls.from_dict(json.loads(text))

    def to_toml(self) -> str:
        """Return the spec as TOML."""
        import tomli_w

        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read TOML, strictly."""
        import tomllib

        return cls.from_dict(tomllib.loads(text))

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed; an unknown field is an error."""
        known = _fields(type(self))
        for name in changes:
            if name not in known:
                raise ValueError(f"{type(self).__name__}: unknown field {name!r}; {nearest(name, known)}")
        return dataclasses.replace(self, **changes)

    def __str__(self) -> str:
        return self.to_toml()

    @classmethod
    def kinds(cls) -> dict[str, type[Self]]:
        """Return the concrete members of this family by kind."""
        found: dict[str, type[Self]] = {}
        for member in [cls, *_descendants(cls)]:
            if member.__dict__.get("kind"):
                found[member.kind] = member
        return found

    @classmethod
    def _of_kind(cls, kind: object, where: str) -> type[Spec]:
        if cls.__dict__.get("kind") and kind in (None, cls.kind):
            return cls
        kinds = cls.kinds()
        if kind is None and not kinds:
            return cls
        if not isinstance(kind, str) or kind not in kinds:
            given = "missing" if kind is None else f"unknown: {kind!r}"
            raise ValueError(f"{where or cls.__name__}: kind is {given}; {nearest(kind or '', kinds)}")
        return kinds[kind]


def _descendants(cls: type[Spec]) -> Iterable[type]:
    for child in cls.__subclasses__():
        yield child
        yield from _descendants(child)


@functools.cache
def _hints(cls: type[Spec]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {name: hints[name] for name in _fields(cls)}


def _fields(cls: type[Spec]) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls)}


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _read(hint: Any, value: Any, where: str) -> Any:
    """Check `value` against a type hint made of scalars, tuples, None and specs, and convert it."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _read_union(typing.get_args(hint), value, where)
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            raise ValueError(f"{where}: {value!r}; {nearest(value, map(str, typing.get_args(hint)))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError(f"{where}: expected a list, got {value!r}")
        item = typing.get_args(hint)[0]
        return tuple(_read(item, entry, f"{where}[{index}]") for index, entry in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise TypeError(f"{where}: expected a table, got {value!r}")
        entry = typing.get_args(hint)[1]
        return {str(key): _read(entry, item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(hint, type) and issubclass(hint, Spec):
        return value if isinstance(value, hint) else hint.from_dict(value, where=where)
    return _read_scalar(hint, value, where)


def _read_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    if len(options) == 1:
        return _read(options[0], value, where)
    for option in options:
        try:
            return _read(option, value, where)
        except (TypeError, ValueError):
            continue
    raise TypeError(f"{where}: expected one of {', '.join(map(str, options))}, got {value!r}")


def _read_scalar(hint: Any, value: Any, where: str) -> Any:
    exact = {int: numbers.Integral, float: numbers.Real}.get(hint, hint)
    if not isinstance(value, exact) or (isinstance(value, bool) and hint is not bool):
        raise TypeError(f"{where}: expected {hint.__name__}, got {value!r}")
    if hint not in (int, float):
        return value
    try:
        number = hint(value)
    except OverflowError:
        number = math.inf
    if isinstance(number, float) and not math.isfinite(number):
        raise ValueError(f"{where}: expected a finite number, got {number!r}")
    return number
