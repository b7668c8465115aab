# SPDX-License-Identifier: Apache-2.0
"""The last moments before the container's program: find it, close what is ours, load the filter and execve."""

from __future__ import annotations

import os
import stat

from runtime.inside import diagnosis
from runtime.linux import syscalls
from runtime.linux._core import ffi, lib
from runtime.plan.identity import DEFAULT_PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


class ExecFailed(Exception):
    """The program cannot be executed; one sentence that names the cause."""


class Filter:
    """A compiled seccomp program with its flags, and the mailbox (a memfd) for a listener if one is wanted."""

    __slots__ = ("flags", "mailbox", "program")

    def __init__(self, program: bytes, flags: int, mailbox: int | None = None) -> None:
        self.program = program
        self.flags = flags
        self.mailbox = mailbox


def find(name: str, environ: Sequence[str], cwd: str) -> str:
    """The path of the program, by PATH of its own environment; ExecFailed when there is none."""
    if "/" in name:
        path = name if name.startswith("/") else os.path.join(cwd, name)
        try:
            facts = os.stat(path)
        except OSError as error:
            raise ExecFailed(diagnosis.of_missing(name, path, error)) from None
        if stat.S_ISDIR(facts.st_mode):
            raise ExecFailed(f"exec: {name!r}: is a directory")
        if not facts.st_mode & 0o111:
            raise ExecFailed(f"exec: {name!r}: permission denied: the file has no execute bit (chmod +x)")
        return name
    search = next((entry[5:] for entry in environ if entry.startswith("PATH=")), "")
    found_unusable = ""
    for directory in (search or DEFAULT_PATH).split(":"):
        path = f"{directory or '.'}/{name}"
        try:
            facts = os.stat(path)
        except OSError:
            continue
        if stat.S_ISREG(facts.st_mode):
            if facts.st_mode & 0o111:
                return path
            found_unusable = found_unusable or path
    if found_unusable:
        raise ExecFailed(
            f"exec: {name!r}: {found_unusable} is there, but cannot be executed: no execute bit (chmod +x)"
        )
    raise ExecFailed(f"exec: {name!r}: executable file not found in $PATH ({search or DEFAULT_PATH})")


def with_home(environ: Sequence[str], uid: int) -> list[str]:
    """HOME from the container's /etc/passwd when nobody set it. Read as a plain file: NSS would load its libraries."""
    env = list(environ)
    if any(entry.startswith("HOME=") and entry != "HOME=" for entry in env):
        return env
    home = "/root" if uid == 0 else "/"
    try:
        fd = os.open("/etc/passwd", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return [*env, f"HOME={home}"]
    try:
        data = os.read(fd, 1 << 20) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    except OSError:
        data = b""
    finally:
        os.close(fd)
    for line in data.split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 6 and fields[2] == str(uid).encode():
            home = os.fsdecode(fields[5]) or home
            break
    return [entry for entry in env if not entry.startswith("HOME=")] + [f"HOME={home}"]


def close_all_but(kept: set[int], first: int) -> None:
    """Close every descriptor from `first` on that is not wanted: what we do not hold cannot be reached through us."""
    for fd in sorted(fd for fd in kept if fd >= first):
        if fd > first:
            syscalls.close_range(first, fd - 1)
        first = fd + 1
    syscalls.close_range(first)


def close_on_exec(kept: int) -> None:
    """Nothing survives execve but stdio and what --preserve-fds names. Of those numbers the caller's stay open as they
    came; ours close, where he named more than he gave."""
    syscalls.close_range(3 + kept, flags=lib.CLOSE_RANGE_CLOEXEC)


def execute(path: str, argv: Sequence[str], environ: Sequence[str], filter_: Filter | None) -> NoReturn:
    """Become the program. What is wrong with it is told apart: execve has three errnos for a dozen causes."""
    arguments, kept_arguments = syscalls.string_array(argv)
    variables, kept_variables = syscalls.string_array(environ)
    program = filter_.program if filter_ is not None else b""
    flags = filter_.flags if filter_ is not None else 0
    mailbox = lib.k_mailbox(filter_.mailbox) if filter_ is not None and filter_.mailbox is not None else ffi.NULL
    name = os.fsencode(path)
    os.environ.clear()
    syscalls.reset_signals()
    count = len(program) // 8
    result = lib.k_exec_confined(lib.AT_FDCWD, name, arguments, variables, 0, program, count, flags, mailbox)
    del kept_arguments, kept_variables
    raise ExecFailed(diagnosis.of_exec(argv[0], path, -result))
