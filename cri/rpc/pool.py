# SPDX-License-Identifier: Apache-2.0
"""Threads for calls that block: started when all others are busy, up to a limit, and kept; so much more may wait."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Pool:
    """Runs what is given to it; nobody waits for an answer, and nothing given may raise."""

    def __init__(self, most: int, most_waiting: int) -> None:
        self._most = most
        self._most_waiting = most_waiting
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._free = 0  # threads that wait, less the work that waits for a thread
        self._threads = 0

    def submit(self, work: Callable[[], None]) -> bool:
        """False: so much waits already that this is not taken."""
        with self._lock:
            starts = self._free <= 0 and self._threads < self._most
            if starts:
                self._threads += 1
            elif self._free <= -self._most_waiting:
                return False
            else:
                self._free -= 1
        if starts:
            threading.Thread(target=self._run, args=(work,), name="call", daemon=True).start()
        else:
            self._work.put(work)
        return True

    def _run(self, work: Callable[[], None] | None) -> None:
        while work is not None:
            work()
            with self._lock:
                self._free += 1
            work = self._work.get()

    def close(self) -> None:
        """Threads end when they have nothing left to do."""
        for _ in range(self._threads):
            self._work.put(None)
