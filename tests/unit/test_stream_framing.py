# SPDX-License-Identifier: Apache-2.0
"""SPDY and WebSocket framing: however the bytes are cut, the same events come out, and garbage is refused."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.streaming import spdy, websocket

cuts = st.lists(st.integers(min_value=1, max_value=40), min_size=1, max_size=30)
header = st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """data in pieces of these sizes, over and over."""
    pieces, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        pieces.append(data[at : at + size])
        at, turn = at + size, turn + 1
    return pieces


def merged(events: list[spdy.Event]) -> list[object]:
    """Events with neighbouring pieces of one stream's data joined: how a frame is cut is nobody's business."""
    out: list[object] = []
    for event in events:
        last = out[-1] if out else None
        both = isinstance(event, spdy.StreamData) and isinstance(last, spdy.StreamData)
        if both and not last.finished and last.stream == event.stream:
            out[-1] = spdy.StreamData(event.stream, last.data + event.data, event.finished)
        else:
            out.append(event)
    return out


@st.composite
def spdy_traffic(draw: st.DrawFn) -> tuple[bytes, list[object]]:
    encoder = spdy.Encoder()
    wire, expected = b"", []
    for number in range(draw(st.integers(min_value=1, max_value=4))):
        stream = 2 * number + 1
        headers = {name.lower(): value for name, value in draw(st.dictionaries(header, header, max_size=4)).items()}
        data = draw(st.binary(min_size=1, max_size=200))
        wire += encoder.syn_stream(stream, headers) + spdy.ping(stream)
        wire += spdy.data_head(stream, len(data), finished=True) + data
        expected += [spdy.StreamOpened(stream, headers, finished=False), spdy.Pinged(stream)]
        expected.append(spdy.StreamData(stream, data, finished=True))
    return wire + spdy.goaway(1), [*expected, spdy.GoneAway(0)]


@given(spdy_traffic(), cuts)
def test_spdy_events_do_not_depend_on_how_the_bytes_are_cut(
    traffic: tuple[bytes, list[object]], sizes: list[int]
) -> None:
    wire, expected = traffic
    decoder = spdy.Decoder()
    events = [event for piece in cut(wire, sizes) for event in decoder.feed(piece)]
    assert merged(events) == expected


@given(st.binary(max_size=300), cuts)
def test_spdy_garbage_is_refused_or_understood_but_never_crashes(garbage: bytes, sizes: list[int]) -> None:
    decoder = spdy.Decoder()
    try:
        for piece in cut(garbage, sizes):
            list(decoder.feed(piece))
    except spdy.SpdyError:
        pass


def test_the_spdy_dictionary_is_the_one_of_the_draft() -> None:
    assert len(spdy.DICTIONARY) == 1423
    assert zlib.adler32(spdy.DICTIONARY) == 0xE3C6A7C2  # the id that zlib streams of other implementations carry


def test_a_header_bomb_is_refused_before_it_unfolds() -> None:
    deflate = zlib.compressobj(zdict=spdy.DICTIONARY)
    bomb = deflate.compress(bytes(20_000_000)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    payload = b"\0\0\0\1\0\0\0\0\0\0" + bomb
    assert len(payload) < spdy.MAX_CONTROL_BYTES
    frame = (0x80030001).to_bytes(4, "big") + len(payload).to_bytes(4, "big") + payload
    with pytest.raises(spdy.SpdyError, match="header block larger"):
        list(spdy.Decoder().feed(frame))


def masked(opcode: int, data: bytes, mask: bytes, *, final: bool = True) -> bytes:
    """A client's frame."""
    head = bytearray(websocket.head(opcode, len(data)))
    head[0] = (0x80 if final else 0) | opcode
    head[1] |= 0x80
    return bytes(head) + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))


@given(st.binary(max_size=70_000), st.binary(min_size=4, max_size=4), cuts, st.integers(min_value=0, max_value=200))
def test_websocket_messages_do_not_depend_on_how_they_are_cut(
    data: bytes, mask: bytes, sizes: list[int], split: int
) -> None:
    wire = masked(websocket.BINARY, data[:split], mask, final=False)
    wire += masked(websocket.PING, b"between fragments", mask)
    wire += masked(websocket.CONTINUATION, data[split:], mask) + masked(websocket.CLOSE, b"\x03\xe8", mask)
    decoder = websocket.Decoder()
    big = [size * 97 for size in sizes]
    events = [event for piece in cut(wire, big) for event in decoder.feed(piece)]
    pieces = [event for event in events if isinstance(event, websocket.Piece)]
    assert b"".join(piece.data for piece in pieces) == data
    assert [piece.first for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert websocket.Pinged(b"between fragments") in events
    assert events[-1] == websocket.Closed(1000)


@given(st.binary(max_size=300), cuts)
def test_websocket_garbage_is_refused_or_understood_but_never_crashes(garbage: bytes, sizes: list[int]) -> None:
    decoder = websocket.Decoder()
    try:
        for piece in cut(garbage, sizes):
            list(decoder.feed(piece))
    except websocket.WebSocketError:
        pass


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (websocket.head(websocket.BINARY, 1) + b"x", "must mask"),
        (b"\xf2\x80\0\0\0\0", "reserved bits"),
        (masked(websocket.CONTINUATION, b"x", b"abcd"), "continuation of no message"),
        (masked(websocket.PING, b"x", b"abcd", final=False), "control frame"),
        (masked(3, b"x", b"abcd"), "unknown opcode"),
        (masked(websocket.CLOSE, b"x", b"abcd"), "one byte"),
    ],
)
def test_a_frame_against_the_rules_is_refused_by_name(frame: bytes, complaint: str) -> None:
    with pytest.raises(websocket.WebSocketError, match=complaint):
        list(websocket.Decoder().feed(frame))


def test_the_accept_key_is_the_one_of_the_rfc() -> None:
    assert websocket.accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert websocket.accept_key("short") is None
