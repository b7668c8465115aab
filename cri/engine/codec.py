# SPDX-License-Identifier: Apache-2.0
"""Frozen types to JSON and back, for records."""

from __future__ import annotations

import dataclasses
import types
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


class BadRecord(ValueError):
    """Not what we write: another version's, or damaged."""


def plain(value: Any) -> Any:
    """What json can write; fields at their defaults are left out, so a record stays readable."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            entry.name: plain(held)
            for entry in dataclasses.fields(value)
            if (held := getattr(value, entry.name)) != _default(entry)
        }
    if isinstance(value, (tuple, list)):
        return [plain(entry) for entry in value]
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    return value


def _default(entry: dataclasses.Field[Any]) -> Any:
    if entry.default is not dataclasses.MISSING:
        return entry.default
    return entry.default_factory() if entry.default_factory is not dataclasses.MISSING else dataclasses.MISSING


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def load(kind: type[T], data: Any) -> T:
    """The type's object; unknown keys are ignored (a newer version wrote them), missing ones have their default."""
    if not isinstance(data, dict):
        raise BadRecord(f"{kind.__name__}: expected an object, got {type(data).__name__}")
    hints = _hints(cast(Any, kind))
    try:
        return kind(**{name: _load(hints[name], data[name]) for name in hints if name in data})
    except (TypeError, ValueError, KeyError) as e:
        raise BadRecord(f"{kind.__name__}: {e}") from None


def _load(kind: Any, value: Any) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else _load(next(a for a in get_args(kind) if a is not type(None)), value)
    if origin is tuple:
        inner = get_args(kind)
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_load(inner[0], entry) for entry in value)
        return tuple(_load(each, entry) for each, entry in zip(inner, value, strict=True))
    if origin is dict:
        return {name: _load(get_args(kind)[1], entry) for name, entry in value.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return load(kind, value)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind(value)
    return value
