# SPDX-License-Identifier: Apache-2.0
"""Clients at a container's stdio: each gets all output from now on; what they type reaches the container in turn.

container ──FIFO──► keeper ──pipe──► viewer 1          a viewer that does not read holds the container back (the
                      │  └────pipe──► viewer 2         FIFO fills), but for 10 s at most: then it is let go
container ◄──pipe──  stdin ◄─pipe── viewer 1, 2 ...
"""

import os
from collections.abc import Callable

from runtime.keep import wire
from runtime.keep.loop import READ, WRITE, Loop

STALL_SECONDS = 10.0
_BEHIND = 65536  # this much unread output of one viewer pauses the container


class Output:
    """The writing end of a pipe to a viewer, and what the pipe has not taken yet."""

    __slots__ = ("_fd", "_gone", "_loop", "_moved", "_stall", "pending")

    def __init__(self, loop: Loop, fd: int, moved: Callable[[], None], gone: Callable[[], None]) -> None:
        self._loop = loop
        self._fd = fd
        self._moved = moved  # less is pending than before
        self._gone = gone  # the viewer stalled
        self._stall = 0
        self.pending = b""

    def give(self, data: bytes) -> None:
        """Write what fits, keep the rest."""
        if self._fd < 0:
            return
        if not self.pending:
            data = self._write(data)
            if data:
                self._loop.watch(self._fd, WRITE, self._writable)
                self._stall = self._loop.after(STALL_SECONDS, self._gone)
        self.pending += data

    def _write(self, data: bytes) -> bytes:
        try:
            return data[os.write(self._fd, data) :]
        except BlockingIOError:
            return data
        except OSError:  # EPIPE: this viewer reads no more of this stream
            self.close()
            return b""

    def _writable(self) -> None:
        before = len(self.pending)
        self.pending = self._write(self.pending)
        if len(self.pending) == before:
            return
        self._loop.cancel(self._stall)
        if self.pending:
            self._stall = self._loop.after(STALL_SECONDS, self._gone)
        else:
            self._loop.ignore(self._fd)
        self._moved()

    def close(self) -> None:
        """End of file for the viewer; what is pending is dropped."""
        if self._fd >= 0:
            self._loop.cancel(self._stall)
            self._loop.ignore(self._fd)
            os.close(self._fd)
            self._fd = -1
        self.pending = b""


class Viewer:
    """One attached client."""

    __slots__ = ("_ending", "_loop", "_on_gone", "_on_moved", "connection", "outputs", "stdin")

    def __init__(self, loop: Loop, connection: wire.Connection, on_moved: Callable[[], None]) -> None:
        self._loop = loop
        self._on_moved = on_moved
        self._on_gone: Callable[[Viewer], None] | None = None
        self._ending: dict[str, object] | None = None
        self.connection = connection
        self.outputs: dict[str, Output] = {}
        self.stdin = -1

    def open(self, stdin: bool, streams: list[str], on_gone: "Callable[[Viewer], None]") -> None:  # noqa: FBT001 (wire)
        """Make the pipes and answer the client with its ends."""
        self._on_gone = on_gone
        names, theirs = [], []
        if stdin:
            self.stdin, end = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self.stdin, False)
            names.append("stdin")
            theirs.append(end)
        for name in streams:
            end, ours = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(ours, False)
            self.outputs[name] = Output(self._loop, ours, self._moved, self.leave)
            names.append(name)
            theirs.append(end)
        self.connection.send({"streams": names}, theirs)
        for fd in theirs:
            os.close(fd)

    def give(self, stream: str, data: bytes) -> None:
        """Output of the container."""
        output = self.outputs.get(stream)
        if output is not None:
            output.give(data)

    def behind(self) -> bool:
        """Whether so much is unread that the container must wait."""
        return any(len(output.pending) > _BEHIND for output in self.outputs.values())

    def end(self, message: dict[str, object]) -> None:
        """The container has ended: say so once everything it printed has been taken."""
        self._ending = message
        self._moved()

    def _moved(self) -> None:
        if self._ending is not None and not any(output.pending for output in self.outputs.values()):
            self.connection.send(self._ending)
            self.leave()
        else:
            self._on_moved()

    def leave(self) -> None:
        """Let the client go; a second time is a no-op."""
        if self._on_gone is not None:
            gone, self._on_gone = self._on_gone, None
            for output in self.outputs.values():
                output.close()
            gone(self)


class Input:
    """A container's standard input (or the terminal, for typing): takes from every viewer, in turn."""

    __slots__ = ("_close_when_empty", "_fd", "_loop", "_on_closed", "_pending", "_sources")

    def __init__(self, loop: Loop, fd: int, on_closed: Callable[[], None]) -> None:
        self._loop = loop
        self._fd = fd
        self._on_closed = on_closed
        self._pending = b""
        self._sources: dict[int, Callable[[], None]] = {}  # reading end -> what to do at its end
        self._close_when_empty = False

    def add(self, source: int, at_end: Callable[[], None]) -> None:
        """Type what comes from source, until its end of file, even after its client has gone. Owns it."""
        self._sources[source] = at_end
        if not self._pending:
            self._loop.watch(source, READ, lambda: self._from(source))

    def _remove(self, source: int) -> None:
        del self._sources[source]
        self._loop.ignore(source)
        os.close(source)

    def _from(self, source: int) -> None:
        try:
            data = os.read(source, 65536)
        except BlockingIOError:
            return
        if not data:
            at_end = self._sources[source]
            self._remove(source)
            at_end()
            return
        self._type(data)

    def _type(self, data: bytes) -> None:
        try:
            data = data[os.write(self._fd, data) :] if self._fd >= 0 else b""
        except BlockingIOError:
            pass
        except OSError:  # EPIPE: the container reads no more; what is typed has no reader
            data = b""
        if data and not self._pending:
            for source in self._sources:
                self._loop.ignore(source)
            self._loop.watch(self._fd, WRITE, self._writable)
        elif self._pending and not data:
            self._loop.ignore(self._fd)
            for source in self._sources:
                self._loop.watch(source, READ, lambda source=source: self._from(source))  # type: ignore[misc]
        self._pending = data
        if not data and self._close_when_empty:
            self.close()

    def _writable(self) -> None:
        self._type(self._pending)

    def close_after_pending(self) -> None:
        """End of file for the container behind everything that was typed."""
        self._close_when_empty = True
        if not self._pending:
            self.close()

    def close(self) -> None:
        """End of file now; what viewers still type is thrown away. A second time is a no-op."""
        if self._fd < 0:
            return
        self._loop.ignore(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._pending = b""
        for source in self._sources:
            if not self._loop.watches(source):
                self._loop.watch(source, READ, lambda source=source: self._from(source))  # type: ignore[misc]
        self._on_closed()

    def descriptors(self) -> tuple[int, ...]:
        """The writing end, while it is open."""
        return (self._fd,) if self._fd >= 0 else ()

    def release(self) -> None:
        """The container has ended: nobody reads any more."""
        for source in list(self._sources):
            self._remove(source)
        self.close()
