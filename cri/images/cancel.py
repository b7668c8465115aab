# SPDX-License-Identifier: Apache-2.0
"""A caller's right to take an operation back: by hand, or by a deadline."""

import threading
import time
from collections.abc import Callable

from cri.images.errors import Cancelled, DeadlineExceeded


class Cancellation:
    """Passed down through an operation; whoever blocks registers what wakes it.

    A gRPC servicer makes one with the call's remaining time and hands `cancel` to `context.add_callback`.
    """

    def __init__(self, timeout_seconds: float | None = None) -> None:
        self.deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._lock = threading.Lock()
        self._wakers: dict[int, Callable[[], None]] = {}
        self._next = 0
        self._event = threading.Event()
        self._timer: threading.Timer | None = None
        if timeout_seconds is not None:
            self._timer = threading.Timer(max(0.0, timeout_seconds), self.cancel)
            self._timer.daemon = True
            self._timer.start()

    def cancel(self) -> None:
        """Stop everything that runs under this cancellation; may be called from any thread, more than once."""
        with self._lock:
            self._event.set()
            wakers = list(self._wakers.values())
            self._wakers.clear()
        for wake in wakers:
            wake()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float | None) -> bool:
        """Sleep until cancelled or for so long; tells which."""
        return self._event.wait(seconds)

    def on_cancel(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` when cancelled (at once if that has happened); the returned function takes it back."""
        with self._lock:
            if not self._event.is_set():
                key = self._next
                self._next += 1
                self._wakers[key] = wake
                return lambda: self._forget(key)
        wake()
        return lambda: None

    def _forget(self, key: int) -> None:
        with self._lock:
            self._wakers.pop(key, None)

    def close(self) -> None:
        """The operation is over: end the timer's thread."""
        if self._timer is not None:
            self._timer.cancel()

    def check(self, doing: str) -> None:
        """Raise if the caller has gone."""
        if self._event.is_set():
            raise self.error(doing)

    def error(self, doing: str) -> Cancelled:
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return DeadlineExceeded(f"{doing}: the deadline has passed")
        return Cancelled(f"{doing}: cancelled")
