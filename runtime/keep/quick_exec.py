# SPDX-License-Identifier: Apache-2.0
"""One exec whose parent is the spawner itself: no process but the program. For short commands (ExecSync, probes)."""

import os
import signal
from collections.abc import Callable
from typing import Any

from runtime import quick_joining
from runtime.errors import RuntimeFailure
from runtime.keep import birth, standing, tree, wire
from runtime.keep.loop import READ, Loop
from runtime.linux.program import EXECUTED
from runtime.plan.flat import NotFlat


def compiled(state_dir: str, record: dict[str, Any], request: dict[str, Any]) -> quick_joining.Compiled:
    """The program for this request; an error where it must be done the long way."""
    return quick_joining.compiled(
        record["runtime_root"] or state_dir + "/runtime",
        record["id"],
        record["start_time"],
        {**request["process"], "terminal": False},
        standing.give_back_in,
        subreaper=request["timeout_seconds"] is not None,
    )


class QuickExec:
    """From its birth to the answer that tells how it ended."""

    def __init__(
        self,
        loop: Loop,
        connection: wire.Connection,
        program: quick_joining.Compiled,
        timeout_seconds: float | None,
        the_long_way: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._connection: wire.Connection | None = connection
        self._timeout = timeout_seconds
        self._the_long_way = the_long_way
        self._late = False
        self._deadline = 0
        self._ours: list[int] = []
        theirs: list[int] = []
        try:
            self._ours, theirs = _open_stdio()
            theirs.append(program.open_init())
            self.pid = program.run(*theirs)
        except BaseException:
            _close(self._ours)
            raise
        finally:
            _close(theirs)
        self._report = self._ours.pop()
        loop.ignore(connection.fileno())
        loop.watch(connection.fileno(), READ, self._heard)
        loop.watch(self._report, 0, self._reported)  # its end only

    def _reported(self) -> None:
        """The report is closed by execve, by a failure, or by death. In the last two cases nothing has happened yet."""
        if self._report < 0:
            return
        said = os.read(self._report, 64)
        self._loop.ignore(self._report)
        _close([self._report])
        self._report = -1
        connection = self._connection
        assert connection is not None
        if said != EXECUTED:
            _close(self._ours)
            self._loop.ignore(connection.fileno())
            self._connection = None
            self._the_long_way()
            return
        connection.send({"pid": self.pid, "streams": ["stdout", "stderr"]}, self._ours)
        _close(self._ours)
        if self._timeout is not None:
            self._deadline = self._loop.after(self._timeout, self._too_long)

    def _heard(self) -> None:
        connection = self._connection
        assert connection is not None
        for message in connection.pump():
            if message.get("op") == "signal":
                # Our child, not yet waited for: its pid cannot mean another process.
                os.kill(self.pid, int(message["signal"]))
        if connection.ended:
            self._loop.ignore(connection.fileno())

    def _too_long(self) -> None:
        """Stopped, it cannot end before everything beneath it has been found; that may take its time, so not here."""
        self._late = True
        self._deadline = 0
        os.kill(self.pid, signal.SIGSTOP)
        pid = self.pid
        birth.fork("ketch-exec-end", [], lambda: tree.Processes().kill_tree(pid))

    def ended(self, status: int) -> None:
        """The program has been waited for."""
        self._reported()
        if self._deadline:
            self._loop.cancel(self._deadline)
        connection = self._connection
        if connection is None:
            return
        if self._late:
            sentence = f"the command was killed after {self._timeout:g} s, with everything it had started"
            connection.send({"error": sentence, "kind": "timeout"})
        else:
            code = os.waitstatus_to_exitcode(status)
            connection.send({"exit_code": code if code >= 0 else 128 - code})
        self._loop.ignore(connection.fileno())
        connection.close()


def _open_stdio() -> tuple[list[int], list[int]]:
    """stdout, stderr and the report: our ends and those of the program, which has /dev/null before them."""
    ours, theirs = [], [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)]
    for _ in range(3):
        reading, writing = os.pipe2(os.O_CLOEXEC)
        ours.append(reading)
        theirs.append(writing)
    return ours, theirs


def _close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())


REFUSED = (OSError, ValueError, NotFlat, RuntimeFailure)
