# SPDX-License-Identifier: Apache-2.0
"""Where the time of a call goes: named phases, collected per thread while the call runs."""

from __future__ import annotations

import threading
import time

_current = threading.local()


def begin() -> None:
    """A new call on this thread."""
    _current.phases = []


def taken() -> list[tuple[str, float]]:
    """(name, seconds) in order, of the call on this thread."""
    return getattr(_current, "phases", [])


class phase:
    """Time what is inside."""

    __slots__ = ("_name", "_started")

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        spent = time.perf_counter() - self._started
        if not hasattr(_current, "phases"):
            _current.phases = []
        _current.phases.append((self._name, spent))
