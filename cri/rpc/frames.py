# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 frames (RFC 9113): what goes over the wire in both directions, as bytes (pure)."""

from __future__ import annotations

import struct

from cri.rpc.hpack import literal
from cri.rpc.status import Code

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 9
FRAME_BYTES = 16384  # the largest frame that both sides must take
DEFAULT_WINDOW = 65535
LARGEST_WINDOW = (1 << 31) - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

# error codes
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM = 0, 1, 3, 5, 6, 7
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 9, 11

# settings
ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 2, 3, 4, 5, 6
LARGEST_FRAME_BYTES = (1 << 24) - 1

_CONTENT_TYPE = literal(b"content-type", b"application/grpc")
_OK = b"\x88"  # :status 200, by its place in the static table
_LONGEST_MESSAGE = 8192


class BadFrame(Exception):
    """The other side broke the protocol; the connection ends with this error code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class BadStream(Exception):
    """The other side broke the rules of one stream; that ends with this error code, the connection goes on."""

    def __init__(self, stream: int, code: int, text: str) -> None:
        super().__init__(text)
        self.stream = stream
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    length = len(payload)
    return struct.pack(">BHBBL", length >> 16, length & 0xFFFF, kind, flags, stream) + payload


def head(data: bytes | bytearray, at: int) -> tuple[int, int, int, int]:
    """(length, kind, flags, stream) of the frame that begins here."""
    high, low, kind, flags, stream = struct.unpack_from(">BHBBL", data, at)
    return high << 16 | low, kind, flags, stream & LARGEST_WINDOW


_OF_A_STREAM = frozenset((DATA, HEADERS, PRIORITY, RST_STREAM, CONTINUATION))
_OF_THE_CONNECTION = frozenset((SETTINGS, PING, GOAWAY))
_EXACT_BYTES = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}


def check(kind: int, stream: int, length: int) -> None:
    """What holds for every frame of this kind, whatever was said before."""
    if length > FRAME_BYTES:
        raise BadFrame(FRAME_SIZE_ERROR, f"a frame of {length} bytes")
    if (kind in _OF_A_STREAM and not stream) or (kind in _OF_THE_CONNECTION and stream):
        raise BadFrame(PROTOCOL_ERROR, f"a frame of kind {kind} on stream {stream}")
    if length != _EXACT_BYTES.get(kind, length):
        raise BadFrame(FRAME_SIZE_ERROR, f"a frame of kind {kind} with {length} bytes")


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HL", key, value) for key, value in values.items()))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """(key, value) in the order in which they take effect."""
    if len(payload) % 6:
        raise BadFrame(FRAME_SIZE_ERROR, "SETTINGS of an odd length")
    found: list[tuple[int, int]] = list(struct.iter_unpack(">HL", payload))
    for key, value in found:
        if key == INITIAL_WINDOW_SIZE and value > LARGEST_WINDOW:
            raise BadFrame(FLOW_CONTROL_ERROR, "a window is too large")
        if key == ENABLE_PUSH and value > 1:
            raise BadFrame(PROTOCOL_ERROR, f"ENABLE_PUSH is {value}")
        if key == MAX_FRAME_SIZE and not FRAME_BYTES <= value <= LARGEST_FRAME_BYTES:
            raise BadFrame(PROTOCOL_ERROR, f"MAX_FRAME_SIZE is {value}")
    return found


def number(payload: bytes) -> int:
    """The 31 bits of a WINDOW_UPDATE, the 32 of an RST_STREAM."""
    found: int = struct.unpack(">L", payload)[0]
    return found


def depends_on(flags: int, payload: bytes) -> int | None:
    """The stream that a HEADERS frame with a priority, or a PRIORITY frame, names as its parent."""
    start = 1 if flags & PADDED else 0
    if not flags & HAS_PRIORITY or len(payload) < start + 5:
        return None
    parent: int = struct.unpack_from(">L", payload, start)[0]
    return parent & LARGEST_WINDOW


def window_update(stream: int, more: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">L", more))


def reset(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">L", code))


def goaway(last: int, code: int, text: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">LL", last, code) + text.encode()[:200])


def unpadded(flags: int, payload: bytes) -> bytes:
    """What is left of DATA or HEADERS without padding and priority."""
    start, end = 0, len(payload)
    if flags & PADDED:
        start, end = 1, end - (payload[0] if payload else 1)
    if flags & HAS_PRIORITY:
        start += 5
    if start > end:
        raise BadFrame(PROTOCOL_ERROR, "the padding is longer than the frame")
    return payload[start:end] if flags & (PADDED | HAS_PRIORITY) else payload


def opening(stream: int) -> bytes:
    """The headers before the first message."""
    return frame(HEADERS, END_HEADERS, stream, _OK + _CONTENT_TYPE)


def message(stream: int, content: bytes) -> bytes:
    """A gRPC message cut into DATA frames."""
    data = struct.pack(">BL", 0, len(content)) + content
    if len(data) <= FRAME_BYTES:
        return frame(DATA, 0, stream, data)
    pieces = (data[at : at + FRAME_BYTES] for at in range(0, len(data), FRAME_BYTES))
    return b"".join(frame(DATA, 0, stream, piece) for piece in pieces)


_TRAILERS_OK = literal(b"grpc-status", b"0")


def closing(stream: int, code: Code = Code.OK, text: str = "", *, is_opened: bool = True) -> bytes:
    """The trailers; without messages before them they are the only headers."""
    if code == Code.OK and is_opened:
        return frame(HEADERS, END_HEADERS | END_STREAM, stream, _TRAILERS_OK)
    block = b"" if is_opened else _OK + _CONTENT_TYPE
    block += literal(b"grpc-status", str(int(code)).encode()) + literal(b"grpc-message", quoted(text))
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, block)


def quoted(text: str) -> bytes:
    """gRPC's percent encoding; what would not fit into one frame is cut."""
    out = bytearray()
    for byte in text.encode("utf-8", "replace"):
        out += bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        if len(out) > _LONGEST_MESSAGE:
            break
    return bytes(out)


_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def timeout(value: bytes) -> float | None:
    """Seconds out of a grpc-timeout header; None if it is none."""
    unit = _UNITS.get(value[-1:])
    digits = value[:-1]
    return int(digits) * unit if unit is not None and digits.isdigit() and len(digits) <= 8 else None
