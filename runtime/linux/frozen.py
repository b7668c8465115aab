# SPDX-License-Identifier: Apache-2.0
"""Frozen types for cold commands: fields by annotation, `__slots__`, no import (dataclasses costs 10 ms)."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self, dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda cls: cls


@dataclass_transform(kw_only_default=True, frozen_default=True)
class _FrozenType(type):
    """Turns annotated fields into slots and keeps their defaults aside. Fields are not inherited."""

    def __new__(mcs, name: str, bases: "tuple[type, ...]", body: "dict[str, Any]") -> "Any":
        fields = tuple(body.get("__annotations__", ()))
        body["_defaults"] = {field: body.pop(field) for field in fields if field in body}
        body["__slots__"] = fields
        return super().__new__(mcs, name, bases, body)


class Frozen(metaclass=_FrozenType):
    """Base of frozen types; the module that defines one starts with `from __future__ import annotations`."""

    def __init__(self, **values: "Any") -> None:
        set_field = object.__setattr__
        defaults: dict[str, Any] = self._defaults  # type: ignore[attr-defined]
        for field in self.__slots__:  # type: ignore[attr-defined]
            if field in values:
                set_field(self, field, values.pop(field))
            elif field in defaults:
                set_field(self, field, defaults[field])
            else:
                raise TypeError(f"{type(self).__name__} lacks {field}")
        if values:
            raise TypeError(f"{type(self).__name__} has no {', '.join(values)}")

    def changed(self, **fields: "Any") -> "Self":
        """The same with other values in some fields."""
        return type(self)(**{name: getattr(self, name) for name in self.__slots__} | fields)  # type: ignore[attr-defined]

    def __setattr__(self, name: str, value: "Any") -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __repr__(self) -> str:
        fields = ", ".join(f"{field}={getattr(self, field)!r}" for field in self.__slots__)  # type: ignore[attr-defined]
        return f"{type(self).__name__}({fields})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        fields: tuple[str, ...] = self.__slots__  # type: ignore[attr-defined]
        return all(getattr(self, field) == getattr(other, field) for field in fields)

    def __hash__(self) -> int:
        fields: tuple[str, ...] = self.__slots__  # type: ignore[attr-defined]
        return hash(tuple(getattr(self, field) for field in fields))
