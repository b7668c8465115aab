# SPDX-License-Identifier: Apache-2.0
"""Go's text/template as far as docker's --format and its manual use it: fields, pipes, range, if, with, variables.

text {{.A.B | json}} {{range $k, $v := .Ports}}{{(index $v 0).HostPort}}{{else}}none{{end}}
 │            │                       │
 └── pieces ──┴── nested in blocks by range, if, with ... else ... end ──► printed against a value
"""

from __future__ import annotations

import re
from json import dumps

from cri.hand.errors import USAGE, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ACTION = re.compile(r"\{\{(- )?(.*?)( -)?\}\}", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`|:=|[|(),]|[^\s|(),"`]+')
_LITERALS = {"true": True, "false": False, "nil": None}


def fill_template(template: str, value: object) -> str:
    """The text for one value. Raises UsageError for what is no template or names what is not there."""
    pieces = _pieces(template.replace("\\t", "\t").replace("\\n", "\n"))
    block, ended_by = _block(pieces)
    if ended_by:
        raise _wrong(template, f"{{{{{ended_by[0]}}}}} without a beginning")
    return _print(block, value, {"$": value})


def fields(template: str) -> list[str]:
    """The names of the fields that it prints, in order: the headings of `table`."""
    actions = [piece for piece in _pieces(template) if isinstance(piece, list)]
    return [next((word[1:] for word in action if word.startswith(".")), "") for action in actions]


def _wrong(template: str, why: str) -> UsageError:
    return UsageError(f"template {template!r}: {why}", code=USAGE)


# text -> blocks


def _pieces(template: str) -> Iterator[str | list[str]]:
    at, trim = 0, False
    for found in _ACTION.finditer(template):
        text = template[at : found.start()]
        text = text.lstrip() if trim else text
        yield text.rstrip() if found[1] else text
        words = _TOKEN.findall(found[2])
        if not words:
            raise _wrong(template, "an empty {{}}")
        if not words[0].startswith("/*"):
            yield words
        at, trim = found.end(), bool(found[3])
    rest = template[at:]
    if "{{" in rest:
        raise _wrong(template, "an {{ without }}")
    yield rest.lstrip() if trim else rest


class _Branch:
    """range, if or with: what it asks, what it prints then, and what else."""

    __slots__ = ("head", "otherwise", "then")

    def __init__(self, head: list[str], then: list[Node], otherwise: list[Node]) -> None:
        self.head = head
        self.then = then
        self.otherwise = otherwise


Node = str | list[str] | _Branch


def _block(pieces: Iterator[str | list[str]]) -> tuple[list[Node], list[str]]:
    """The nodes up to an `end` or `else`, and that action; nothing at the end of the text."""
    nodes: list[Node] = []
    for piece in pieces:
        if isinstance(piece, str) or piece[0] not in ("range", "if", "with", "else", "end"):
            nodes.append(piece)
        elif piece[0] in ("else", "end"):
            return nodes, piece
        else:
            nodes.append(_branch(piece, pieces))
    return nodes, []


def _branch(head: list[str], pieces: Iterator[str | list[str]]) -> _Branch:
    then, ended_by = _block(pieces)
    otherwise: list[Node] = []
    if len(ended_by) > 1:  # else if
        otherwise = [_branch(ended_by[1:], pieces)]
    elif ended_by == ["else"]:
        otherwise, ended_by = _block(pieces)
    if not ended_by:
        raise _wrong("{{" + " ".join(head) + "}}", "its {{end}} is missing")
    return _Branch(head, then, otherwise)


# blocks -> text

Variables = dict[str, object]


def _print(nodes: list[Node], dot: object, variables: Variables) -> str:
    out = []
    for node in nodes:
        if isinstance(node, str):
            out.append(node)
        elif isinstance(node, _Branch):
            out.append(_print_branch(node, dot, variables))
        elif node[0].startswith("$") and node[1:2] == [":="]:
            variables[node[0]] = _pipeline(node[2:], dot, variables)
        else:
            out.append(shown(_pipeline(node, dot, variables)))
    return "".join(out)


def _print_branch(branch: _Branch, dot: object, variables: Variables) -> str:
    kind, names, asked = branch.head[0], [], branch.head[1:]
    if ":=" in asked:
        at = asked.index(":=")
        names, asked = [word for word in asked[:at] if word != ","], asked[at + 1 :]
    found = _pipeline(asked, dot, variables)
    if not found:
        return _print(branch.otherwise, dot, dict(variables))
    if kind == "range":
        return "".join(_print(branch.then, item, _named(names, key, item, variables)) for key, item in _items(found))
    return _print(branch.then, found if kind == "with" else dot, _named(names, found, found, variables))


def _named(names: list[str], key: object, item: object, variables: Variables) -> Variables:
    values = (key, item) if len(names) > 1 else (item,)
    return {**variables, **dict(zip(names, values, strict=False))}


def _items(found: object) -> list[tuple[object, object]]:
    if isinstance(found, dict):
        return sorted(found.items())
    if isinstance(found, (list, tuple)):
        return list(enumerate(found))
    raise UsageError(f"template: range cannot walk over {shown(found)!r}", code=USAGE)


def _pipeline(words: list[str], dot: object, variables: Variables) -> object:
    """A | B ...: what the first gives is the last argument of the next."""
    value: object = None
    parts = list(_split(words))
    for number, part in enumerate(parts):
        value = _command(part, dot, variables, *([value] if number else []))
    return value


def _split(words: list[str]) -> Iterator[list[str]]:
    depth = 0
    part: list[str] = []
    for word in words:
        depth += (word == "(") - (word == ")")
        if word == "|" and depth == 0:
            yield part
            part = []
        else:
            part.append(word)
    yield part


def _command(words: list[str], dot: object, variables: Variables, *piped: object) -> object:
    if not words:
        raise UsageError("template: nothing before or after a |", code=USAGE)
    function = FUNCTIONS.get(words[0])
    values = list(_values(words if function is None else words[1:], dot, variables))
    if function is None:
        if len(values) + len(piped) != 1:
            raise UsageError(
                f"template: {words[0]!r} is no function", hint=f"known: {', '.join(FUNCTIONS)}", code=USAGE
            )
        return values[0]
    try:
        return function(*values, *piped)
    except (TypeError, ValueError, IndexError, AttributeError) as e:
        raise UsageError(f"template: {' '.join(words)}: {e}", code=USAGE) from None


def _values(words: list[str], dot: object, variables: Variables) -> Iterator[object]:
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word != "(":
            yield _value(word, dot, variables)
            continue
        depth, start = 1, at
        while at < len(words) and depth:
            depth += (words[at] == "(") - (words[at] == ")")
            at += 1
        value = _pipeline(words[start : at - 1], dot, variables)
        if at < len(words) and words[at].startswith("."):
            value = look_up(value, words[at])
            at += 1
        yield value


def _value(word: str, dot: object, variables: Variables) -> object:
    if word[0] in '"`':
        return word[1:-1].replace('\\"', '"')
    if word[0] == "$":
        name, _, path = word.partition(".")
        if name not in variables:
            raise UsageError(f"template: {name} has no value here", code=USAGE)
        return look_up(variables[name], path)
    if word.lstrip("-").isdecimal():
        return int(word)
    return _LITERALS[word] if word in _LITERALS else look_up(dot, word)


def look_up(value: object, path: str) -> object:
    """.A.B in a structure; names are found in any case, as docker's own differ between ps and inspect."""
    for name in filter(None, path.split(".")):
        if not isinstance(value, dict):
            raise UsageError(f"template: {path} is not there: nothing below has a {name}", code=USAGE)
        lower = {str(key).lower(): key for key in value}
        if name.lower() not in lower:
            known = ", ".join(sorted(str(key) for key in value if not str(key).startswith("_")))
            raise UsageError(f"template: there is no {'.' + path.lstrip('.')}", hint=f"known: {known}", code=USAGE)
        value = value[lower[name.lower()]]
    return value


def shown(value: object) -> str:
    """A value as Go prints it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(shown(item) for item in value) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{k}:{shown(v)}" for k, v in sorted(value.items())) + "]"
    return "<no value>" if value is None else str(value)


def _index(value: object, *keys: object) -> object:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key, "")
        elif isinstance(value, (list, tuple)) and isinstance(key, int):
            value = value[key]
        else:
            raise ValueError(f"{shown(value)!r} has no element {key!r}")
    return value


def _length(value: object) -> int:
    if not isinstance(value, (str, list, tuple, dict)):
        raise TypeError(f"{shown(value)!r} has no length")
    return len(value)


FUNCTIONS: dict[str, Callable[..., object]] = {
    "json": dumps,
    "index": _index,
    "len": _length,
    "join": lambda items, by: str(by).join(shown(item) for item in items),
    "split": lambda text, by: str(text).split(str(by)),
    "lower": lambda text: str(text).lower(),
    "upper": lambda text: str(text).upper(),
    "title": lambda text: str(text).title(),
    "truncate": lambda text, most: str(text)[:most],
    "pad": lambda text, before, after: " " * before + str(text) + " " * after if text else "",
    "print": lambda *values: "".join(map(shown, values)),
    "println": lambda *values: " ".join(map(shown, values)) + "\n",
    "printf": lambda form, *values: str(form).replace("%v", "%s").replace("%q", '"%s"') % values,
    "eq": lambda one, *others: one in others,
    "ne": lambda one, other: one != other,
    "not": lambda value: not value,
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "or": lambda *values: next((value for value in values if value), values[-1]),
}
