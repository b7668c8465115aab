# SPDX-License-Identifier: Apache-2.0
"""Typed reading of a configuration: the only code that sees raw JSON; every refusal names key and value."""

from .errors import bad_config, unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Fields:
    """One JSON object and where it lies in the configuration.

    Names match in any case, as in Go's encoding/json: containerd writes "HostPort" where the plugins say "hostPort".
    """

    __slots__ = ("_lowered", "raw", "where")

    def __init__(self, raw: "dict[str, Any]", where: str = "") -> None:
        self.raw = raw
        self.where = where
        self._lowered: dict[str, Any] | None = None

    def __contains__(self, key: str) -> bool:
        return self._value(key) is not None

    def _value(self, key: str) -> "Any":
        if key in self.raw:
            return self.raw[key]
        if self._lowered is None:
            self._lowered = {name.lower(): value for name, value in self.raw.items()}
        return self._lowered.get(key.lower())

    def at(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def text(self, key: str, default: str = "") -> str:
        value = self._value(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise bad_config(self.at(key), value, "expected a string")
        return value

    def choice(self, key: str, default: str, allowed: "tuple[str, ...]") -> str:
        value = self.text(key, default) or default
        if value not in allowed:
            raise unsupported(self.at(key), value, " or ".join(word for word in allowed if word))
        return value

    def integer(self, key: str, default: int = 0, *, low: int = 0, high: int = 0xFFFFFFFF) -> int:
        value = self._value(key)
        if value is None:
            return default
        return checked_integer(self.at(key), value, low, high)

    def boolean(self, key: str, *, default: bool = False) -> bool:
        value = self._value(key)
        if value is None:
            return default
        if value in ("true", "false"):
            return bool(value == "true")
        if not isinstance(value, bool):
            raise bad_config(self.at(key), value, "expected true or false")
        return value

    def object(self, key: str) -> "Fields":
        """The object at key; an empty one if it is absent."""
        value = self._value(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise bad_config(self.at(key), value, "expected an object")
        return Fields(value, self.at(key))

    def array(self, key: str) -> "list[Any]":
        value = self._value(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise bad_config(self.at(key), value, "expected an array")
        return value

    def texts(self, key: str) -> list[str]:
        values = self.array(key)
        for number, value in enumerate(values):
            if not isinstance(value, str):
                raise bad_config(f"{self.at(key)}[{number}]", value, "expected a string")
        return values

    def objects(self, key: str) -> "list[Fields]":
        found = []
        for number, value in enumerate(self.array(key)):
            where = f"{self.at(key)}[{number}]"
            if not isinstance(value, dict):
                raise bad_config(where, value, "expected an object")
            found.append(Fields(value, where))
        return found


def checked_integer(where: str, value: object, low: int, high: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise bad_config(where, value, "expected an integer")
    if not low <= value <= high:
        raise bad_config(where, value, f"expected {low} to {high}")
    return value
