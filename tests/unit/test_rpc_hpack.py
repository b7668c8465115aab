# SPDX-License-Identifier: Apache-2.0
"""Header blocks of HTTP/2, with the examples of RFC 7541 as the judge."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.rpc import hpack
from cri.rpc.hpack import BadBlock, Decoder, literal


def test_the_examples_of_the_specification_are_read_one_after_the_other() -> None:
    """Appendix C.4: three requests on one connection, Huffman coded, the later ones with the table of the first."""
    decoder = Decoder()
    common = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
    assert decoder.decode(bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff")) == common
    second = decoder.decode(bytes.fromhex("828684be5886a8eb10649cbf"))
    assert second == [*common, (b"cache-control", b"no-cache")]
    third = decoder.decode(bytes.fromhex("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf"))
    assert third == [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/index.html"),
        (b":authority", b"www.example.com"),
        (b"custom-key", b"custom-value"),
    ]


def test_a_full_table_forgets_the_oldest() -> None:
    decoder = Decoder(limit=64)
    for name in (b"aaaa", b"bbbb"):
        decoder.decode(b"\x40\x04" + name + b"\x01x")
    assert decoder.decode(b"\xbe") == [(b"bbbb", b"x")]
    with pytest.raises(BadBlock, match="63"):
        decoder.decode(b"\xbf")


def test_the_whole_huffman_code_is_there() -> None:
    """Kraft's equation holds: every bit string leads to exactly one of the 257 symbols."""
    assert sorted(hpack._SYMBOLS.values()) == list(range(257))
    assert sum(1 << (30 - length) for length, _ in hpack._SYMBOLS) == 1 << 30


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_what_we_write_can_be_read(name: bytes, value: bytes) -> None:
    assert Decoder().decode(literal(name, value)) == [(name, value)]


@given(st.binary(max_size=60))
def test_no_block_breaks_the_reader(block: bytes) -> None:
    with contextlib.suppress(BadBlock):
        Decoder().decode(block)
