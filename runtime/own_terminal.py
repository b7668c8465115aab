# SPDX-License-Identifier: Apache-2.0
"""run and exec in the foreground with a terminal: ours in raw mode, bytes and window sizes passed both ways."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import termios
import tty

from runtime.linux import fdpass
from runtime.linux._core import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.creation import CreateRequest


class Offer:
    """Our end of a pair over which the terminal's master will come."""

    __slots__ = ("socket",)

    def __init__(self, socket: fdpass.Socket) -> None:
        self.socket = socket


def offer(request: CreateRequest, *, detach: bool) -> Offer:
    """Be the console socket of a request whose process wants a terminal."""
    from runtime.errors import RuntimeFailure

    if detach:
        raise RuntimeFailure(
            "process.terminal is true: with --detach --console-socket is needed to hand over the terminal"
        )
    offered, request.console_fd = make_offer()
    return offered


def make_offer() -> tuple[Offer, int]:
    """Our end, and the descriptor to give away."""
    mine, theirs = fdpass.pair()
    return Offer(mine), theirs.detach()


def attend(offered: Any, pid: int) -> int:
    """Pass bytes until the process has ended; gives its exit status."""
    from runtime.attending import reap_until

    _, fds = fdpass.receive(offered.socket)
    master = fds[0]
    wakeup_read, wakeup_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGWINCH, lambda *_: _copy_size(master))
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda received, _: os.kill(pid, received))
    saved = _raw(0)
    _copy_size(master)
    try:
        return _pump(master, pid, wakeup_read, reap_until)
    finally:
        if saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)


def _raw(fd: int) -> Any:
    if not os.isatty(fd):
        return None
    saved = termios.tcgetattr(fd)
    tty.setraw(fd)
    return saved


def _copy_size(master: int) -> None:
    try:
        size = fcntl.ioctl(0, lib.TIOCGWINSZ, bytes(8))
        fcntl.ioctl(master, lib.TIOCSWINSZ, size)
    except OSError:
        pass


def _pump(master: int, pid: int, wakeup: int, reap_until: Any) -> int:
    sources = [master, 0, wakeup]
    status: int | None = None
    while True:
        ready, _, _ = select.select(sources, [], [], 0.1 if status is not None else None)
        if status is not None and master not in ready:
            return status
        if wakeup in ready:
            os.read(wakeup, 512)
        if 0 in ready and not _copy(0, master):
            sources.remove(0)
        if master in ready and not _copy(master, 1):
            sources.remove(master)
        if status is None:
            status = reap_until(pid)
        elif master not in sources:
            return status


def _copy(source: int, target: int) -> bool:
    try:
        data = os.read(source, 65536)
        while data:
            written = os.write(target, data)
            if written == len(data):
                return True
            data = data[written:]
    except OSError:
        return False
    return False
