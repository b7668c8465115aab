# SPDX-License-Identifier: Apache-2.0
"""HTTP to registries: kept connections, TLS, proxies, and a caller who may leave at any moment.

http.client parses, we own the sockets: that is how a cancel reaches a thread in recv(2) (it shuts the socket down) and
how a server that drips bytes is told from a slow one.
"""

import http.client
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import cast

from cri.images.cancel import Cancellation
from cri.images.errors import Unreachable
from cri.images.patience import Patience
from cri.images.proxies import Proxy, Refused, proxy_for, tunnel
from runtime.linux.quick_dataclasses import dataclass

USER_AGENT = "ketch/0.1"
_IDLE_LIMIT_SECONDS = 60.0  # a kept connection older than this was probably closed by the other side
_KEPT_PER_SERVER = 8


@dataclass(frozen=True, slots=True)
class Tls:
    """How to trust a server and how to show who we are."""

    authorities: tuple[str, ...] = ()
    clients: tuple[tuple[str, str], ...] = ()  # certificate and key ('' if in the same file)
    skip_verify: bool = False


@dataclass(frozen=True, slots=True)
class Server:
    """Where to connect: scheme, host, port and trust."""

    scheme: str
    host: str
    port: int
    tls: Tls = Tls()

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return f"{self.scheme}://{host}" + ("" if self.port == default else f":{self.port}")


class Response:
    """A reply whose body is read in pieces; `close` hands the connection back if nothing is left in it."""

    def __init__(self, inner: http.client.HTTPResponse, done: Callable[[bool], None], patience: Patience) -> None:
        self.status = inner.status
        self.headers = inner.headers
        self._inner = inner
        self._done: Callable[[bool], None] | None = done
        self._patience = patience
        self._window_start = time.monotonic()
        self._window_bytes = 0

    def header(self, name: str) -> str:
        return self.headers.get(name) or ""

    @property
    def length(self) -> int:
        """Content-Length, -1 where the server does not say."""
        value = self.header("Content-Length")
        return int(value) if value.isdigit() else -1

    def piece(self, size: int = 1 << 18) -> bytes:
        """The next bytes as they come; empty at the end (or where the server broke off)."""
        data = self._inner.read1(size)
        self._window_bytes += len(data)
        if data and self._window_bytes >= self._patience.least_bytes:
            now = time.monotonic()
            if now - self._window_start >= self._patience.window_seconds:
                self._window_start, self._window_bytes = now, 0
        elif data and time.monotonic() - self._window_start >= self._patience.window_seconds:
            raise Unreachable(
                f"only {self._window_bytes} bytes in {self._patience.window_seconds:g} s", hint="the registry stalls"
            )
        return data

    def body(self, limit: int) -> bytes:
        """A small body whole; what exceeds the limit is an error."""
        parts: list[bytes] = []
        size = 0
        while piece := self.piece():
            parts.append(piece)
            size += len(piece)
            if size > limit:
                raise Unreachable(f"a reply of more than {limit} bytes", hint="is this a registry?")
        if 0 <= self.length != size and self.headers.get("Content-Encoding") is None and self._has_body():
            raise Unreachable(f"{size} of {self.length} bytes", hint="the transfer was cut short")
        return b"".join(parts)

    def _has_body(self) -> bool:
        return self._inner.length is not None and self.status not in (204, 304)

    def close(self) -> None:
        if self._done is not None:
            done, self._done = self._done, None
            inner = self._inner
            # Until 3.12 read1 leaves a reply open of which it has read the last byte; HEAD's has none to read.
            whole = inner.isclosed() or (not inner.chunked and inner.length == 0)
            inner.close()  # first: http.client takes no new request before
            done(whole and not inner.will_close)

    def __enter__(self) -> "Response":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Connection(http.client.HTTPConnection):
    """http.client on a socket that we connected."""

    def __init__(self, server: Server, sock: socket.socket, *, proxy: Proxy | None) -> None:
        """`proxy`: one that is asked for whole URLs, as it is for plain HTTP; a tunnel is like the server itself."""
        super().__init__(server.host, server.port)
        self.sock = sock
        self.proxy = proxy
        self.used = time.monotonic()
        self.fresh = True

    def connect(self) -> None:
        raise ConnectionResetError("the connection was closed")  # never reconnect behind our back

    def stale(self) -> bool:
        """Closed by the other side while idle, or about to be."""
        if time.monotonic() - self.used > _IDLE_LIMIT_SECONDS:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))


class Transport:
    """Connections to any number of servers, kept and shared by threads."""

    def __init__(self, patience: Patience | None = None, environment: Mapping[str, str] | None = None) -> None:
        self.patience = patience or Patience()
        self._environment = environment
        self._lock = threading.Lock()
        self._idle: dict[Server, list[_Connection]] = {}
        self._contexts: dict[Tls, ssl.SSLContext] = {}
        self.plain: set[Server] = set()  # on loopback: asked for TLS, known not to speak it

    def request(
        self,
        server: Server,
        method: str,
        target: str,
        headers: Mapping[str, str],
        *,
        body: bytes | Iterable[bytes] | None = None,
        cancel: Cancellation | None = None,
    ) -> Response:
        """Send one request; a kept connection that turns out dead is replaced once."""
        doing = f"{method} {server}{target.partition('?')[0]}"
        while True:
            connection = self._take(server, cancel, doing)
            try:
                return self._exchange(connection, server, method, target, headers, body, cancel)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if cancel is not None:
                    cancel.check(doing)
                retry = not connection.fresh and (body is None or isinstance(body, bytes))
                if not retry or isinstance(error, TimeoutError):
                    raise _unreachable(doing, error) from error
            except BaseException:
                connection.close()
                raise

    def _exchange(
        self,
        connection: _Connection,
        server: Server,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None,
        cancel: Cancellation | None,
    ) -> Response:
        sock = connection.sock
        forget = cancel.on_cancel(lambda: _shut(sock)) if cancel is not None else lambda: None
        try:
            full = {"Host": str(server).partition("//")[2], "User-Agent": USER_AGENT, **headers}
            url = target
            if connection.proxy is not None:
                url = f"{server}{target}"
                if connection.proxy.authorization:
                    full["Proxy-Authorization"] = connection.proxy.authorization
            connection.request(method, url, body=cast(bytes | None, body), headers=full)
            inner = connection.getresponse()
        except BaseException:
            forget()
            raise

        def done(reusable: bool) -> None:  # noqa: FBT001 - a callback of one place
            forget()
            if reusable and not (cancel is not None and cancel.cancelled):
                self._keep(server, connection)
            else:
                connection.close()

        return Response(inner, done, self.patience)

    # -- connections -----------------------------------------------------------------------------------------------
    def _take(self, server: Server, cancel: Cancellation | None, doing: str) -> _Connection:
        while True:
            with self._lock:
                kept = self._idle.get(server)
                connection = kept.pop() if kept else None
            if connection is None:
                return self._connect(server, cancel, doing)
            if not connection.stale():
                connection.fresh = False
                return connection
            connection.close()

    def _keep(self, server: Server, connection: _Connection) -> None:
        connection.used = time.monotonic()
        with self._lock:
            kept = self._idle.setdefault(server, [])
            if len(kept) < _KEPT_PER_SERVER:
                kept.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close what is kept; requests under way go on."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.close()

    def _connect(self, server: Server, cancel: Cancellation | None, doing: str) -> _Connection:
        proxy = proxy_for(server.scheme, server.host, server.port, self._environment)
        sock: socket.socket | None = None
        try:
            if proxy is None:
                sock = _dial(server.host, server.port, self.patience.connect_seconds, cancel, doing)
            else:
                sock = _dial(proxy.host, proxy.port, self.patience.connect_seconds, cancel, doing)
            sock.settimeout(self.patience.idle_seconds)
            # A second handle: wrap_socket takes the descriptor away from the first.
            with socket.socket(fileno=os.dup(sock.fileno())) as handle:
                forget = cancel.on_cancel(lambda: _shut(handle)) if cancel is not None else lambda: None
                try:
                    sock = self._secure(sock, server, proxy)
                finally:
                    forget()
            return _Connection(server, sock, proxy=proxy if server.scheme == "http" else None)
        except OSError as error:
            if sock is not None:
                sock.close()
            if cancel is not None:
                cancel.check(doing)
            raise _unreachable(doing, error) from error

    def _secure(self, sock: socket.socket, server: Server, proxy: Proxy | None) -> socket.socket:
        if proxy is not None and proxy.scheme == "https":
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=proxy.host)
        if server.scheme == "https":
            if proxy is not None:
                tunnel(sock, server.host, server.port, proxy, USER_AGENT)
            sock = self._context(server.tls).wrap_socket(sock, server_hostname=server.host)
        return sock

    def _context(self, tls: Tls) -> ssl.SSLContext:
        with self._lock:
            context = self._contexts.get(tls)
            if context is None:
                context = self._contexts[tls] = _make_context(tls)
        return context


def _make_context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    for path in tls.authorities:
        context.load_verify_locations(cafile=path)
    for certificate, key in tls.clients:
        context.load_cert_chain(certificate, key or None)
    if tls.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _shut(sock: socket.socket) -> None:
    """Wake whoever is in recv or send on it. Not SSLSocket.shutdown, which another thread's read cannot bear."""
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass


def _dial(host: str, port: int, seconds: float, cancel: Cancellation | None, doing: str) -> socket.socket:
    """Connect, all addresses in turn, without ever blocking where a cancel cannot reach."""
    deadline = time.monotonic() + seconds
    failure: OSError = OSError(f"{host} has no address")
    for family, address in _addresses(host, port, seconds, cancel, doing):
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(0.0)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _finish_connect(sock, address, deadline, cancel, doing)
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise failure


def _finish_connect(
    sock: socket.socket, address: object, deadline: float, cancel: Cancellation | None, doing: str
) -> None:
    number = sock.connect_ex(cast(tuple[str, int], address))
    if number not in (0, 115):  # EINPROGRESS
        raise OSError(number, os.strerror(number))
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    while not poll.poll(30):
        if cancel is not None:
            cancel.check(doing)
        if time.monotonic() > deadline:
            raise TimeoutError("no answer to the connection attempt")
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))


def _addresses(
    host: str, port: int, seconds: float, cancel: Cancellation | None, doing: str
) -> list[tuple[socket.AddressFamily, object]]:
    """getaddrinfo(3) cannot be interrupted: it runs in a thread that we may leave behind."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return [(item[0], item[4]) for item in found]
    except socket.gaierror:
        pass
    answer: list[tuple[socket.AddressFamily, object]] = []
    failure: list[OSError] = []
    ready = threading.Event()

    def resolve() -> None:
        try:
            answer.extend((i[0], i[4]) for i in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            failure.append(error)
        ready.set()

    threading.Thread(target=resolve, name=f"resolve {host}", daemon=True).start()
    forget = cancel.on_cancel(ready.set) if cancel is not None else lambda: None
    try:
        in_time = ready.wait(seconds)
    finally:
        forget()
    if cancel is not None:
        cancel.check(doing)
    if failure:
        raise failure[0]
    if not in_time:
        raise TimeoutError(f"the name {host} is not resolved after {seconds:g} s")
    return answer


def _unreachable(doing: str, error: Exception) -> Unreachable:
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "put its CA into certs.d/HOST/hosts.toml (ca = ...)"
        return Unreachable(f"{doing}: the server's certificate is not trusted: {error.verify_message}", hint=hint)
    if isinstance(error, ssl.SSLError) and "WRONG_VERSION_NUMBER" in str(error):
        return PlainServer(
            f"{doing}: the server speaks plain HTTP", hint='certs.d/HOST/hosts.toml: server = "http://..."'
        )
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME:
        return NoSuchHost(f"{doing}: {error.strerror}", hint="is the registry's name right?")
    if isinstance(error, TimeoutError):
        return Unreachable(f"{doing}: no answer in time", hint="is the registry up?")
    text = str(error) or type(error).__name__
    if isinstance(error, Refused) and 400 <= error.status < 500:
        return ProxyRefused(f"{doing}: {text}", hint="see HTTPS_PROXY and NO_PROXY")
    return Unreachable(f"{doing}: {text}")


class ProxyRefused(Unreachable):
    """A proxy that knows what we want and will not do it: asking again changes nothing."""


class NoSuchHost(Unreachable):
    """The resolver is sure that there is no such name."""


class PlainServer(Unreachable):
    """TLS was tried on a server that does not speak it."""
