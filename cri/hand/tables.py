# SPDX-License-Identifier: Apache-2.0
"""How lists are printed: columns that fit the terminal, docker's templates, JSON, human sizes and ages."""

from __future__ import annotations

import os
import sys

from cri.hand.errors import USAGE, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

Row = dict[str, object]  # what a template can name -> its value


def print_rows(rows: Sequence[Row], columns: Sequence[tuple[str, str]], form: str = "") -> None:
    """Print rows as a table of (heading, key) columns, or in the form that was asked for."""
    if form in ("", "table"):
        print_table([heading for heading, _ in columns], [[str(row[key]) for _, key in columns] for row in rows])
    elif form == "json":
        from json import dumps

        for row in rows:
            print(dumps({key: value for key, value in row.items() if not key.startswith("_")}))
    elif form.startswith("table "):
        template = form.removeprefix("table ").replace("\\t", "\t")
        names = {key.lower(): heading for heading, key in columns}
        keys = [part.partition("}}")[0].strip().removeprefix(".") for part in template.split("{{")[1:]]
        print_table(
            [names.get(k.lower(), k.upper()) for k in keys], [[str(_look_up(row, k)) for k in keys] for row in rows]
        )
    else:
        for row in rows:
            print(fill_template(form, row))


def print_table(headings: list[str], rows: list[list[str]]) -> None:
    """Columns as wide as their widest cell, three blanks apart; on a terminal the widest is cut until a line fits."""
    cells = [headings, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headings))]
    if sys.stdout.isatty():
        widths = _fitted(widths, [len(heading) for heading in headings])
    for row in cells:
        line = "   ".join(_cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())


def _fitted(widths: list[int], least: list[int]) -> list[int]:
    """Take from the widest column first; never below its heading or 8."""
    room = _columns() - 3 * (len(widths) - 1)
    widths = list(widths)
    while sum(widths) > room:
        widest = max(range(len(widths)), key=lambda i: widths[i] - max(least[i], 8))
        if widths[widest] <= max(least[widest], 8):
            break
        widths[widest] -= 1
    return widths


def _columns() -> int:
    try:
        return os.get_terminal_size(1).columns
    except OSError:
        return 80


def _cut(cell: str, width: int) -> str:
    return cell if len(cell) <= width else cell[: width - 1] + "…"


def fill_template(template: str, value: object) -> str:
    """docker's templates as tutorials use them: {{.A.B}}, {{json .A}}, {{index .A "b"}}, {{range .A}}..{{end}}."""
    text, _ = _filled(template.replace("\\t", "\t").replace("\\n", "\n"), 0, value, value)
    return text


def _filled(template: str, at: int, value: object, dot: object) -> tuple[str, int]:
    out = []
    while at < len(template):
        start = template.find("{{", at)
        if start < 0:
            out.append(template[at:])
            return "".join(out), len(template)
        end = template.find("}}", start)
        if end < 0:
            raise UsageError(f"template {template!r}: an {{{{ without }}}}", code=USAGE)
        out.append(template[at:start])
        at = end + 2
        words = template[start + 2 : end].strip().strip("-").split()
        if words == ["end"]:
            return "".join(out), at
        if words and words[0] == "range":
            text, at = _ranged(template, at, words[-1], value, dot)
            out.append(text)
        elif words and words[0] == "if":
            text, after = _filled(template, at, value, dot)
            out.append(text if _look_up(dot, words[-1]) else "")
            at = after
        else:
            out.append(_expression(words, dot))
    return "".join(out), at


def _ranged(template: str, at: int, name: str, value: object, dot: object) -> tuple[str, int]:
    found = _look_up(dot, name)
    items = list(found.values()) if isinstance(found, dict) else list(found) if isinstance(found, (list, tuple)) else []
    out, after = [], at
    for item in items:
        text, after = _filled(template, at, value, item)
        out.append(text)
    if not items:
        _, after = _filled(template, at, value, {})
    return "".join(out), after


def _expression(words: list[str], dot: object) -> str:
    from json import dumps

    if not words:
        return ""
    if words[0] == "json":
        return dumps(_look_up(dot, words[1] if len(words) > 1 else "."))
    if words[0] == "index":
        found = _look_up(dot, words[1])
        for key in words[2:]:
            name = key.strip('"')
            found = (
                found[int(name)] if isinstance(found, list) else found.get(name, "") if isinstance(found, dict) else ""
            )
        return _shown(found)
    if words[0] == "println":
        return _shown(_look_up(dot, words[1])) + "\n"
    return _shown(_look_up(dot, words[-1]))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(_shown(item) for item in value) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{k}:{_shown(v)}" for k, v in sorted(value.items())) + "]"
    return "<no value>" if value is None else str(value)


def _look_up(value: object, path: str) -> object:
    """.A.B in a structure; names are found in any case, as docker's own differ between ps and inspect."""
    if not path.startswith("."):
        path = "." + path
    for name in path[1:].split("."):
        if not name:
            continue
        if not isinstance(value, dict):
            raise UsageError(f"template: {path} is not there: nothing below has a {name}", code=USAGE)
        lower = {str(key).lower(): key for key in value}
        if name.lower() not in lower:
            known = ", ".join(sorted(str(key) for key in value if not str(key).startswith("_")))
            raise UsageError(f"template: there is no {path}", hint=f"known: {known}", code=USAGE)
        value = value[lower[name.lower()]]
    return value


def size(count: float, *, binary: bool = False) -> str:
    """1.23MB as docker writes sizes; binary for memory: 1.234MiB."""
    base, units = (1024.0, ("B", "KiB", "MiB", "GiB", "TiB")) if binary else (1000.0, ("B", "kB", "MB", "GB", "TB"))
    unit = 0
    while count >= base and unit < len(units) - 1:
        count /= base
        unit += 1
    return f"{count:.4g}{units[unit]}" if binary else f"{count:.3g}{units[unit]}"


def age(seconds: float) -> str:
    """About an hour, 5 minutes: docker's words."""
    seconds = max(0.0, seconds)
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return f"{int(seconds)} second{'s' if int(seconds) != 1 else ''}"
    if minutes < 2:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours < 2:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    days = int(seconds // 86400)
    if days < 14:
        return f"{days} days"
    if days < 60:
        return f"{days // 7} weeks"
    return f"{days // 30} months" if days < 730 else f"{days // 365} years"
