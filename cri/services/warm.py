# SPDX-License-Identifier: Apache-2.0
"""Usage of very many objects: built messages, gathered anew in the background for as long as somebody keeps asking.

A look at one pod is a dozen reads and a message of twenty parts, 0.3 ms. Up to MANY of them are looked at when asked.
With more, an answer would take longer than what it tells is worth: it is put together from looks at most OLDEST_SECONDS
old, and each message says when its look was.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

from cri.engine.errors import EngineError

R = TypeVar("R")
MANY = 200
REFRESH_SECONDS = 5.0
OLDEST_SECONDS = 10.0
# Nobody has asked for so long: whoever asked every ten seconds does not any more.
FORGET_SECONDS = 30.0
# Between two batches others have their turn at the interpreter.
BATCH = 20


class Warm(Generic[R]):
    """`gather` builds the message of one object; `key` changes when what was built before is no longer true of it."""

    def __init__(self, gather: Callable[[R], Any], key: Callable[[R], Hashable]) -> None:
        self._gather = gather
        self._key = key
        self._lock = threading.Lock()
        self._built: dict[Hashable, tuple[float, Any]] = {}
        self._wanted: Sequence[R] = ()
        self._asked = 0.0
        self._thread: threading.Thread | None = None

    def messages(self, records: Sequence[R]) -> list[Any]:
        """One of each, in their order."""
        if len(records) <= MANY:
            return [self._gather(record) for record in records]
        now = time.monotonic()
        oldest = now - OLDEST_SECONDS
        found = []
        for record in records:
            key = self._key(record)
            held = self._built.get(key)
            if held is None or held[0] < oldest:
                held = self._built[key] = (now, self._gather(record))
            found.append(held[1])
        with self._lock:
            self._wanted, self._asked = records, now
            if self._thread is None:
                self._thread = threading.Thread(target=self._refresh, name="usage", daemon=True)
                self._thread.start()
        return found

    def _refresh(self) -> None:
        while True:
            began = time.monotonic()
            with self._lock:
                records = self._wanted
                if began - self._asked > FORGET_SECONDS:
                    self._thread, self._wanted, self._built = None, (), {}
                    return
            fresh: dict[Hashable, tuple[float, Any]] = {}
            for number, record in enumerate(records):
                if number % BATCH == 0:
                    time.sleep(REFRESH_SECONDS * BATCH / (2 * len(records)))
                try:
                    fresh[self._key(record)] = (time.monotonic(), self._gather(record))
                except (EngineError, OSError):
                    continue  # gone meanwhile
            self._built = fresh
            time.sleep(max(0.1, REFRESH_SECONDS - (time.monotonic() - began)))
