# SPDX-License-Identifier: Apache-2.0
"""Frozen types to JSON and back, for records."""

from __future__ import annotations

import sys
from enum import StrEnum
from types import UnionType

from runtime.linux.quick_dataclasses import MISSING, Field, fields, is_dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")
    Reader = Callable[[Any], Any] | None
_readers_of: dict[type, dict[str, Reader]] = {}
_shapes: dict[type, tuple[tuple[str, Any], ...] | None] = {}


class BadRecord(ValueError):
    """Not what we write: another version's, or damaged."""


_PLAIN = (str, int, bool, float, type(None))


def plain(value: Any, without: str = "") -> Any:
    """What json can write; fields at their defaults are left out, so a record stays readable."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    shape = _shape(kind)
    if shape is not None:
        return {
            name: plain(held)
            for name, default in shape
            if (held := getattr(value, name)) != default and name != without
        }
    if isinstance(value, (tuple, list)):
        return [plain(entry) for entry in value]
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    return value


def _shape(kind: type) -> tuple[tuple[str, Any], ...] | None:
    """Names and defaults of a dataclass' fields: looked up once, records are written several times per container."""
    if kind not in _shapes:
        known = is_dataclass(kind)
        _shapes[kind] = tuple((entry.name, _default(entry)) for entry in fields(kind)) if known else None
    return _shapes[kind]


def _default(entry: Field[Any]) -> Any:
    if entry.default is not MISSING:
        return entry.default
    return entry.default_factory() if entry.default_factory is not MISSING else MISSING


def load(kind: type[T], data: Any) -> T:
    """The type's object; unknown keys are ignored (a newer version wrote them), missing ones have their default."""
    if not isinstance(data, dict):
        raise BadRecord(f"{kind.__name__}: expected an object, got {type(data).__name__}")
    readers = _readers(kind)
    try:
        return kind(
            **{
                name: value if (read := readers[name]) is None else read(value)
                for name, value in data.items()
                if name in readers
            }
        )
    except (TypeError, ValueError, AttributeError) as e:
        raise BadRecord(f"{kind.__name__}: {e}") from None


def _readers(kind: type) -> dict[str, Reader]:
    """How each field of a class is read: worked out once, because a start reads the records of a thousand pods."""
    found = _readers_of.get(kind)
    if found is None:
        found = _readers_of[kind] = {name: _reader(hint) for name, hint in _hints(kind).items()}
    return found


def _hints(kind: type) -> dict[str, Any]:
    """As typing.get_type_hints, but a command like `ketch rm` has to import typing for that only: 7 ms of its time."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        written_in = vars(sys.modules[base.__module__])
        for name, text in vars(base).get("__annotations__", {}).items():
            found[name] = eval(text, written_in, {"Any": object})  # noqa: S307 (our own source)
    return found


def _reader(kind: Any) -> Reader:
    """What makes the typed value of what json has read; None where that is the value already."""
    origin: Any = getattr(kind, "__origin__", None)
    inner: tuple[Any, ...] = getattr(kind, "__args__", ())
    if isinstance(kind, UnionType):
        return _optional(_reader(next(a for a in inner if a is not type(None))))
    if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        return _sequence(_reader(inner[0]))
    if origin is tuple:
        return _fixed([_reader(each) for each in inner])
    if origin is dict:
        return _mapping(_reader(inner[1]))
    if isinstance(kind, type) and is_dataclass(kind):
        return lambda value: load(kind, value)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind
    return None


def _optional(read: Reader) -> Reader:
    return read and (lambda value: None if value is None else read(value))


def _sequence(read: Reader) -> Reader:
    return tuple if read is None else lambda value: tuple(map(read, value))


def _fixed(readers: list[Reader]) -> Reader:
    return lambda value: tuple(held if read is None else read(held) for read, held in zip(readers, value, strict=True))


def _mapping(read: Reader) -> Reader:
    return dict if read is None else lambda value: {name: read(held) for name, held in value.items()}
