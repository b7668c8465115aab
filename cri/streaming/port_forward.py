# SPDX-License-Identifier: Apache-2.0
"""Port forwarding: pairs of SPDY streams (error, data) of one request id, each pair one TCP connection into the pod.

client ── data stream ──► queue ──► socket ──► the pod's localhost:port
       ◄─ data stream ◄──────────── socket
       ◄─ error stream: a sentence when it could not be, and in any case its end
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic

from cri.streaming import spdy, websocket
from cri.streaming.backend import SessionRefused
from cri.streaming.link import Link, PeerLost, Tunnel

log = logging.getLogger("ketch.streaming")

MAX_CONNECTIONS = 512
QUEUE_BYTES = 1 << 20  # for one connection into the pod; SPDY as spoken here has no other back-pressure than TCP's

Connect = Callable[[int], socket.socket]


class _Forward:
    """One request id: its two streams and, once it is made, the connection."""

    __slots__ = (
        "data_stream",
        "error_stream",
        "failure",
        "port",
        "queue",
        "queued",
        "remote_ended",
        "sent_end",
        "sock",
        "started",
        "they_ended",
        "told",
    )

    def __init__(self, port: int) -> None:
        self.port = port
        self.error_stream = 0
        self.data_stream = 0
        self.started = False
        self.sock: socket.socket | None = None
        self.failure = ""
        self.queue: deque[memoryview] = deque()
        self.queued = 0
        self.they_ended = False  # the client sends no more
        self.sent_end = False  # and the pod was told so
        self.remote_ended = False
        self.told = False  # the client was sent our end of both streams


class PortForward:
    """All connections of one client."""

    def __init__(self, link: Link, connect: Connect, *, name: str, idle_seconds: float, tunnel: Tunnel | None) -> None:
        self._link = link
        self._tunnel = tunnel
        self._write = tunnel.write if tunnel else link.write
        self._connect = connect
        self._name = name
        self._idle_seconds = idle_seconds
        self._decoder = spdy.Decoder()
        self._encoder = spdy.Encoder()
        self._forwards: dict[str, _Forward] = {}
        self._by_stream: dict[int, _Forward] = {}
        self._by_fd: dict[int, _Forward] = {}
        self._connected: deque[_Forward] = deque()  # filled by the threads that connect
        self._connected_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._ended = False
        self._newest = 0
        self._poll = select.poll()
        self._interest: dict[int, int] = {}

    def run(self, stopping: int) -> None:
        """Serve until the client leaves or the server stops."""
        try:
            self._loop(stopping)
        except PeerLost as e:
            log.debug("port forward of %s: %s", self._name, e)
        except (spdy.SpdyError, websocket.WebSocketError) as e:
            log.info("port forward of %s refused: %s", self._name, e)
            self._say_goodbye(websocket.PROTOCOL_ERROR)
        finally:
            self._release()

    def _loop(self, stopping: int) -> None:
        self._watch(stopping, select.POLLIN)
        self._watch(self._connected_fd, select.POLLIN)
        while True:
            self._set_interest()
            idle_ms = max(0.0, self._link.last_active + self._idle_seconds - monotonic()) * 1000 + 1
            ready = self._poll.poll(0 if self._may_receive_now() else idle_ms)
            if any(fd == stopping for fd, _ in ready):
                return
            if not ready and not self._may_receive_now():
                if monotonic() - self._link.last_active < self._idle_seconds:
                    continue
                log.info("port forward of %s without traffic for %.0f s, ended", self._name, self._idle_seconds)
                self._say_goodbye(websocket.NORMAL_CLOSURE)
                return
            for fd, events in ready:
                self._serve(fd, events)
            if self._may_receive_now() and not self._receive():
                return

    def _may_receive_now(self) -> bool:
        return self._link.has_buffered() and self._accepts_input()

    def _accepts_input(self) -> bool:
        return all(forward.queued < QUEUE_BYTES for forward in self._forwards.values())

    def _set_interest(self) -> None:
        client = select.POLLIN if self._accepts_input() else select.POLLRDHUP
        self._watch(self._link.fileno(), client | (select.POLLOUT if self._link.wants_to_write() else 0))
        full = self._link.is_full()
        for fd, forward in self._by_fd.items():
            wants = 0 if full or forward.remote_ended else select.POLLIN
            self._watch(fd, wants | (select.POLLOUT if forward.queue else 0))

    def _watch(self, fd: int, events: int) -> None:
        if self._interest.get(fd, 0) == events:
            return
        if events:
            self._poll.register(fd, events)
        else:
            self._poll.unregister(fd)
        self._interest[fd] = events

    def _serve(self, fd: int, events: int) -> None:
        if fd == self._link.fileno():
            self._link.flush()
            if events & ~select.POLLOUT and (not self._accepts_input() or not self._receive()):
                raise PeerLost("the client closed the connection")
        elif fd == self._connected_fd:
            os.eventfd_read(fd)
            self._adopt_connected()
        elif fd in self._by_fd:
            forward = self._by_fd[fd]
            if events & select.POLLOUT:
                self._feed(forward)
            if events & ~select.POLLOUT and fd in self._by_fd:
                self._read(forward)

    def _receive(self) -> bool:
        """Take what the client sent; False when it is leaving."""
        chunk = self._link.receive()
        if chunk is None:
            return True
        closed = not chunk
        if self._tunnel and chunk:
            chunk, closed = self._tunnel.unwrap(chunk)
        for event in self._decoder.feed(chunk) if chunk else ():
            self._understand(event)
        return not closed

    def _understand(self, event: spdy.Event) -> None:
        if isinstance(event, spdy.StreamOpened):
            self._open(event)
        elif isinstance(event, spdy.StreamData):
            self._take(event)
        elif isinstance(event, spdy.StreamReset):
            forward = self._by_stream.pop(event.stream, None)
            if forward is not None and event.stream == forward.data_stream:
                self._finish(forward)
        elif isinstance(event, spdy.Pinged) and event.id % 2:
            self._write(spdy.ping(event.id))

    def _open(self, event: spdy.StreamOpened) -> None:
        if event.stream <= self._newest or event.stream % 2 == 0:
            raise spdy.SpdyError(f"stream {event.stream} opened after {self._newest}")
        self._newest = event.stream
        kind, port = event.headers.get("streamtype", ""), event.headers.get("port", "")
        if kind not in ("error", "data") or not port.isdecimal() or not 0 < int(port) < 65536:
            self._write(spdy.rst_stream(event.stream, spdy.REFUSED_STREAM))
            return
        # Old clients send no request id: theirs is the error stream's number, and the data stream's is two more.
        request = event.headers.get("requestid") or str(event.stream - (2 if kind == "data" else 0))
        forward = self._forwards.get(request) or self._begin(request, int(port))
        if forward is None or (forward.data_stream if kind == "data" else forward.error_stream):
            self._write(spdy.rst_stream(event.stream, spdy.REFUSED_STREAM))
            return
        self._by_stream[event.stream] = forward
        if kind == "data":
            forward.data_stream, forward.they_ended = event.stream, event.finished
        else:
            forward.error_stream = event.stream
        self._write(self._encoder.syn_reply(event.stream))
        if forward.data_stream and forward.error_stream and not forward.started:
            forward.started = True
            threading.Thread(target=self._connect_in_thread, args=(forward,), name="port forward", daemon=True).start()

    def _begin(self, request: str, port: int) -> _Forward | None:
        if len(self._forwards) >= MAX_CONNECTIONS:
            log.warning("port forward of %s: more than %d connections at once", self._name, MAX_CONNECTIONS)
            return None
        self._forwards[request] = _Forward(port)
        return self._forwards[request]

    def _connect_in_thread(self, forward: _Forward) -> None:
        try:
            sock = self._connect(forward.port)
        except (SessionRefused, OSError) as e:
            forward.failure = f"cannot reach port {forward.port} of {self._name}: {e}"
        except Exception:
            log.exception("port %d of %s", forward.port, self._name)
            forward.failure = f"cannot reach port {forward.port} of {self._name}"
        else:
            sock.settimeout(0)
            forward.sock = sock
        with self._lock:
            if not self._ended:
                self._connected.append(forward)
                os.eventfd_write(self._connected_fd, 1)
            elif forward.sock:
                forward.sock.close()

    def _adopt_connected(self) -> None:
        while self._connected:
            forward = self._connected.popleft()
            if forward.data_stream not in self._by_stream:  # reset while we connected
                if forward.sock:
                    forward.sock.close()
            elif forward.sock:
                self._by_fd[forward.sock.fileno()] = forward
                self._feed(forward)
            else:
                log.info("%s", forward.failure)
                self._finish(forward)

    def _take(self, event: spdy.StreamData) -> None:
        forward = self._by_stream.get(event.stream)
        if forward is None or event.stream != forward.data_stream:
            return
        if event.data:
            forward.queue.append(memoryview(event.data))
            forward.queued += len(event.data)
        forward.they_ended = forward.they_ended or event.finished
        if forward.sock:
            self._feed(forward)

    def _feed(self, forward: _Forward) -> None:
        assert forward.sock is not None
        try:
            while forward.queue:
                sent = forward.sock.send(forward.queue[0])
                forward.queued -= sent
                if sent == len(forward.queue[0]):
                    forward.queue.popleft()
                else:
                    forward.queue[0] = forward.queue[0][sent:]
            if forward.they_ended and not forward.sent_end:
                forward.sent_end = True
                forward.sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            self._finish(forward)
            return
        if forward.sent_end and forward.remote_ended:
            self._finish(forward)

    def _read(self, forward: _Forward) -> None:
        assert forward.sock is not None
        try:
            data = forward.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as e:
            forward.failure = f"port {forward.port} of {self._name}: {e}"
            self._finish(forward)
            return
        if data:
            self._write(spdy.data_head(forward.data_stream, len(data)), data)
            return
        # The pod sends no more, but may still read. The client is told all there is to tell at once: older ones send
        # their end only after ours on both streams.
        forward.remote_ended = True
        self._tell_end(forward)
        if forward.sent_end:
            self._finish(forward)

    def _tell_end(self, forward: _Forward) -> None:
        """Close our side of both streams, the error stream first, with the reason if there is one."""
        if forward.told:
            return
        forward.told = True
        for stream, text in ((forward.error_stream, forward.failure), (forward.data_stream, "")):
            if stream in self._by_stream:
                data = text.encode()
                self._write(spdy.data_head(stream, len(data), finished=True), data)

    def _finish(self, forward: _Forward) -> None:
        """End both streams and the connection, and forget them."""
        self._tell_end(forward)
        if forward.sock:
            fd = forward.sock.fileno()
            self._watch(fd, 0)
            self._by_fd.pop(fd, None)
            forward.sock.close()
            forward.sock = None
        self._by_stream.pop(forward.error_stream, None)
        self._by_stream.pop(forward.data_stream, None)
        forward.queue.clear()
        forward.queued = 0
        for request in [name for name, known in self._forwards.items() if known is forward]:
            del self._forwards[request]

    def _say_goodbye(self, code: int) -> None:
        try:
            self._write(spdy.goaway(self._newest))
            if self._tunnel:
                self._tunnel.goodbye(code)
            self._link.linger(1.0)
        except PeerLost:
            return

    def _release(self) -> None:
        with self._lock:
            self._ended = True
            os.close(self._connected_fd)
        for forward in self._sockets():
            forward.close()

    def _sockets(self) -> Iterator[socket.socket]:
        yield from [forward.sock for forward in (*self._forwards.values(), *self._connected) if forward.sock]
