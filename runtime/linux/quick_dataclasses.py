# SPDX-License-Identifier: Apache-2.0
"""The part of dataclasses that this package uses, for a tenth of its time at import.

dataclasses imports inspect and re, and writes and compiles four functions for each class: 1 ms each, 70 ms for the
classes that `ketch run` needs. Here all classes share their functions. Checkers see dataclasses itself, so everything
they know of it holds: `slots=True` is always given, a field is set once, in `__init__`.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass, replace
    from typing import Any
else:
    MISSING = object()

    class Field:
        """What is known of one field."""

        __slots__ = ("default", "default_factory", "init", "metadata", "name", "repr")

        def __init__(self, default, default_factory, init, repr, metadata):
            self.name = ""
            self.default = default
            self.default_factory = default_factory
            self.init = init
            self.repr = repr
            self.metadata = metadata or {}

        @property
        def _field_type(self):
            # Whoever has imported dataclasses may use its replace, fields and asdict on our classes too.
            return sys.modules["dataclasses"]._FIELD

    def field(*, default=MISSING, default_factory=MISSING, init=True, repr=True, metadata=None):
        """A field with more than a default."""
        return Field(default, default_factory, init, repr, metadata)

    def dataclass(*, slots, frozen=False):
        """Make a class of its annotations; the result has slots, as dataclasses makes it with slots=True."""
        if not slots:
            raise TypeError("only classes with slots are made here")
        return lambda cls: _make(cls, frozen=frozen)

    def fields(kind):
        """The fields of a class or an object, in order."""
        return tuple(kind._fields.values())

    def is_dataclass(value):
        """Whether it is one of these classes or an object of one."""
        return hasattr(value if isinstance(value, type) else type(value), "_fields")

    def replace(value, /, **changes):
        """A copy with other values in some fields."""
        for name, known in value._fields.items():
            if known.init and name not in changes:
                changes[name] = getattr(value, name)
        return type(value)(**changes)

    def asdict(value):
        """Dictionaries all the way down."""
        if is_dataclass(value):
            return {name: asdict(getattr(value, name)) for name in value._fields}
        if isinstance(value, (list, tuple)):
            return type(value)(asdict(entry) for entry in value)
        if isinstance(value, dict):
            return {name: asdict(entry) for name, entry in value.items()}
        return value


__all__ = ["MISSING", "Field", "asdict", "dataclass", "field", "fields", "is_dataclass", "replace"]


def _make(cls: type, *, frozen: bool) -> type:
    """The same class with slots for its fields and the shared functions."""
    body: dict[str, Any] = {name: value for name, value in cls.__dict__.items() if name not in _NOT_TAKEN}
    known: dict[str, Field[Any]] = dict(getattr(cls, "_fields", {}))
    names = tuple(body.get("__annotations__", ()))
    for name in names:
        default = body.pop(name, MISSING)
        entry = default if isinstance(default, Field) else field(default=default)
        entry.name = name
        known[name] = entry
    body["__slots__"] = names
    body["_fields"] = body["__dataclass_fields__"] = known
    body["__match_args__"] = tuple(known)
    body.setdefault("__init__", _init)
    body.setdefault("__repr__", _repr)
    if "__eq__" not in body:
        body["__eq__"] = _equal
    if body.get("__hash__") is None:
        body["__hash__"] = _hash if frozen else None
    if frozen:
        body.setdefault("__setattr__", _refuse)
        body.setdefault("__delattr__", _refuse)
    made = type(cls)(cls.__name__, cls.__bases__, body)
    made.__qualname__ = cls.__qualname__
    made._plan = tuple(_step(made, entry) for entry in known.values())  # type: ignore[attr-defined]
    return made


_NOT_TAKEN = ("__dict__", "__weakref__")


def _step(made: type, entry: "Field[Any]") -> "tuple[str, Callable[[Any, Any], None], Any, Any, bool]":
    # The slot's own setter: past a frozen class's __setattr__, and quicker.
    return entry.name, getattr(made, entry.name).__set__, entry.default, entry.default_factory, entry.init


def _init(self: "Any", *positional: "Any", **values: "Any") -> None:
    plan = self._plan
    if positional:
        names = [step[0] for step in plan if step[4]]
        if len(positional) > len(names):
            raise TypeError(f"{type(self).__name__}() takes {len(names)} arguments, {len(positional)} were given")
        for name, value in zip(names, positional, strict=False):
            if name in values:
                raise TypeError(f"{type(self).__name__}() got multiple values for argument {name!r}")
            values[name] = value
    for name, put, default, factory, init in plan:
        if init and name in values:
            put(self, values.pop(name))
        elif default is not MISSING:
            put(self, default)
        elif factory is not MISSING:
            put(self, factory())
        elif init:
            raise TypeError(f"{type(self).__name__}() missing the argument {name!r}")
    if values:
        raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {next(iter(values))!r}")
    after: Callable[[], None] | None = getattr(self, "__post_init__", None)
    if after is not None:
        after()


def _values(self: "Any") -> "tuple[Any, ...]":
    return tuple(getattr(self, name) for name in self._fields)


def _repr(self: "Any") -> str:
    shown = (f"{name}={getattr(self, name)!r}" for name, entry in self._fields.items() if entry.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _equal(self: "Any", other: object) -> "Any":
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: "Any") -> int:
    return hash(_values(self))


class FrozenError(AttributeError):
    """Somebody tried to change a frozen object."""


def _refuse(self: "Any", name: str, *_: "Any") -> None:
    raise FrozenError(f"{type(self).__name__} is frozen: {name} cannot be changed")
