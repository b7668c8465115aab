# SPDX-License-Identifier: Apache-2.0
"""Running a foreign plugin: its stdin given, its stdout and stderr kept, its time limited."""

import errno
import os
import select

from .errors import IO_FAILURE, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping
else:
    import _signal as signal  # the C half: signal.py makes enums of the constants and costs 5 ms

_SAID_LIMIT = 1 << 20


class Outcome:
    """How a program ended and what it said."""

    __slots__ = ("status", "stderr", "stdout")

    def __init__(self, status: int, stdout: bytes, stderr: bytes) -> None:
        self.status = status
        self.stdout = stdout
        self.stderr = stderr


def run(argv: list[str], environ: "Mapping[str, str]", stdin: bytes, timeout_seconds: float | None = None) -> Outcome:
    """Run a program to its end. Files in memory rather than pipes: nothing can block on a full one.

    A program over its time is killed with its children (it leads its own process group) and reported as an error.
    """
    files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
    try:
        os.pwrite(files[0], stdin, 0)
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(files)]
        try:
            # Python ignores SIGPIPE and SIGXFSZ, and an ignored signal survives execve.
            pid = os.posix_spawn(
                argv[0], argv, environ, file_actions=actions, setsigdef=[signal.SIGPIPE, signal.SIGXFSZ], setpgroup=0
            )
        except OSError as error:
            raise CniError(IO_FAILURE, f"cannot run {argv[0]}: {os.strerror(error.errno or 0)}") from None
        status = _wait(pid, argv[0], timeout_seconds)
        return Outcome(status, os.pread(files[1], _SAID_LIMIT, 0), os.pread(files[2], _SAID_LIMIT, 0))
    finally:
        for fd in files:
            os.close(fd)


def _wait(pid: int, program: str, timeout_seconds: float | None) -> int:
    if timeout_seconds is not None and not _ends_within(pid, timeout_seconds):
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(pid, 0)
        raise CniError(IO_FAILURE, f"{program} did not answer within {timeout_seconds:g} s and was killed")
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError as error:  # a caller that ignores SIGCHLD has the kernel reap
        if error.errno == errno.ECHILD:
            raise CniError(IO_FAILURE, f"{program}: its exit status was taken by somebody else") from None
        raise


def _ends_within(pid: int, seconds: float) -> bool:
    pidfd = os.pidfd_open(pid)
    try:
        waiting = select.poll()
        waiting.register(pidfd, select.POLLIN)
        return bool(waiting.poll(int(seconds * 1000)))
    finally:
        os.close(pidfd)
