# SPDX-License-Identifier: Apache-2.0
"""Frozen types to JSON and back, for records."""

from __future__ import annotations

from enum import StrEnum

from runtime.linux.quick_dataclasses import MISSING, Field, fields, is_dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")
_hints_of: dict[type, dict[str, Any]] = {}
_shapes: dict[type, tuple[tuple[str, Any], ...] | None] = {}


class BadRecord(ValueError):
    """Not what we write: another version's, or damaged."""


_PLAIN = (str, int, bool, float, type(None))


def plain(value: Any) -> Any:
    """What json can write; fields at their defaults are left out, so a record stays readable."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    shape = _shape(kind)
    if shape is not None:
        return {name: plain(held) for name, default in shape if (held := getattr(value, name)) != default}
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


def _hints(kind: type) -> dict[str, Any]:
    """The types of a class's fields. typing is imported by who reads records, not by who writes a first one."""
    found = _hints_of.get(kind)
    if found is None:
        from typing import Any, get_type_hints

        found = _hints_of[kind] = get_type_hints(kind, localns={"Any": Any})
    return found


def load(kind: type[T], data: Any) -> T:
    """The type's object; unknown keys are ignored (a newer version wrote them), missing ones have their default."""
    if not isinstance(data, dict):
        raise BadRecord(f"{kind.__name__}: expected an object, got {type(data).__name__}")
    hints = _hints(kind)
    try:
        return kind(**{name: _load(hints[name], data[name]) for name in hints if name in data})
    except (TypeError, ValueError, KeyError) as e:
        raise BadRecord(f"{kind.__name__}: {e}") from None


def _load(kind: Any, value: Any) -> Any:
    import types
    from typing import Union, get_args, get_origin

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
    if isinstance(kind, type) and is_dataclass(kind):
        return load(kind, value)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind(value)
    return value
