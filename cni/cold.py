# SPDX-License-Identifier: Apache-2.0
"""The cold image: every module that a plugin's command needs, compiled into one file, for a start in half the time.

An ordinary import asks the file system ten times before it runs a line; a plugin has fifty modules. make build compiles
them into cni/cold.image (python -m cni.cold) without docstrings, annotations and line tables. A module that has changed
since then is imported in the ordinary way, and so are all under KETCH_DEBUG=1, where a traceback needs its lines.
"""

import marshal
import os
import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ast
    from collections.abc import Sequence
    from types import CodeType, ModuleType

    # name -> is it a package, size and time of its source, offset and length of its code
    Index = dict[str, tuple[bool, int, int, int, int]]

_LIBRARY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
IMAGE = os.path.join(_LIBRARY, "cni", "cold.image")
_MAGIC = sys.version.encode()  # code is good for one interpreter only
_LEFT_OUT = ("cni.cold", "cni.__main__", "cni.client", "cni.people")


class ImageFinder:
    """A finder and loader of the modules in the image."""

    def __init__(self, fd: int, index: "Index") -> None:
        self._fd = fd
        self._index = index

    def find_spec(self, name: str, path: "Sequence[str] | None" = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        entry = self._index.get(name)
        if entry is None:
            return None
        source = _source_of(name, is_package=entry[0])
        facts = os.stat(source)
        if (facts.st_size, facts.st_mtime_ns) != entry[1:3]:
            return None
        spec = ModuleSpec(name, self, origin=source, is_package=entry[0])  # type: ignore[arg-type]  # a loader by shape
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(os.path.dirname(source))
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """As usual."""

    def exec_module(self, module: "ModuleType") -> None:
        _, _, _, offset, length = self._index[module.__name__]
        module.__file__ = module.__spec__.origin if module.__spec__ else None
        code = marshal.loads(os.pread(self._fd, length, offset))  # noqa: S302 (our own file, beside our own code)
        exec(code, module.__dict__)  # noqa: S102 (that is what an import does)


def install() -> None:
    """Import from the image from now on, if there is one for this interpreter."""
    if os.environ.get("KETCH_DEBUG", "0") not in ("", "0"):
        return
    try:
        fd = os.open(IMAGE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    head = os.pread(fd, 1 << 15, 0)
    magic, index, _ = marshal.loads(head)  # noqa: S302 (our own file, beside our own code)
    if magic != _MAGIC:
        os.close(fd)
        return
    sys.meta_path.insert(0, ImageFinder(fd, index))


def _source_of(name: str, *, is_package: bool) -> str:
    path = os.path.join(_LIBRARY, *name.split("."))
    return f"{path}/__init__.py" if is_package else f"{path}.py"


# -- making it (never imported by a command) ---------------------------------------------------------------------------


def make() -> int:
    """Write the image of everything that the plugins import; returns how many modules it has."""
    codes = {name: _compiled(name, is_package=is_package) for name, is_package in _modules().items()}
    index: Index = {}
    head = b""
    # The head names offsets that depend on its own length, so it is laid out in a fixed space.
    space = 1 << 15
    offset = space
    for name, (is_package, source, code) in codes.items():
        facts = os.stat(source)
        index[name] = (is_package, facts.st_size, facts.st_mtime_ns, offset, len(code))
        offset += len(code)
    head = marshal.dumps((_MAGIC, index, space))
    if len(head) > space:
        raise ValueError(f"the index takes {len(head)} bytes, more than the {space} that its readers read")
    temporary = f"{IMAGE}.{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(head.ljust(space, b"\0"))
        file.writelines(code for _, _, code in codes.values())
    os.rename(temporary, IMAGE)
    return len(codes)


def _modules() -> dict[str, bool]:
    """Our modules that any plugin has loaded after its import; whether each is a package."""
    from . import __main__, protocol

    del __main__
    for name in protocol.PLUGINS:
        protocol.plugin(name)
    found = {}
    for name, module in sorted(sys.modules.items()):
        source = getattr(module, "__file__", None) or ""
        ours = (
            source.startswith(_LIBRARY + os.sep) and source.endswith(".py") and name.split(".")[0] in ("cni", "runtime")
        )
        if ours and name != "__main__" and not name.startswith(_LEFT_OUT):
            found[name] = hasattr(module, "__path__")
    return found


def _compiled(name: str, *, is_package: bool) -> tuple[bool, str, bytes]:
    import ast

    source = _source_of(name, is_package=is_package)
    with open(source, encoding="utf-8") as file:
        tree = ast.parse(file.read(), source)
    for node in ast.walk(tree):
        _strip_annotations(node)
    code = compile(tree, source, "exec", optimize=2, dont_inherit=True)
    return is_package, source, marshal.dumps(_without_lines(code))


def _strip_annotations(node: "ast.AST") -> None:
    import ast

    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        node.returns = None
        arguments = node.args
        extra = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *extra]:
            argument.annotation = None


def _without_lines(code: "CodeType") -> "CodeType":
    inner = tuple(_without_lines(item) if hasattr(item, "co_code") else item for item in code.co_consts)
    return code.replace(co_linetable=b"", co_consts=inner)


if __name__ == "__main__":
    sys.stdout.write(f"cold image: {make()} modules, {os.path.getsize(IMAGE)} bytes\n")
