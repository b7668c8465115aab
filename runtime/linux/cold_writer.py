# SPDX-License-Identifier: Apache-2.0
"""Writes the cold image (cold.py): python -m runtime.linux.cold_writer in a checkout; --installed LIBRARY elsewhere.

a module ──► tree without docstrings, annotations ──► code without lines ──► marshal ──┐
a command's module ──► what it imports at its top, in that order ──► marshal of all ───┤
all modules ──► facts of their sources, places of their code ──► an index per group ───┴─► one file, by rename
"""

import ast
import importlib.machinery
import importlib.util
import marshal
import os
import sys
from types import CodeType

from runtime.linux import cold, durable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

HEAD = 1 << 14  # what the launcher's first lines read
GROUPS = {
    "runtime": ("runtime",),
    "cni": ("runtime/linux", "runtime/__init__.py", "cni"),
    "hand": ("runtime", "cni", "cri"),
}
# What no short command imports, or only to talk to a person at leisure.
LEFT_OUT = ("runtime/linux/build_", "runtime/linux/cold_writer", "cri/server", "cri/services", "cri/streaming")
PYTHONS_OWN = ("_json", "_blake2")
EXTENSIONS = (*PYTHONS_OWN, "_cffi_backend", "runtime.linux._core", "runtime.linux._seccomp")
SELF = "runtime/linux/cold.py"
# Modules of Python's own that `ketch run` imports and that are not frozen into it: each is searched for in four places.
STANDARD = (
    *(
        "_weakrefset",
        "collections",
        "contextlib",
        "copyreg",
        "enum",
        "functools",
        "json",
        "json.decoder",
        "json.encoder",
    ),
    *("json.scanner", "keyword", "operator", "re", "re._casefix", "re._compiler", "re._constants", "re._parser"),
    *("reprlib", "signal", "struct", "threading", "types"),
)
# Before each of these modules all that it imports at its top is loaded in one go. Those of one command stand in a row,
# in the order in which it comes to them: what the first ones have had is not kept again for the next.
_PLUGINS = [f"cni.plugins.{name}" for name in ("bridge", "host_local", "firewall", "portmap")]
TOGETHER = {
    "runtime": (
        ("runtime.cli", "runtime.foreground"),
        ("runtime.cli", "runtime.commands.joining", "runtime.quick_joining"),
        ("runtime.cli", "runtime.create"),
    ),
    "cni": (("cni.__main__", *_PLUGINS),),
    "hand": (
        ("cri.hand.cli", "cri.hand.run", "cri.engine.container", *_PLUGINS),
        ("cri.hand.cli", "cri.hand.inside"),
    ),
}


def path_of(library: str, magic: bytes = importlib.util.MAGIC_NUMBER) -> str:
    """Where the image of a Python with this magic number is."""
    return f"{library}/runtime/linux/cold-{magic[:2].hex()}.image"


def write(library: str, *, installed: bool) -> int:
    """Compile what is in library; returns how many modules the image has."""
    standard = _standard()
    files = sorted({file for parts in GROUPS.values() for part in parts for file in _sources(library, part)})
    files += standard.values()
    trees = {file: _tree(library, file) for file in files}
    codes = {file: _compiled(tree, file) for file, tree in trees.items()}
    body = bytearray(HEAD)
    places = {file: _append(body, marshal.dumps(code)) for file, code in codes.items()}
    groups = {}
    for group, parts in GROUPS.items():
        index: cold.Index = _extensions(installed=installed)
        named = {_name(file): file for part in parts for file in _sources(library, part)}
        named |= standard if group == "hand" else {}
        for name, file in named.items():
            facts = None if installed and file not in standard.values() else cold._facts(os.path.join(library, file))
            index[name] = (file, file.endswith("/__init__.py"), *places[file], facts)
        before = {
            name: _append(body, marshal.dumps([(member, codes[named[member]]) for member in members]))
            for several in TOGETHER[group]
            for name, members in _before(several, {name: trees[file] for name, file in named.items()})
        }
        groups[group] = _append(body, marshal.dumps((index, before)))
    head = marshal.dumps((codes[SELF], groups))
    if len(head) > HEAD:
        raise ValueError(f"the head takes {len(head)} bytes, more than the {HEAD} that its readers read")
    body[: len(head)] = head
    durable.replace(path_of(library), bytes(body), 0o644)
    return len(files)


def _append(body: bytearray, data: bytes) -> tuple[int, int]:
    """Where in the image it is, and how long."""
    body += data
    return len(body) - len(data), len(data)


def _before(several: "Sequence[str]", trees: "Mapping[str, ast.Module]") -> "Iterator[tuple[str, list[str]]]":
    """For each of these modules: what it imports, and what that imports, in the order in which all of it is done."""
    done: dict[str, None] = {}
    for name in several:
        had = len(done)
        _follow(name, trees, done, set())
        yield name, [member for member in list(done)[had:] if member != name]


def _follow(name: str, trees: "Mapping[str, ast.Module]", done: dict[str, None], begun: set[str]) -> None:
    """Add a module after those that it imports. Others' and those in C are not in the image."""
    if name in done or name in begun or name not in trees:
        return
    begun.add(name)
    for other in (name.rpartition(".")[0], *_imported(trees[name])):
        _follow(other, trees, done, begun)
    done[name] = None


def _imported(tree: ast.Module) -> "Iterator[str]":
    """What a module imports whenever it is; a name of a package may be a module of it."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def _sources(library: str, part: str) -> list[str]:
    """The modules beneath one folder, as paths beneath the library."""
    if part.endswith(".py"):
        return [part]
    found = []
    for directory, _, names in os.walk(f"{library}/{part}"):
        found += [os.path.join(directory, name)[len(library) + 1 :] for name in names if name.endswith(".py")]
    return [file for file in found if not file.startswith(LEFT_OUT)]


def _name(file: str) -> str:
    return file.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")


def _standard() -> dict[str, str]:
    """Where the sources of Python's own modules are."""
    specs = {name: importlib.util.find_spec(name) for name in STANDARD}
    return {name: spec.origin for name, spec in specs.items() if spec is not None and spec.origin and spec.has_location}


def _extensions(*, installed: bool) -> "cold.Index":
    """Shared objects by their place on sys.path: 0 our library, 1 a checkout's dependencies, -1 Python's own."""
    found: cold.Index = {}
    for name in EXTENSIONS:
        spec = importlib.util.find_spec(name)
        if spec is None or not isinstance(spec.loader, importlib.machinery.ExtensionFileLoader):
            continue
        base = os.path.basename(spec.loader.path)
        if name.startswith("runtime."):
            found[name] = (f"runtime/linux/{base}", False, 0, 0, None)
        elif name in PYTHONS_OWN:
            found[name] = (base, False, -1, 0, None)
        else:
            found[name] = (base, False, 0 if installed else 1, 0, None)
    return found


def _tree(library: str, file: str) -> ast.Module:
    with open(os.path.join(library, file), encoding="utf-8") as source:
        return ast.parse(source.read(), file)


def _compiled(tree: ast.Module, file: str) -> CodeType:
    """Without docstrings, annotations of functions, line numbers: no command looks at them. Asserts stay."""
    for node in ast.walk(tree):
        _strip(node)
    return _without_lines(compile(tree, file, "exec", flags=_strip_future(tree), dont_inherit=True))


def _strip(node: ast.AST) -> None:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        node.returns = None
        given = node.args
        for argument in [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]:
            if argument is not None:
                argument.annotation = None
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
        node.body[0] = ast.copy_location(ast.Pass(), node.body[0])


def _strip_future(tree: ast.Module) -> int:
    """`from __future__ import annotations` is a flag of the compiler; as a statement it is one more module to load."""
    kept = [node for node in tree.body if not (isinstance(node, ast.ImportFrom) and node.module == "__future__")]
    flags = 0
    if len(kept) != len(tree.body):
        import __future__

        flags = __future__.annotations.compiler_flag
    tree.body = kept
    return flags


def _without_lines(code: CodeType) -> CodeType:
    inner = tuple(_without_lines(item) if isinstance(item, CodeType) else item for item in code.co_consts)
    return code.replace(co_linetable=b"", co_consts=inner)


def main(arguments: list[str]) -> int:
    installed = arguments[:1] == ["--installed"]
    library = os.path.abspath(arguments[1] if installed else f"{os.path.dirname(__file__)}/../..")
    print(f"cold image: {write(library, installed=installed)} modules in {path_of(library)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
