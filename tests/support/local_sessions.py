# SPDX-License-Identifier: Apache-2.0
"""A streaming backend whose containers are this machine: real processes, pipes, terminals and ports, no engine."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import termios
import threading

from cri.streaming.backend import AttachRequest, ExecRequest, Session, SessionRefused


class LocalSession:
    """A process of this machine as a session."""

    def __init__(self, request: ExecRequest | AttachRequest, argv: tuple[str, ...]) -> None:
        self.closed = False
        self._master = -1
        if request.tty:
            self._start_on_terminal(argv)
        else:
            self._start_on_pipes(argv, request)

    def _start_on_terminal(self, argv: tuple[str, ...]) -> None:
        self._master, slave = os.openpty()
        self.process = subprocess.Popen(
            argv,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.stdin = self.stdout = self._master
        self.stderr = -1

    def _start_on_pipes(self, argv: tuple[str, ...], request: ExecRequest | AttachRequest) -> None:
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE if request.stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE if request.stdout else subprocess.DEVNULL,
            stderr=subprocess.PIPE if request.stderr else subprocess.DEVNULL,
        )
        pipes = (self.process.stdin, self.process.stdout, self.process.stderr)
        self.stdin, self.stdout, self.stderr = (os.dup(pipe.fileno()) if pipe else -1 for pipe in pipes)
        for pipe in pipes:
            if pipe:
                pipe.close()

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close_stdin(self) -> None:
        if self._master < 0 and self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def wait(self) -> int | None:
        code = self.process.wait()
        return 128 - code if code < 0 else code

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True
        for fd in {self.stdin, self.stdout, self.stderr}:
            if fd >= 0:
                os.close(fd)
        self.process.kill()


class LocalBackend:
    """Runs what it is asked; a container named `gone` does not exist."""

    def __init__(self) -> None:
        self.sessions: list[LocalSession] = []
        self._lock = threading.Lock()

    def exec(self, request: ExecRequest) -> Session:
        if request.container_id == "gone":
            raise SessionRefused("container gone is not running")
        return self._keep(LocalSession(request, request.argv))

    def attach(self, request: AttachRequest) -> Session:
        return self._keep(LocalSession(request, ("cat",)))

    def _keep(self, session: LocalSession) -> LocalSession:
        with self._lock:
            self.sessions.append(session)
        return session

    def port_forward(self, sandbox_id: str, port: int) -> socket.socket:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5)
        except OSError as e:
            raise SessionRefused(f"connection to 127.0.0.1 port {port}: {os.strerror(e.errno or 0)}") from e
