# SPDX-License-Identifier: Apache-2.0
"""The streaming server with real processes, terminals and ports behind it, over real sockets."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.streaming import websocket
from cri.streaming.backend import ExecRequest, PortForwardRequest
from cri.streaming.server import StreamingServer, TlsFiles
from tests.support.local_sessions import LocalBackend
from tests.support.spdy_client import SpdyClient, connect, exec_session


@pytest.fixture
def server() -> Iterator[StreamingServer]:
    server = StreamingServer(LocalBackend())
    server.start()
    yield server
    server.stop()


def ask(*argv: str, stdin: bool = False, tty: bool = False, container: str = "c") -> ExecRequest:
    return ExecRequest(container, argv, tty=tty, stdin=stdin, stdout=True, stderr=not tty)


def spdy_exec(server: StreamingServer, request: ExecRequest) -> tuple[SpdyClient, int]:
    return exec_session(server.register_exec(request), stdin=request.stdin, tty=request.tty)


def status(client: SpdyClient) -> dict[str, object]:
    result: dict[str, object] = json.loads(client.received["error"])
    return result


def test_exec_ends_with_its_process_although_stdin_is_open(server: StreamingServer) -> None:
    client, _ = spdy_exec(server, ask("sh", "-c", "echo out; echo err >&2; exit 3", stdin=True))
    client.read_until_finished("stdout", "stderr", "error")
    assert client.received["stdout"] == b"out\n"
    assert client.received["stderr"] == b"err\n"
    assert status(client)["details"] == {"causes": [{"reason": "ExitCode", "message": "3"}]}
    client.sock.close()


def test_exec_does_not_wait_for_a_child_that_keeps_the_pipe(server: StreamingServer) -> None:
    client, _ = spdy_exec(server, ask("sh", "-c", "sleep 60 & echo $!"))
    client.read_until_finished("stdout", "error")
    os.kill(int(client.received["stdout"]), signal.SIGKILL)  # it was there, and nobody waited for it
    client.sock.close()


def test_the_end_of_stdin_reaches_the_process_and_nothing_is_lost(server: StreamingServer) -> None:
    client, stdin = spdy_exec(server, ask("md5sum", stdin=True))
    payload = os.urandom(1 << 20) * 8
    for at in range(0, len(payload), 1 << 20):
        client.send(stdin, payload[at : at + (1 << 20)])
    client.send(stdin, b"", finished=True)
    client.read_until_finished("stdout", "error")
    expected = subprocess.run(["md5sum"], input=payload, capture_output=True, check=True).stdout
    assert client.received["stdout"] == expected
    client.sock.close()


def test_a_slow_reader_on_both_ends_is_no_deadlock(server: StreamingServer) -> None:
    """The client writes all before it reads anything, through a process that echoes: both directions fill up."""
    client, stdin = spdy_exec(server, ask("cat", stdin=True))
    payload = os.urandom(1 << 20) * 32

    def write() -> None:
        for at in range(0, len(payload), 8 << 20):
            client.send(stdin, payload[at : at + (8 << 20)])
        client.send(stdin, b"", finished=True)

    writer = threading.Thread(target=write)
    writer.start()
    client.read_until_finished("stdout", "error")
    writer.join()
    assert client.received["stdout"] == payload
    client.sock.close()


def test_a_terminal_has_the_size_that_the_client_says(server: StreamingServer) -> None:
    client, stdin = spdy_exec(server, ask("sh", "-c", "read line; stty size", stdin=True, tty=True))
    resize = next(stream for stream, name in client.names.items() if name == "resize")
    client.send(resize, b'{"Width":77,"Height":33}\n')
    client.send(stdin, b"go\n")
    client.read_until_finished("stdout", "error")
    assert client.received["stdout"].endswith(b"33 77\r\n")
    client.sock.close()


def test_what_cannot_be_started_is_told_in_the_error_stream(server: StreamingServer) -> None:
    client, _ = spdy_exec(server, ask("true", container="gone"))
    client.read_until_finished("error")
    assert status(client)["message"] == "container gone is not running"
    client.sock.close()


def test_a_url_is_good_once(server: StreamingServer) -> None:
    url = server.register_exec(ask("true"))
    connect(url, "Upgrade: SPDY/3.1").close()
    with pytest.raises(AssertionError, match="404 Not Found"):
        connect(url, "Upgrade: SPDY/3.1")


def test_a_hundred_sessions_at_once_do_not_meet(server: StreamingServer) -> None:
    clients = [spdy_exec(server, ask("sh", "-c", f"read a; echo $a; exit {i}", stdin=True)) for i in range(100)]
    for i, (client, stdin) in enumerate(clients):
        client.send(stdin, b"line %d\n" % i)
    for i, (client, _) in enumerate(clients):
        client.read_until_finished("stdout", "error")
        assert client.received["stdout"] == b"line %d\n" % i
        causes = f'[{{"reason": "ExitCode", "message": "{i}"}}]'
        assert i == 0 or causes.encode() in client.received["error"]
        client.sock.close()


def test_a_client_that_leaves_lets_the_session_go(server: StreamingServer) -> None:
    client, _ = spdy_exec(server, ask("sleep", "60", stdin=True))
    backend = server._backend
    assert isinstance(backend, LocalBackend)
    client.sock.settimeout(5)
    client.sock.recv(100)  # the replies to the streams: the session is being started
    client.sock.close()
    server.stop()
    assert [session.closed for session in backend.sessions] in ([True], [])


def masked(opcode: int, data: bytes) -> bytes:
    head = bytearray(websocket.head(opcode, len(data)))
    head[1] |= 0x80
    return bytes(head) + b"\0\0\0\0" + data


def websocket_connect(url: str, protocol: str) -> socket.socket:
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    lines = ("Upgrade: websocket", "Sec-WebSocket-Version: 13", key, f"Sec-WebSocket-Protocol: {protocol}")
    return connect(url, *lines, method="GET")


def read_messages(sock: socket.socket) -> tuple[list[bytes], int]:
    """All messages up to the closing frame, and its code."""
    data = b""
    while chunk := sock.recv(65536):
        data += chunk
    messages, at = [], 0
    while True:
        opcode, length = data[at] & 0x0F, data[at + 1]
        at += 2
        if length == 126:
            length = int.from_bytes(data[at : at + 2], "big")
            at += 2
        payload = data[at : at + length]
        at += length
        if opcode == websocket.CLOSE:
            return messages, int.from_bytes(payload[:2], "big")
        messages.append(payload)


def test_websocket_v5_closes_stdin_and_tells_the_exit(server: StreamingServer) -> None:
    request = ask("sh", "-c", "cat; exit 4", stdin=True)
    sock = websocket_connect(server.register_exec(request), "v5.channel.k8s.io")
    sock.sendall(masked(websocket.BINARY, b"\0hello") + masked(websocket.BINARY, b"\xff\0"))
    messages, code = read_messages(sock)
    assert messages[0] == b"\x01"  # the empty message says that the session is there
    assert b"".join(m[1:] for m in messages if m[0] == 1) == b"hello"
    errors = b"".join(m[1:] for m in messages if m[0] == 3)
    assert json.loads(errors)["details"]["causes"][0]["message"] == "4"
    assert code == websocket.NORMAL_CLOSURE
    sock.close()


def test_websocket_garbage_is_answered_with_a_protocol_error(server: StreamingServer) -> None:
    sock = websocket_connect(server.register_exec(ask("cat", stdin=True)), "v4.channel.k8s.io")
    sock.sendall(websocket.head(websocket.BINARY, 5) + b"plain")  # not masked
    _, code = read_messages(sock)
    assert code == websocket.PROTOCOL_ERROR
    sock.close()


def listener(answer: bytes) -> tuple[socket.socket, threading.Thread]:
    """A server for one client: reads to its end, then answers with what it read and answer."""
    sock = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        peer, _ = sock.accept()
        read = b""
        while chunk := peer.recv(65536):
            read += chunk
        peer.sendall(read + answer)
        peer.close()

    thread = threading.Thread(target=serve)
    thread.start()
    return sock, thread


def test_a_port_forward_carries_both_directions_and_the_half_close(server: StreamingServer) -> None:
    target, thread = listener(b" seen")
    url = server.register_port_forward(PortForwardRequest("pod"))
    client = SpdyClient(connect(url, "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: portforward.k8s.io"))
    port = str(target.getsockname()[1])
    client.open("error", port=port, requestid="0")
    data = client.open("data", port=port, requestid="0")
    client.send(data, b"hello", finished=True)
    client.read_until_finished("data", "error")
    assert client.received == {"error": b"", "data": b"hello seen"}
    thread.join()
    client.sock.close()
    target.close()


def test_a_port_that_nobody_listens_on_is_told_and_the_others_go_on(server: StreamingServer) -> None:
    target, thread = listener(b"!")
    url = server.register_port_forward(PortForwardRequest("pod"))
    client = SpdyClient(connect(url, "Upgrade: SPDY/3.1"))
    client.open("error", port="1", requestid="0")
    client.open("data", port="1", requestid="0")
    port = str(target.getsockname()[1])
    client.open("error 2", port=port, requestid="1")
    data = client.open("data 2", port=port, requestid="1")
    client.read_until_finished("error", "data")
    assert (
        b"cannot reach port 1 of pod pod: connection to 127.0.0.1 port 1: Connection refused"
        in client.received["error"]
    )
    client.send(data, b"still here", finished=True)
    client.read_until_finished("data 2")
    assert client.received["data 2"] == b"still here!"
    thread.join()
    client.sock.close()
    target.close()


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"\0" * 64 + b"\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"PUT /exec/x HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /exec/x HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 40_000, b"431"),
        (b"GET /exec/x HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: spdy/3.1\r\n\r\n", b"404"),
    ],
)
def test_garbage_is_refused_with_a_status(server: StreamingServer, sent: bytes, answered: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(sent)
        assert sock.recv(4096).startswith(b"HTTP/1.1 " + answered)


def test_sessions_go_through_tls_and_nothing_goes_past_it(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=node"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    server = StreamingServer(LocalBackend(), tls=TlsFiles(str(certificate), str(key)))
    server.start()
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    url = server.register_exec(ask("sh", "-c", "head -c 3000000 /dev/zero"))
    assert url.startswith("https://")
    client = SpdyClient(connect(url, "Upgrade: SPDY/3.1", context=context))
    for name in ("error", "stdout", "stderr"):
        client.open(name)
    client.read_until_finished("stdout", "error")
    assert client.received["stdout"] == bytes(3_000_000)
    client.sock.close()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        readable, _, _ = select.select([plain], [], [], 10)
        assert readable
        try:
            assert not plain.recv(100).startswith(b"HTTP")
        except ConnectionResetError:
            pass
    server.stop()
