# SPDX-License-Identifier: Apache-2.0
"""What goes to one client: the answers of many calls at once, as far as the client's windows allow.

Whoever answers writes, under one lock; it guards also which calls are open and how much room there is.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
from collections.abc import Iterator

from cri.rpc import frames
from cri.rpc.call import Call, Gone, Method
from cri.rpc.frames import BadFrame, BadStream
from cri.rpc.status import Code, Failed

log = logging.getLogger(__name__)
# Whoever answers a client that has stopped taking would else wait for ever, and with it those whom it could serve.
_PATIENCE_SECONDS = 30


class Writer:
    """The sending half of a connection. A call that is not open here any more gets no answer."""

    def __init__(self, client: socket.socket) -> None:
        self._socket = client
        # by the kernel's clock: a timeout of Python's would be the reader's, too
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", _PATIENCE_SECONDS, 0))
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)  # a window has grown, or there is nothing to wait for any more
        self._calls: dict[int, Call] = {}
        self._window = frames.DEFAULT_WINDOW
        self._first_window = frames.DEFAULT_WINDOW

    # which calls are open

    @property
    def open_calls(self) -> int:
        return len(self._calls)

    def open(self, stream: int, method: Method, seconds: float | None) -> Call:
        call = Call(stream, method, seconds, self._first_window, self._lock)
        with self._lock:
            self._calls[stream] = call
        return call

    def find(self, stream: int) -> Call | None:
        return self._calls.get(stream)

    def cancel(self, stream: int) -> Call | None:
        """Nobody waits for its answer any more: whoever answers finds out when it sends."""
        with self._lock:
            call = self._calls.pop(stream, None)
            self._room.notify_all()
        if call is not None:
            call.end(is_cancelled=True)
        return call

    def cancel_all(self) -> None:
        with self._lock:
            calls, self._calls = list(self._calls.values()), {}
            self._room.notify_all()
        for call in calls:
            call.end(is_cancelled=True)

    def forget(self, call: Call) -> None:
        """It was answered."""
        with self._lock:
            self._calls.pop(call.id, None)
        call.end(is_cancelled=False)

    # how much the client takes

    def widen(self, stream: int, more: int) -> None:
        """The connection's window (stream 0) or a call's has grown."""
        with self._lock:
            call = self._calls.get(stream)
            if stream == 0:
                self._window += more
                if self._window > frames.LARGEST_WINDOW:
                    raise BadFrame(frames.FLOW_CONTROL_ERROR, "the connection's window is too large")
            elif call is not None:
                call.window += more
            self._room.notify_all()
        if call is not None and call.window > frames.LARGEST_WINDOW:
            raise BadStream(stream, frames.FLOW_CONTROL_ERROR, "the window is too large")

    def set_first_window(self, size: int) -> None:
        """Of every call, also of those that are open."""
        with self._lock:
            for call in self._calls.values():
                call.window += size - self._first_window
                if call.window > frames.LARGEST_WINDOW:
                    raise BadFrame(frames.FLOW_CONTROL_ERROR, f"the window of stream {call.id} is too large")
            self._first_window = size
            self._room.notify_all()

    # sending

    def send(self, data: bytes) -> None:
        """Frames that need no room; a client that went is told by the thread that reads."""
        try:
            with self._lock:
                self._put(data)
        except OSError as gone:
            log.debug("a client went: %s", gone)

    def whole(self, call: Call, content: bytes) -> bool:
        """One message and the end in one piece; False: the windows do not allow it."""
        size = len(content) + 5
        answer = frames.opening(call.id) + frames.message(call.id, content) + frames.closing(call.id)
        with self._lock:
            self._still_there(call)
            if size > self._window or size > call.window:
                return False
            self._window -= size
            self._put(answer)
            return True

    def each(self, call: Call, contents: Iterator[bytes]) -> None:
        """Message by message, and the end; waits for room."""
        is_opened = False
        try:
            for content in contents:
                if not is_opened:
                    self._send_to(call, frames.opening(call.id))
                    is_opened = True
                self._message(call, content)
            self._send_to(call, frames.closing(call.id, is_opened=is_opened))
        except Failed as failure:
            self._send_to(call, frames.closing(call.id, failure.code, str(failure), is_opened=is_opened))

    def fail(self, call: Call, code: Code, text: str) -> None:
        with self._lock:
            if not self._is_there(call):
                return
        self.send(frames.closing(call.id, code, text, is_opened=False))

    def _message(self, call: Call, content: bytes) -> None:
        data = memoryview(struct.pack(">BL", 0, len(content)) + content)
        while data:
            with self._room:
                if not self._room.wait_for(lambda: self._room_for(call) or not self._is_there(call), _PATIENCE_SECONDS):
                    raise Failed(Code.RESOURCE_EXHAUSTED, f"the client has read nothing for {_PATIENCE_SECONDS} s")
                self._still_there(call)
                fits = min(len(data), self._room_for(call))
                self._window -= fits
                call.window -= fits
                self._put(frames.frame(frames.DATA, 0, call.id, bytes(data[:fits])))
            data = data[fits:]

    def _room_for(self, call: Call) -> int:
        return max(0, min(self._window, call.window, frames.FRAME_BYTES))

    def _send_to(self, call: Call, data: bytes) -> None:
        with self._lock:
            self._still_there(call)
            self._put(data)

    def _put(self, data: bytes) -> None:
        """With the lock held. Who has stopped taking is sent away: half a frame may be on its way."""
        try:
            self._socket.sendall(data)
        except BlockingIOError:
            log.warning("a client has taken nothing for %d s and is sent away", _PATIENCE_SECONDS)
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads, which ends all its calls
            raise

    def _is_there(self, call: Call) -> bool:
        return not call.cancelled and self._calls.get(call.id) is call

    def _still_there(self, call: Call) -> None:
        if not self._is_there(call):
            raise Gone(f"stream {call.id}")
