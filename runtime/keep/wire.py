# SPDX-License-Identifier: Apache-2.0
"""The frozen small protocol: one JSON object per message over a stream socket, descriptors beside it.

    4 bytes  length of what follows, big endian
    n bytes  a JSON object; a request has "op", an answer has either its fields or "error" (one sentence) and "kind"

Descriptors ride with the first byte of their message (SCM_RIGHTS). Keepers outlive the installed files, so a newer
client may talk to an older keeper: fields are only ever added, an unknown field is ignored, an unknown "op" is
answered with kind "refused".
"""

import array
import json
import os
import select
import signal
import socket
import struct
import time
from typing import Any

VERSION = 1
_HEAD = struct.Struct(">I")
_MOST_BYTES = 16 << 20
_MOST_FDS = 64


class Connection:
    """One end of a stream of messages. Blocking by default; `pump` serves a loop that may not block."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.ended = False  # the other side has closed, or sent what is no message
        self._data = b""
        self._fds: array.array[int] = array.array("i")

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, message: dict[str, Any], fds: "list[int] | tuple[int, ...]" = ()) -> None:
        """Send one message; a peer that is gone is not an error here, its answer will be missing."""
        text = json.dumps(message).encode()
        data = _HEAD.pack(len(text)) + text
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sent = self.sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
            if sent < len(data):
                self.sock.sendall(data[sent:], socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError, BlockingIOError):
            self.ended = True

    def receive(self, timeout_seconds: float | None) -> dict[str, Any] | None:
        """The next message; None when the time is over or (then `ended` is set) the peer is gone."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while (message := self._next()) is None:
            if self.ended:
                return None
            if deadline is not None:
                left = max(0.0, deadline - time.monotonic())
                poll = select.poll()
                poll.register(self.sock, select.POLLIN)
                if not poll.poll(left * 1000):
                    return None
            self._read()
        return message

    def pump(self) -> list[dict[str, Any]]:
        """After the socket was ready: read once, answer every whole message."""
        self._read()
        messages = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages

    def take_fds(self) -> list[int]:
        """The descriptors that came with the messages so far; now the caller's."""
        taken, self._fds = self._fds, array.array("i")
        return list(taken)

    def shut_down(self) -> None:
        """End both directions at once, also for a thread that is blocked in receive()."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # ENOTCONN: the other side was quicker

    def _read(self) -> None:
        room = socket.CMSG_SPACE(_MOST_FDS * 4)
        try:
            data, ancillary, _, _ = self.sock.recvmsg(65536, room, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data, ancillary = b"", []
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._fds.frombytes(value[: len(value) - len(value) % 4])
        if not data:
            self.ended = True
        self._data += data

    def _next(self) -> dict[str, Any] | None:
        if len(self._data) < 4:
            return None
        (length,) = _HEAD.unpack_from(self._data)
        if length > _MOST_BYTES:
            self.ended = True
            return None
        if len(self._data) < 4 + length:
            return None
        text, self._data = self._data[4 : 4 + length], self._data[4 + length :]
        try:
            message = json.loads(text)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            self.ended = True
            return None
        return message

    def close(self) -> None:
        self.sock.close()
        for fd in self._fds:
            os.close(fd)
        self._fds = array.array("i")

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(path: str) -> Connection | None:
    """To the listener at `path`; None when nobody listens there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _short(path, sock.connect)
    except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
        sock.close()
        return None
    except BaseException:
        sock.close()
        raise
    return Connection(sock)


def listen(path: str) -> socket.socket:
    """A listener at `path`, for its owner only; takes the place of what a dead one left there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    before = os.umask(0o177)
    try:
        _short(path, sock.bind)
    finally:
        os.umask(before)
    sock.listen(512)
    os.set_blocking(sock.fileno(), False)
    return sock


def _short(path: str, call: Any) -> None:
    """sun_path ends after 107 bytes: a longer path is named through a descriptor of its directory."""
    if len(os.fsencode(path)) <= 107:
        call(path)
        return
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        call(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    finally:
        os.close(directory)


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of `pid`; None when it is gone. With the pid it names one process for ever."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text[text.rindex(b")") + 2 :].split()[19])


def open_process(pid: int, started: int) -> int | None:
    """A pidfd of exactly this process; None when it is gone."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    # Only after the descriptor is open can the number no longer pass to another process.
    if start_time(pid) != started:
        os.close(fd)
        return None
    return fd


def signal_process(pid: int, started: int, number: int) -> bool:
    """Signal exactly this process; False when it is gone."""
    fd = open_process(pid, started)
    if fd is None:
        return False
    try:
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True
