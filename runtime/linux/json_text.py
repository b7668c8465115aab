# SPDX-License-Identifier: Apache-2.0
"""JSON without importing json (5 ms): the interpreter's C scanner and encoder, and a small writer of indented text."""

from _json import encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn


class _Context:
    """What the C scanner asks of its decoder."""

    strict = True
    object_hook = None
    object_pairs_hook: "Callable[[list[tuple[str, Any]]], dict[str, Any]] | None" = None
    parse_float = float
    parse_int = int
    parse_constant = None
    memo: "dict[str, str]" = {}  # noqa: RUF012 - read by name, never changed


class Repeating(dict):  # type: ignore[type-arg]
    """An object that names a key twice: JSON leaves open what that means, and here the last one counts."""

    __slots__ = ("key",)

    def __init__(self, pairs: "list[tuple[str, Any]]") -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.key = next(name for name in names if names.count(name) > 1)


def _marked(pairs: "list[tuple[str, Any]]") -> "dict[str, Any]":
    found = dict(pairs)
    return found if len(found) == len(pairs) else Repeating(pairs)


class _MarkingContext(_Context):
    object_pairs_hook = staticmethod(_marked)


_scan = make_scanner(_Context)  # type: ignore[arg-type]  # the C code reads attributes of any object
_scan_marking = make_scanner(_MarkingContext)  # type: ignore[arg-type]


class JSONError(ValueError):
    """The text is not JSON; the message says where."""


def loads(data: bytes | str, *, mark_repeating: bool = False) -> "Any":
    """Parse a whole document; with mark_repeating, an object that names a key twice is a Repeating."""
    try:
        text = data if isinstance(data, str) else data.decode()
        text = text.strip(" \t\r\n")
        value, end = (_scan_marking if mark_repeating else _scan)(text, 0)
        if end != len(text):
            raise JSONError(f"extra data after the document at character {end}")
        return value
    except RecursionError:
        raise JSONError("nested too deeply") from None
    except JSONError:
        raise
    except (StopIteration, ValueError, TypeError, SystemError):
        # SystemError: the C scanner of 3.11 finds its exception type only when json is loaded.
        return _explain(data)


def _explain(data: bytes | str) -> "Any":
    """Parse again with the json module, whose message names line and column."""
    import json

    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise JSONError(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise JSONError("nested too deeply") from None
    except ValueError as error:
        raise JSONError(str(error)) from None


def _refuse_constant(name: str) -> "Any":
    raise JSONError(f"{name} is not JSON")


def _refuse_value(value: object) -> "NoReturn":
    raise TypeError(f"JSON has no {type(value).__name__}")


# In order: no search for cycles, what has no JSON, strings, no indentation, separators, keys unsorted, none skipped.
_encode = make_encoder(None, _refuse_value, encode_basestring_ascii, None, ":", ",", False, False, False)  # noqa: FBT003


def dumps(value: "Any", *, indent: int = 0) -> str:
    """Write a document of dicts with string keys, lists, tuples, strings, numbers, booleans and None."""
    if not indent:
        return "".join(_encode(value, 0))
    out: list[str] = []
    _write(value, out, "\n", " " * indent)
    return "".join(out)


def _write(value: "Any", out: list[str], newline: str, indent: str) -> None:
    if value is None or value is True or value is False:
        out.append({None: "null", True: "true", False: "false"}[value])
    elif isinstance(value, str):
        out.append(encode_basestring_ascii(value))
    elif isinstance(value, (int, float)):
        out.append(repr(value))
    elif isinstance(value, dict):
        _write_items(
            "{}",
            [(encode_basestring_ascii(key) + (": " if newline else ":"), item) for key, item in value.items()],
            out,
            newline,
            indent,
        )
    elif isinstance(value, (list, tuple)):
        _write_items("[]", [("", item) for item in value], out, newline, indent)
    else:
        _refuse_value(value)


def _write_items(brackets: str, items: "list[tuple[str, Any]]", out: list[str], newline: str, indent: str) -> None:
    inner = newline + indent if newline else ""
    out.append(brackets[0])
    for number, (prefix, item) in enumerate(items):
        out.append(f"{',' if number else ''}{inner}{prefix}")
        _write(item, out, inner, indent)
    out.append((newline if items else "") + brackets[1])
