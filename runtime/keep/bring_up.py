# SPDX-License-Identifier: Apache-2.0
"""Start a spawner by exec, in the one way there is, and wait until it answers."""

import fcntl
import importlib.util
import os
import sys

from runtime.keep import places, wire

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# -I -S: neither the environment nor a site directory may put modules in front of ours.
_PROGRAM = (
    "import sys; sys.path[:0] = sys.argv[1].split(':'); "
    "from runtime.keep.spawner import main; sys.exit(main(sys.argv[2:]))"
)


def bring_up(state_dir: str) -> None:
    """Make sure a spawner of our version listens in `state_dir`; several callers at once start one."""
    os.makedirs(state_dir, mode=0o711, exist_ok=True)
    lock = os.open(places.spawner_lock(state_dir), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = wire.connect(places.spawner_socket(state_dir))
        if connection is not None:
            connection.close()
            return
        _execute(state_dir)
    finally:
        os.close(lock)


def _execute(state_dir: str) -> None:
    """posix_spawn, not fork: the caller may be a process of many threads that has loaded gRPC."""
    ready, told = os.pipe2(os.O_CLOEXEC)
    log = os.open(places.spawner_log(state_dir), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
            (os.POSIX_SPAWN_DUP2, told, 3),
        ]
        command = [*interpreter(), "-I", "-S", "-c", _PROGRAM, ":".join(_paths()), state_dir]
        child = os.posix_spawn(command[0], command, _environment(), file_actions=actions, setsid=True)
        os.close(told)
        told = -1
        os.waitpid(child, 0)  # it forks the daemon and ends
        if os.read(ready, 1) != b"+":
            raise OSError(f"the spawner did not start; see {places.spawner_log(state_dir)}")
    finally:
        os.close(ready)
        os.close(log)
        if told >= 0:
            os.close(told)


def interpreter() -> list[str]:
    """The program that runs the spawner: the interpreter we were installed for, never one found on PATH."""
    return [os.path.realpath(sys.executable)]


def _paths() -> list[str]:
    """Where ours and the one foreign module that our extension needs lie: -S leaves out the venv's own directory."""
    found = importlib.util.find_spec("_cffi_backend")
    foreign = [os.path.dirname(found.origin)] if found is not None and found.origin else []
    return [_ROOT, *foreign]


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LC_ALL": "C.UTF-8"}
