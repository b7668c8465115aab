# SPDX-License-Identifier: Apache-2.0
"""The channels of a remote command over either transport: stdin, stdout, stderr, error, resize; no sockets.

    client's bytes ──► receive() ──► Opened, Data, Ended, Gone
    send(), finish(), goodbye() ──► write(buffers) ──► client

Both classes answer pings and refuse what they do not know by themselves.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterator
from typing import Protocol

from cri.streaming import spdy, websocket
from runtime.linux.quick_dataclasses import dataclass

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
CLOSE_SIGNAL = 255

Write = Callable[..., None]  # takes one or more buffers

_NAMES = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "error": ERROR, "resize": RESIZE}


class ProtocolError(Exception):
    """The peer broke the rules; the connection is of no more use."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The client has opened a channel."""

    channel: int


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes for a channel."""

    channel: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The client will send no more on a channel."""

    channel: int


@dataclass(frozen=True, slots=True)
class Gone:
    """The client is leaving."""


Event = Opened | Data | Ended | Gone


class Channels(Protocol):
    """One connection's channels."""

    def receive(self, chunk: bytes) -> Iterator[Event]:
        """What a chunk from the client means. Raises ProtocolError."""
        ...

    def send(self, channel: int, data: bytes) -> None:
        """Send bytes on a channel; if the client has none of that name, nowhere."""
        ...

    def finish(self, channel: int) -> None:
        """Say that no more comes on a channel."""
        ...

    def goodbye(self) -> None:
        """Say that the connection ends."""
        ...


class SpdyChannels:
    """A stream per channel, named by its `streamtype` header."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._decoder = spdy.Decoder()
        self._encoder = spdy.Encoder()
        self._channel_of: dict[int, int] = {}
        self._stream_of: dict[int, int] = {}
        self._newest = 0

    def receive(self, chunk: bytes) -> Iterator[Event]:
        try:
            for event in self._decoder.feed(chunk):
                yield from self._understand(event)
        except spdy.SpdyError as e:
            raise ProtocolError(str(e)) from None

    def _understand(self, event: spdy.Event) -> Iterator[Event]:
        if isinstance(event, spdy.StreamData):
            channel = self._channel_of.get(event.stream)
            if channel is None:
                return
            if event.data:
                yield Data(channel, event.data)
            if event.finished:
                yield Ended(channel)
        elif isinstance(event, spdy.StreamOpened):
            yield from self._open(event)
        elif isinstance(event, spdy.StreamReset):
            channel = self._channel_of.pop(event.stream, None)
            if channel is not None:
                self._stream_of.pop(channel, None)
                yield Ended(channel)
        elif isinstance(event, spdy.Pinged):
            if event.id % 2:
                self._write(spdy.ping(event.id))
        elif isinstance(event, spdy.GoneAway):
            yield Gone()

    def _open(self, event: spdy.StreamOpened) -> Iterator[Event]:
        if event.stream <= self._newest or event.stream % 2 == 0:
            raise ProtocolError(f"stream {event.stream} opened after {self._newest}")
        self._newest = event.stream
        channel = _NAMES.get(event.headers.get("streamtype", ""))
        if channel is None or channel in self._stream_of:
            self._write(spdy.rst_stream(event.stream, spdy.REFUSED_STREAM))
            return
        self._stream_of[channel], self._channel_of[event.stream] = event.stream, channel
        self._write(self._encoder.syn_reply(event.stream))
        yield Opened(channel)
        if event.finished:
            yield Ended(channel)

    def send(self, channel: int, data: bytes) -> None:
        stream = self._stream_of.get(channel)
        if stream is not None:
            self._write(spdy.data_head(stream, len(data)), data)

    def finish(self, channel: int) -> None:
        stream = self._stream_of.pop(channel, None)
        if stream is not None:
            self._write(spdy.data_head(stream, 0, finished=True))

    def goodbye(self) -> None:
        for channel in list(self._stream_of):
            self.finish(channel)
        self._write(spdy.goaway(self._newest))


class WebSocketChannels:
    """A byte before each message names its channel; in base64 protocols a digit does, and the rest is encoded."""

    def __init__(self, write: Write, *, encoded: bool, close_signal: bool) -> None:
        self._write = write
        self._decoder = websocket.Decoder()
        self._encoded = encoded
        self._close_signal = close_signal
        self._channel = -1
        self._held = bytearray()  # of a close signal or of base64 text, which must be whole to be understood
        self._closing = False
        self._ended: set[int] = set()

    def receive(self, chunk: bytes) -> Iterator[Event]:
        try:
            for event in self._decoder.feed(chunk):
                if isinstance(event, websocket.Piece):
                    yield from self._piece(event)
                elif isinstance(event, websocket.Pinged):
                    self._write(websocket.pong(event.payload))
                else:
                    yield Gone()
        except websocket.WebSocketError as e:
            self._close(e.code, str(e))
            raise ProtocolError(str(e)) from None

    def _piece(self, piece: websocket.Piece) -> Iterator[Event]:
        data = piece.data
        if piece.first:
            self._channel = -1
            self._held.clear()
        if self._channel < 0 and data:
            self._channel = data[0] - (ord("0") if self._encoded else 0)
            data = data[1:]
        if self._encoded or (self._close_signal and self._channel == CLOSE_SIGNAL):
            self._held += data
            if len(self._held) > 1 << 20:
                raise websocket.WebSocketError("message too long", websocket.TOO_BIG)
            if piece.last:
                yield from self._whole(bytes(self._held))
        elif data and self._channel in (STDIN, RESIZE) and self._channel not in self._ended:
            yield Data(self._channel, data)

    def _whole(self, message: bytes) -> Iterator[Event]:
        if not self._encoded:
            if len(message) != 1 or message[0] > RESIZE:
                raise websocket.WebSocketError("a close signal must name one channel")
            if message[0] not in self._ended:
                self._ended.add(message[0])
                yield Ended(message[0])
        elif self._channel in (STDIN, RESIZE):
            try:
                data = b64decode(message, validate=True)
            except Base64Error as e:
                raise websocket.WebSocketError(f"not base64: {e}") from None
            if data:
                yield Data(self._channel, data)

    def send(self, channel: int, data: bytes) -> None:
        if self._closing:
            return
        if self._encoded:
            text = b64encode(data)
            self._write(websocket.head(websocket.TEXT, len(text) + 1), b"%d" % channel + text)
        else:
            self._write(websocket.head(websocket.BINARY, len(data) + 1) + bytes((channel,)), data)

    def finish(self, channel: int) -> None:
        """The channels of the server end with the connection: no client knows another way."""

    def goodbye(self) -> None:
        self._close(websocket.NORMAL_CLOSURE, "")

    def _close(self, code: int, reason: str) -> None:
        if not self._closing:
            self._closing = True
            self._write(websocket.close(code, reason))


class ResizeReader:
    """Reads `{"Width": 80, "Height": 24}` objects from the resize channel, however they were cut into pieces."""

    def __init__(self) -> None:
        self._text = ""
        self._decoder = json.JSONDecoder()

    def feed(self, data: bytes) -> Iterator[tuple[int, int]]:
        """(columns, rows) of each object that data completes; what is no such object is dropped."""
        self._text = (self._text + data.decode("utf-8", "replace")).lstrip()
        while self._text:
            try:
                size, end = self._decoder.raw_decode(self._text)
            except ValueError:
                if len(self._text) > 4096:
                    self._text = ""
                return
            self._text = self._text[end:].lstrip()
            if isinstance(size, dict):
                columns, rows = size.get("Width"), size.get("Height")
                if isinstance(columns, int) and isinstance(rows, int) and 0 < columns < 65536 and 0 < rows < 65536:
                    yield columns, rows


def status_success(*, structured: bool) -> bytes:
    """What the error channel says of an exit code 0: before v4 nothing."""
    return b'{"metadata":{},"status":"Success"}' if structured else b""


def status_exit(code: int, *, structured: bool) -> bytes:
    """What the error channel says of another exit code: a metav1.Status from v4 on, before it a sentence."""
    message = f"command terminated with non-zero exit code: exit code {code}"
    if not structured:
        return message.encode()
    status = {
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }
    return json.dumps(status).encode()


def status_failure(text: str, *, structured: bool) -> bytes:
    """What the error channel says when there was no process to end."""
    if not structured:
        return text.encode()
    status = {
        "metadata": {},
        "status": "Failure",
        "message": text,
        "reason": "InternalError",
        "details": {"causes": [{"message": text}]},
        "code": 500,
    }
    return json.dumps(status).encode()
