# SPDX-License-Identifier: Apache-2.0
"""Hooks: programs called at points of a container's life, with its state as JSON on their stdin."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runtime.spec.model import Extensions, Hook


class HookFailed(Exception):
    """A hook did not end with status 0; the message names it and says how it ended."""


class Output:
    """Where hooks write to: where we do, or the files that crun's annotations name, opened while the host is there."""

    __slots__ = ("fds",)

    def __init__(self, extensions: Extensions) -> None:
        self.fds: dict[int, int] = {}
        for target, path in ((1, extensions.hooks_stdout), (2, extensions.hooks_stderr)):
            if path:
                self.fds[target] = _open(path)

    def close(self) -> None:
        for fd in self.fds.values():
            os.close(fd)
        self.fds = {}

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HookFailed(f"annotations: cannot open {path} for the output of hooks: {error.strerror}") from None


def run(hook: Hook, state: str, output: Output | None = None) -> None:
    """Run one hook to its end or its timeout."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    told, telling = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _child(hook, reading, telling, output)
    os.close(reading)
    os.close(telling)
    try:
        _feed(writing, state)
        failure = os.read(told, 4)
        status = _wait(pid, hook)
    finally:
        os.close(told)
    if failure:
        raise HookFailed(f"{hook.where}: cannot execute {hook.path}: {os.strerror(int(failure)).lower()}")
    if status is None:
        raise HookFailed(f"{hook.where}: {hook.path} did not end within its timeout of {hook.timeout} s and was killed")
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        raise HookFailed(f"{hook.where}: {hook.path} was killed by signal {-code}")
    if code:
        raise HookFailed(f"{hook.where}: {hook.path} ended with exit status {code}")


def run_all(several: Sequence[Hook], state: dict[str, object], output: Output) -> None:
    """Hooks of one point, in order; the first failure ends it."""
    from runtime.linux import json_text

    text = json_text.dumps(state)
    for hook in several:
        run(hook, text, output)


def _child(hook: Hook, reading: int, telling: int, output: Output | None) -> None:
    try:
        from runtime.linux import syscalls

        os.dup2(reading, 0)
        for target, fd in output.fds.items() if output is not None else ():
            os.dup2(fd, target)
        os.set_inheritable(0, True)  # noqa: FBT003
        syscalls.close_range(3, flags=4)
        syscalls.reset_signals()
        os.execve(hook.path, list(hook.args) or [hook.path], _environment(hook))  # noqa: S606
    except OSError as error:
        os.write(telling, str(error.errno or errno.EIO).encode())
    finally:
        os._exit(127)


def _environment(hook: Hook) -> Mapping[str, str]:
    return dict(entry.split("=", 1) for entry in hook.env)


def _feed(fd: int, state: str) -> None:
    """A hook may end without reading; Python ignores SIGPIPE, so that is EPIPE here."""
    data = state.encode()
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BrokenPipeError:
        pass
    finally:
        os.close(fd)


def _wait(pid: int, hook: Hook) -> int | None:
    """The wait status; None when the timeout came first."""
    if hook.timeout is None:
        return os.waitpid(pid, 0)[1]
    import select

    from runtime.linux import syscalls

    pidfd = syscalls.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        if not poller.poll(hook.timeout * 1000):
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            return None
    finally:
        os.close(pidfd)
    return os.waitpid(pid, 0)[1]
