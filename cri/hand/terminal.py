# SPDX-License-Identifier: Apache-2.0
"""A person's side of a session: raw terminal, what is typed, what is printed, signals, sizes, and the keys that leave.

our stdin ──► detach keys? ──► session.stdin          one poll(2) loop; our own terminal is given back in any case
our stdout ◄── session.stdout      our stderr ◄── session.stderr
SIGINT, SIGTERM, ... ──► on_signal        SIGWINCH ──► session.resize
"""

from __future__ import annotations

import os
import select
import signal
import sys

from cri.hand.errors import USAGE, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.keep.client import Session

DETACHED = -1
QUIET_MS = 100

_PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")


def detach_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` as the bytes a terminal sends; empty: none."""
    keys = bytearray()
    for key in filter(None, text.split(",")):
        letter = key.removeprefix("ctrl-")
        if len(letter) != 1 or not letter.isascii():
            raise UsageError(f"--detach-keys: {key!r} is not a key", hint="such as ctrl-p,ctrl-q", code=USAGE)
        keys.append(ord(letter.upper()) ^ 0x40 if key.startswith("ctrl-") else ord(letter))
    return bytes(keys)


def size() -> tuple[int, int]:
    """(columns, rows) of our terminal; (0, 0) where we have none."""
    for fd in (0, 1, 2):
        try:
            found = os.get_terminal_size(fd)
        except OSError:
            continue
        return found.columns, found.lines
    return 0, 0


def hold_interrupts() -> None:
    """From here on SIGINT waits, until a conversation passes it on to the container: in between, something of ours is
    there that nobody would take down."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def take_interrupt() -> bool:
    """Whether SIGINT has come since then. A program that has just begun as process 1 has no handler for it yet, and the
    kernel drops what process 1 does not handle; so it is not passed on."""
    return signal.sigtimedwait({signal.SIGINT}, 0) is not None


class _Signals:
    """Signals as bytes in a pipe while the block runs; the handlers before are put back."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._numbers = [getattr(signal, name) for name in names]

    def __enter__(self) -> _Signals:
        self.fd, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        self._handlers = [(number, signal.signal(number, lambda *_: None)) for number in self._numbers]
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return self

    def read(self) -> list[int]:
        try:
            return list(os.read(self.fd, 64))
        except BlockingIOError:
            return []

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for number, handler in self._handlers:
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self.fd)
        os.close(self._write_end)


class _Raw:
    """Our terminal handed through key by key while the block runs."""

    def __init__(self, *, wanted: bool) -> None:
        self._saved: list[object] | None = None
        self._wanted = wanted and os.isatty(0)

    def __enter__(self) -> _Raw:
        if self._wanted:
            import termios
            import tty

            self._saved = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSANOW)  # what was typed ahead is not thrown away
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            import termios

            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)  # type: ignore[arg-type]


class Conversation:
    """Everything between our three descriptors and a session."""

    def __init__(
        self, session: Session, *, tty: bool, keys: bytes = b"", on_signal: Callable[[int], None] | None = None
    ) -> None:
        self._session = session
        self._tty = tty
        self._keys = keys
        self._on_signal = on_signal
        self._typed = b""  # of the detach keys, so far
        self._waiting = b""  # for the session's stdin to take
        self._our_end = False
        self._poll = select.poll()
        self._outputs = {fd: ours for fd, ours in ((session.stdout, 1), (session.stderr, 2)) if fd >= 0}

    def run(self) -> int:
        """The exit code, or DETACHED."""
        sys.stdout.flush()
        sys.stderr.flush()
        names = (*(_PASSED_ON if self._on_signal else ()), *(("SIGWINCH",) if self._tty else ()))
        with _Signals(names) as signals, _Raw(wanted=self._tty and self._session.stdin >= 0):
            self._tell_size()
            return self._loop(signals)

    def _loop(self, signals: _Signals) -> int:
        self._poll.register(signals.fd, select.POLLIN)
        self._poll.register(self._session.fileno(), select.POLLIN)
        for fd in self._outputs:
            os.set_blocking(fd, False)
            self._poll.register(fd, select.POLLIN)
        if self._session.stdin >= 0:
            os.set_blocking(self._session.stdin, False)
            self._poll.register(0, select.POLLIN)
        ended = False
        while not (ended and not self._outputs):
            ready = self._poll.poll(QUIET_MS if ended else None)
            if ended and not any(fd in self._outputs for fd, _ in ready):
                break  # a child that it left behind keeps the pipe open; what it wrote itself has been read
            for fd, _ in ready:
                if fd == self._session.fileno():
                    ended = True
                    self._poll.unregister(fd)
                elif fd in self._outputs:
                    self._print(fd)
                elif fd == signals.fd:
                    self._signalled(signals.read())
                elif fd == 0 and not self._read_ours():
                    return DETACHED
                elif fd == self._session.stdin:
                    self._feed()
        code = self._session.wait()
        return 255 if code is None else code

    def _print(self, fd: int) -> None:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        except OSError:  # EIO: the terminal's last user has gone
            data = b""
        if not data:
            self._poll.unregister(fd)
            del self._outputs[fd]
        ours = self._outputs.get(fd, 1)
        view = memoryview(data)
        while view:
            view = view[os.write(ours, view) :]

    def _signalled(self, numbers: list[int]) -> None:
        for number in numbers:
            if number == signal.SIGWINCH:
                self._tell_size()
            elif self._on_signal is not None:
                self._on_signal(number)

    def _tell_size(self) -> None:
        columns, rows = size()
        if self._tty and columns:
            self._session.resize(columns, rows)

    def _read_ours(self) -> bool:
        """Take what was typed; False when it was the keys to leave."""
        try:
            data = os.read(0, 65536)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self._poll.unregister(0)
            self._our_end = True
            self._feed()
            return True
        if self._keys and self._tty:
            data, leave = self._without_keys(data)
            if leave:
                return False
        self._waiting += data
        self._feed()
        return True

    def _without_keys(self, data: bytes) -> tuple[bytes, bool]:
        out = bytearray()
        for byte in data:
            if byte == self._keys[len(self._typed)]:
                self._typed += bytes((byte,))
                if self._typed == self._keys:
                    return bytes(out), True
                continue
            out += self._typed
            self._typed = b""
            if byte == self._keys[0]:
                self._typed = bytes((byte,))
                if len(self._keys) == 1:
                    return bytes(out), True
            else:
                out.append(byte)
        return bytes(out), False

    def _feed(self) -> None:
        """Give the session what waits; while it takes nothing, our stdin is not read."""
        stdin = self._session.stdin
        if stdin < 0:
            return
        try:
            while self._waiting:
                self._waiting = self._waiting[os.write(stdin, self._waiting) :]
        except BlockingIOError:
            self._poll.register(stdin, select.POLLOUT)
            if not self._our_end:
                self._poll.modify(0, 0)
            return
        except OSError:  # EPIPE: nobody reads any more
            self._waiting = b""
            self._our_end = True
        try:
            self._poll.unregister(stdin)
        except KeyError:
            pass
        if self._our_end:
            self._session.close_stdin()
        else:
            self._poll.register(0, select.POLLIN)
