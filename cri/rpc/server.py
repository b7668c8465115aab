# SPDX-License-Identifier: Apache-2.0
"""Listens on a unix socket, gives each client a connection, and ends all of them in order."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping

from cri.clients import clients
from cri.rpc.call import Method, Service
from cri.rpc.connection import Connection
from cri.rpc.pool import Pool

log = logging.getLogger(__name__)
_BACKLOG = 128
_MOST_CLIENTS = 512  # a thread each; a kubelet has three connections


class Server:
    """Between listen and stop."""

    def __init__(
        self, methods: Mapping[str, Method], *, most_at_once: int, most_waiting: int, message_bytes: int
    ) -> None:
        by_path = {path.encode(): method for path, method in methods.items()}
        self._service = Service(by_path, Pool(most_at_once, most_waiting), message_bytes)
        self._connections: set[Connection] = set()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None

    def listen(self, path: str) -> None:
        """0600, from the first moment on. A file in the way is taken over: the caller knows that nobody serves it."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        old = os.umask(0o177)
        try:
            listener.bind(path)
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(old)
        listener.listen(_BACKLOG)
        self._listener = listener

    def start(self) -> None:
        """Begin to answer; returns at once."""
        threading.Thread(target=self._accept, args=(self._listener,), name="accept", daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        is_full = False
        for client, _ in clients(listener):
            was_full, is_full = is_full, not self._begin(client)
            if is_full and not was_full:
                log.warning("%d clients at once: no more for now", len(self._connections))

    def _begin(self, client: socket.socket) -> bool:
        """False: there is no room for it, and it was sent away."""
        connection = Connection(client, self._service)
        with self._lock:
            has_room = len(self._connections) < _MOST_CLIENTS
            if has_room:
                self._connections.add(connection)
        try:
            if has_room:
                threading.Thread(target=self._serve, args=(connection,), name="client", daemon=True).start()
                return True
        except RuntimeError:  # the kernel gives us no more threads
            with self._lock:
                self._connections.discard(connection)
        client.close()
        return False

    def _serve(self, connection: Connection) -> None:
        try:
            connection.run()
        finally:
            with self._lock:
                self._connections.discard(connection)

    def stop(self, grace_seconds: float) -> None:
        """No new clients and no new calls; those that run have a moment to end. A second stop finds nothing to do."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() does not
            listener.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.announce_end()
        end = time.monotonic() + grace_seconds
        while any(connection.is_busy() for connection in connections) and time.monotonic() < end:
            time.sleep(0.02)
        for connection in connections:
            connection.close()
        self._service.pool.close()
