# SPDX-License-Identifier: Apache-2.0
"""A small real HTTP proxy on loopback: CONNECT and whole URLs, with an account, with a map instead of a resolver."""

import base64
import http.client
import http.server
import select
import socket
import threading
from urllib.parse import urlsplit


class Proxy:
    """Every name leads to a port of loopback, as `places` says; `account` is user:password."""

    def __init__(self, places: dict[str, int], account: str = "") -> None:
        self.asked: list[str] = []  # CONNECT host:port, GET http://...
        proxy = self
        wanted = "Basic " + base64.b64encode(account.encode()).decode() if account else ""

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                return

            def allowed(self) -> bool:
                proxy.asked.append(f"{self.command} {self.path}")
                if wanted and self.headers.get("Proxy-Authorization") != wanted:
                    self.send_response(407)
                    self.send_header("Proxy-Authenticate", 'Basic realm="proxy"')
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return False
                return True

            def do_CONNECT(self) -> None:
                if not self.allowed():
                    return
                with socket.create_connection(("127.0.0.1", places[self.path.rpartition(":")[0]])) as far:
                    self.send_response(200, "Connection established")
                    self.end_headers()
                    _pump(self.connection, far)
                self.close_connection = True

            def forward(self) -> None:
                if not self.allowed():
                    return
                url = urlsplit(self.path)
                far = http.client.HTTPConnection("127.0.0.1", places[url.hostname or ""])
                names = {k: v for k, v in self.headers.items() if not k.lower().startswith("proxy-")}
                size = int(self.headers.get("Content-Length") or 0)
                far.request(
                    self.command, url.path + (f"?{url.query}" if url.query else ""), self.rfile.read(size), names
                )
                reply = far.getresponse()
                data = reply.read()
                self.send_response(reply.status)
                for key, value in reply.getheaders():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(data)
                far.close()

            do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = forward

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{account + '@' if account else ''}127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _pump(near: socket.socket, far: socket.socket) -> None:
    """Bytes both ways until one side ends."""
    while True:
        for ready in select.select([near, far], [], [])[0]:
            data = ready.recv(65536)
            if not data:
                return
            (far if ready is near else near).sendall(data)
