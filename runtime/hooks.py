# SPDX-License-Identifier: Apache-2.0
"""Hooks: programs called at points of a container's life, with its state as JSON on their stdin."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runtime.spec.model import Hook


class HookFailed(Exception):
    """A hook did not end with status 0; the message names it and says how it ended."""


def run(hook: Hook, state: str, *, stdout: int | None = None, stderr: int | None = None) -> None:
    """Run one hook to its end or its timeout."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    told, telling = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _child(hook, reading, telling, stdout, stderr)
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


def run_all(several: Sequence[Hook], state: dict[str, object]) -> None:
    """Hooks of one point, in order; the first failure ends it."""
    from runtime.linux import json_text

    text = json_text.dumps(state)
    for hook in several:
        run(hook, text)


def _child(hook: Hook, reading: int, telling: int, stdout: int | None, stderr: int | None) -> None:
    try:
        from runtime.linux import syscalls

        os.dup2(reading, 0)
        if stdout is not None:
            os.dup2(stdout, 1)
        if stderr is not None:
            os.dup2(stderr, 2)
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
