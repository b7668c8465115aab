# SPDX-License-Identifier: Apache-2.0
"""Proxies from the environment: which one a server is reached through, and the CONNECT that opens a tunnel in it.

HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY in either case. NO_PROXY is read as Go's programs read it, because it is
written for containerd and the kubelet on the same machine: names with all beneath them, `.name` for what is beneath
only, addresses, networks in CIDR form, each with an optional port, and `*`.
"""

import ipaddress
import os
import socket
from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from cri.images.errors import ImageError
from runtime.linux.quick_dataclasses import dataclass

_MAX_REPLY = 65536


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy from the environment."""

    scheme: str
    host: str
    port: int
    authorization: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


class Refused(ConnectionError):
    """The proxy answered and will not connect us; `status` is its answer."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def proxy_for(scheme: str, host: str, port: int, environment: Mapping[str, str] | None = None) -> Proxy | None:
    """The proxy on the way to a server, or None. A server on loopback is never asked through one."""
    known = {k.lower(): v for k, v in (os.environ if environment is None else environment).items() if v}
    url = known.get(f"{scheme}_proxy") or known.get("all_proxy")
    if not url or _is_loopback(host) or is_exempt(host, port, known.get("no_proxy", "")):
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ImageError(
            f"{scheme}_proxy: {parts.scheme}://{parts.hostname or ''} is no proxy that we can use",
            hint="http:// and https:// proxies are supported; NO_PROXY exempts a host",
        )
    login = ""
    if parts.username is not None:
        text = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        login = "Basic " + b64encode(text.encode()).decode()
    return Proxy(parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80), login)


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def is_exempt(host: str, port: int, no_proxy: str) -> bool:
    """Whether NO_PROXY names this server."""
    return any(_matches(entry.strip().lower(), host.lower(), port) for entry in no_proxy.split(",") if entry.strip())


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    address = _address(host)
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    if _address(entry) is None:
        entry, _, wanted = entry.rpartition(":") if entry.rpartition(":")[2].isdigit() else (entry, "", "")
        if wanted and int(wanted) != port:
            return False
    if _address(entry) is not None:
        return address == _address(entry)
    entry = entry.removeprefix("*")
    return host.endswith(entry) if entry.startswith(".") else host == entry or host.endswith(f".{entry}")


def tunnel(sock: socket.socket, host: str, port: int, proxy: Proxy, user_agent: str) -> None:
    """Make a connection to a proxy one to the server behind it."""
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {name} HTTP/1.1", f"Host: {name}", f"User-Agent: {user_agent}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    reply = b""
    while b"\r\n\r\n" not in reply:
        piece = sock.recv(1)  # one by one: what follows the blank line belongs to TLS
        if not piece or len(reply) > _MAX_REPLY:
            raise ConnectionError(f"the proxy {proxy} broke off")
        reply += piece
    status = b"".join(reply.split(b" ", 2)[1:2])
    if not status.startswith(b"2"):
        line = reply.partition(b"\r\n")[0].decode("latin-1")
        raise Refused(f"the proxy {proxy} says {line[:200]!r}", int(status) if status.isdigit() else 0)
