# SPDX-License-Identifier: Apache-2.0
"""A conversation over D-Bus with a peer that answers as a script says: in pieces, together, late, or not at all."""

import itertools
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.linux import dbus

WELCOME = b"DATA\r\nOK 0123456789abcdef0123456789abcdef\r\n"
GREETING = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"
OBJECT = ("org.example", "/", "org.example.Thing")


def answer(to: int, signature: str = "", *values: Any, kind: int = dbus.ANSWER, name: str = "") -> bytes:
    """A message that answers call number `to`. By hand, because ours never answers."""
    fields = [(5, dbus.Variant("u", to))]
    fields += [(4, dbus.Variant("s", name))] if name else []
    return message(kind, fields, signature, values)


def signal(member: str, signature: str = "", *values: Any) -> bytes:
    fields = [(1, dbus.Variant("o", "/")), (2, dbus.Variant("s", "i.f")), (3, dbus.Variant("s", member))]
    return message(dbus.SIGNAL, fields, signature, values)


def message(kind: int, fields: Sequence[Any], signature: str, values: Sequence[Any]) -> bytes:
    body = dbus.pack(signature, values)
    fields = [*fields, (8, dbus.Variant("g", signature))] if signature else fields
    head = dbus.pack("yyyyuua(yv)", (ord("l"), kind, 0, 1, len(body), 77, fields))
    return head + bytes(-len(head) % 8) + body


class Peer:
    """Listens, says its welcome, then plays its script with the accepted socket."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.heard = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread: threading.Thread | None = None

    def play(self, script: Callable[[socket.socket], None], welcome: bytes = WELCOME) -> None:
        def body() -> None:
            with self._listener.accept()[0] as sock:
                self.heard = sock.recv(4096)
                sock.sendall(welcome)
                script(sock)

        self._thread = threading.Thread(target=body)
        self._thread.start()

    def end(self) -> None:
        self._listener.close()
        if self._thread is not None:
            self._thread.join(10)


def say(data: bytes) -> Callable[[socket.socket], None]:
    """The script that waits for a call, says this, and closes."""

    def script(sock: socket.socket) -> None:
        sock.recv(4096)
        if data:  # sending nothing is a write, too: EPIPE once the other side has closed
            sock.sendall(data)

    return script


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    one = Peer(tmp_path / "bus")
    yield one
    one.end()


def test_begin_is_said_in_the_first_packet_and_never_beside_a_call(peer: Peer) -> None:
    """systemd 252 does not look at a message that it read together with BEGIN until more comes."""
    later: list[bytes] = []

    def script(sock: socket.socket) -> None:
        later.append(sock.recv(4096))
        sock.sendall(answer(1))

    peer.play(script)
    with dbus.Connection(peer.path, bus=False) as bus:
        assert bus.call(*OBJECT, "Ping") == []
    assert peer.heard == GREETING
    assert later[0][:2] == b"l\x01"


@pytest.mark.parametrize("size", [1, 3, 7, 16, 64])
def test_an_answer_in_pieces_is_put_together(peer: Peer, size: int) -> None:
    data = signal("Noise", "s", "x" * 50) + answer(1, "sa{sv}", "yes", [("k", dbus.Variant("t", 5))])

    def script(sock: socket.socket) -> None:
        sock.recv(4096)
        for start in range(0, len(data), size):
            sock.sendall(data[start : start + size])

    peer.play(script)
    with dbus.Connection(peer.path, bus=False) as bus:
        assert bus.call(*OBJECT, "Get") == ["yes", [("k", dbus.Variant("t", 5))]]


PARTS = {
    "wanted": signal("JobRemoved", "uoss", 7, "/job/7", "a.scope", "done"),
    "other": signal("JobRemoved", "uoss", 8, "/job/8", "b.scope", "failed"),
    "stranger": answer(99, "o", "/job/99"),
    "answer": answer(1, "o", "/job/7"),
}


@pytest.mark.parametrize("order", list(itertools.permutations(PARTS)), ids="-".join)
def test_an_answer_and_its_signal_are_found_in_every_order(peer: Peer, order: tuple[str, ...]) -> None:
    peer.play(say(b"".join(PARTS[name] for name in order)))
    with dbus.Connection(peer.path, bus=False) as bus:
        (job,) = bus.call(*OBJECT, "StopUnit", "ss", "a.scope", "replace")
        assert bus.signal("JobRemoved", lambda values: values[1] == job)[3] == "done"


def test_what_comes_with_the_welcome_is_not_lost(peer: Peer) -> None:
    peer.play(say(b""), welcome=WELCOME + signal("Early", "u", 5) + answer(1))
    with dbus.Connection(peer.path, bus=False) as bus:
        assert bus.call(*OBJECT, "Ping") == []
        assert bus.signal("Early", lambda _: True) == [5]


def test_an_error_is_raised_with_its_name(peer: Peer) -> None:
    peer.play(say(answer(1, "s", "no unit", kind=dbus.ERROR, name="a.NoSuch")))
    with dbus.Connection(peer.path, bus=False) as bus, pytest.raises(dbus.DBusError, match="no unit") as raised:
        bus.call(*OBJECT, "Ping")
    assert raised.value.name == "a.NoSuch"


def test_calls_are_told_apart_by_their_serial(peer: Peer) -> None:
    def script(sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(answer(1, "u", 10) + answer(2, "u", 20))
        sock.recv(4096)

    peer.play(script)
    with dbus.Connection(peer.path, bus=False) as bus:
        assert [bus.call(*OBJECT, "One")[0], bus.call(*OBJECT, "Two")[0]] == [10, 20]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "ketch.Closed"),
        (answer(1)[:20], "ketch.Closed"),
        (b"B" + answer(1)[1:], "ketch.Garbled"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "ketch.Garbled"),
        (answer(1, "s", "word")[:-9] + b"\xff\0\0\0word\0", "ketch.Garbled"),
        (b"l\x02\0\x01" + (1 << 30).to_bytes(4, "little") + bytes(8), "ketch.Garbled"),
    ],
)
def test_what_is_no_answer_is_told(peer: Peer, data: bytes, name: str) -> None:
    peer.play(say(data))
    with dbus.Connection(peer.path, bus=False) as bus, pytest.raises(dbus.DBusError) as raised:
        bus.call(*OBJECT, "Ping")
    assert raised.value.name == name


def test_a_peer_that_says_nothing_is_given_up(peer: Peer) -> None:
    def script(sock: socket.socket) -> None:
        while sock.recv(4096):
            pass

    peer.play(script)
    with dbus.Connection(peer.path, bus=False, seconds=0.05) as bus, pytest.raises(dbus.DBusError) as raised:
        bus.call(*OBJECT, "Ping")
    assert raised.value.name == "ketch.NoAnswer"


def test_who_is_not_let_in_is_told(peer: Peer) -> None:
    peer.play(lambda _: None, welcome=b"REJECTED EXTERNAL\r\nERROR\r\n")
    with pytest.raises(dbus.DBusError, match="does not let us in"):
        dbus.Connection(peer.path, bus=False)
