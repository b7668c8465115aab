# SPDX-License-Identifier: Apache-2.0
"""What the headers of a request must be (RFC 9113, section 8): pure."""

from __future__ import annotations

from cri.rpc.hpack import Header

_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_NEEDED = (b":method", b":scheme", b":path")
_OF_ONE_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))


class BadHeaders(Exception):
    """The request is malformed; its stream ends with PROTOCOL_ERROR."""


def request(block: list[Header]) -> dict[bytes, bytes]:
    """The headers by name; of one that comes twice the last, which gRPC's own never do."""
    headers: dict[bytes, bytes] = {}
    are_regular = False
    for name, value in block:
        if name[:1] == b":":
            if are_regular or name not in _PSEUDO or name in headers:
                raise BadHeaders(f"{_shown(name)} is unknown, twice there, or behind an ordinary header")
        else:
            are_regular = True
            _check_regular(name, value)
        headers[name] = value
    for name in _NEEDED:
        if not headers.get(name):
            raise BadHeaders(f"{_shown(name)} is missing")
    return headers


def trailers(block: list[Header]) -> None:
    """What may follow the message."""
    for name, value in block:
        if name[:1] == b":":
            raise BadHeaders(f"{_shown(name)} among the trailers")
        _check_regular(name, value)


def _check_regular(name: bytes, value: bytes) -> None:
    if name != name.lower():
        raise BadHeaders(f"{_shown(name)} is not in lower case")
    if name in _OF_ONE_HOP or (name == b"te" and value != b"trailers"):
        raise BadHeaders(f"{_shown(name)} has no place in HTTP/2")


def _shown(name: bytes) -> str:
    return ascii(name[:40].decode("latin-1"))
