# SPDX-License-Identifier: Apache-2.0
"""The frozen small protocol: one JSON object per message over a stream socket, descriptors beside it.

    4 bytes  length of what follows, big endian
    n bytes  a JSON object; a request has "op", an answer has either its fields or "error" (one sentence) and "kind"

Descriptors ride beside a message's bytes (SCM_RIGHTS); "fds" in the object counts them, and in a received message is
the list of their numbers. Keepers outlive the installed files, so a newer client may talk to an older keeper: fields
are only ever added, an unknown field is ignored, an unknown "op" is answered with kind "refused".
"""

from __future__ import annotations

import _socket
import array
import json
import os
import select
import struct
import time
from collections.abc import Sequence

from runtime.linux import fdpass

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

VERSION = 1
_HEAD = struct.Struct(">I")
_MOST_BYTES = 16 << 20
_MOST_FDS = 64


class Connection:
    """One end of a stream of messages. receive() blocks; pump() serves a loop that may not."""

    __slots__ = ("_data", "_fds", "ended", "sock")

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock
        self.ended = False  # the other side has closed, or sent what is no message
        self._data = b""
        self._fds: list[int] = []

    def fileno(self) -> int:
        """For a selector."""
        return self.sock.fileno()

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send one message. That the peer is gone is no error here: `ended` says so, and its answer will be missing."""
        if self.sock.fileno() < 0:
            self.ended = True
            return
        text = json.dumps({**message, "fds": len(fds)} if fds else message).encode()
        data = _HEAD.pack(len(text)) + text
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sent = self.sock.sendmsg([data], rights, _socket.MSG_NOSIGNAL)
            if sent < len(data):
                self.sock.sendall(data[sent:], _socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError, BlockingIOError):
            self.ended = True

    def receive(self, timeout_seconds: float | None) -> dict[str, Any] | None:
        """The next message; None when the time is over or (then `ended` is set) the peer is gone."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while (message := self._next()) is None:
            if self.ended:
                return None
            if deadline is not None:
                poll = select.poll()
                poll.register(self.sock, select.POLLIN)
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    return None
            self._read(0)
        return message

    def pump(self) -> list[dict[str, Any]]:
        """After the socket was ready: read once, answer every whole message."""
        self._read(_socket.MSG_DONTWAIT)
        messages = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages

    def shut_down(self) -> None:
        """End both directions at once, also for a thread that is blocked in receive()."""
        try:
            self.sock.shutdown(_socket.SHUT_RDWR)
        except OSError:
            pass  # ENOTCONN: the other side was quicker; EBADF: closed already

    def close(self) -> None:
        """Close the socket and what nobody took."""
        self.sock.close()
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def _read(self, flags: int) -> None:
        room = _socket.CMSG_SPACE(_MOST_FDS * 4)
        try:
            data, ancillary, _, _ = self.sock.recvmsg(65536, room, _socket.MSG_CMSG_CLOEXEC | flags)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data, ancillary = b"", []
        for level, kind, value in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(value[: len(value) - len(value) % fds.itemsize])
                self._fds += fds
        if not data:
            self.ended = True
        self._data += data

    def _next(self) -> dict[str, Any] | None:
        if len(self._data) < _HEAD.size:
            return None
        (length,) = _HEAD.unpack_from(self._data)
        if length > _MOST_BYTES:
            return self._garbage()
        if len(self._data) < _HEAD.size + length:
            return None
        text = self._data[_HEAD.size : _HEAD.size + length]
        self._data = self._data[_HEAD.size + length :]
        try:
            message = json.loads(text)
        except ValueError:
            return self._garbage()
        if not isinstance(message, dict):
            return self._garbage()
        count = message.get("fds", 0)
        if not isinstance(count, int) or not 0 <= count <= len(self._fds):
            return self._garbage()
        message["fds"], self._fds = self._fds[:count], self._fds[count:]
        return message

    def _garbage(self) -> dict[str, Any] | None:
        self.ended = True
        self._data = b""
        return None

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pair() -> tuple[Connection, Connection]:
    """Two connected ends."""
    one, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    return Connection(one), Connection(other)


def adopted(fd: int) -> Connection:
    """The connection behind a descriptor that was passed to us."""
    return Connection(_socket.socket(fileno=fd))


def listening(fd: int) -> socket.socket:
    """The listener behind a descriptor that was passed to us."""
    import socket  # 1 ms, and only who listens needs its accept()

    return socket.socket(fileno=fd)


def connect(path: str) -> Connection | None:
    """To the listener at `path`; None when nobody listens there."""
    try:
        return adopted(fdpass.connect(path).detach())
    except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
        return None


def listen(path: str) -> socket.socket:
    """A listener at `path`, for its owner only, in the place of what a dead one left there."""
    import socket

    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    sock = socket.socket(fileno=fdpass.listen(path, backlog=512).detach())
    os.set_blocking(sock.fileno(), False)
    return sock


def accept(listener: socket.socket) -> Connection | None:
    """The next connection; None when there is none after all."""
    try:
        sock, _ = listener.accept()
    except (BlockingIOError, ConnectionAbortedError):
        return None
    os.set_blocking(sock.fileno(), True)
    return Connection(sock)
