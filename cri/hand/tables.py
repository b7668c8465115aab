# SPDX-License-Identifier: Apache-2.0
"""How lists are printed: columns that fit the terminal, docker's templates, JSON, human sizes and ages."""

from __future__ import annotations

import os
import sys

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
        from cri.hand.templates import fields, fill_template

        template = form.removeprefix("table ").replace("\\t", "\t")
        names = {key.lower(): heading for heading, key in columns}
        headings = [names.get(name.lower(), name.upper()) for name in fields(template)]
        print_table(headings, [[fill_template(cell, row) for cell in _cells(template)] for row in rows])
    else:
        from cri.hand.templates import fill_template

        for row in rows:
            print(fill_template(form, row))


def _cells(template: str) -> list[str]:
    """`{{.A}}\t{{.B}}` as one template per column; text between two is dropped, as columns separate them already."""
    return ["{{" + part.partition("}}")[0] + "}}" for part in template.split("{{")[1:]]


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
