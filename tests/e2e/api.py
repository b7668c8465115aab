# SPDX-License-Identifier: Apache-2.0
"""The API server without kubectl between: requests, and a watch that notes when each pod got where."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any
from urllib.parse import urlsplit

from tests.e2e.control_plane import SERVER
from tests.e2e.pki import Pki


class Refused(Exception):
    """The API server answered with an error; the message holds the request and the answer."""


class Api:
    """One connection per thread, kept open."""

    def __init__(self, pki: Pki) -> None:
        self._context = ssl.create_default_context(cafile=str(pki.authority))
        self._headers = {"Authorization": f"Bearer {pki.token('admin')}", "Content-Type": "application/json"}
        self._local = threading.local()

    def connect(self, seconds: float | None) -> http.client.HTTPSConnection:
        where = urlsplit(SERVER)
        assert where.hostname is not None
        return http.client.HTTPSConnection(where.hostname, where.port, context=self._context, timeout=seconds)

    def open(self, connection: http.client.HTTPSConnection, path: str) -> http.client.HTTPResponse:
        connection.request("GET", path, headers=self._headers)
        return connection.getresponse()

    def ask(self, method: str, path: str, body: Any = None, *, tolerated: Collection[int] = (404, 409)) -> bytes:
        """The answer's body; a connection that the server closed meanwhile is opened once more."""
        data = None if body is None else json.dumps(body)
        for is_last in (False, True):
            if not hasattr(self._local, "connection"):
                self._local.connection = self.connect(60)
            try:
                self._local.connection.request(method, path, data, self._headers)
                answer = self._local.connection.getresponse()
                said: bytes = answer.read()
                break
            except (http.client.HTTPException, OSError):
                del self._local.connection
                if is_last:
                    raise
        if answer.status >= 400 and answer.status not in tolerated:
            raise Refused(f"{method} {path}: {answer.status} {said[:300]!r}")
        return said


def in_parallel(work: Callable[[str], object], names: Iterable[str], threads: int = 8) -> None:
    """work(name) for all names, several at a time."""
    left = list(names)
    lock = threading.Lock()

    def go_on() -> None:
        while True:
            with lock:
                if not left:
                    return
                name = left.pop(0)
            work(name)

    workers = [threading.Thread(target=go_on) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


class PodWatch(threading.Thread):
    """When each pod of a namespace was first seen running, ready and gone."""

    def __init__(self, api: Api, namespace: str) -> None:
        super().__init__(daemon=True)
        self._changed = threading.Condition()
        self.seen: dict[str, dict[str, float]] = {"running": {}, "ready": {}, "gone": {}}
        path = f"/api/v1/namespaces/{namespace}/pods"
        version = json.loads(api.ask("GET", f"{path}?limit=1"))["metadata"]["resourceVersion"]
        self._connection = api.connect(None)
        self._stream = api.open(self._connection, f"{path}?watch=1&resourceVersion={version}")
        self.start()

    def run(self) -> None:
        while line := self._stream.readline():
            self._note(json.loads(line), time.monotonic())

    def _note(self, event: dict[str, Any], now: float) -> None:
        pod = event["object"]
        name, status = pod.get("metadata", {}).get("name"), pod.get("status", {})
        with self._changed:
            if event["type"] == "DELETED":
                self.seen["gone"][name] = now
            elif status.get("phase") == "Running":
                self.seen["running"].setdefault(name, now)
                if {"Ready", "True"} <= {v for c in status["conditions"] if c["type"] == "Ready" for v in c.values()}:
                    self.seen["ready"].setdefault(name, now)
            self._changed.notify_all()

    def wait(self, what: str, names: Collection[str], seconds: float = 600) -> float:
        """The moment at which the last of these pods got there."""
        end = time.monotonic() + seconds
        seen = self.seen[what]
        with self._changed:
            while missing := [name for name in names if name not in seen]:
                if not self._changed.wait(end - time.monotonic()):
                    raise TimeoutError(f"{len(missing)} of {len(names)} pods are not {what} after {seconds:.0f} s")
            return max(seen[name] for name in names)
