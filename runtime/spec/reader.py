# SPDX-License-Identifier: Apache-2.0
"""Typed access to raw JSON; what does not fit is a SpecError that names the JSON path and what was expected."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

MAX_INT64 = (1 << 63) - 1
MAX_UINT64 = (1 << 64) - 1
MAX_UINT32 = (1 << 32) - 1


class SpecError(ValueError):
    """The configuration is wrong at `.path`."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path
        self.problem = problem


def shown(value: "Any") -> str:
    """A value for a message: short, on one line."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def checked_string(value: "Any", path: str) -> str:
    """The value if it is a string that the kernel can take."""
    if not isinstance(value, str):
        raise SpecError(path, f"expected a string, got {shown(value)}")
    if "\0" in value:
        raise SpecError(path, "a string with a NUL character, which no path, name or argument can hold")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise SpecError(path, "a string with half a surrogate pair, which is not Unicode") from None
    return value


def _are_plain(values: "list[Any]") -> bool:
    """Strings without what checked_string looks for, seen at one look: a seccomp profile names 400 calls."""
    try:
        text = "".join(values)
    except TypeError:
        return False
    return text.isascii() and "\0" not in text


class Object:
    """A JSON object (or its absence, which reads like an empty one) and where it stands; null is absent."""

    __slots__ = ("path", "present", "value")

    def __init__(self, value: "Any", path: str) -> None:
        if value is not None and not isinstance(value, dict):
            raise SpecError(path or "config.json", f"expected an object, got {shown(value)}")
        self.present = value is not None
        self.value: dict[str, Any] = value or {}
        self.path = path

    def at(self, key: str) -> str:
        """The path of a member."""
        return f"{self.path}.{key}" if self.path else key

    def has(self, key: str) -> bool:
        """Whether a member is given."""
        return self.value.get(key) is not None

    def required(self, key: str, what: str) -> None:
        """Fail unless the member is given."""
        if not self.has(key):
            raise SpecError(self.at(key), f"missing; expected {what}")

    def string(self, key: str, default: str = "") -> str:
        """A string."""
        value = self.value.get(key)
        return default if value is None else checked_string(value, self.at(key))

    def optional_string(self, key: str) -> str | None:
        """A string, or None when absent."""
        return self.string(key) if self.has(key) else None

    def one_of(self, key: str, choices: "tuple[str, ...]", default: str = "") -> str:
        """A string out of a few."""
        value = self.string(key, default)
        if value != default and value not in choices:
            raise SpecError(self.at(key), f"expected one of {', '.join(choices)}, got {shown(value)}")
        return value

    def path_string(self, key: str) -> str:
        """A string that must be an absolute path."""
        self.required(key, "an absolute path")
        value = self.string(key)
        if not value.startswith("/"):
            raise SpecError(self.at(key), f"expected an absolute path, got {shown(value)}")
        return value

    def boolean(self, key: str, *, default: bool = False) -> bool:
        """true or false."""
        value = self.value.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise SpecError(self.at(key), f"expected true or false, got {shown(value)}")
        return value

    def optional_boolean(self, key: str) -> bool | None:
        """true or false, or None when absent."""
        return self.boolean(key) if self.has(key) else None

    def optional_integer(self, key: str, low: int = -MAX_INT64 - 1, high: int = MAX_INT64) -> int | None:
        """A whole number in a range, or None when absent."""
        value = self.value.get(key)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise SpecError(self.at(key), f"expected an integer, got {shown(value)}")
        if not low <= value <= high:
            raise SpecError(self.at(key), f"expected an integer from {low} to {high}, got {shown(value)}")
        return value

    def integer(self, key: str, low: int = -MAX_INT64 - 1, high: int = MAX_INT64, default: int = 0) -> int:
        """A whole number in a range."""
        value = self.optional_integer(key, low, high)
        return default if value is None else value

    def object(self, key: str) -> "Object":
        """A nested object."""
        return Object(self.value.get(key), self.at(key))

    def items(self, key: str) -> "Iterator[tuple[str, Any]]":
        """The members of an array with their paths."""
        value = self.value.get(key)
        if value is None:
            return
        if not isinstance(value, list):
            raise SpecError(self.at(key), f"expected an array, got {shown(value)}")
        path = self.at(key)
        for index, item in enumerate(value):
            yield f"{path}[{index}]", item

    def objects(self, key: str) -> "Iterator[Object]":
        """An array of objects."""
        for path, item in self.items(key):
            if item is None:
                raise SpecError(path, "expected an object, got null")
            yield Object(item, path)

    def strings(self, key: str) -> tuple[str, ...]:
        """An array of strings."""
        value = self.value.get(key)
        if isinstance(value, list) and _are_plain(value):
            return tuple(value)
        return tuple(checked_string(item, path) for path, item in self.items(key))

    def integers(self, key: str, low: int, high: int) -> tuple[int, ...]:
        """An array of whole numbers."""
        found = []
        for path, item in self.items(key):
            if isinstance(item, bool) or not isinstance(item, int) or not low <= item <= high:
                raise SpecError(path, f"expected an integer from {low} to {high}, got {shown(item)}")
            found.append(item)
        return tuple(found)

    def string_map(self, key: str) -> "Mapping[str, str]":
        """An object whose members are strings."""
        inner = self.object(key)
        return {checked_string(name, inner.path): checked_string(v, inner.at(name)) for name, v in inner.value.items()}
