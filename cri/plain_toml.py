# SPDX-License-Identifier: Apache-2.0
"""TOML as most configuration files use it: tables, and one plain value a line. tomllib takes 6 ms to import, a third of
it for typing and datetime, which is more than a short command's own work; what is not plain is left to it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Table = dict[str, Any]


class NotPlain(Exception):
    """There is more in the file, or something is wrong with it, which tomllib then says."""


def read(text: str) -> Table:
    """The document, as tomllib reads it. Raises NotPlain."""
    found: Table = {}
    here = found
    begun = set()
    for line in map(str.strip, text.split("\n")):
        if not line.isprintable():
            raise NotPlain
        if line.startswith("["):
            if line in begun or not line.endswith("]"):
                raise NotPlain
            begun.add(line)
            here = _table(found, line[1:-1].split("."))
        elif line and not line.startswith("#"):
            name, equals, value = line.partition("=")
            name = name.strip()
            if not equals or not _is_bare(name) or name in here:
                raise NotPlain
            here[name] = _value(value.strip())
    return found


def _is_bare(key: str) -> bool:
    return key.isascii() and key.replace("_", "").replace("-", "").isalnum()


def _table(found: Table, path: list[str]) -> Table:
    for part in path:
        found = found.setdefault(part, {})
        if not _is_bare(part) or type(found) is not dict:
            raise NotPlain
    return found


def _value(text: str) -> object:
    if text in ("true", "false"):
        return text == "true"
    if text.startswith("["):
        inner = text[1:-1].strip()
        if not text.endswith("]"):
            raise NotPlain
        return [_string(part.strip()) for part in inner.split(",")] if inner else []
    if text.startswith('"'):
        return _string(text)
    whole, dot, rest = text.partition(".")
    if len(text) > 15 or not text.isascii() or not whole.isdecimal() or (whole[0] == "0" and len(whole) > 1):
        raise NotPlain
    if not dot:
        return int(whole)
    if not rest.isdecimal():
        raise NotPlain
    return float(text)


def _string(text: str) -> str:
    inner = text[1:-1]
    if len(text) < 2 or text[0] != '"' or text[-1] != '"' or '"' in inner or "\\" in inner or "," in inner:
        raise NotPlain
    return inner
