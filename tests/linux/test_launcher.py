# SPDX-License-Identifier: Apache-2.0
"""The launcher: nobody can write to the interpreter through /proc/PID/exe (CVE-2019-5736); nothing leads it astray."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import kernel
from tests.support.needs import needs

BARE = ["-static", "-nostdlib", "-fno-stack-protector"]
SOURCE = Path(__file__).parents[2] / "runtime/linux/launcher.c"
# Stands in for runtime/linux/start.py: says what it sees, then waits to be told to end.
START = """
import os, sys
def start():
    comm = os.open("/proc/self/comm", os.O_RDONLY)
    print([sys.argv, os.readlink("/proc/self/exe"), sys.path[0], sys.flags.isolated, sys.flags.no_site], flush=True)
    sys.stdin.read()
"""


class Installation:
    """A launcher compiled for an interpreter of its own, a copy that an attack may destroy."""

    def __init__(self, directory: Path) -> None:
        self.interpreter = directory / "python"
        shutil.copy(os.path.realpath(sys.executable), self.interpreter)
        package = directory / "library/runtime/linux"
        package.mkdir(parents=True)
        (package / "start.py").write_text(START)
        self.launcher = directory / "ketch-runtime"
        library = f'-DLIBRARY="{directory}/library"'
        python = f'-DINTERPRETER="{self.interpreter}"'
        command = ["cc", "-O1", *BARE, library, '-DDEPENDENCIES=""', python, "-o", self.launcher, SOURCE]
        subprocess.run(command, check=True)

    @property
    def direct(self) -> list[str]:
        """The same Python without the launcher."""
        return [str(self.interpreter), "-I", "-S", "-c", f"{START}\nstart()"]


@pytest.fixture
def installation() -> Iterator[Installation]:
    with tempfile.TemporaryDirectory() as directory:  # not tmp_path: other users must reach it
        os.chmod(directory, 0o755)
        yield Installation(Path(directory))


@contextmanager
def running(command: list[str], **options: object) -> Iterator[tuple[int, list[object]]]:
    """(pid, what it said) of a started command; it ends with the block."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, **pipes, **options)  # type: ignore[call-overload]
    with process:
        said = process.stdout.readline()
        yield process.pid, json.loads(said.replace("'", '"')) if said else []


def attack(victim: list[str], rootfs: Path) -> str:
    """From a container, keep the victim's /proc/PID/exe and write to it when the victim is gone; says how that went."""
    reader, writer = os.pipe()
    ready_reader, ready_writer = os.pipe()
    go_reader, go_writer = os.pipe()
    with running(victim) as (pid, _):
        attacker = os.fork()
        if attacker == 0:
            os.close(go_writer)
            _be_the_attacker(pid, rootfs, ready_writer, go_reader, writer)
        os.read(ready_reader, 1)
        os.kill(pid, signal.SIGKILL)
    os.close(go_writer)  # the victim has ended: nothing is busy any more
    os.close(writer)
    with os.fdopen(reader) as stream:
        result = stream.read()
    os.waitpid(attacker, 0)
    for fd in (ready_reader, ready_writer, go_reader):
        os.close(fd)
    return result


def _be_the_attacker(victim: int, rootfs: Path, ready: int, go: int, result: int) -> None:
    try:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("proc", str(rootfs / "proc"), "proc")
        os.chroot(rootfs)
        os.chdir("/")
        held = os.open(f"/proc/{victim}/exe", os.O_RDONLY)
        os.write(ready, b"x")
        os.read(go, 1)
        try:
            with_power = kernel.MS_BIND | 32  # MS_REMOUNT: this attacker is root with every capability
            kernel.mount("none", f"/proc/self/fd/{held}", "", with_power)
        except OSError:
            pass
        try:
            again = os.open(f"/proc/self/fd/{held}", os.O_WRONLY | os.O_TRUNC)
            os.write(again, b"#!/evil\n")
            os.write(result, b"written")
        except OSError as e:
            os.write(result, os.strerror(e.errno or 0).encode())
    finally:
        os._exit(0)


@needs("cc", "busybox")
def test_the_attack_succeeds_without_the_launcher(installation: Installation, rootfs: Path) -> None:
    assert attack(installation.direct, rootfs) == "written"
    assert installation.interpreter.read_bytes() == b"#!/evil\n"


@needs("cc", "busybox")
def test_the_attack_fails_with_the_launcher(installation: Installation, rootfs: Path) -> None:
    before = installation.interpreter.read_bytes()
    assert attack([str(installation.launcher)], rootfs) == "Read-only file system"
    assert installation.interpreter.read_bytes() == before


@needs("cc", "busybox")
def test_where_no_mount_may_be_made_a_user_who_owns_the_interpreter_runs_a_sealed_copy(
    installation: Installation, rootfs: Path
) -> None:
    os.chown(installation.interpreter, 1000, 1000)
    before = installation.interpreter.read_bytes()
    with running([str(installation.launcher)], user=1000) as (_, said):
        assert str(said[1]).startswith("/memfd:ketch")
    as_user = ["setpriv", "--reuid", "1000", "--clear-groups", str(installation.launcher)]
    assert attack(as_user, rootfs) != "written"
    assert installation.interpreter.read_bytes() == before


@needs("cc")
def test_a_user_who_cannot_write_to_the_interpreter_runs_it_as_it_is(installation: Installation) -> None:
    with running([str(installation.launcher)], user=1000) as (_, said):
        assert said[1] == str(installation.interpreter)


@needs("cc")
def test_neither_path_nor_python_variables_lead_it_astray(installation: Installation) -> None:
    astray = {"PATH": "/nowhere", "PYTHONHOME": "/nowhere", "PYTHONPATH": "/nowhere", "PYTHONSTARTUP": "/nowhere"}
    with running([str(installation.launcher), "a b", "--c"], env=astray) as (_, said):
        arguments, _, first, isolated, no_site = said
    assert arguments == [str(installation.launcher), "a b", "--c"]
    assert first == str(installation.launcher.parent / "library")
    assert (isolated, no_site) == (1, 1)


@needs("cc")
def test_a_link_keeps_its_name_whatever_the_caller_says_it_is(installation: Installation, tmp_path: Path) -> None:
    link = tmp_path / "host-local"
    link.symlink_to(installation.launcher)
    with running(["liar"], executable=str(link)) as (_, said):
        assert said[0] == [str(link)]


@needs("cc")
def test_a_missing_interpreter_is_one_line(installation: Installation) -> None:
    installation.interpreter.unlink()
    done = subprocess.run([installation.launcher], capture_output=True, text=True, check=False)
    assert done.returncode == 127
    assert done.stderr.startswith(f"ketch: cannot execute {installation.interpreter}: No such file or directory (")
    assert done.stderr.count("\n") == 1
