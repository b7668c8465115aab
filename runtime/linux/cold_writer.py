# SPDX-License-Identifier: Apache-2.0
"""Writes the cold image (cold.py): python -m runtime.linux.cold_writer in a checkout; --installed LIBRARY elsewhere.

a module ──► tree without docstrings, annotations ──► code without lines ──► marshal ──┐
all modules ──► facts of their sources, places of their code ──► an index per group ───┴─► one file, by rename
"""

import ast
import importlib.machinery
import importlib.util
import marshal
import os
import sys
import sysconfig
from types import CodeType

from runtime.linux import cold, durable

HEAD = 1 << 14  # what the launcher's first lines read
GROUPS = {
    "runtime": ("runtime",),
    "cni": ("runtime/linux", "runtime/__init__.py", "cni"),
    "hand": ("runtime", "cni", "cri"),
}
# What no short command imports, or only to talk to a person at leisure.
LEFT_OUT = ("runtime/linux/build_", "runtime/linux/cold_writer", "cri/server", "cri/services", "cri/streaming")
EXTENSIONS = ("_json", "_blake2", "_cffi_backend", "runtime.linux._core", "runtime.linux._seccomp")
SELF = "runtime/linux/cold.py"


def path_of(library: str, magic: bytes = importlib.util.MAGIC_NUMBER) -> str:
    """Where the image of a Python with this magic number is."""
    return f"{library}/runtime/linux/cold-{magic[:2].hex()}.image"


def write(library: str, *, installed: bool) -> int:
    """Compile what is in library; returns how many modules the image has."""
    files = sorted({file for parts in GROUPS.values() for part in parts for file in _sources(library, part)})
    codes, places, offset = {file: _compiled(library, file) for file in files}, {}, HEAD
    for file in files:
        places[file] = offset
        offset += len(codes[file])
    body = b"".join(codes.values())
    groups = {}
    for group, parts in GROUPS.items():
        index: cold.Index = _extensions(installed=installed)
        for file in (file for part in parts for file in _sources(library, part)):
            facts = None if installed else cold._facts(f"{library}/{file}")
            index[_name(file)] = (file, file.endswith("/__init__.py"), places[file], len(codes[file]), facts)
        data = marshal.dumps(index)
        groups[group] = (HEAD + len(body), len(data))
        body += data
    head = marshal.dumps((marshal.loads(codes[SELF]), groups))  # noqa: S302 (written a moment ago)
    if len(head) > HEAD:
        raise ValueError(f"the head takes {len(head)} bytes, more than the {HEAD} that its readers read")
    durable.replace(path_of(library), head.ljust(HEAD, b"\0") + body, 0o644)
    return len(files)


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
        elif spec.loader.path.startswith(sysconfig.get_path("platstdlib") + os.sep):
            found[name] = (base, False, -1, 0, None)
        else:
            found[name] = (base, False, 0 if installed else 1, 0, None)
    return found


def _compiled(library: str, file: str) -> bytes:
    """Without docstrings, annotations of functions, line numbers: no command looks at them. Asserts stay."""
    with open(f"{library}/{file}", encoding="utf-8") as source:
        tree = ast.parse(source.read(), file)
    for node in ast.walk(tree):
        _strip(node)
    code = compile(tree, file, "exec", flags=_strip_future(tree), dont_inherit=True)
    return marshal.dumps(_without_lines(code))


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
