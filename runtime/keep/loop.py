# SPDX-License-Identifier: Apache-2.0
"""The one loop of every process here: ready descriptors, children that ended, deadlines."""

import heapq
import os
import select
import signal
import time
from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT


class Loop:
    """Calls a handler for each ready descriptor, once per turn: so none of them can starve the others.

    A handler must bear being called for a descriptor that is not ready after all: one that was closed and opened again
    within a turn has the same number.
    """

    __slots__ = ("_deadlines", "_epoll", "_handlers", "_number", "_on_child", "running")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._deadlines: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._on_child: Callable[[int, int], None] | None = None
        self.running = True

    def watch(self, fd: int, events: int, handler: Callable[[], None]) -> None:
        """Call handler in every turn in which fd is ready."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def ignore(self, fd: int) -> None:
        """Stop watching; before fd is closed, or to pause. A second time is a no-op."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def watches(self, fd: int) -> bool:
        """Whether fd is watched."""
        return fd in self._handlers

    def after(self, seconds: float, handler: Callable[[], None]) -> int:
        """Call handler once, later; the number is for cancel()."""
        self._number += 1
        heapq.heappush(self._deadlines, (time.monotonic() + seconds, self._number, handler))
        return self._number

    def cancel(self, number: int) -> None:
        """Forget a deadline."""
        self._deadlines = [entry for entry in self._deadlines if entry[1] != number]
        heapq.heapify(self._deadlines)

    def on_child(self, handler: Callable[[int, int], None]) -> None:
        """Call handler(pid, wait status) for every child that ends, also for those that fell to us as subreaper."""
        self._on_child = handler
        # A wakeup descriptor rather than EINTR: a signal between the last look and epoll_wait would be lost.
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)

        def woken() -> None:
            try:
                os.read(ours, 4096)
            except BlockingIOError:
                pass
            self.reap()

        self.watch(ours, READ, woken)

    def reap(self) -> None:
        """Wait for every child that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._on_child is not None:
                self._on_child(pid, status)

    def run(self) -> None:
        """Turn until `running` is false."""
        while self.running:
            self.turn()

    def turn(self) -> None:
        """Wait for something, then serve everything that is ready once."""
        timeout = None
        if self._deadlines:
            timeout = max(0.0, self._deadlines[0][0] - time.monotonic())
        for fd, _ in self._epoll.poll(timeout):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler()
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            heapq.heappop(self._deadlines)[2]()

    def close(self) -> None:
        """In a forked child: the epoll instance is shared with the parent, so nothing may be unregistered there."""
        self._epoll.close()
        self._handlers.clear()


def _nothing(_number: int, _frame: object) -> None:
    """A handler must exist for the wakeup descriptor to be written."""
