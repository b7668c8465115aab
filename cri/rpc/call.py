# SPDX-License-Identifier: Apache-2.0
"""One call: how its method is answered, what was asked so far, and whether somebody still waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cri.rpc.pool import Pool
from cri.rpc.status import Code, Context, Failed


@dataclass(frozen=True, slots=True)
class Method:
    """How one RPC is answered. A quick one never blocks, so the thread that reads may answer it."""

    answer: Callable[[Any, Context], Any]
    parse: Callable[[bytes], Any]
    serialize: Callable[[Any], bytes]
    is_streaming: bool = False
    is_quick: bool = False
    takes_a_message: bool = True


@dataclass(frozen=True, slots=True)
class Service:
    """What all connections of a server share."""

    methods: Mapping[bytes, Method]  # by path: /package.Service/Method
    pool: Pool
    message_bytes: int


def refusal(code: Code, text: str) -> Method:
    """In place of a method that is not there: the answer comes when the question is whole, as any other."""

    def refuse(_: Any, __: Context) -> Any:
        raise Failed(code, text)

    return Method(refuse, bytes, bytes, is_quick=True, takes_a_message=False)


class Gone(Exception):
    """The caller, or the whole connection, is no longer there."""


class Call:
    """One stream: what was asked so far, and whether somebody still waits for the answer."""

    __slots__ = (
        "_callbacks",
        "_deadline",
        "_is_over",
        "_lock",
        "body",
        "cancelled",
        "id",
        "is_whole",
        "length",
        "method",
        "window",
    )

    def __init__(self, identity: int, method: Method, seconds: float | None, window: int, lock: threading.Lock) -> None:
        self.id = identity
        self.method = method
        self.is_whole = False  # the client has said all it will say
        self.length: bytes | None = None  # how many bytes it has announced, if it has
        self.window = window  # what the client still takes on this stream
        self.body = bytearray()
        self.cancelled = False
        self._is_over = False
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._callbacks: list[Callable[[], None]] = []
        self._lock = lock

    def is_active(self) -> bool:
        left = self.time_remaining()
        return not self.cancelled and (left is None or left > 0)

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def add_callback(self, callback: Callable[[], None]) -> bool:
        with self._lock:
            if not self._is_over:
                self._callbacks.append(callback)
            return not self._is_over

    def end(self, *, is_cancelled: bool) -> None:
        """It was answered, or the caller gave up; the lock is not held."""
        with self._lock:
            self._is_over = True
            self.cancelled |= is_cancelled
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
