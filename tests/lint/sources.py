# SPDX-License-Identifier: Apache-2.0
"""The files of the repository, for the checks in this folder."""

import ast
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).parents[2]
PACKAGES = ("runtime", "cni", "cri", "proto")
_GENERATED = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")


@functools.cache
def tracked() -> list[Path]:
    """What is in version control, or would be after `git add`; relative to the top. A tarball lists its files."""
    command = ["git", "-C", str(TOP), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return [p.relative_to(TOP) for p in TOP.rglob("*") if p.is_file() and ".venv" not in p.parts]
    return [Path(name) for name in done.stdout.split("\0") if name and (TOP / name).is_file()]


def written_by_hand(*suffixes: str) -> list[Path]:
    return [p for p in tracked() if p.suffix in suffixes and not p.name.endswith(_GENERATED)]


def python() -> list[Path]:
    return written_by_hand(".py")


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse((TOP / path).read_text(), str(path))


def imports(path: Path) -> Iterator[tuple[int, str, bool]]:
    """(line, module, at the top level of the file): every import, also those inside functions; type-only ones not."""
    yield from _imports(tree(path), path, at_top=True)


def _imports(node: ast.AST, path: Path, *, at_top: bool) -> Iterator[tuple[int, str, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from _imports(other, path, at_top=at_top)
        elif isinstance(child, ast.Import):
            yield from ((child.lineno, alias.name, at_top) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            module = _absolute(child, path)
            yield from ((child.lineno, f"{module}.{alias.name}", at_top) for alias in child.names)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, path, at_top=at_top and not inside)


def _absolute(node: ast.ImportFrom, path: Path) -> str:
    if not node.level:
        return node.module or ""
    package = path.parts[:-1][: len(path.parts) - node.level]
    return ".".join([*package, *([node.module] if node.module else [])])
