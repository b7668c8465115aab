# SPDX-License-Identifier: Apache-2.0
"""One client's HTTP/2 connection: a thread reads its frames and answers quick calls, other threads answer the rest.

reader: bytes -> frames -> stream (headers, message) -> quick method: answered here
                                                     -> other method: a thread of the pool answers
writer: whoever answers, under the connection's lock, as far as the client's flow-control windows allow
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cri.rpc import frames, hpack
from cri.rpc.frames import BadFrame
from cri.rpc.pool import Pool
from cri.rpc.status import Code, Context, Failed

log = logging.getLogger(__name__)
_READ_BYTES = 1 << 18
_MOST_STREAMS = 1000
_MOST_HEADER_BYTES = 1 << 16
_SPARE = 1 << 16  # what frames around a message may add


@dataclass(frozen=True, slots=True)
class Method:
    """How one RPC is answered. A quick one never blocks, so the thread that reads may answer it."""

    answer: Callable[[Any, Context], Any]
    parse: Callable[[bytes], Any]
    serialize: Callable[[Any], bytes]
    is_streaming: bool = False
    is_quick: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """What all connections of a server share."""

    methods: Mapping[bytes, Method]  # by path: /package.Service/Method
    pool: Pool
    message_bytes: int


class Gone(Exception):
    """The caller, or the whole connection, is no longer there."""


class Call:
    """One stream: what was asked so far, and whether somebody still waits for the answer."""

    __slots__ = ("_callbacks", "_deadline", "_is_over", "_lock", "body", "cancelled", "id", "method", "window")

    def __init__(self, identity: int, method: Method, seconds: float | None, window: int, lock: threading.Lock) -> None:
        self.id = identity
        self.method = method
        self.window = window  # what the client still takes on this stream
        self.body = bytearray()
        self.cancelled = False
        self._is_over = False
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._callbacks: list[Callable[[], None]] = []
        self._lock = lock

    def is_active(self) -> bool:
        left = self.time_remaining()
        return not self.cancelled and (left is None or left > 0)

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def add_callback(self, callback: Callable[[], None]) -> bool:
        with self._lock:
            if not self._is_over:
                self._callbacks.append(callback)
            return not self._is_over

    def end(self, *, is_cancelled: bool) -> None:
        """It was answered, or the caller gave up; the lock is not held."""
        with self._lock:
            self._is_over = True
            self.cancelled |= is_cancelled
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class Connection:
    """Between accept and close."""

    def __init__(self, client: socket.socket, service: Service) -> None:
        self._socket = client
        self._service = service
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)  # a window has grown, or there is nothing to wait for any more
        self._calls: dict[int, Call] = {}  # guarded by the lock, as the windows
        self._window = frames.DEFAULT_WINDOW
        self._first_window = frames.DEFAULT_WINDOW
        self._headers = hpack.Decoder()
        self._block = bytearray()
        self._block_of: tuple[int, int] | None = None  # (stream, flags) while CONTINUATION must follow
        self._last = 0
        self._taken = 0
        self._is_closing = False

    # the thread that reads

    def run(self) -> None:
        """Until the client goes, or breaks the protocol."""
        try:
            self._greet()
            self._read()
        except BadFrame as broken:
            log.warning("a client broke HTTP/2: %s", broken)
            self._try_to_send(frames.goaway(self._last, broken.code, str(broken)))
        except hpack.BadBlock as broken:
            log.warning("a client's headers cannot be read: %s", broken)
            self._try_to_send(frames.goaway(self._last, frames.COMPRESSION_ERROR, str(broken)))
        except OSError as gone:
            log.debug("a client went: %s", gone)
        finally:
            self._abandon()

    def _greet(self) -> None:
        """Windows so large that a whole message always fits: then none of ours ever waits for us."""
        large = 2 * (self._service.message_bytes + _SPARE)
        offered = {
            frames.MAX_CONCURRENT_STREAMS: _MOST_STREAMS,
            frames.INITIAL_WINDOW_SIZE: large,
            frames.MAX_HEADER_LIST_SIZE: _MOST_HEADER_BYTES,
        }
        more = frames.window_update(0, frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW)
        with self._lock:
            self._socket.sendall(frames.settings(offered) + more)

    def _read(self) -> None:
        buffer = bytearray()
        expected = frames.PREFACE
        while chunk := self._socket.recv(_READ_BYTES):
            buffer += chunk
            if expected:
                if not expected.startswith(bytes(buffer[: len(expected)])):
                    raise BadFrame(frames.PROTOCOL_ERROR, "this is not HTTP/2")
                if len(buffer) < len(expected):
                    continue
                del buffer[: len(expected)]
                expected = b""
            del buffer[: self._take(buffer)]

    def _take(self, buffer: bytearray) -> int:
        """Every whole frame that is there; returns how many bytes they were."""
        at, end = 0, len(buffer)
        while end - at >= frames.HEAD_BYTES:
            length, kind, flags, stream = frames.head(buffer, at)
            if length > frames.FRAME_BYTES:
                raise BadFrame(frames.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            start = at + frames.HEAD_BYTES
            if end - start < length:
                break
            at = start + length
            if self._block_of is not None and kind != frames.CONTINUATION:
                raise BadFrame(frames.PROTOCOL_ERROR, "a header block was not finished")
            handle = _HANDLERS.get(kind)
            if handle is not None:  # frames of unknown kinds are to be ignored
                handle(self, flags, stream, bytes(buffer[start:at]))
        return at

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if not stream & 1:
            raise BadFrame(frames.PROTOCOL_ERROR, f"a client opened stream {stream}")
        self._block = bytearray(frames.unpadded(flags, payload))
        self._block_of = (stream, flags)
        if flags & frames.END_HEADERS:
            self._headers_are_whole()

    def _on_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        if self._block_of is None or self._block_of[0] != stream:
            raise BadFrame(frames.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._block += payload
        if len(self._block) > _MOST_HEADER_BYTES:
            raise BadFrame(frames.ENHANCE_YOUR_CALM, "the headers are too long")
        if flags & frames.END_HEADERS:
            self._headers_are_whole()

    def _headers_are_whole(self) -> None:
        assert self._block_of is not None
        stream, flags = self._block_of
        self._block_of = None
        headers = dict(self._headers.decode(bytes(self._block)))
        if stream > self._last:
            self._last = stream
            self._open(stream, headers)
        if flags & frames.END_STREAM:
            self._whole(stream)

    def _open(self, stream: int, headers: dict[bytes, bytes]) -> None:
        if self._is_closing or len(self._calls) >= _MOST_STREAMS:
            self._try_to_send(frames.reset(stream, frames.REFUSED_STREAM))
            return
        path = headers.get(b":path", b"")
        method = self._service.methods.get(path)
        if headers.get(b":method") != b"POST" or not headers.get(b"content-type", b"").startswith(b"application/grpc"):
            self._refuse(stream, Code.UNKNOWN, "this is not a gRPC request")
        elif method is None:
            self._refuse(stream, Code.UNIMPLEMENTED, f"unknown method {path.decode('utf-8', 'replace')}")
        else:
            seconds = frames.timeout(headers.get(b"grpc-timeout", b""))
            with self._lock:
                self._calls[stream] = Call(stream, method, seconds, self._first_window, self._lock)

    def _refuse(self, stream: int, code: Code, text: str) -> None:
        """Answer before the question is whole; NO_ERROR tells the client to send no more of it."""
        answer = frames.closing(stream, code, text, is_opened=False)
        self._try_to_send(answer + frames.reset(stream, frames.NO_ERROR))

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        if stream > self._last or stream == 0:
            raise BadFrame(frames.PROTOCOL_ERROR, f"DATA on stream {stream}, which was never opened")
        self._give_back(len(payload))
        call = self._calls.get(stream)
        if call is not None:
            call.body += frames.unpadded(flags & frames.PADDED, payload)
            if len(call.body) > self._service.message_bytes + 5:
                with self._lock:
                    self._calls.pop(stream, None)
                self._refuse(stream, Code.RESOURCE_EXHAUSTED, f"larger than {self._service.message_bytes} bytes")
                return
        if flags & frames.END_STREAM:
            self._whole(stream)

    def _give_back(self, taken: int) -> None:
        """The connection's own window is refilled when half of it is used; a stream's holds any message."""
        self._taken += taken
        if self._taken > frames.LARGEST_WINDOW // 2:
            self._try_to_send(frames.window_update(0, self._taken))
            self._taken = 0

    def _whole(self, stream: int) -> None:
        call = self._calls.get(stream)
        if call is None:
            return
        if call.method.is_quick:
            self._answer(call, is_reader=True)
        elif not self._service.pool.submit(lambda: self._answer(call, is_reader=False)):
            self._fail(call, Code.RESOURCE_EXHAUSTED, "too many calls wait for their turn already")
            self._forget(call)

    def _on_reset(self, _: int, stream: int, payload: bytes) -> None:
        frames.number(payload)
        with self._lock:
            call = self._calls.pop(stream, None)
            self._room.notify_all()
        if call is not None:
            call.end(is_cancelled=True)

    def _on_settings(self, flags: int, _: int, payload: bytes) -> None:
        if flags & frames.ACK:
            return
        for key, value in frames.read_settings(payload):
            if key == frames.INITIAL_WINDOW_SIZE:
                if value > frames.LARGEST_WINDOW:
                    raise BadFrame(frames.FLOW_CONTROL_ERROR, "a window is too large")
                with self._lock:
                    for call in self._calls.values():
                        call.window += value - self._first_window
                    self._first_window = value
                    self._room.notify_all()
        self._try_to_send(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def _on_ping(self, flags: int, _: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise BadFrame(frames.FRAME_SIZE_ERROR, "a PING of an odd length")
        if not flags & frames.ACK:
            self._try_to_send(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _on_window_update(self, _: int, stream: int, payload: bytes) -> None:
        more = frames.number(payload) & frames.LARGEST_WINDOW
        with self._lock:
            if stream == 0:
                self._window += more
                if self._window > frames.LARGEST_WINDOW:
                    raise BadFrame(frames.FLOW_CONTROL_ERROR, "the connection's window is too large")
            elif stream in self._calls:
                self._calls[stream].window += more
            self._room.notify_all()

    def _on_push(self, _: int, __: int, ___: bytes) -> None:
        raise BadFrame(frames.PROTOCOL_ERROR, "a client cannot push")

    # whoever answers

    def _answer(self, call: Call, *, is_reader: bool) -> None:
        is_left = False
        try:
            request = self._request(call)
            if call.method.is_streaming:
                self._stream(call, call.method.answer(request, call))
            else:
                content = call.method.serialize(call.method.answer(request, call))
                is_left = self._finish(call, content, is_reader=is_reader)
        except Failed as failure:
            self._fail(call, failure.code, str(failure))
        except (Gone, OSError) as gone:
            log.debug("nobody waits for the answer any more: %s", gone)
        except Exception as mistake:
            log.exception("a mistake of ours")
            self._fail(call, Code.INTERNAL, f"{type(mistake).__name__}: {mistake}")
        finally:
            if not is_left:
                self._forget(call)

    def _forget(self, call: Call) -> None:
        with self._lock:
            self._calls.pop(call.id, None)
        call.end(is_cancelled=False)

    def _request(self, call: Call) -> Any:
        body = bytes(call.body)
        call.body = bytearray()
        if len(body) < 5:
            raise Failed(Code.INVALID_ARGUMENT, "the request holds no message")
        compressed, length = struct.unpack_from(">BL", body)
        if compressed:
            raise Failed(Code.UNIMPLEMENTED, "compressed messages are not understood")
        if length != len(body) - 5:
            raise Failed(Code.INVALID_ARGUMENT, "the request holds more or less than one message")
        try:
            return call.method.parse(body[5:])
        except Exception as wrong:
            raise Failed(Code.INVALID_ARGUMENT, f"the request cannot be read: {wrong}") from wrong

    def _finish(self, call: Call, content: bytes, *, is_reader: bool) -> bool:
        """One message and the end: in one piece if the windows allow it. True: another thread goes on with it."""
        size = len(content) + 5
        answer = frames.opening(call.id) + frames.message(call.id, content) + frames.closing(call.id)
        with self._lock:
            self._still_there(call)
            if size <= self._window and size <= call.window:
                self._window -= size
                self._socket.sendall(answer)
                return False
        if not is_reader:
            self._stream(call, iter((content,)), is_serialized=True)
            return False
        # the reader must not wait: it is the one that hears of larger windows
        if not self._service.pool.submit(lambda: self._finish_in_pieces(call, content)):
            raise Failed(Code.RESOURCE_EXHAUSTED, "too many calls wait for their turn already")
        return True

    def _finish_in_pieces(self, call: Call, content: bytes) -> None:
        try:
            self._stream(call, iter((content,)), is_serialized=True)
        except (Gone, OSError) as gone:
            log.debug("nobody waits for the answer any more: %s", gone)
        finally:
            self._forget(call)

    def _stream(self, call: Call, messages: Iterator[Any], *, is_serialized: bool = False) -> None:
        is_opened = False
        try:
            for each in messages:
                content = each if is_serialized else call.method.serialize(each)
                if not is_opened:
                    self._send_waiting(call, frames.opening(call.id))
                    is_opened = True
                self._send_message(call, content)
            self._send_waiting(call, frames.closing(call.id, is_opened=is_opened))
        except Failed as failure:
            self._send_waiting(call, frames.closing(call.id, failure.code, str(failure), is_opened=is_opened))

    def _send_waiting(self, call: Call, data: bytes) -> None:
        with self._lock:
            self._still_there(call)
            self._socket.sendall(data)

    def _send_message(self, call: Call, content: bytes) -> None:
        """As the windows allow; waits for more room."""
        data = memoryview(struct.pack(">BL", 0, len(content)) + content)
        while data:
            with self._room:
                while (fits := min(len(data), self._window, call.window, frames.FRAME_BYTES)) <= 0:
                    self._still_there(call)
                    self._room.wait()
                self._still_there(call)
                self._window -= fits
                call.window -= fits
                self._socket.sendall(frames.frame(frames.DATA, 0, call.id, bytes(data[:fits])))
            data = data[fits:]

    def _still_there(self, call: Call) -> None:
        if call.cancelled or self._calls.get(call.id) is not call:
            raise Gone(f"stream {call.id}")

    def _fail(self, call: Call, code: Code, text: str) -> None:
        with self._lock:
            if call.cancelled or self._calls.get(call.id) is not call:
                return
        self._try_to_send(frames.closing(call.id, code, text, is_opened=False))

    def _try_to_send(self, data: bytes) -> None:
        try:
            with self._lock:
                self._socket.sendall(data)
        except OSError as gone:
            log.debug("a client went: %s", gone)

    # the end

    def is_busy(self) -> bool:
        return bool(self._calls)

    def announce_end(self) -> None:
        """Calls that come from now on are refused, so that the client makes them elsewhere; those that run go on."""
        self._is_closing = True
        self._try_to_send(frames.goaway(self._last, frames.NO_ERROR))

    def close(self) -> None:
        """Wakes the thread that reads, and whoever waits in a send."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the client was faster

    def _abandon(self) -> None:
        with self._lock:
            calls, self._calls = list(self._calls.values()), {}
            self._room.notify_all()
        for call in calls:
            call.end(is_cancelled=True)
        self._socket.close()


_HANDLERS: dict[int, Callable[[Connection, int, int, bytes], None]] = {
    frames.DATA: Connection._on_data,
    frames.HEADERS: Connection._on_headers,
    frames.RST_STREAM: Connection._on_reset,
    frames.SETTINGS: Connection._on_settings,
    frames.PUSH_PROMISE: Connection._on_push,
    frames.PING: Connection._on_ping,
    frames.WINDOW_UPDATE: Connection._on_window_update,
    frames.CONTINUATION: Connection._on_continuation,
}
