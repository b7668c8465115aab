# SPDX-License-Identifier: Apache-2.0
"""One client's HTTP/2 connection: a thread reads its frames and answers quick calls, other threads answer the rest.

bytes -> frames -> stream (headers, message) -> quick method: answered here
                                             -> other method: a thread of the pool answers
Whoever answers sends through the connection's writer.
"""

from __future__ import annotations

import logging
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from cri.rpc import frames, headers, hpack
from cri.rpc.call import Call, Gone, Method, Service, refusal
from cri.rpc.frames import BadFrame, BadStream
from cri.rpc.headers import BadHeaders
from cri.rpc.status import Code, Failed
from cri.rpc.writer import Writer

log = logging.getLogger(__name__)
_READ_BYTES = 1 << 18
_MOST_STREAMS = 1000
_MOST_HEADER_BYTES = 1 << 16
_SPARE = 1 << 16  # what frames around a message may add
_MOST_UNHEARD = 1000
_FAREWELL_SECONDS = 0.5
_GREETING_SECONDS = 10.0  # so long may a client take to say that it speaks HTTP/2
_MOST_FAREWELL_READS = 16


class Connection:
    """Between accept and close."""

    def __init__(self, client: socket.socket, service: Service) -> None:
        self._socket = client
        self._service = service
        self._writer = Writer(client)
        self._headers = hpack.Decoder()
        self._block = bytearray()
        self._block_of: tuple[int, int] | None = None  # (stream, flags) while CONTINUATION must follow
        self._last = 0
        self._unheard: deque[int] = deque(maxlen=_MOST_UNHEARD)  # ended by us; the client may not know it yet
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
            self._send_away(broken.code, str(broken))
        except hpack.BadBlock as broken:
            log.warning("a client's headers cannot be read: %s", broken)
            self._send_away(frames.COMPRESSION_ERROR, str(broken))
        except OSError as gone:
            log.debug("a client went: %s", gone)
        finally:
            self._writer.cancel_all()
            self._socket.close()

    def _send_away(self, code: int, text: str) -> None:
        """A close with unread bytes is a reset, which can overtake the reason: so they are read first, for a moment."""
        self._writer.send(frames.goaway(self._last, code, text))
        self._socket.settimeout(_FAREWELL_SECONDS)
        try:
            self._socket.shutdown(socket.SHUT_WR)
            for _ in range(_MOST_FAREWELL_READS):
                if not self._socket.recv(_READ_BYTES):
                    break
        except OSError:
            pass  # it went first, or says nothing more

    def _greet(self) -> None:
        """Windows so large that a whole message always fits: then none of ours ever waits for us."""
        large = 2 * (self._service.message_bytes + _SPARE)
        offered = {
            frames.MAX_CONCURRENT_STREAMS: _MOST_STREAMS,
            frames.INITIAL_WINDOW_SIZE: large,
            frames.MAX_HEADER_LIST_SIZE: _MOST_HEADER_BYTES,
        }
        more = frames.window_update(0, frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW)
        self._writer.send(frames.settings(offered) + more)

    def _read(self) -> None:
        buffer = self._preface()
        del buffer[: self._take(buffer)]
        while chunk := self._socket.recv(_READ_BYTES):
            buffer += chunk
            del buffer[: self._take(buffer)]

    def _preface(self) -> bytearray:
        """What came after it. Who only connects does not keep a thread for ever."""
        buffer = bytearray()
        expected, deadline = frames.PREFACE, time.monotonic() + _GREETING_SECONDS
        while len(buffer) < len(expected):
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            chunk = self._socket.recv(_READ_BYTES)
            if not chunk:
                raise ConnectionAbortedError("it said nothing")
            buffer += chunk
            if not expected.startswith(bytes(buffer[: len(expected)])):
                raise BadFrame(frames.PROTOCOL_ERROR, "this is not HTTP/2")
        self._socket.settimeout(None)
        del buffer[: len(expected)]
        return buffer

    def _take(self, buffer: bytearray) -> int:
        """Every whole frame that is there; returns how many bytes they were."""
        at, end = 0, len(buffer)
        while end - at >= frames.HEAD_BYTES:
            length, kind, flags, stream = frames.head(buffer, at)
            frames.check(kind, stream, length)
            start = at + frames.HEAD_BYTES
            if end - start < length:
                break
            at = start + length
            if self._block_of is not None and kind != frames.CONTINUATION:
                raise BadFrame(frames.PROTOCOL_ERROR, "a header block was not finished")
            handle = _HANDLERS.get(kind)
            if handle is None:
                continue  # frames of unknown kinds are to be ignored
            try:
                handle(self, flags, stream, bytes(buffer[start:at]))
            except BadStream as broken:
                log.warning("a client broke HTTP/2 on stream %d: %s", broken.stream, broken)
                self._end_stream(broken.stream, broken.code)
        return at

    def _end_stream(self, stream: int, code: int) -> None:
        call = self._writer.cancel(stream)
        if call is None or not call.is_whole:
            self._unheard.append(stream)
        self._writer.send(frames.reset(stream, code))

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if not stream & 1 or frames.depends_on(flags, payload) == stream:
            raise BadFrame(frames.PROTOCOL_ERROR, f"a client cannot open stream {stream}, or it depends on itself")
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
        """Decoded whatever becomes of them: the table that they change belongs to the connection."""
        assert self._block_of is not None
        stream, flags = self._block_of
        self._block_of = None
        block = self._headers.decode(bytes(self._block))
        is_end = bool(flags & frames.END_STREAM)
        try:
            if stream > self._last:
                self._last = stream
                self._open(stream, headers.request(block))
            elif self._still_speaks(stream, frames.HEADERS) is not None:
                headers.trailers(block)
                if not is_end:
                    raise BadStream(stream, frames.PROTOCOL_ERROR, "headers in the middle of a message")
        except BadHeaders as wrong:
            raise BadStream(stream, frames.PROTOCOL_ERROR, str(wrong)) from None
        if is_end:
            self._whole(stream)

    def _still_speaks(self, stream: int, kind: int) -> Call | None:
        """The call of which the client may send more; None where it does not know yet that we have ended it."""
        call = self._writer.find(stream)
        if call is not None and not call.is_whole:
            return call
        if call is None and stream in self._unheard:
            return None
        if kind == frames.HEADERS:
            raise BadFrame(frames.STREAM_CLOSED, f"headers on stream {stream}, which is closed")
        raise BadStream(stream, frames.STREAM_CLOSED, "data after its end")

    def _open(self, stream: int, said: dict[bytes, bytes]) -> None:
        if self._is_closing or self._writer.open_calls >= _MOST_STREAMS:
            self._unheard.append(stream)
            self._writer.send(frames.reset(stream, frames.REFUSED_STREAM))
            return
        call = self._writer.open(stream, self._method(said), frames.timeout(said.get(b"grpc-timeout", b"")))
        call.length = said.get(b"content-length")

    def _method(self, said: dict[bytes, bytes]) -> Method:
        path = said[b":path"]
        if said[b":method"] != b"POST" or not said.get(b"content-type", b"").startswith(b"application/grpc"):
            return refusal(Code.UNKNOWN, "this is not a gRPC request")
        method = self._service.methods.get(path)
        return method or refusal(Code.UNIMPLEMENTED, f"unknown method {path.decode('utf-8', 'replace')}")

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        content = frames.unpadded(flags & frames.PADDED, payload)
        if stream > self._last:
            raise BadFrame(frames.PROTOCOL_ERROR, f"DATA on stream {stream}, which was never opened")
        self._give_back(len(payload))
        call = self._still_speaks(stream, frames.DATA)
        if call is None:
            return
        call.body += content
        if len(call.body) > self._service.message_bytes + 5:
            self._writer.fail(call, Code.RESOURCE_EXHAUSTED, f"larger than {self._service.message_bytes} bytes")
            self._end_stream(stream, frames.NO_ERROR)  # the client need not send the rest
        elif flags & frames.END_STREAM:
            self._whole(stream)

    def _give_back(self, taken: int) -> None:
        """The connection's own window is refilled when half of it is used; a stream's holds any message."""
        self._taken += taken
        if self._taken > frames.LARGEST_WINDOW // 2:
            self._writer.send(frames.window_update(0, self._taken))
            self._taken = 0

    def _whole(self, stream: int) -> None:
        call = self._writer.find(stream)
        if call is None:
            return
        call.is_whole = True
        if call.length is not None and call.length != str(len(call.body)).encode():
            raise BadStream(stream, frames.PROTOCOL_ERROR, "content-length is not the length of the content")
        if call.method.is_quick:
            self._answer(call, is_reader=True)
        elif not self._service.pool.submit(lambda: self._answer(call, is_reader=False)):
            self._writer.fail(call, Code.RESOURCE_EXHAUSTED, "too many calls wait for their turn already")
            self._writer.forget(call)

    def _on_priority(self, _: int, stream: int, payload: bytes) -> None:
        if frames.depends_on(frames.HAS_PRIORITY, payload) == stream:
            raise BadFrame(frames.PROTOCOL_ERROR, f"stream {stream} depends on itself")

    def _on_reset(self, _: int, stream: int, __: bytes) -> None:
        if stream > self._last:
            raise BadFrame(frames.PROTOCOL_ERROR, f"a reset of stream {stream}, which was never opened")
        self._writer.cancel(stream)

    def _on_settings(self, flags: int, _: int, payload: bytes) -> None:
        if flags & frames.ACK:
            if payload:
                raise BadFrame(frames.FRAME_SIZE_ERROR, "an acknowledgement with a content")
            return
        for key, value in frames.read_settings(payload):
            if key == frames.INITIAL_WINDOW_SIZE:
                self._writer.set_first_window(value)
        self._writer.send(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def _on_ping(self, flags: int, _: int, payload: bytes) -> None:
        if not flags & frames.ACK:
            self._writer.send(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _on_window_update(self, _: int, stream: int, payload: bytes) -> None:
        more = frames.number(payload) & frames.LARGEST_WINDOW
        if stream > self._last:
            raise BadFrame(frames.PROTOCOL_ERROR, f"a window for stream {stream}, which was never opened")
        if not more:
            raise (
                BadStream(stream, frames.PROTOCOL_ERROR, "a window that does not grow")
                if stream
                else BadFrame(frames.PROTOCOL_ERROR, "a window that does not grow")
            )
        self._writer.widen(stream, more)

    def _on_push(self, _: int, __: int, ___: bytes) -> None:
        raise BadFrame(frames.PROTOCOL_ERROR, "a client cannot push")

    # whoever answers

    def _answer(self, call: Call, *, is_reader: bool) -> None:
        is_left = False
        try:
            request = self._request(call)
            answer = call.method.answer(request, call)
            if call.method.is_streaming:
                self._writer.each(call, map(call.method.serialize, answer))
            else:
                is_left = self._finish(call, call.method.serialize(answer), is_reader=is_reader)
        except Failed as failure:
            self._writer.fail(call, failure.code, str(failure))
        except (Gone, OSError) as gone:
            log.debug("nobody waits for the answer any more: %s", gone)
        except Exception as mistake:
            log.exception("a mistake of ours")
            self._writer.fail(call, Code.INTERNAL, f"{type(mistake).__name__}: {mistake}")
        finally:
            if not is_left:
                self._writer.forget(call)

    def _request(self, call: Call) -> Any:
        body = bytes(call.body)
        call.body = bytearray()
        if not call.method.takes_a_message:
            return body
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
        if self._writer.whole(call, content):
            return False
        if not is_reader:
            self._writer.each(call, iter((content,)))
            return False
        # the reader must not wait: it is the one that hears of larger windows
        if not self._service.pool.submit(lambda: self._finish_in_pieces(call, content)):
            raise Failed(Code.RESOURCE_EXHAUSTED, "too many calls wait for their turn already")
        return True

    def _finish_in_pieces(self, call: Call, content: bytes) -> None:
        try:
            self._writer.each(call, iter((content,)))
        except (Gone, OSError) as gone:
            log.debug("nobody waits for the answer any more: %s", gone)
        finally:
            self._writer.forget(call)

    # the end

    def is_busy(self) -> bool:
        return self._writer.open_calls > 0

    def announce_end(self) -> None:
        """Calls that come from now on are refused, so that the client makes them elsewhere; those that run go on."""
        self._is_closing = True
        self._writer.send(frames.goaway(self._last, frames.NO_ERROR))

    def close(self) -> None:
        """Wakes the thread that reads, and whoever waits in a send."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the client was faster


_HANDLERS: dict[int, Callable[[Connection, int, int, bytes], None]] = {
    frames.DATA: Connection._on_data,
    frames.HEADERS: Connection._on_headers,
    frames.PRIORITY: Connection._on_priority,
    frames.RST_STREAM: Connection._on_reset,
    frames.SETTINGS: Connection._on_settings,
    frames.PUSH_PROMISE: Connection._on_push,
    frames.PING: Connection._on_ping,
    frames.WINDOW_UPDATE: Connection._on_window_update,
    frames.CONTINUATION: Connection._on_continuation,
}
