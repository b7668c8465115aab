# SPDX-License-Identifier: Apache-2.0
"""Looking into the running daemon: what every thread is doing, which calls run, what has been counted.

Served as plain HTTP on STATE/debug.sock (0600), and the counts alone on a TCP address where one is configured. It has
threads of its own: it answers also when all of those that serve calls are stuck.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable

from cri.boundary import Boundary, Call
from cri.clients import clients
from cri.engine.engine import Engine

log = logging.getLogger(__name__)
NAME = "debug.sock"
REQUEST_BYTES = 8192
TIMEOUT_SECONDS = 5.0
# They last as long as their caller likes, or as the grace period or the registry takes.
PATIENT = frozenset({"GetContainerEvents", "PullImage", "StopContainer", "ExecSync"})
SLOW_FRAMES = 8


def path_of(state: str) -> str:
    """Beside the state it shows."""
    return f"{state}/{NAME}"


def frames_of(thread: int) -> traceback.StackSummary | None:
    frame = sys._current_frames().get(thread)
    return traceback.extract_stack(frame) if frame is not None else None


def describe(call: Call) -> str:
    return f"{call.method}, for {time.perf_counter() - call.started:.1f} s"


def stacks(boundary: Boundary) -> str:
    """Every thread with its stack, those that serve a call first and the oldest call on top."""
    serving = {call.thread: call for call in boundary.calls()}
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    idents = [*serving, *(i for i in sys._current_frames() if i not in serving)]
    parts = []
    for ident in idents:
        found = frames_of(ident)
        if found is not None:
            what = describe(serving[ident]) if ident in serving else "no call"
            parts.append(f"thread {names.get(ident, ident)}: {what}\n{''.join(found.format())}")
    return "\n".join(parts)


def calls(boundary: Boundary) -> str:
    """One line per running call with the place where it is."""
    lines = []
    for call in boundary.calls():
        found = frames_of(call.thread)
        at = f"{found[-1].filename}:{found[-1].lineno} in {found[-1].name}" if found else "nowhere"
        lines.append(f"{describe(call)}: {at}")
    return "".join(f"{line}\n" for line in lines) or "no call runs\n"


def name_slow(boundary: Boundary, seconds: float) -> None:
    """Each call that has taken too long is in the log once, with the place where it hangs."""
    now = time.perf_counter()
    for call in boundary.calls():
        if call.warned or call.method in PATIENT or now - call.started < seconds:
            continue
        call.warned = True
        found = frames_of(call.thread)
        where = " < ".join(f"{f.name} ({os.path.basename(f.filename)}:{f.lineno})" for f in reversed(found or []))
        log.warning("slow: %s: %s", describe(call), " < ".join(where.split(" < ")[:SLOW_FRAMES]))


class Inspection:
    """The sockets and their threads."""

    def __init__(self, engine: Engine, boundary: Boundary, address: str) -> None:
        self._boundary = boundary
        self._engine = engine
        self._address = address
        self._over = threading.Event()
        self._sockets: list[socket.socket] = []
        self._path = path_of(engine.config.paths.state)

    def start(self) -> None:
        pages: dict[str, Callable[[], str]] = {
            "/stacks": lambda: stacks(self._boundary),
            "/calls": lambda: calls(self._boundary),
            "/metrics": self._metrics,
        }
        self._serve(listen_unix(self._path), pages)
        if self._address:
            self._serve(listen_tcp(self._address), {"/metrics": self._metrics})
        threading.Thread(target=self._watch, name="slow-calls", daemon=True).start()

    def close(self) -> None:
        self._over.set()
        for listening in self._sockets:
            listening.close()
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass

    def _metrics(self) -> str:
        from cri import metrics_text

        return metrics_text.text(self._engine, self._boundary.counted(), self._boundary.calls())

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            name_slow(self._boundary, self._engine.config.cri.slow_call_seconds)

    def _serve(self, listening: socket.socket, pages: dict[str, Callable[[], str]]) -> None:
        self._sockets.append(listening)
        thread = threading.Thread(target=self._loop, args=(listening, pages), name="inspection", daemon=True)
        thread.start()

    def _loop(self, listening: socket.socket, pages: dict[str, Callable[[], str]]) -> None:
        for connection, _ in clients(listening):
            with connection:
                try:
                    connection.settimeout(TIMEOUT_SECONDS)
                    answer(connection, pages)
                except OSError as e:
                    log.debug("inspection: %s", e)
                except Exception:
                    log.exception("inspection: a mistake of ours")


def answer(connection: socket.socket, pages: dict[str, Callable[[], str]]) -> None:
    """One request, one page; GET only, and of the request nothing but its first line counts."""
    data = b""
    while b"\r\n\r\n" not in data and len(data) < REQUEST_BYTES:
        chunk = connection.recv(REQUEST_BYTES)
        if not chunk:
            break
        data += chunk
    words = data.split(b"\r\n", 1)[0].split(b" ")
    page = pages.get(words[1].decode(errors="replace").partition("?")[0]) if len(words) == 3 else None
    if words[0] != b"GET" or page is None:
        body, status = f"only GET of {', '.join(pages)}\n", "404 Not Found"
    else:
        body, status = page(), "200 OK"
    encoded = body.encode(errors="replace")
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
    head += f"Content-Length: {len(encoded)}\r\nConnection: close\r\n\r\n"
    connection.sendall(head.encode() + encoded)


def listen_unix(path: str) -> socket.socket:
    """0600 from the first moment on, by a descriptor of the folder because paths of sockets are short (108 bytes). We
    hold the lock of the state directory, so a left-over name is nobody's."""
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    old = os.umask(0o177)
    try:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        listening.bind(f"/proc/self/fd/{folder}/{NAME}")
    finally:
        os.umask(old)
        os.close(folder)
    listening.listen(16)
    return listening


def listen_tcp(address: str) -> socket.socket:
    """`HOST:PORT`, `[::1]:PORT`."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, int(port)))
        listening.listen(16)
    except (OSError, OverflowError) as e:
        listening.close()
        raise OSError(f"cri.metrics_address {address}: {e}") from e
    return listening
