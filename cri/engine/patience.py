# SPDX-License-Identifier: Apache-2.0
"""How long the caller of the current call still waits, and whether it does: asked wherever a call is about to do more.

A call that nobody waits for any more goes no further forwards: what it has made so far is taken down by the teardown
that serves every other failure. Teardowns themselves never ask.
"""

from __future__ import annotations

import threading
import time

from cri.engine.errors import Cancelled, TimedOut
from runtime.linux import durable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, TypeVar

    Answer = TypeVar("Answer")

    class Caller(Protocol):
        """Whoever waits for an answer."""

        def seconds_left(self) -> float | None:
            """Until its deadline; None without one."""

        def is_gone(self) -> bool:
            """Whether it has hung up, or its deadline has passed."""

        def when_gone(self, act: Callable[[], None]) -> None:
            """Call `act` once when the call is over, however it ends; at once if it is."""


_current = threading.local()
# flock(2) knows no timeout and a thread cannot be interrupted in it, so a lock that somebody holds is asked for again.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05
WAIT_SLICE_SECONDS = 0.5


def begin(caller: Caller | None) -> None:
    """A new call on this thread; without a caller there is no limit, as for a person's command."""
    _current.caller = caller


def caller() -> Caller | None:
    found: Caller | None = getattr(_current, "caller", None)
    return found


def check() -> None:
    """Raise if nobody waits for this call any more."""
    waiting = caller()
    if waiting is None or not waiting.is_gone():
        return
    left = waiting.seconds_left()
    if left is not None and left <= 0:
        raise TimedOut("the caller's deadline has passed; what was begun has been taken back")
    raise Cancelled("the caller has gone away; what was begun has been taken back")


def at_most(seconds: float) -> float:
    """That long, or as long as the caller waits."""
    waiting = caller()
    left = waiting.seconds_left() if waiting is not None else None
    return seconds if left is None else max(0.0, min(seconds, left))


def in_slices(seconds: float | None, wait: Callable[[float], Answer]) -> Answer:
    """Wait again and again until there is an answer or the time is over, so that a caller that goes away does not leave
    us waiting for years."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        left = WAIT_SLICE_SECONDS if deadline is None else deadline - time.monotonic()
        answer = wait(max(0.0, min(left, WAIT_SLICE_SECONDS)))
        if answer or (deadline is not None and time.monotonic() >= deadline):
            return answer
        check()


def lock(path: str) -> durable.Locked:
    """The flock of an existing file or directory, awaited as long as the caller waits."""
    if caller() is None:
        return durable.lock(path, create=False)
    pause = _FIRST_PAUSE
    while True:
        try:
            return durable.lock(path, wait=False, create=False)
        except BlockingIOError:
            check()
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
