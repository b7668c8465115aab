# SPDX-License-Identifier: Apache-2.0
"""YAML with the place of every value: what is wrong in a manifest is said with file, line, column and field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from cri.hand.errors import HandError, suggestion


class ManifestError(HandError):
    """`pod.yaml:7:3: spec.containers[0].imge: unknown field`."""


class Node:
    """A value and where it stands; every access checks the type."""

    __slots__ = ("_node", "file", "path")

    def __init__(self, node: yaml.Node, file: str, path: str = "") -> None:
        self._node = node
        self.file = file
        self.path = path

    def wrong(self, what: str, *, hint: str = "") -> ManifestError:
        """An error at this place."""
        mark = self._node.start_mark
        field = f"{self.path}: " if self.path else ""
        return ManifestError(f"{self.file}:{mark.line + 1}:{mark.column + 1}: {field}{what}", hint=hint, code=1)

    @property
    def where(self) -> str:
        """file:line:column."""
        mark = self._node.start_mark
        return f"{self.file}:{mark.line + 1}:{mark.column + 1}"

    def _plain(self) -> Any:
        """The scalar as YAML understands it: text, number, true, nothing."""
        if not isinstance(self._node, yaml.ScalarNode):
            raise self.wrong(f"expected one value, got {self.kind}")
        return _construct(self._node)

    @property
    def kind(self) -> str:
        if isinstance(self._node, yaml.MappingNode):
            return "an object"
        return "a list" if isinstance(self._node, yaml.SequenceNode) else f"{self._node.value!r}"

    @property
    def is_null(self) -> bool:
        return bool(self._node.tag == "tag:yaml.org,2002:null")

    def text(self) -> str:
        value = self._plain()
        if not isinstance(value, str):
            raise self.wrong(f"expected a text, got {self._node.value!r}", hint=f'write "{self._node.value}" in quotes')
        return value

    def any_text(self) -> str:
        """A text or a number, as it is written: quantities may be either."""
        if isinstance(self._plain(), (bool, type(None))):
            raise self.wrong(f"expected a text or a number, got {self._node.value!r}")
        return str(self._node.value)

    def number(self) -> int:
        value = self._plain()
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(f"expected a whole number, got {self._node.value!r}")
        return value

    def truth(self) -> bool:
        value = self._plain()
        if not isinstance(value, bool):
            raise self.wrong(f"expected true or false, got {self._node.value!r}")
        return value

    def fields(self) -> dict[str, Node]:
        """An object's fields."""
        if self.is_null:
            return {}
        if not isinstance(self._node, yaml.MappingNode):
            raise self.wrong(f"expected an object, got {self.kind}")
        found: dict[str, Node] = {}
        for key, value in self._node.value:
            name = str(key.value)
            if name in found:
                raise Node(key, self.file, f"{self.path}.{name}".lstrip(".")).wrong("given twice")
            found[name] = Node(value, self.file, f"{self.path}.{name}".lstrip("."))
        return found

    def known(self, *names: str) -> dict[str, Node]:
        """An object's fields, all of which must be among these; those without a value are left out."""
        found = self.fields()
        for name, node in found.items():
            if name not in names:
                hint = suggestion(name, list(names)) or f"known here: {', '.join(sorted(names))}"
                raise node.wrong("unknown field", hint=hint)
        return {name: node for name, node in found.items() if not node.is_null}

    def items(self) -> list[Node]:
        """A list's entries."""
        if self.is_null:
            return []
        if not isinstance(self._node, yaml.SequenceNode):
            raise self.wrong(f"expected a list, got {self.kind}")
        return [Node(value, self.file, f"{self.path}[{i}]") for i, value in enumerate(self._node.value)]

    def texts(self) -> tuple[str, ...]:
        return tuple(node.text() for node in self.items())

    def strings(self) -> dict[str, str]:
        """An object whose values are texts: labels, annotations, data."""
        return {name: node.text() for name, node in self.fields().items()}


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _construct(node: yaml.ScalarNode) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node)
    except (ValueError, yaml.YAMLError):
        return str(node.value)
    finally:
        loader.dispose()


def documents(text: str, file: str) -> Iterator[Node]:
    """All documents of a stream, empty ones left out."""
    try:
        for node in yaml.compose_all(text, Loader=_LOADER):
            if node is not None:
                yield Node(node, file)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        at = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
        hint = "tabs cannot indent YAML; use blanks" if "\t" in line[: len(line) - len(line.lstrip())] else ""
        raise ManifestError(f"{file}{at}: not YAML: {e.problem or e.context}", hint=hint) from None
    except yaml.YAMLError as e:
        raise ManifestError(f"{file}: not YAML: {' '.join(str(e).split())}") from None
