# SPDX-License-Identifier: Apache-2.0
"""The client's side of an exec, attach or port-forward over SPDY, as kubectl speaks it."""

from __future__ import annotations

import socket
import ssl
from urllib.parse import urlsplit

from cri.streaming import spdy


def connect(url: str, *headers: str, method: str = "POST", context: ssl.SSLContext | None = None) -> socket.socket:
    """An upgraded connection; the answer must be 101."""
    parts = urlsplit(url)
    sock = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20)
    if context:
        sock = context.wrap_socket(sock)
    lines = (f"{method} {parts.path} HTTP/1.1", "Host: x", "Connection: Upgrade", *headers)
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n") and (byte := sock.recv(1)):
        answer += byte
    if not answer.startswith(b"HTTP/1.1 101"):
        sock.close()
        raise AssertionError(answer)
    return sock


class SpdyClient:
    """Opens streams and collects what comes on them."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.decoder = spdy.Decoder()
        self.encoder = spdy.Encoder()
        self.names: dict[int, str] = {}
        self.received: dict[str, bytearray] = {}
        self.finished: set[str] = set()

    def open(self, name: str, **headers: str) -> int:
        stream = 2 * len(self.names) + 1
        self.names[stream] = name
        self.received[name] = bytearray()
        self.sock.sendall(self.encoder.syn_stream(stream, {"streamtype": name.split()[0], **headers}))
        return stream

    def send(self, stream: int, data: bytes, *, finished: bool = False) -> None:
        self.sock.sendall(spdy.data_head(stream, len(data), finished=finished) + data)

    def read_until_finished(self, *names: str) -> None:
        while not set(names) <= self.finished:
            chunk = self.sock.recv(65536)
            assert chunk, f"closed before {names} ended: {self.received}"
            for event in self.decoder.feed(chunk):
                if isinstance(event, spdy.StreamData):
                    self.received[self.names[event.stream]] += event.data
                    if event.finished:
                        self.finished.add(self.names[event.stream])


def exec_session(url: str, *, stdin: bool, tty: bool) -> tuple[SpdyClient, int]:
    """The session behind a URL of Exec or Attach, and the number of its stdin stream."""
    client = SpdyClient(connect(url, "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v4.channel.k8s.io"))
    client.open("error")
    number = client.open("stdin") if stdin else 0
    client.open("stdout")
    client.open("resize" if tty else "stderr")
    return client, number
