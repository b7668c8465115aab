# SPDX-License-Identifier: Apache-2.0
"""SPDY/3.1 framing without sockets: bytes in, frames out, and back.

    +-+---------------+---------------+        +-+-----------------------------+
    |1|  version (15) |  type (16)    |        |0|       stream id (31)        |
    +-+-------+-------+---------------+        +-+-----------+-----------------+
    | flags 8 |      length (24)      |        | flags 8 |     length (24)     |
    +---------+-----------------------+        +---------+---------------------+
    |  payload of a control frame     |        |  data, handed on as it comes  |
    +---------------------------------+        +-------------------------------+

What kubectl, crictl and the API server speak is this without flow control: nobody sends WINDOW_UPDATE, so
back-pressure is TCP's. Header blocks are deflated with the dictionary of the SPDY/3 draft, one context per direction.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from struct import Struct

from runtime.linux.quick_dataclasses import dataclass

SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
FLAG_FIN = 0x01
PROTOCOL_ERROR, INVALID_STREAM, REFUSED_STREAM, CANCEL = 1, 2, 3, 5

MAX_CONTROL_BYTES = 64 * 1024
MAX_HEADER_BYTES = 64 * 1024
MAX_HEADERS = 100
MAX_DATA_BYTES = 0xFFFFFF

_HEAD = Struct("!II")
_WORD = Struct("!I")
_STREAM = Struct("!IIBB")

# The dictionary of the draft: names and values that occur often, first as length-prefixed strings, then as one text.
_PREFIXED = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
    "keep-alive origin"
)
_PLAIN = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _dictionary() -> bytes:
    words = [word.replace("_", " ").encode() for word in _PREFIXED.split()]
    return b"".join(_WORD.pack(len(word)) + word for word in words) + _PLAIN.encode()


DICTIONARY = _dictionary()


class SpdyError(Exception):
    """The peer broke the framing; the connection cannot be understood any further and must be closed."""


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """SYN_STREAM: the peer opened a stream; finished when it will send nothing on it."""

    stream: int
    headers: dict[str, str]
    finished: bool


@dataclass(frozen=True, slots=True)
class StreamReplied:
    """SYN_REPLY: the peer accepted a stream of ours."""

    stream: int
    headers: dict[str, str]
    finished: bool


@dataclass(frozen=True, slots=True)
class StreamData:
    """A piece of a DATA frame, as much of it as has come; finished on the last piece of the last frame."""

    stream: int
    data: bytes
    finished: bool


@dataclass(frozen=True, slots=True)
class StreamReset:
    """RST_STREAM: the peer wants neither to send nor to hear more of it."""

    stream: int
    status: int


@dataclass(frozen=True, slots=True)
class Pinged:
    """PING: to be sent back unchanged when its id is the peer's."""

    id: int


@dataclass(frozen=True, slots=True)
class GoneAway:
    """GOAWAY: the peer opens no more streams."""

    status: int


Event = StreamOpened | StreamReplied | StreamData | StreamReset | Pinged | GoneAway


class Decoder:
    """Turns the bytes of one direction into events, however they were cut into pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._data_left = 0  # of the DATA frame that is being handed on
        self._data_stream = 0
        self._data_final = False

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that chunk completes. Raises SpdyError; the decoder is of no use afterwards."""
        if not self._buffer and self._data_left >= len(chunk) > 0:  # the bulk of a long copy takes this way: no copying
            yield self._data_event(chunk)
            return
        self._buffer += chunk
        while (event := self._next()) is not None:
            if not isinstance(event, _Ignored):
                yield event

    def _next(self) -> Event | _Ignored | None:
        if self._data_left:
            return self._data_event(self._take(min(self._data_left, len(self._buffer)))) if self._buffer else None
        if len(self._buffer) < _HEAD.size:
            return None
        first, second = _HEAD.unpack_from(self._buffer)
        flags, length = second >> 24, second & 0xFFFFFF
        if not first & 0x80000000:
            return self._data_head(first, flags, length)
        version, kind = first >> 16 & 0x7FFF, first & 0xFFFF
        if version != 3:
            raise SpdyError(f"SPDY version {version}, expected 3")
        if length > MAX_CONTROL_BYTES:
            raise SpdyError(f"control frame of {length} bytes, at most {MAX_CONTROL_BYTES} are allowed")
        if len(self._buffer) < _HEAD.size + length:
            return None
        self._take(_HEAD.size)
        return self._control(kind, flags, self._take(length))

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _data_head(self, stream: int, flags: int, length: int) -> Event | _Ignored:
        if stream == 0:
            raise SpdyError("data on stream 0")
        self._take(_HEAD.size)
        self._data_left, self._data_stream, self._data_final = length, stream, bool(flags & FLAG_FIN)
        if length:
            return _IGNORED
        return StreamData(stream, b"", self._data_final)

    def _data_event(self, piece: bytes) -> StreamData:
        self._data_left -= len(piece)
        return StreamData(self._data_stream, piece, self._data_final and not self._data_left)

    def _control(self, kind: int, flags: int, payload: bytes) -> Event | _Ignored:
        read = {
            SYN_STREAM: self._syn_stream,
            SYN_REPLY: self._syn_reply,
            HEADERS: self._headers,
            RST_STREAM: self._rst_stream,
            PING: self._ping,
            GOAWAY: self._goaway,
        }.get(kind)
        if read is not None:
            return read(flags, payload)
        if kind in (SETTINGS, WINDOW_UPDATE):
            return _IGNORED
        raise SpdyError(f"control frame of unknown type {kind}")

    def _syn_stream(self, flags: int, payload: bytes) -> Event:
        _need(payload, _STREAM.size, "SYN_STREAM")
        stream = _stream_id(payload)
        return StreamOpened(stream, self._header_block(payload[_STREAM.size :]), bool(flags & FLAG_FIN))

    def _syn_reply(self, flags: int, payload: bytes) -> Event:
        _need(payload, _WORD.size, "SYN_REPLY")
        return StreamReplied(_stream_id(payload), self._header_block(payload[4:]), bool(flags & FLAG_FIN))

    def _headers(self, flags: int, payload: bytes) -> Event | _Ignored:
        _need(payload, _WORD.size, "HEADERS")
        self._header_block(payload[4:])  # nobody needs them, but the compression context does
        return StreamData(_stream_id(payload), b"", finished=True) if flags & FLAG_FIN else _IGNORED

    def _rst_stream(self, _flags: int, payload: bytes) -> Event:
        _need(payload, 8, "RST_STREAM")
        return StreamReset(_stream_id(payload), _WORD.unpack_from(payload, 4)[0])

    def _ping(self, _flags: int, payload: bytes) -> Event:
        _need(payload, 4, "PING")
        return Pinged(_WORD.unpack_from(payload)[0])

    def _goaway(self, _flags: int, payload: bytes) -> Event:
        _need(payload, 8, "GOAWAY")
        return GoneAway(_WORD.unpack_from(payload, 4)[0])

    def _header_block(self, packed: bytes) -> dict[str, str]:
        try:
            # max_length keeps a bomb of zeros from becoming a gigabyte
            block = self._inflate.decompress(packed, MAX_HEADER_BYTES + 1)
        except zlib.error as e:
            raise SpdyError(f"header block: {e}") from None
        if len(block) > MAX_HEADER_BYTES or self._inflate.unconsumed_tail:
            raise SpdyError(f"header block larger than {MAX_HEADER_BYTES} bytes")
        return _parse_headers(block)


class _Ignored:
    """A frame that is understood and means nothing to us."""


_IGNORED = _Ignored()


def _need(payload: bytes, count: int, name: str) -> None:
    if len(payload) < count:
        raise SpdyError(f"{name} of {len(payload)} bytes, at least {count} are needed")


def _stream_id(payload: bytes) -> int:
    stream: int = _WORD.unpack_from(payload)[0] & 0x7FFFFFFF
    if stream == 0:
        raise SpdyError("control frame for stream 0")
    return stream


def _parse_headers(block: bytes) -> dict[str, str]:
    """Name/value pairs; of several values (divided by NUL) the first, which is what Go's Header.Get gives."""
    _need(block, 4, "header block")
    count: int = _WORD.unpack_from(block)[0]
    if count > MAX_HEADERS:
        raise SpdyError(f"{count} headers, at most {MAX_HEADERS} are allowed")
    headers: dict[str, str] = {}
    at = 4
    for _ in range(count):
        name, at = _string(block, at)
        value, at = _string(block, at)
        headers[name.lower()] = value.split("\0")[0]
    return headers


def _string(block: bytes, at: int) -> tuple[str, int]:
    _need(block, at + 4, "header block")
    length: int = _WORD.unpack_from(block, at)[0]
    end = at + 4 + length
    _need(block, end, "header block")
    return block[at + 4 : end].decode("latin-1"), end


class Encoder:
    """Writes the frames of one direction, in the order of the calls: the header blocks share one context."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def syn_stream(self, stream: int, headers: dict[str, str], *, finished: bool = False) -> bytes:
        """Open a stream."""
        payload = _STREAM.pack(stream, 0, 0, 0) + self._header_block(headers)
        return _control(SYN_STREAM, FLAG_FIN if finished else 0, payload)

    def syn_reply(self, stream: int, headers: dict[str, str] | None = None) -> bytes:
        """Accept a stream of the peer."""
        return _control(SYN_REPLY, 0, _WORD.pack(stream) + self._header_block(headers or {}))

    def _header_block(self, headers: dict[str, str]) -> bytes:
        block = bytearray(_WORD.pack(len(headers)))
        for name, value in headers.items():
            for text in (name.lower().encode("latin-1"), value.encode("latin-1")):
                block += _WORD.pack(len(text)) + text
        return self._deflate.compress(bytes(block)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def _control(kind: int, flags: int, payload: bytes) -> bytes:
    return _HEAD.pack(0x80030000 | kind, flags << 24 | len(payload)) + payload


def data_head(stream: int, length: int, *, finished: bool = False) -> bytes:
    """What goes before length bytes of data."""
    return _HEAD.pack(stream, (FLAG_FIN if finished else 0) << 24 | length)


def rst_stream(stream: int, status: int) -> bytes:
    """End a stream in both directions."""
    return _control(RST_STREAM, 0, _HEAD.pack(stream, status))


def ping(id_: int) -> bytes:
    """Ask for an answer, or answer."""
    return _control(PING, 0, _WORD.pack(id_))


def goaway(last_stream: int, status: int = 0) -> bytes:
    """Say that no more streams are taken; last_stream is the newest one that was."""
    return _control(GOAWAY, 0, _HEAD.pack(last_stream, status))
