# SPDX-License-Identifier: Apache-2.0
"""One container in its keeper: its streams, its log, its viewers, and how it ended."""

import fcntl
import os
import struct
import termios
import time
from collections.abc import Callable
from typing import Any

from runtime.keep import oom, places, wire
from runtime.keep.attach import Input, Viewer
from runtime.keep.log_file import Lines, LogFile
from runtime.keep.loop import READ, Loop

TIOCGPTPEER = 0x5441  # termios lacks it before Python 3.13; asm-generic/ioctls.h
_DRAIN_ROUNDS = 64


class Stream:
    """What a container writes to: a FIFO that we hold O_RDWR, or the master of its terminal."""

    __slots__ = ("fd", "lines", "name")

    def __init__(self, name: str, fd: int, max_line: int) -> None:
        self.name = name
        self.fd = fd
        self.lines = Lines(name, max_line)


class KeptContainer:
    """From its start (or adoption) to its exit file."""

    def __init__(self, state_dir: str, record: dict[str, Any], loop: Loop) -> None:
        self.state_dir = state_dir
        self.record = record
        self.id: str = record["id"]
        self.ended = False
        self.pidfd = -1  # only of an adopted one: its parent is somebody else
        self.parent_gone = False
        self.when_left: Callable[[], None] = lambda: None  # a viewer of the ended container has gone
        self.waiters: list[wire.Connection] = []
        self.viewers: list[Viewer] = []
        self.input: Input | None = None
        self.log = LogFile(self.id, record["log_path"])
        self._loop = loop
        self._streams: list[Stream] = []
        self._peer = -1  # our own end of the terminal: without any, its master reports a hangup for ever

    # streams

    def open_fifos(self) -> None:
        """Open what the container writes to. O_RDWR: there is always a reader and always a writer, so nobody ever
        meets EPIPE or an end of file, whoever of us dies."""
        for name in ("stdout", "stderr"):
            path = places.fifo(self.state_dir, self.id, name)
            self._take(name, os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW))

    def take_terminal(self, master: int) -> None:
        """Own the master of the container's terminal."""
        os.set_blocking(master, False)
        self._peer = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        self._take("stdout", master)

    def take_input(self, fd: int, on_closed: Callable[[], None]) -> None:
        """Own the writing end of its standard input (for a terminal, another descriptor of its master)."""
        os.set_blocking(fd, False)
        self.input = Input(self._loop, fd, on_closed)

    def _take(self, name: str, fd: int) -> None:
        stream = Stream(name, fd, self.record["max_line"])
        self._streams.append(stream)
        self._watch(stream)

    def _watch(self, stream: Stream) -> None:
        self._loop.watch(stream.fd, READ, lambda: self._read(stream))

    def _read(self, stream: Stream) -> None:
        """One read and what it leads to: written before the next one."""
        try:
            data = os.read(stream.fd, stream.lines.room())
        except OSError:  # EAGAIN; EIO from a terminal whose last user has gone
            return
        self.log.take(stream.lines, data)
        if self.viewers:
            for viewer in list(self.viewers):
                viewer.give(stream.name, data)
            self.balance()

    def balance(self) -> None:
        """Read on exactly while no viewer is behind."""
        behind = any(viewer.behind() for viewer in self.viewers)
        for stream in self._streams:
            if stream.fd < 0 or behind == (not self._loop.watches(stream.fd)):
                continue
            if behind:
                self._loop.ignore(stream.fd)
            else:
                self._watch(stream)

    # clients

    def attach(self, connection: wire.Connection, request: dict[str, Any]) -> Viewer:
        """A new viewer; it sees what comes from now on."""
        streams = [s.name for s in self._streams if request.get(s.name, True)]
        viewer = Viewer(self._loop, connection, self.balance)
        with_stdin = bool(request.get("stdin")) and self.input is not None
        self.viewers.append(viewer)
        viewer.open(with_stdin, streams, self._left)
        if with_stdin and self.input is not None:
            self.input.add(viewer.stdin, self._typed_all)
        return viewer

    def _typed_all(self) -> None:
        # A terminal has no end of file to hand on: who holds it decides by ^D.
        if self.record["stdin_once"] and self.input is not None and not self.record["tty"]:
            self.input.close_after_pending()

    def _left(self, viewer: Viewer) -> None:
        self.viewers.remove(viewer)
        self._loop.ignore(viewer.connection.fileno())
        viewer.connection.close()
        if self.ended:
            self.when_left()
        else:
            self.balance()

    def resize(self, columns: int, rows: int) -> None:
        """Tell the terminal; without one, nothing."""
        if self.record["tty"] and self._streams:
            fcntl.ioctl(self._streams[0].fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    # the end

    def finish(self, status: int | None) -> dict[str, Any]:
        """The init has ended with this wait status (None: nobody could see it). Log, exit file, then the waiters."""
        self.ended = True
        for stream in self._streams:
            self._drain(stream)
        self.log.close()
        result = self._result(status)
        places.write_exit(self.state_dir, self.id, result)
        for waiter in self.waiters:
            waiter.send(result)
        self.waiters.clear()
        for viewer in list(self.viewers):
            viewer.end({"exit_code": result["exit_code"]})
        self.release()
        return result

    def _drain(self, stream: Stream) -> None:
        """What the container has left in the pipe. Bounded: in a shared PID namespace others may still be writing."""
        self._loop.ignore(stream.fd)
        for _ in range(_DRAIN_ROUNDS):
            try:
                data = os.read(stream.fd, stream.lines.room())
            except OSError:
                break
            self.log.take(stream.lines, data)
            for viewer in list(self.viewers):
                viewer.give(stream.name, data)
        self.log.finish(stream.lines)

    def _result(self, status: int | None) -> dict[str, Any]:
        code = signal = None
        if status is not None:
            code = os.waitstatus_to_exitcode(status)
            if code < 0:
                signal = -code
                code = 128 + signal
        cgroup = self.record.get("memory_cgroup", "")
        killed = oom.kills(cgroup) - int(self.record.get("oom_kills", 0))
        return {
            "exit_code": code,
            "signal": signal,
            "finished_at": time.time_ns(),
            "oom": killed > 0,
            "oom_detail": oom.describe(cgroup, killed) if killed > 0 else "",
        }

    def precious(self) -> tuple[int, ...]:
        """What the container would lose with this process, so that the spawner may hold a copy."""
        if self.record["tty"]:
            return tuple(stream.fd for stream in self._streams)
        return self.input.descriptors() if self.input is not None else ()

    def remove_files(self) -> None:
        """Everything that is written down about it."""
        places.remove_container(self.state_dir, self.id)

    def release(self) -> None:
        """Close what is ours; viewers still being served keep theirs."""
        for stream in self._streams:
            self._loop.ignore(stream.fd)
            os.close(stream.fd)
            stream.fd = -1
        self._streams.clear()
        for fd in (self._peer, self.pidfd):
            if fd >= 0:
                self._loop.ignore(fd)
                os.close(fd)
        self._peer = self.pidfd = -1
        if self.input is not None:
            self.input.release()
        self.log.close()
