# SPDX-License-Identifier: Apache-2.0
"""HPACK (RFC 7541): reads the header blocks of a connection; what we send needs neither table nor Huffman code."""

from __future__ import annotations

import functools
from collections import deque

Header = tuple[bytes, bytes]
_ENTRY_OVERHEAD = 32  # RFC 7541, 4.1
_END_OF_STRING = 256

_STATIC_TEXT = """
:authority|;:method|GET;:method|POST;:path|/;:path|/index.html;:scheme|http;:scheme|https;:status|200;:status|204
:status|206;:status|304;:status|400;:status|404;:status|500;accept-charset|;accept-encoding|gzip, deflate
accept-language|;accept-ranges|;accept|;access-control-allow-origin|;age|;allow|;authorization|;cache-control|
content-disposition|;content-encoding|;content-language|;content-length|;content-location|;content-range|
content-type|;cookie|;date|;etag|;expect|;expires|;from|;host|;if-match|;if-modified-since|;if-none-match|;if-range|
if-unmodified-since|;last-modified|;link|;location|;max-forwards|;proxy-authenticate|;proxy-authorization|;range|
referer|;refresh|;retry-after|;server|;set-cookie|;strict-transport-security|;transfer-encoding|;user-agent|;vary|
via|;www-authenticate|
"""
STATIC: tuple[Header, ...] = tuple(
    (name.encode(), value.encode())
    for name, _, value in (each.partition("|") for each in _STATIC_TEXT.strip().replace("\n", ";").split(";"))
)

# The Huffman code is canonical, so the symbols of each length, in order, say all of it (ranges with a dash).
_LENGTHS = {
    5: "48-50 97 99 101 105 111 115 116",
    6: "32 37 45-47 51-57 61 65 95 98 100 102-104 108-110 112 114 117",
    7: "58 66-87 89 106 107 113 118-122",
    8: "38 42 44 59 88 90",
    10: "33 34 40 41 63",
    11: "39 43 124",
    12: "35 62",
    13: "0 36 64 91 93 126",
    14: "94 125",
    15: "60 96 123",
    19: "92 195 208",
    20: "128 130 131 162 184 194 224 226",
    21: "153 161 167 172 176 177 179 209 216 217 227 229 230",
    22: "129 132-134 136 146 154 156 160 163 164 169 170 173 178 181 185-187 189 190 196 198 228 232 233",
    23: "1 135 137-141 143 147 149-152 155 157 158 165 166 168 174 175 180 182 183 188 191 197 231 239",
    24: "9 142 144 145 148 159 171 206 215 225 236 237",
    25: "199 207 234 235",
    26: "192 193 200-202 205 210 213 218 219 238 240 242 243 255",
    27: "203 204 211 212 214 221-223 241 244-248 250-254",
    28: "2-8 11 12 14-21 23-31 127 220 249",
    30: "10 13 22 256",
}


class BadBlock(Exception):
    """A header block that cannot be read; the connection's table is lost with it."""


def _symbols() -> dict[tuple[int, int], int]:
    """(length, code) -> symbol."""
    found = {}
    code, last = 0, 0
    for length, text in _LENGTHS.items():
        for part in text.split():
            first, _, end = part.partition("-")
            for symbol in range(int(first), int(end or first) + 1):
                code <<= length - last
                found[length, code] = symbol
                code, last = code + 1, length
    return found


_SYMBOLS = _symbols()


@functools.lru_cache(maxsize=512)
def unpacked(data: bytes) -> bytes:
    """A string in the Huffman code."""
    out = bytearray()
    bits, code, length = int.from_bytes(data, "big"), 0, 0
    for shift in range(len(data) * 8 - 1, -1, -1):
        code, length = code << 1 | bits >> shift & 1, length + 1
        symbol = _SYMBOLS.get((length, code))
        if symbol is not None:
            if symbol == _END_OF_STRING:
                raise BadBlock("a string holds the end-of-string symbol")
            out.append(symbol)
            code = length = 0
    if length > 7 or code != (1 << length) - 1:
        raise BadBlock("a string ends in the middle of a symbol")
    return bytes(out)


class Decoder:
    """The dynamic table of one connection, as the other side writes it."""

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._most = limit
        self._size = 0
        self._table: deque[Header] = deque()

    def decode(self, block: bytes) -> list[Header]:
        try:
            return self._decode(block)
        except IndexError:
            raise BadBlock("a header block ends too early") from None

    def _decode(self, block: bytes) -> list[Header]:
        headers: list[Header] = []
        at, end = 0, len(block)
        while at < end:
            first = block[at]
            if first & 0x80:
                index, at = _integer(block, at, 7)
                headers.append(self._entry(index))
            elif first & 0x40:
                header, at = self._literal(block, at, 6)
                self._add(header)
                headers.append(header)
            elif first & 0x20:
                size, at = _integer(block, at, 5)
                if size > self._limit:
                    raise BadBlock(f"a table of {size} bytes was not offered")
                if headers:
                    raise BadBlock("the size of the table changes behind a header")
                self._most = size
                self._shrink()
            else:
                header, at = self._literal(block, at, 4)
                headers.append(header)
        return headers

    def _literal(self, block: bytes, at: int, prefix: int) -> tuple[Header, int]:
        index, at = _integer(block, at, prefix)
        if index:
            name = self._entry(index)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        return (name, value), at

    def _entry(self, index: int) -> Header:
        if 0 < index <= len(STATIC):
            return STATIC[index - 1]
        place = index - len(STATIC) - 1
        if not 0 <= place < len(self._table):
            raise BadBlock(f"no header has index {index}")
        return self._table[place]

    def _add(self, header: Header) -> None:
        self._table.appendleft(header)
        self._size += len(header[0]) + len(header[1]) + _ENTRY_OVERHEAD
        self._shrink()

    def _shrink(self) -> None:
        while self._size > self._most:
            name, value = self._table.pop()
            self._size -= len(name) + len(value) + _ENTRY_OVERHEAD


def _integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    most = (1 << prefix) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at
        if shift > 28:
            raise BadBlock("an integer is too long")


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    packed = block[at] & 0x80
    length, at = _integer(block, at, 7)
    data = block[at : at + length]
    if len(data) < length:
        raise BadBlock("a header block ends too early")
    return (unpacked(data) if packed else data), at + length


def literal(name: bytes, value: bytes) -> bytes:
    """One header as we send it: in no table, in no code."""
    return b"\0" + _sized(name) + _sized(value)


def _sized(data: bytes) -> bytes:
    length = len(data)
    if length < 127:
        return bytes((length,)) + data
    out = bytearray((127,))
    length -= 127
    while length >= 128:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out) + data
