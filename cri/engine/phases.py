# SPDX-License-Identifier: Apache-2.0
"""Where the time of a call goes: named phases, collected per thread while the call runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_current = threading.local()


def begin() -> None:
    """A new call on this thread."""
    _current.phases = []


def taken() -> list[tuple[str, float]]:
    """(name, seconds) in order, of the call on this thread."""
    return getattr(_current, "phases", [])


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Time what is inside."""
    started = time.perf_counter()
    try:
        yield
    finally:
        if not hasattr(_current, "phases"):
            _current.phases = []
        _current.phases.append((name, time.perf_counter() - started))
