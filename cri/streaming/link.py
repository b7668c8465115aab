# SPDX-License-Identifier: Apache-2.0
"""The connection to one client: a non-blocking socket with a queue of what it has not yet taken."""

from __future__ import annotations

import select
import socket
import ssl
from collections import deque
from time import monotonic

from cri.streaming import websocket

READ_BYTES = 256 * 1024
FULL_BYTES = 512 * 1024  # a queue this long: do not read more of what would be added to it


class PeerLost(Exception):
    """The client is gone without a goodbye."""


class Link:
    """Plain TCP or TLS. write() never blocks and never loses; is_full() says when the writer should hold back."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._queue: deque[memoryview] = deque()
        self._queued = 0
        self.unread = b""  # read beyond the request head, to be received first
        self.last_active = monotonic()
        sock.settimeout(0)

    def fileno(self) -> int:
        return self._sock.fileno()

    def receive(self) -> bytes | None:
        """A chunk; b'' at the end of what the client sends; None when nothing is there. Raises PeerLost."""
        if self.unread:
            chunk, self.unread = self.unread, b""
            return chunk
        try:
            chunk = self._sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError as e:
            raise PeerLost(str(e)) from None
        self.last_active = monotonic()
        return chunk

    def has_buffered(self) -> bool:
        """Whether receive() has something that poll(2) does not know of."""
        return bool(self.unread) or (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0)

    def write(self, *buffers: bytes) -> None:
        """Queue buffers in this order and send what goes at once. Raises PeerLost."""
        for buffer in buffers:
            if buffer:
                self._queue.append(memoryview(buffer))
                self._queued += len(buffer)
        self.flush()

    def flush(self) -> None:
        """Send what goes without blocking. Raises PeerLost."""
        while self._queue:
            try:
                sent = self._send()
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as e:
                raise PeerLost(str(e)) from None
            self.last_active = monotonic()
            self._drop(sent)

    def _send(self) -> int:
        if isinstance(self._sock, ssl.SSLSocket):
            return self._sock.send(self._queue[0])
        return self._sock.sendmsg([self._queue[i] for i in range(min(len(self._queue), 64))])

    def _drop(self, sent: int) -> None:
        self._queued -= sent
        while sent:
            first = self._queue[0]
            if len(first) > sent:
                self._queue[0] = first[sent:]
                return
            sent -= len(first)
            self._queue.popleft()

    def wants_to_write(self) -> bool:
        """Whether something waits for the client to take it."""
        return bool(self._queue)

    def is_full(self) -> bool:
        """Whether so much waits that its source should not be read."""
        return self._queued >= FULL_BYTES

    def linger(self, seconds: float, *, stalled_seconds: float = 60.0) -> None:
        """Send the rest, for as long as the client takes some of it, and wait for the client to close.

        close(2) with unread input in the socket sends a reset, and a reset discards what the client has not read yet:
        the end of the output and the exit code. So the input is read to its end first.
        """
        poll = select.poll()
        shut = False
        self.last_active = monotonic()
        try:
            while (left := self.last_active + (stalled_seconds if self._queue else seconds) - monotonic()) > 0:
                if not self._queue and not shut:
                    shut = True
                    self._end_sending()
                poll.register(self, select.POLLIN | (select.POLLOUT if self._queue else 0))
                if not self.has_buffered():
                    poll.poll(left * 1000)
                self.flush()
                if self.receive() == b"":
                    return
        except (PeerLost, OSError):
            return

    def _end_sending(self) -> None:
        if isinstance(self._sock, ssl.SSLSocket):
            return  # shutting down the TCP side below TLS would cut its closing alert
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket; what is still queued is lost."""
        self._queue.clear()
        self._queued = 0
        self._sock.close()


class Tunnel:
    """A link inside WebSocket messages: SPDY over WebSocket, where every message carries a part of one byte stream."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._decoder = websocket.Decoder()
        self._closing = False

    def unwrap(self, chunk: bytes) -> tuple[bytes, bool]:
        """The bytes inside a chunk, and whether the client closed. Raises websocket.WebSocketError."""
        inner = bytearray()
        for event in self._decoder.feed(chunk):
            if isinstance(event, websocket.Piece):
                inner += event.data
            elif isinstance(event, websocket.Pinged):
                self._link.write(websocket.pong(event.payload))
            else:
                return bytes(inner), True
        return bytes(inner), False

    def write(self, *buffers: bytes) -> None:
        """One message of these buffers."""
        if not self._closing:
            self._link.write(websocket.head(websocket.BINARY, sum(map(len, buffers))), *buffers)

    def goodbye(self, code: int = websocket.NORMAL_CLOSURE) -> None:
        """The closing frame."""
        if not self._closing:
            self._closing = True
            self._link.write(websocket.close(code))
