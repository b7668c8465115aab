# SPDX-License-Identifier: Apache-2.0
"""Values of annotations in GVariant's text form (`uint64 5`, `['a', 'b']`, `true`), as D-Bus type and value; pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NAMED = {
    "boolean": "b",
    "byte": "y",
    "int16": "n",
    "uint16": "q",
    "int32": "i",
    "uint32": "u",
    "handle": "h",
    "int64": "x",
    "uint64": "t",
    "double": "d",
    "string": "s",
    "objectpath": "o",
    "signature": "g",
}
_RANGES = {
    "y": (0, 8), "n": (1, 16), "q": (0, 16), "i": (1, 32), "u": (0, 32), "h": (0, 32), "x": (1, 64), "t": (0, 64),
}  # fmt: skip
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


def parse(text: str) -> tuple[str, Any]:
    """The type and the value; a ValueError says what is wrong."""
    reader = _Reader(text)
    kind, value = reader.value("")
    reader.skip()
    if reader.at != len(text):
        raise ValueError(f"{text!r}: unexpected {text[reader.at :]!r} after the value")
    return kind, value


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def wrong(self, what: str) -> ValueError:
        return ValueError(f"{self.text!r}: {what} at character {self.at + 1}")

    def skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def peek(self) -> str:
        self.skip()
        return self.text[self.at : self.at + 1]

    def word(self) -> str:
        """Up to what separates words."""
        self.skip()
        start = self.at
        while self.at < len(self.text) and (self.text[self.at].isalnum() or self.text[self.at] in "_+-."):
            self.at += 1
        return self.text[start : self.at]

    def value(self, kind: str) -> tuple[str, Any]:
        """One value; `kind` is the type that it must have, if that is known."""
        first = self.peek()
        if first == "@":
            self.at += 1
            start = self.at
            while self.at < len(self.text) and not self.text[self.at].isspace():
                self.at += 1
            return self.value(self._signature(self.text[start : self.at]))
        if first in ("'", '"'):
            return self._checked(kind or "s", "sog", self._string(first))
        if first == "[":
            return self._array(kind)
        if first == "(":
            return self._tuple(kind)
        word = self.word()
        if word in _NAMED:
            return self.value(_NAMED[word])
        if word in ("true", "false"):
            return self._checked(kind or "b", "b", word == "true")
        return self._number(kind, word)

    def _signature(self, text: str) -> str:
        from runtime.linux import dbus

        try:
            if len(dbus.types(text)) == 1:
                return text
        except ValueError:
            pass
        raise self.wrong(f"@{text} is not one type")

    def _checked(self, kind: str, among: str, value: Any) -> tuple[str, Any]:
        if kind not in among:
            raise self.wrong(f"expected a value of type {kind!r}")
        return kind, value

    def _string(self, quote: str) -> str:
        self.at += 1
        out: list[str] = []
        while self.at < len(self.text):
            c = self.text[self.at]
            self.at += 1
            if c == quote:
                return "".join(out)
            if c == "\\" and self.at < len(self.text):
                c = _ESCAPES.get(self.text[self.at], self.text[self.at])
                self.at += 1
            out.append(c)
        raise self.wrong("the string is not closed")

    def _number(self, kind: str, word: str) -> tuple[str, Any]:
        if not word:
            raise self.wrong("expected a value such as true, 5, uint64 5, 'text' or ['a', 'b']")
        if kind == "d" or (not kind and "." in word):
            try:
                return "d", float(word)
            except ValueError:
                raise self.wrong(f"{word!r} is not a number") from None
        kind = kind or "i"
        try:
            number = int(word, 0)
        except ValueError:
            raise self.wrong(f"{word!r} is not a value (strings are quoted)") from None
        signed, bits = _RANGES.get(kind, (0, 0))
        low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
        if not low <= number < high:
            raise self.wrong(f"{number} does not fit type {kind!r}")
        return kind, number

    def _items(self, closing: str, kinds: list[str] | None, each: str) -> tuple[list[str], list[Any]]:
        self.at += 1
        found: list[str] = []
        values: list[Any] = []
        while self.peek() != closing:
            want = each or (kinds[len(values)] if kinds is not None and len(values) < len(kinds) else "")
            if closing == "]" and found:
                want = found[0]  # the first value of an array decides for all
            kind, value = self.value(want)
            found.append(kind)
            values.append(value)
            if self.peek() == ",":
                self.at += 1
            elif self.peek() != closing:
                raise self.wrong(f"expected , or {closing}")
        self.at += 1
        return found, values

    def _array(self, kind: str) -> tuple[str, Any]:
        if kind and kind[0] != "a":
            raise self.wrong(f"expected a value of type {kind!r}")
        kinds, values = self._items("]", None, kind[1:])
        if not kind and not kinds:
            raise self.wrong("an empty array needs its type, such as @as []")
        each = kind[1:] or kinds[0]
        if any(other != each for other in kinds):
            raise self.wrong("the values of an array have different types")
        return "a" + each, values

    def _tuple(self, kind: str) -> tuple[str, Any]:
        from runtime.linux import dbus

        if kind and kind[0] != "(":
            raise self.wrong(f"expected a value of type {kind!r}")
        kinds, values = self._items(")", dbus.types(kind[1:-1]) if kind else None, "")
        found = f"({''.join(kinds)})"
        if kind and found != kind:
            raise self.wrong(f"expected a value of type {kind!r}, got {found!r}")
        return found, tuple(values)
