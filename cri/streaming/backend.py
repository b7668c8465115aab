# SPDX-License-Identifier: Apache-2.0
"""What the streaming server asks of the engine: start a session, attach to one, reach a port of a pod."""

from __future__ import annotations

import socket
from typing import Protocol

from runtime.linux.quick_dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """One `Exec` call of the CRI, checked: a terminal has no stderr of its own, and something must be asked for."""

    container_id: str
    argv: tuple[str, ...]
    tty: bool
    stdin: bool
    stdout: bool
    stderr: bool


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """One `Attach` call of the CRI. tty is the container's, not the client's wish."""

    container_id: str
    tty: bool
    stdin: bool
    stdout: bool
    stderr: bool


@dataclass(frozen=True, slots=True)
class PortForwardRequest:
    """One `PortForward` call of the CRI. ports may be empty: then the client names a port per stream."""

    sandbox_id: str
    ports: tuple[int, ...] = ()


class SessionRefused(Exception):
    """A session that could not be started; its text is for the person at the other end, one sentence."""


class Session(Protocol):
    """A started exec or an attachment. The server owns it: it calls close() exactly once, whatever happens.

    The descriptors may be pipes, sockets or dups of a terminal's master; -1 where there is none. The server sets them
    non-blocking, reads and writes them, and closes none of them but by close_stdin() and close(). A terminal's stdin
    and stdout may be one descriptor. What the process wrote before its end must be readable when wait() returns.
    """

    stdin: int
    stdout: int
    stderr: int

    def resize(self, columns: int, rows: int) -> None:
        """Tell the terminal its size; without a terminal, nothing."""
        ...

    def close_stdin(self) -> None:
        """The client's input has ended: the process reads the end of file (for attach: when it has stdin_once)."""
        ...

    def wait(self) -> int | None:
        """Block until the process has ended and return its exit code, 128+n for signal n. For an attachment: until the
        container has ended; None when its code is not known or close() came first. Called once, in its own thread."""
        ...

    def close(self) -> None:
        """Let go: close the descriptors, release wait(). The process lives on; only its terminal, if any, hangs up."""
        ...


class Backend(Protocol):
    """The engine, as the streaming server sees it. Called from many threads at once; may block."""

    def exec(self, request: ExecRequest) -> Session:
        """Start argv in the container. Raises SessionRefused when it cannot start (no such file, container gone)."""
        ...

    def attach(self, request: AttachRequest) -> Session:
        """Join the running container's stdio. Raises SessionRefused when the container is not running."""
        ...

    def port_forward(self, sandbox_id: str, port: int) -> socket.socket:
        """A TCP connection to the pod's own localhost, made in its network namespace. Raises SessionRefused."""
        ...
