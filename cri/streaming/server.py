# SPDX-License-Identifier: Apache-2.0
"""The streaming server: hands out single-use URLs and serves each in a thread of its own."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
from time import monotonic

from cri.clients import clients
from cri.streaming import http, upgrade
from cri.streaming.backend import AttachRequest, Backend, ExecRequest, PortForwardRequest
from cri.streaming.link import Link
from cri.streaming.tokens import Tokens
from runtime.linux.quick_dataclasses import dataclass

log = logging.getLogger("ketch.streaming")

HEAD_SECONDS = 10.0
SPARE_CONNECTIONS = 64  # that have not yet shown a token, beside the sessions

Request = ExecRequest | AttachRequest | PortForwardRequest


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A certificate and its key in PEM files; with a client CA, clients must show a certificate it signed."""

    certificate: str
    key: str
    client_ca: str = ""


class StreamingServer:
    """Listens from start() until stop(); register_*() may be called from any thread in between.

    Errors are named in the answer to the client and logged once; a connection holds nothing but its own thread.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        advertised_host: str = "",
        tls: TlsFiles | None = None,
        token_seconds: float = 60.0,
        idle_seconds: float = 4 * 3600.0,
        max_sessions: int = 1000,
    ) -> None:
        """advertised_host is what the URLs name, when it is not the address to listen on."""
        self._backend = backend
        self._address = (host, port)
        self._advertised_host = advertised_host or host
        self._tls = _tls_context(tls) if tls else None
        self._idle_seconds = idle_seconds
        self._tokens: Tokens[Request] = Tokens(token_seconds)
        self._room = threading.BoundedSemaphore(max_sessions + SPARE_CONNECTIONS)
        self._listener: socket.socket | None = None
        self._stopping = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Bind and listen. Raises OSError with the address in its text when it is taken."""
        host, port = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, port), family=family, backlog=256)
        except OSError as e:
            raise OSError(
                e.errno, f"cannot listen for streams at {host} port {port}: {os.strerror(e.errno or 0)}"
            ) from e
        threading.Thread(target=self._accept, args=(self._listener,), name="streaming accept", daemon=True).start()

    def stop(self) -> None:
        """Stop listening and end the sessions; the processes in the containers live on."""
        if self._stopping < 0:
            return
        os.eventfd_write(self._stopping, 1)
        if self._listener:
            # shutdown(2) wakes the thread in accept(2); close(2) alone would leave it there
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        deadline = monotonic() + 10.0
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))
        if not any(thread.is_alive() for thread in threads):
            os.close(self._stopping)  # not while a session that would not end in time still polls it
            self._stopping = -1

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._listener is not None, "not started"
        port: int = self._listener.getsockname()[1]
        return port

    def register_exec(self, request: ExecRequest) -> str:
        """A URL good for one use within token_seconds."""
        return self._url("exec", request)

    def register_attach(self, request: AttachRequest) -> str:
        """A URL good for one use within token_seconds."""
        return self._url("attach", request)

    def register_port_forward(self, request: PortForwardRequest) -> str:
        """A URL good for one use within token_seconds."""
        return self._url("portforward", request)

    def _url(self, action: str, request: Request) -> str:
        host = f"[{self._advertised_host}]" if ":" in self._advertised_host else self._advertised_host
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{host}:{self.port}/{action}/{self._tokens.issue(request)}"

    def _accept(self, listener: socket.socket) -> None:
        is_full = False
        for connection, peer in clients(listener):
            was_full, is_full = is_full, not self._begin(connection, peer)
            if is_full and not was_full:
                log.warning("too many stream connections: %s refused, and who comes until one ends", peer[0])

    def _begin(self, connection: socket.socket, peer: tuple[str, int]) -> bool:
        """False: there is no room for it, and it was sent away."""
        has_room = self._room.acquire(blocking=False)
        thread = threading.Thread(target=self._serve, args=(connection, peer), name="stream", daemon=True)
        with self._lock:
            self._threads.add(thread)
        try:
            if has_room:
                thread.start()
                return True
        except RuntimeError:  # the kernel gives us no more threads
            self._room.release()
        with self._lock:
            self._threads.discard(thread)
        connection.close()
        return False

    def _serve(self, connection: socket.socket, peer: tuple[str, int]) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._converse(connection)
        except http.Refused as e:
            log.info("stream connection from %s port %d refused: %s", peer[0], peer[1], e)
        except OSError as e:
            log.info("stream connection from %s port %d: %s", peer[0], peer[1], e)
        except Exception:
            log.exception("stream connection from %s port %d", peer[0], peer[1])
        finally:
            connection.close()
            with self._lock:
                self._threads.discard(threading.current_thread())
            self._room.release()

    def _converse(self, connection: socket.socket) -> None:
        connection.settimeout(HEAD_SECONDS)
        if self._tls:
            connection = self._tls.wrap_socket(connection, server_side=True)
        try:
            try:
                head, rest = _read_head(connection)
                session = self._session(http.parse(head))
            except http.Refused as e:
                connection.sendall(http.response(e.status, {}, str(e)))
                Link(connection).linger(1.0)
                raise
            link = Link(connection)
            link.unread = rest
            session.serve(link, self._stopping, self._idle_seconds)
        finally:
            connection.close()

    def _session(self, request: http.Request) -> upgrade.Session:
        parts = request.path.split("/")
        if len(parts) != 3 or parts[1] not in ("exec", "attach", "portforward"):
            raise http.Refused(404, "no such page")
        if request.method not in ("GET", "POST"):
            raise http.Refused(405, f"method {request.method}: expected GET or POST")
        agreed = upgrade.agree(request, parts[1])  # before the token is spent: a refused upgrade may be tried again
        asked = self._tokens.redeem(parts[2])
        if asked is None or upgrade.action_of(asked) != parts[1]:
            raise http.Refused(404, "this session is not known: its URL was used before, or has expired")
        return upgrade.Session(agreed, asked, self._backend)


def _tls_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.client_ca or None)
    context.load_cert_chain(files.certificate, files.key)
    context.set_alpn_protocols(["http/1.1"])
    if files.client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """The request head and what came after it. One deadline for it all: a slow writer cannot hold the thread."""
    deadline = monotonic() + HEAD_SECONDS
    received = b""
    while b"\r\n\r\n" not in received:
        if len(received) > http.MAX_HEAD_BYTES:
            raise http.Refused(431, f"a request head of more than {http.MAX_HEAD_BYTES} bytes")
        left = deadline - monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
            chunk = connection.recv(8192)
        except TimeoutError:
            raise http.Refused(408, f"no request within {HEAD_SECONDS:.0f} s") from None
        if not chunk:
            raise http.Refused(400, "the connection ended within the request head")
        received += chunk
    head, _, rest = received.partition(b"\r\n\r\n")
    return head, rest
