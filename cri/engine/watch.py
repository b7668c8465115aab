# SPDX-License-Identifier: Apache-2.0
"""Who has ended: a pidfd of every init in one poll, and the exit file as the word on how."""

from __future__ import annotations

import os
import select
import threading
from _queue import SimpleQueue
from collections.abc import Callable

from runtime.linux import processes

# A keeper writes the exit file within milliseconds of the end; after this time nobody will.
EXIT_FILE_SECONDS = 10.0


class Watch:
    """Calls `ended(id)` once for each watched process that has ended."""

    def __init__(self, ended: Callable[[str], None]) -> None:
        self._ended = ended
        self._poll = select.epoll()
        self._lock = threading.Lock()
        self._fds: dict[int, str] = {}
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._poll.register(self._wake, select.EPOLLIN)
        self._workers: list[threading.Thread] = []

    def start(self, workers: int = 4) -> None:
        for target, name in [(self._run, "watch")] + [(self._work, f"exit-{i}") for i in range(workers)]:
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
            self._workers.append(thread)

    def close(self) -> None:
        os.eventfd_write(self._wake, 1)
        for _ in self._workers:
            self._queue.put(None)

    def add(self, identity: str, pid: int, started: int) -> None:
        """Watch an init; one that is gone already is reported like any other."""
        fd = processes.open_pidfd(pid, started)
        if fd is None:
            self._queue.put(identity)
            return
        with self._lock:
            self._fds[fd] = identity
        self._poll.register(fd, select.EPOLLIN)

    def _run(self) -> None:
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._wake:
                    return
                with self._lock:
                    identity = self._fds.pop(fd)
                self._poll.unregister(fd)
                os.close(fd)
                self._queue.put(identity)

    def _work(self) -> None:
        while (identity := self._queue.get()) is not None:
            try:
                self._ended(identity)
            except Exception:
                from logging import getLogger

                getLogger(__name__).exception("container %s: its end could not be noted", identity)
