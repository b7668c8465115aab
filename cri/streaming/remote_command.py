# SPDX-License-Identifier: Apache-2.0
"""One exec or attach: waits for the channels, starts the session, pumps, and tells how it ended.

    channels opened ──► session started ──► pumping ──► output drained ──► status sent ──► goodbye
                                               │ client gone
                                               └──► session let go, nothing said

One thread and one poll(2) loop per session, all descriptors non-blocking: no pair of slow ends can block the other one.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

from cri.streaming.backend import AttachRequest, ExecRequest, Session, SessionRefused
from cri.streaming.channels import (
    ERROR,
    RESIZE,
    STDERR,
    STDIN,
    STDOUT,
    Channels,
    Data,
    Ended,
    Event,
    Gone,
    Opened,
    ProtocolError,
    ResizeReader,
    status_exit,
    status_failure,
    status_success,
)
from cri.streaming.link import Link, PeerLost

log = logging.getLogger("ketch.streaming")

CHANNELS_SECONDS = 30.0
LINGER_SECONDS = 5.0
QUIET_SECONDS = 0.1
STDIN_BYTES = 512 * 1024  # input that waits for the process: do not read more of it

_IN, _OUT, _HANGUP = select.POLLIN, select.POLLOUT, select.POLLRDHUP
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


def expected_channels(request: ExecRequest | AttachRequest, *, resizable: bool) -> set[int]:
    """The channels that a client opens for a request before it expects anything to happen."""
    wanted = {ERROR}
    if request.stdin:
        wanted.add(STDIN)
    if request.stdout:
        wanted.add(STDOUT)
    if request.stderr and not request.tty:
        wanted.add(STDERR)
    if request.tty and resizable:
        wanted.add(RESIZE)
    return wanted


class Conversation:
    """One client and one session, from the first channel to the goodbye."""

    def __init__(
        self,
        link: Link,
        channels: Channels,
        *,
        structured: bool,
        resizable: bool,
        idle_seconds: float,
        exit_matters: bool,
    ) -> None:
        self._link = link
        self._channels = channels
        self._structured = structured
        self._resizable = resizable
        self._idle_seconds = idle_seconds
        self._exit_matters = exit_matters
        self._early: deque[Event] = deque()

    def run(
        self, request: ExecRequest | AttachRequest, start: Callable[[], Session], *, opened_already: bool, stopping: int
    ) -> None:
        """Serve it to its end. stopping is a descriptor that becomes readable when the server stops."""
        if not opened_already and not self._await_channels(expected_channels(request, resizable=self._resizable)):
            return
        try:
            session = start()
        except SessionRefused as e:
            self._end(status_failure(str(e), structured=self._structured))
            return
        except Exception:
            log.exception("a session of container %s could not be started", request.container_id)
            self._end(status_failure("the session could not be started", structured=self._structured))
            return
        self._pump(session, stopping)

    def _pump(self, session: Session, stopping: int) -> None:
        with _Waiter(session) as waiter:
            pump = _Pump(self._link, self._channels, session, waiter, stopping, self._idle_seconds)
            try:
                for event in self._early:
                    pump.take(event)
                ended = pump.run()
            except (PeerLost, ProtocolError) as e:
                log.info("exec or attach ended early: %s", e)
                return
        if ended:
            self._end(self._status(waiter))

    def _status(self, waiter: _Waiter) -> bytes:
        if waiter.failure:
            return status_failure(waiter.failure, structured=self._structured)
        if waiter.exit_code and self._exit_matters:
            return status_exit(waiter.exit_code, structured=self._structured)
        return status_success(structured=self._structured)

    def _await_channels(self, missing: set[int]) -> bool:
        poll = select.poll()
        poll.register(self._link, _IN)
        deadline = monotonic() + CHANNELS_SECONDS
        try:
            while missing:
                left = deadline - monotonic()
                if left <= 0:
                    log.info("client opened no channel %s within %.0f s", sorted(missing), CHANNELS_SECONDS)
                    return False
                if not self._link.has_buffered():
                    poll.poll(left * 1000)
                self._link.flush()
                chunk = self._link.receive()
                if chunk == b"":
                    return False
                for event in self._channels.receive(chunk or b""):
                    if isinstance(event, Opened):
                        missing.discard(event.channel)
                    elif isinstance(event, Gone):
                        return False
                    else:
                        self._early.append(event)
        except (PeerLost, ProtocolError) as e:
            log.info("exec or attach refused: %s", e)
            return False
        return True

    def _end(self, status: bytes) -> None:
        try:
            if status:
                self._channels.send(ERROR, status)
            self._channels.goodbye()
            self._link.linger(LINGER_SECONDS)
        except PeerLost as e:
            log.debug("client left before the end: %s", e)


class _Waiter:
    """Waits for the session in a thread of its own and makes its end readable at a descriptor."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._thread = threading.Thread(target=self._wait, name="session wait", daemon=True)
        self._lock = threading.Lock()
        self.exit_code: int | None = None
        self.failure = ""
        self.ended = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __enter__(self) -> _Waiter:
        self._thread.start()
        return self

    def _wait(self) -> None:
        try:
            self.exit_code = self._session.wait()
        except Exception as e:
            self.failure = f"waiting for the process failed: {e}"
        with self._lock:
            if self.ended >= 0:
                os.eventfd_write(self.ended, 1)

    def __exit__(self, *_: object) -> None:
        self._session.close()
        with self._lock:  # the thread may still be on its way out of wait(); it must not meet a reused number
            os.close(self.ended)
            self.ended = -1


class _Pump:
    """The poll(2) loop between the client and the session's descriptors."""

    def __init__(
        self, link: Link, channels: Channels, session: Session, waiter: _Waiter, stopping: int, idle_seconds: float
    ) -> None:
        self._link = link
        self._channels = channels
        self._session = session
        self._waiter = waiter
        self._stopping = stopping
        self._idle_seconds = idle_seconds
        self._poll = select.poll()
        self._interest: dict[int, int] = {}
        self._sources = {fd: name for fd, name in ((session.stdout, STDOUT), (session.stderr, STDERR)) if fd >= 0}
        self._stdin = session.stdin
        self._stdin_queue: deque[memoryview] = deque()
        self._stdin_queued = 0
        self._stdin_ended = False
        self._resizes = ResizeReader()
        self._exited = False
        self._gone = False
        for fd in {session.stdin, *self._sources}:
            if fd >= 0:
                os.set_blocking(fd, False)

    def run(self) -> bool:
        """Pump until the process has ended and its output is sent: True; or until the client is gone: False."""
        self._watch(self._waiter.ended, _IN)
        self._watch(self._stopping, _IN)
        while not (self._exited and not self._sources):
            self._set_interest()
            ready = self._poll.poll(self._timeout_ms())
            if self._gone or any(fd == self._stopping for fd, _ in ready):
                return False
            if not ready and not self._link.has_buffered() and not self._after_silence():
                return False
            for fd, events in ready:
                self._serve(fd, events)
            if self._link.has_buffered() and self._accepts_input():
                self._receive()
        return True

    def take(self, event: Event) -> None:
        """Act on one thing the client said."""
        if isinstance(event, Data):
            if event.channel == STDIN and self._stdin >= 0 and not self._stdin_ended:
                self._stdin_queue.append(memoryview(event.data))
                self._stdin_queued += len(event.data)
            elif event.channel == RESIZE:
                for columns, rows in self._resizes.feed(event.data):
                    self._session.resize(columns, rows)
        elif isinstance(event, Ended) and event.channel == STDIN:
            self._stdin_ended = True
            self._feed_stdin()
        elif isinstance(event, Gone):
            self._gone = True

    def _accepts_input(self) -> bool:
        return self._stdin_queued < STDIN_BYTES

    def _set_interest(self) -> None:
        client = _IN if self._accepts_input() else _HANGUP
        self._watch(self._link.fileno(), client | (_OUT if self._link.wants_to_write() else 0))
        full = self._link.is_full()
        wanted = dict.fromkeys(self._sources, 0 if full else _IN)
        if self._stdin >= 0 and self._stdin_queue:
            wanted[self._stdin] = wanted.get(self._stdin, 0) | _OUT  # a terminal is one descriptor for both
        for fd in {self._session.stdin, self._session.stdout, self._session.stderr}:
            self._watch(fd, wanted.get(fd, 0))

    def _watch(self, fd: int, events: int) -> None:
        """Register changes only. No interest means not registered: poll(2) reports hang-ups unasked, over and over."""
        if fd < 0 or self._interest.get(fd, 0) == events:
            return
        if events:
            self._poll.register(fd, events)
        else:
            self._poll.unregister(fd)
        self._interest[fd] = events

    def _timeout_ms(self) -> float:
        if self._link.has_buffered() and self._accepts_input():
            return 0
        if self._exited and not self._link.is_full():
            return QUIET_SECONDS * 1000
        return max(0.0, self._link.last_active + self._idle_seconds - monotonic()) * 1000 + 1

    def _after_silence(self) -> bool:
        """Nothing happened for the whole timeout: whether to go on."""
        if self._exited and not self._link.is_full():
            # A child that the process left behind keeps the pipe open. What the process itself wrote has been read.
            self._sources.clear()
            return True
        idle = monotonic() - self._link.last_active >= self._idle_seconds
        if idle:
            log.info("session without traffic for %.0f s, ended", self._idle_seconds)
        return not idle

    def _serve(self, fd: int, events: int) -> None:
        if fd == self._link.fileno():
            self._link.flush()
            if events & (_IN | _GONE | _HANGUP):
                self._receive(hung_up=bool(events & _HANGUP) and not self._accepts_input())
            return
        if fd == self._waiter.ended:
            self._exited = True
            self._watch(fd, 0)
            return
        if fd in self._sources and events & (_IN | _GONE):
            self._read(fd)
        if fd == self._stdin and events & (_OUT | _GONE):
            self._feed_stdin()

    def _receive(self, *, hung_up: bool = False) -> None:
        chunk = b"" if hung_up else self._link.receive()
        if chunk == b"":
            raise PeerLost("the client closed the connection")
        for event in self._channels.receive(chunk or b""):
            self.take(event)
        self._feed_stdin()

    def _read(self, fd: int) -> None:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        except OSError:  # EIO: the last process has closed the terminal
            data = b""
        channel = self._sources[fd]
        if data:
            self._channels.send(channel, data)
            return
        del self._sources[fd]
        self._channels.finish(channel)

    def _feed_stdin(self) -> None:
        while self._stdin >= 0 and self._stdin_queue:
            first = self._stdin_queue[0]
            try:
                written = os.write(self._stdin, first)
            except BlockingIOError:
                return
            except OSError:  # the process closed its stdin, or is gone; what else comes for it is dropped
                self._close_stdin()
                return
            self._stdin_queued -= written
            if written == len(first):
                self._stdin_queue.popleft()
            else:
                self._stdin_queue[0] = first[written:]
        if self._stdin_ended:
            self._close_stdin()

    def _close_stdin(self) -> None:
        self._stdin_queue.clear()
        self._stdin_queued = 0
        self._stdin_ended = True
        if self._stdin >= 0:
            if self._stdin not in self._sources:
                self._watch(self._stdin, 0)
            self._stdin = -1
            self._session.close_stdin()
