# SPDX-License-Identifier: Apache-2.0
"""The cold image saves the search for modules, and never makes a command run what its source no longer says."""

import ast
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from runtime.linux import cold_writer
from tests.support import instruments

MAIN = """
import sys
from cni import value
def main():
    import os
    print(value.VALUE, type(value.__spec__.loader).__name__)
    print([int(n) for n in os.listdir("/proc/self/fd")], file=sys.stderr)
    return 0
"""


class Library:
    """A small library with one command: the real first modules, then two of its own."""

    def __init__(self, top: Path) -> None:
        self.top = top
        (top / "runtime/linux").mkdir(parents=True)
        (top / "cni").mkdir()
        for name in ("runtime/__init__.py", "runtime/linux/__init__.py", "runtime/linux/cold.py"):
            shutil.copy(instruments.TOP / name, top / name)
        for name in ("start.py", "tracebacks.py"):
            shutil.copy(instruments.TOP / "runtime/linux" / name, top / "runtime/linux" / name)
        (top / "cni/__init__.py").touch()
        (top / "cni/__main__.py").write_text(MAIN)
        self.value = top / "cni/value.py"
        self.value.write_text("VALUE = 'old'\n")
        self.image = Path(cold_writer.path_of(str(top)))

    def write_image(self, *, installed: bool = False) -> None:
        cold_writer.write(str(self.top), installed=installed)

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [
            instruments.INTERPRETER,
            "-I",
            "-S",
            "-c",
            instruments.launcher_code(),
            str(self.top),
            "",
            "/x/plugin",
        ]
        return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)

    def says(self, **environment: str) -> str:
        done = self.run(**environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path)


def test_without_an_image_modules_come_from_their_sources(library: Library) -> None:
    assert library.says() == "old SourceFileLoader"


def test_with_an_image_they_come_from_it(library: Library) -> None:
    library.write_image()
    assert library.says() == "old Finder"


def test_what_is_loaded_in_one_go_is_in_the_order_of_the_imports() -> None:
    sources = {
        "p": "import os",
        "p.main": "from p import b, a\nif TYPE_CHECKING:\n    import p.for_types",
        "p.a": "import p.b\ndef f():\n    import p.late",
        "p.b": "import p.main",  # a cycle: who is imported first is finished last
        "p.for_types": "",
        "p.late": "from p import a",
    }
    trees = {name: ast.parse(text) for name, text in sources.items()}
    assert list(cold_writer._before(("p.main", "p.late"), trees)) == [("p.main", ["p", "p.b", "p.a"]), ("p.late", [])]


def test_a_source_that_changed_is_used_even_if_its_size_and_time_look_the_same(library: Library) -> None:
    before = library.value.stat()
    library.write_image()
    library.value.write_text("VALUE = 'new'\n")
    os.utime(library.value, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (library.value.stat().st_size, library.value.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert library.says() == "new SourceFileLoader"


def test_another_file_moved_in_its_place_is_used(library: Library) -> None:
    library.write_image()
    (library.top / "other.py").write_text("VALUE = 'new'\n")
    (library.top / "other.py").rename(library.value)
    assert library.says() == "new SourceFileLoader"


def test_a_package_in_place_of_a_module_is_used(library: Library) -> None:
    library.write_image()
    library.value.unlink()
    library.value.with_suffix("").mkdir()
    (library.top / "cni/value/__init__.py").write_text("VALUE = 'a package'\n")
    assert library.says() == "a package SourceFileLoader"


def test_a_module_that_is_gone_is_gone(library: Library) -> None:
    library.write_image()
    library.value.unlink()
    done = library.run()
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_a_finder_that_changed_itself_is_not_used(library: Library) -> None:
    library.write_image()
    with (library.top / "runtime/linux/cold.py").open("a") as cold:
        cold.write("# another line\n")
    assert library.says() == "old SourceFileLoader"


def test_an_installation_is_taken_as_it_was_installed(library: Library) -> None:
    library.write_image(installed=True)
    library.value.write_text("VALUE = 'edited by hand'\n")
    assert library.says() == "old Finder"


def test_debugging_takes_nothing_from_the_image(library: Library) -> None:
    library.write_image(installed=True)
    assert library.says(KETCH_DEBUG="1") == "old SourceFileLoader"


@pytest.mark.parametrize("content", [b"", b"nonsense" * 4096, bytes(1 << 15)], ids=["empty", "nonsense", "zeros"])
def test_an_image_that_is_none_is_passed_by(library: Library, content: bytes) -> None:
    library.image.write_bytes(content)
    assert library.says() == "old SourceFileLoader"


def test_the_image_of_another_python_is_not_seen(library: Library) -> None:
    library.write_image()
    library.image.rename(cold_writer.path_of(str(library.top), b"\1\2\r\n"))
    assert library.says() == "old SourceFileLoader"


def test_its_descriptor_is_not_one_that_a_caller_counts_on(library: Library) -> None:
    """--preserve-fds and systemd count from 3."""
    library.write_image()
    numbers = set(map(int, library.run().stderr.strip(" []\n").split(", ")))
    assert numbers - set(range(4)) <= set(range(200, 1024))  # 3 is the directory that was listed
