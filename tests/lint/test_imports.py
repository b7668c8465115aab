# SPDX-License-Identifier: Apache-2.0
"""Who may import whom: proto <- cri -> cni, runtime -> runtime.linux; and what only some may import at all."""

from collections.abc import Callable, Iterator
from pathlib import Path

from tests.lint.sources import PACKAGES, imports, python

OURS = (*PACKAGES, "tests")


def allowed(path: Path, module: str) -> bool:
    """Whether the file may import that module of ours."""
    package, target = path.parts[0], module.split(".")[0]
    linux = module == "runtime.linux" or module.startswith("runtime.linux.") or module == "runtime.__version__"
    if path.parts[:2] == ("runtime", "linux"):
        # start.py names the entry functions of all commands, in strings
        return linux
    return {
        "runtime": target == "runtime",
        "cni": target == "cni" or linux,
        "cri": target in ("cri", "cni", "runtime") or (target == "proto" and _speaks_protobuf(path)),
        "proto": target == "proto",
    }.get(package, True)


def _speaks_protobuf(path: Path) -> bool:
    return path == Path("cri/server.py") or path.parts[:2] == ("cri", "services")


def broken(wrong: Callable[[Path, str, bool], bool]) -> Iterator[str]:
    for path in python():
        for line, module, at_top in imports(path):
            if path.parts[0] in PACKAGES and wrong(path, module, at_top):
                yield f"{path}:{line} imports {module}"


def test_packages_import_only_what_lies_below_them() -> None:
    assert list(broken(lambda path, module, _: module.split(".")[0] in OURS and not allowed(path, module))) == []


def test_only_the_server_and_its_services_know_protobuf_and_nobody_grpc() -> None:
    def wrong(path: Path, module: str, at_top: bool) -> bool:
        top = module.split(".")[0]
        return top == "grpc" or (top == "google" and path.parts[0] != "proto" and not _speaks_protobuf(path))

    assert list(broken(wrong)) == []


def test_pyroute2_and_iptables_are_imported_where_they_are_used_and_only_there() -> None:
    """Their import takes 100 to 220 ms, which no ADD on the hot path may pay."""
    assert list(broken(lambda _, module, at_top: module.split(".")[0] in ("pyroute2", "iptc") and at_top)) == []


# What costs 3 to 16 ms to import; signal and socket make enums of their constants, their C halves do not.
SLOW = {
    *("argparse", "collections", "contextlib", "dataclasses", "enum", "functools", "json", "logging", "pathlib"),
    *("re", "signal", "socket", "subprocess", "typing"),
}
# The floor is under every command; what a file here imports at its top, each of them pays for.
COLD = ("runtime/linux/", "runtime/spec/", "runtime/plan/", "runtime/inside/", "cni/")
WARM = ("runtime/linux/build_", "cni/people/", "cni/client/")


def test_the_cold_path_imports_nothing_slow() -> None:
    def wrong(path: Path, module: str, at_top: bool) -> bool:
        cold = str(path).startswith(COLD) and not str(path).startswith(WARM)
        slow = module.split(".")[0] in SLOW and not module.startswith("collections.abc")
        return cold and at_top and slow

    assert list(broken(wrong)) == []
