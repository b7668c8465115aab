# SPDX-License-Identifier: Apache-2.0
"""The little HTTP/1.1 that comes before an upgrade: one request head in, one response head out; no sockets."""

from __future__ import annotations

from runtime.linux.quick_dataclasses import dataclass

MAX_HEAD_BYTES = 32 * 1024

_REASONS = {
    101: "Switching Protocols",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Refused(Exception):
    """The request cannot be served; status and text are the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """A request head. Header names are lower case; a repeated header keeps all its values in order."""

    method: str
    path: str
    query: str
    headers: dict[str, tuple[str, ...]]

    def first(self, name: str) -> str:
        """The header's first value, or nothing."""
        return self.headers.get(name, ("",))[0]

    def tokens(self, name: str) -> list[str]:
        """All values of a header whose values are comma-separated tokens."""
        return [token.strip() for value in self.headers.get(name, ()) for token in value.split(",") if token.strip()]

    def wants_upgrade_to(self, protocol: str) -> bool:
        """Connection: Upgrade and Upgrade: protocol, in any case."""
        asks = any(token.lower() == "upgrade" for token in self.tokens("connection"))
        return asks and any(token.lower() == protocol for token in self.tokens("upgrade"))


def parse(head: bytes) -> Request:
    """Parse a head without its closing empty line. Raises Refused."""
    try:
        lines = head.decode("ascii").split("\r\n")
    except UnicodeDecodeError:
        raise Refused(400, "not HTTP: the head holds bytes that are not ASCII") from None
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
        raise Refused(400, "not an HTTP/1.1 request")
    headers: dict[str, tuple[str, ...]] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise Refused(400, "a header line without a name or a colon")
        headers[name.lower()] = (*headers.get(name.lower(), ()), value.strip())
    path, _, query = words[1].partition("?")
    return Request(words[0], path, query, headers)


def response(status: int, headers: dict[str, str], text: str = "") -> bytes:
    """A whole response. Without an upgrade it closes the connection and carries its text as the body."""
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", *(f"{name}: {value}" for name, value in headers.items())]
    body = b""
    if status != 101:
        body = text.encode() + b"\n"
        lines += ["Content-Type: text/plain; charset=utf-8", "X-Content-Type-Options: nosniff"]
        lines += [f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
