# SPDX-License-Identifier: Apache-2.0
"""Registries for tests: Debian's docker-registry on loopback, and one of our own that misbehaves on request."""

import http.server
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.support import unpacked


def program() -> str | None:
    """Debian's docker-registry, if it is here."""
    named = os.environ.get("KETCH_DOCKER_REGISTRY", "")
    return named or unpacked.program("docker-registry")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class DockerRegistry:
    """docker-registry with its data in `work`; `options` are merged into its `http` and `auth` configuration."""

    def __init__(
        self, work: Path, *, http: dict[str, object] | None = None, auth: dict[str, object] | None = None
    ) -> None:
        self.work = work
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self._config = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(work / "data")}, "delete": {"enabled": True}},
            "http": {"addr": self.host, **(http or {})},
            **({"auth": auth} if auth else {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        (self.work / "data").mkdir(exist_ok=True)
        path = self.work / "config.yml"
        path.write_text(json.dumps(self._config))  # YAML reads JSON
        found = program()
        assert found is not None
        with (self.work / "log").open("ab") as log:
            self._process = subprocess.Popen([found, "serve", str(path)], stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError((self.work / "log").read_text())

    def stop(self, *, hard: bool = False) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL if hard else signal.SIGTERM)
            self._process.wait()
            self._process = None

    def __enter__(self) -> "DockerRegistry":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Authority:
    """A private CA with a certificate for 127.0.0.1 and one for a client, made by openssl."""

    def __init__(self, work: Path) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.ca, self.cert, self.key = work / "ca.pem", work / "server.pem", work / "server.key"
        self.client_cert, self.client_key = work / "client.cert", work / "client.key"
        ca_key = work / "ca.key"
        _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(ca_key), "-out", str(self.ca),
                 "-subj", "/CN=test ca", "-days", "2")  # fmt: skip
        for name, cert, key in (("127.0.0.1", self.cert, self.key), ("client", self.client_cert, self.client_key)):
            request, extension = work / f"{name}.csr", work / f"{name}.ext"
            extension.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:far.example\n")
            _openssl(
                "req",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-keyout",
                str(key),
                "-out",
                str(request),
                "-subj",
                f"/CN={name}",
            )
            _openssl("x509", "-req", "-in", str(request), "-CA", str(self.ca), "-CAkey", str(ca_key), "-CAcreateserial",
                     "-out", str(cert), "-days", "2", "-extfile", str(extension))  # fmt: skip


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


class OwnRegistry:
    """A small registry in this process: what tests need to break. `before` may answer a request in its own way."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}  # tag or digest -> document, media type
        self.requests: list[tuple[str, str, str]] = []  # method, path, Range
        self.authorizations: list[str] = []
        self.before: Callable[[http.server.BaseHTTPRequestHandler, str], bool] = lambda _handler, _path: False
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                return

            def do_HEAD(self) -> None:
                registry.answer(self)

            def do_GET(self) -> None:
                registry.answer(self)

            def do_POST(self) -> None:
                registry.answer(self)

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            # With 5, a machine so busy that nobody accepts for a moment drops connections; a client then waits one,
            # two, four seconds to try again.
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self.host = f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def serve_layout(self, path: Path, tag: str = "latest") -> str:
        """Offer the image of an OCI layout; returns the manifest's digest."""
        for file in (path / "blobs" / "sha256").iterdir():
            self.blobs[f"sha256:{file.name}"] = file.read_bytes()
        entry = json.loads((path / "index.json").read_text())["manifests"][0]
        document = (self.blobs[entry["digest"]], entry["mediaType"])
        self.manifests[tag] = self.manifests[entry["digest"]] = document
        return str(entry["digest"])

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        self.requests.append((handler.command, path, handler.headers.get("Range") or ""))
        self.authorizations.append(handler.headers.get("Authorization") or "")
        try:
            if not self.before(handler, path):
                self.plain(handler, path)
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True

    def plain(self, handler: http.server.BaseHTTPRequestHandler, path: str) -> None:
        """The honest answer."""
        kind, _, name = path.rpartition("/")
        if kind.endswith("/manifests") and name in self.manifests:
            data, media_type = self.manifests[name]
            from tests.support.images import digest

            self.send(handler, 200, data, {"Content-Type": media_type, "Docker-Content-Digest": digest(data)})
        elif kind.endswith("/blobs") and name in self.blobs:
            data = self.blobs[name]
            wanted = (handler.headers.get("Range") or "").removeprefix("bytes=").partition("-")[0]
            if wanted:
                begin = int(wanted)
                span = f"bytes {begin}-{len(data) - 1}/{len(data)}"
                self.send(handler, 206, data[begin:], {"Content-Range": span})
            else:
                self.send(handler, 200, data, {})
        else:
            error = {"errors": [{"code": "NAME_UNKNOWN", "message": "not here"}]}
            self.send(handler, 404, json.dumps(error).encode(), {})

    def send(
        self, handler: http.server.BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str]
    ) -> None:
        handler.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            handler.send_header(key, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(data)

    def count(self, method: str, ending: str) -> int:
        return sum(1 for m, path, _ in self.requests if m == method and path.endswith(ending))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> "OwnRegistry":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
