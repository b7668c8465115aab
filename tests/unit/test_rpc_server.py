# SPDX-License-Identifier: Apache-2.0
"""Our gRPC server, asked by the client that others wrote."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.rpc import connection, frames, server, writer
from cri.rpc.call import Method
from cri.rpc.hpack import literal
from cri.rpc.server import Server
from cri.rpc.status import Code, Context, Failed

MESSAGE_BYTES = 4 << 20


class Handlers:
    """What the server of these tests can do; messages are plain bytes."""

    def __init__(self) -> None:
        self.given_up = threading.Event()
        self.release = threading.Event()

    def echo(self, request: bytes, _: Context) -> bytes:
        return request

    def grow(self, request: bytes, _: Context) -> bytes:
        return b"x" * int(request)

    def fail(self, request: bytes, _: Context) -> bytes:
        raise Failed(Code.NOT_FOUND, request.decode())

    def wrong(self, _: bytes, __: Context) -> bytes:
        raise ZeroDivisionError("of ours")

    def left(self, _: bytes, context: Context) -> bytes:
        return str(context.time_remaining()).encode()

    def wait(self, _: bytes, context: Context) -> bytes:
        context.add_callback(self.given_up.set)
        self.release.wait(20)
        return b"at last"

    def count(self, request: bytes, context: Context) -> Iterator[bytes]:
        for number in range(int(request)):
            yield str(number).encode()
        if request == b"3":
            raise Failed(Code.RESOURCE_EXHAUSTED, "no more")

    def methods(self) -> dict[str, Method]:
        def method(answer: Callable[[Any, Context], Any], **kind: bool) -> Method:
            return Method(answer, bytes, bytes, **kind)

        quick = {"quick-" + each.__name__: method(each, is_quick=True) for each in (self.echo, self.grow, self.fail)}
        slow = (self.echo, self.grow, self.fail, self.wrong, self.left, self.wait)
        return {
            f"/t.S/{name}": found
            for name, found in {
                **quick,
                **{each.__name__: method(each) for each in slow},
                "count": method(self.count, is_streaming=True),
            }.items()
        }


class Rig:
    """The server and a channel to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handlers = Handlers()
        self.server = Server(self.handlers.methods(), most_at_once=8, most_waiting=400, message_bytes=MESSAGE_BYTES)
        self.server.listen(str(path))
        self.server.start()
        limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(f"unix:{path}", options=limits)

    def ask(self, name: str, request: bytes = b"", timeout: float | None = 20) -> bytes:
        answer: bytes = self._method(name)(request, timeout=timeout)
        return answer

    def later(self, name: str) -> Any:
        """The call has reached the server and waits there."""
        call = self._method(name).future(b"")
        while not any(connection.is_busy() for connection in self.server._connections):
            time.sleep(0.01)
        return call

    def stream(self, name: str) -> Any:
        open_stream: Any = self.channel.unary_stream
        return open_stream(f"/t.S/{name}")

    def _method(self, name: str) -> Any:
        method: Any = self.channel.unary_unary
        return method(f"/t.S/{name}")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "rpc.sock")
    yield made
    made.channel.close()
    made.handlers.release.set()
    made.server.stop(1.0)


@contextlib.contextmanager
def refused(code: grpc.StatusCode, text: str) -> Iterator[None]:
    with pytest.raises(grpc.RpcError) as caught:
        yield
    assert (caught.value.code(), caught.value.details()) == (code, text)


@pytest.mark.parametrize("name", ["echo", "quick-echo"])
@pytest.mark.parametrize("size", [0, 1, 16379, 16380, 70_000, 3_000_000])
def test_a_message_of_any_size_comes_back(rig: Rig, name: str, size: int) -> None:
    for _ in range(3):
        assert rig.ask(name, b"m" * size) == b"m" * size


@pytest.mark.parametrize("name", ["grow", "quick-grow"])
def test_an_answer_larger_than_all_windows_arrives_whole(rig: Rig, name: str) -> None:
    assert len(rig.ask(name, b"20000000")) == 20_000_000


@pytest.mark.parametrize("name", ["fail", "quick-fail"])
def test_an_error_keeps_its_code_and_its_words(rig: Rig, name: str) -> None:
    with refused(grpc.StatusCode.NOT_FOUND, "no pod 100% of Grüße\nhere"):
        rig.ask(name, "no pod 100% of Grüße\nhere".encode())


def test_a_mistake_of_ours_is_an_answer_too(rig: Rig) -> None:
    with refused(grpc.StatusCode.INTERNAL, "ZeroDivisionError: of ours"):
        rig.ask("wrong")


def test_an_unknown_method_is_named(rig: Rig) -> None:
    with refused(grpc.StatusCode.UNIMPLEMENTED, "unknown method /t.S/nothing"):
        rig.ask("nothing")


def test_a_message_over_the_limit_is_refused_and_the_next_call_works(rig: Rig) -> None:
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, f"larger than {MESSAGE_BYTES} bytes"):
        rig.ask("echo", b"m" * (MESSAGE_BYTES + 1))
    assert rig.ask("echo", b"next") == b"next"


def test_the_deadline_reaches_the_handler(rig: Rig) -> None:
    assert 10 < float(rig.ask("left", timeout=17)) < 18  # the client rounds up
    assert rig.ask("left", timeout=None) == b"None"


def test_a_caller_that_gives_up_is_noticed(rig: Rig) -> None:
    with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
        rig.ask("wait", timeout=0.2)
    assert rig.handlers.given_up.wait(10)


def test_a_client_that_goes_is_noticed(rig: Rig) -> None:
    waiting = rig.later("wait")
    waiting.cancel()
    rig.channel.close()
    assert rig.handlers.given_up.wait(10)


def test_a_stream_has_messages_in_order_and_its_own_end(rig: Rig) -> None:
    stream = rig.stream("count")
    assert list(stream(b"500")) == [str(number).encode() for number in range(500)]
    assert list(stream(b"0")) == []
    seen: list[bytes] = []
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more"):
        seen.extend(stream(b"3"))
    assert seen == [b"0", b"1", b"2"]


def test_many_calls_at_once_get_each_its_own_answer(rig: Rig) -> None:
    def one(number: int) -> bool:
        wanted = str(number).encode() * 100
        return rig.ask("quick-echo" if number % 2 else "echo", wanted) == wanted

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(400)))


def test_a_stop_lets_the_running_call_end(rig: Rig) -> None:
    waiting = rig.later("wait")
    threading.Timer(0.2, rig.handlers.release.set).start()
    rig.server.stop(10)
    assert waiting.result(10) == b"at last"


def test_only_the_owner_may_open_the_socket(rig: Rig) -> None:
    assert stat.S_IMODE(rig.path.stat().st_mode) == 0o600


def _raw(rig: Rig, *data: bytes) -> bytes:
    """What the server says to these bytes, each sent apart, until it closes the connection."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(rig.path))
        said = b""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for each in data:
                client.sendall(each)
            while more := client.recv(65536):
                said += more
    return said


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        frames.PREFACE + frames.frame(frames.HEADERS, frames.END_HEADERS, 2, b"\x83"),
        frames.PREFACE + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
        frames.PREFACE + frames.frame(frames.HEADERS, 0, 1) + frames.frame(frames.PING, 0, 0, b"12345678"),
        frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0, b"odd"),
        frames.PREFACE + b"\xff\xff\xff" + bytes(6),
        frames.PREFACE + frames.frame(frames.DATA, frames.PADDED, 1, b"\xff"),
        frames.PREFACE + frames.frame(frames.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2,
    ],
)
def test_who_breaks_the_protocol_is_told_and_sent_away(rig: Rig, data: bytes) -> None:
    said = _raw(rig, data)
    assert frames.frame(frames.GOAWAY, 0, 0, b"")[3:5] in said
    assert rig.ask("echo", b"others") == b"others"


def test_a_request_may_come_byte_by_byte(rig: Rig) -> None:
    headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/t.S/echo")]
    headers.append((b"content-type", b"application/grpc"))
    block = b"".join(literal(*each) for each in headers)
    parts = [
        frames.PREFACE,
        frames.settings({frames.INITIAL_WINDOW_SIZE: 100_000}),
        frames.frame(frames.HEADERS, 0, 1, block[:20]),
        frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[20:]),
        frames.frame(frames.DATA, frames.PADDED, 1, b"\3\0\0\0\0\5hel" + bytes(3)),
        frames.frame(0xEE, 0, 1, b"of a kind that nobody knows"),
        frames.frame(frames.DATA, frames.END_STREAM, 1, b"lo"),
        frames.frame(frames.SETTINGS, 0, 0, b"the end"),
    ]
    data = b"".join(parts)
    said = _raw(rig, *(data[at : at + 1] for at in range(len(data))))
    assert frames.opening(1) in said
    assert frames.message(1, b"hello") in said
    assert frames.closing(1) in said


def _opened(rig: Rig, *data: bytes) -> socket.socket:
    """A client of few words."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(str(rig.path))
    if data:  # even of nothing, a client that was sent away is told EPIPE
        client.sendall(b"".join(data))
    return client


def _asking(stream: int, method: str, message: bytes) -> bytes:
    said = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", f"/t.S/{method}".encode())]
    block = b"".join(literal(*each) for each in [*said, (b"content-type", b"application/grpc")])
    body = len(message).to_bytes(5, "big") + message
    return frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block) + frames.frame(
        frames.DATA, frames.END_STREAM, stream, body
    )


def test_who_says_nothing_does_not_keep_a_thread(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_GREETING_SECONDS", 0.3)
    with _opened(rig) as silent, _opened(rig, frames.PREFACE[:5]) as slow:
        for client in (silent, slow):
            while client.recv(65536):
                pass
    assert rig.ask("echo", b"others") == b"others"


def test_who_stops_reading_is_sent_away_and_holds_up_nobody(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows as wide as they can be, and then no recv(2): only the socket itself is full."""
    monkeypatch.setattr(writer, "_PATIENCE_SECONDS", 1)
    wide = frames.settings({frames.INITIAL_WINDOW_SIZE: frames.LARGEST_WINDOW})
    wide += frames.window_update(0, frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW)
    calls = [_asking(2 * n + 1, "grow", b"3000000") for n in range(20)]
    with _opened(rig, frames.PREFACE, wide, *calls):
        deadline = time.monotonic() + 20
        while rig.server._connections and time.monotonic() < deadline:
            time.sleep(0.05)
        assert rig.server._connections == set()
    assert rig.ask("echo", b"others") == b"others"


def test_who_opens_no_window_is_told_that_the_answer_ends(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_PATIENCE_SECONDS", 1)
    with _opened(rig, frames.PREFACE, _asking(1, "count", b"100000")) as client:
        client.settimeout(0.2)
        said, deadline = b"", time.monotonic() + 20
        while b"grpc-message" not in said and time.monotonic() < deadline:
            try:
                said += client.recv(65536)
            except TimeoutError:
                client.sendall(frames.window_update(0, 1))  # of the connection; the stream's stays shut
    assert b"read nothing" in said


def test_too_many_clients_are_sent_away_and_the_next_one_is_served(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MOST_CLIENTS", 5)
    with contextlib.ExitStack() as held:
        clients = [held.enter_context(_opened(rig)) for _ in range(20)]
        with contextlib.suppress(ConnectionResetError):
            assert clients[-1].recv(100) == b""
    while rig.server._connections:  # until the server has heard that they went
        time.sleep(0.01)
    assert rig.ask("echo", b"others") == b"others"


def test_clients_wait_where_there_is_no_descriptor_for_them(rig: Rig) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    rig.ask("echo", b"before")
    clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    fillers: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(0))
        for client in clients:
            client.connect(str(rig.path))
        time.sleep(0.3)  # accept(2) has failed by then
    finally:
        for filler in fillers:
            os.close(filler)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for client in clients:
        client.sendall(frames.PREFACE)
        client.settimeout(10)
        assert client.recv(100)
        client.close()
