# SPDX-License-Identifier: Apache-2.0
"""The short-lived parent of one exec: makes its stdio, joins the container, waits, ends it when its time is over."""

import fcntl
import os
import struct
import termios
from typing import Any

from runtime.keep import foreign, native, standing, tree, wire
from runtime.keep.loop import READ, Loop
from runtime.linux import syscalls
from runtime.linux._core import lib


def serve(state_dir: str, connection: wire.Connection, record: dict[str, Any], request: dict[str, Any]) -> int:
    """Run the program of an exec request; answer when it runs, and again when it has ended."""
    syscalls.prctl(lib.PR_SET_CHILD_SUBREAPER, 1)  # a foreign command's own child falls to us
    standing.give_back()
    processes = tree.Processes()  # the node's, as long as we see them: joining changes our root
    joiner = (foreign if record["handler"] else native).Joiner(record, request, state_dir)
    stdio = _Stdio(request)
    loop = Loop()
    session = _Exec(loop, connection, request, processes)
    loop.on_child(session.child_ended)
    try:
        session.pid = joiner.join(stdio.theirs)
    except (OSError, ValueError) as why:
        connection.send({"error": f"cannot exec in container {record['id']}: {why}", "kind": "exec"})
        return 0
    session.terminal = stdio.take_terminal(joiner.terminal)
    if session.terminal >= 0 and request["columns"]:
        session.resize(request["columns"], request["rows"])
    connection.send({"pid": session.pid, "streams": stdio.names}, stdio.ours)
    stdio.close()
    session.run()
    return 0


class _Stdio:
    """Pipes for the program, or nothing while its terminal is still to come."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.names: list[str] = []
        self.ours: list[int] = []
        self.theirs: list[int] = []
        if request["tty"]:
            return
        if request["stdin"]:
            theirs, ours = os.pipe2(os.O_CLOEXEC)
            self._add("stdin", ours, theirs)
        else:
            self.theirs.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        for name in ("stdout", "stderr"):
            ours, theirs = os.pipe2(os.O_CLOEXEC)
            self._add(name, ours, theirs)

    def _add(self, name: str, ours: int, theirs: int) -> None:
        self.names.append(name)
        self.ours.append(ours)
        self.theirs.append(theirs)

    def take_terminal(self, master: int) -> int:
        """With a terminal: the client gets two descriptors of it, we keep one to set its size."""
        if master >= 0:
            self.names = ["stdin", "stdout"]
            self.ours = [os.dup(master), os.dup(master)]
        return master

    def close(self) -> None:
        """Both halves have been handed over."""
        for fd in self.ours + self.theirs:
            os.close(fd)
        self.ours, self.theirs = [], []


class _Exec:
    """From the program's execve to its end."""

    def __init__(
        self, loop: Loop, connection: wire.Connection, request: dict[str, Any], processes: tree.Processes
    ) -> None:
        self.pid = 0
        self._processes = processes
        self.terminal = -1
        self._loop = loop
        self._connection = connection
        self._timeout: float | None = request["timeout_seconds"]
        self._late = False

    def run(self) -> None:
        """Serve the client until the program has ended; without a client, wait for the end."""
        self._loop.watch(self._connection.fileno(), READ, self._heard)
        if self._timeout is not None:
            self._loop.after(self._timeout, self._too_long)
        self._loop.run()

    def _heard(self) -> None:
        for message in self._connection.pump():
            if message.get("op") == "resize":
                self.resize(int(message["columns"]), int(message["rows"]))
            elif message.get("op") == "signal":
                self._signal(int(message["signal"]))
        if self._connection.ended:
            self._loop.ignore(self._connection.fileno())
            if self.terminal >= 0:  # with the client's descriptors the last one: the terminal hangs up
                os.close(self.terminal)
                self.terminal = -1

    def resize(self, columns: int, rows: int) -> None:
        """Tell the terminal."""
        if self.terminal >= 0:
            fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _signal(self, number: int) -> None:
        # Our child, not yet waited for: its pid cannot mean another process.
        os.kill(self.pid, number)

    def _too_long(self) -> None:
        self._late = True
        self._processes.kill_tree(self.pid)

    def child_ended(self, pid: int, status: int) -> None:
        """Perhaps the program; others are orphans that fell to us."""
        if pid != self.pid:
            return
        if self._late:
            sentence = f"the command was killed after {self._timeout:g} s, with everything it had started"
            self._connection.send({"error": sentence, "kind": "timeout"})
        else:
            code = os.waitstatus_to_exitcode(status)
            self._connection.send({"exit_code": code if code >= 0 else 128 - code})
        self._loop.running = False
