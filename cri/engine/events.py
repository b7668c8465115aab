# SPDX-License-Identifier: Apache-2.0
"""Who wants to hear of it: every lifecycle event to every subscriber, and a slow one is cut off, not waited for."""

from __future__ import annotations

import threading
import time
from _queue import Empty, SimpleQueue
from enum import StrEnum

from runtime.linux.quick_dataclasses import dataclass, field

LIMIT = 4096


class Kind(StrEnum):
    CREATED = "created"
    STARTED = "started"
    STOPPED = "stopped"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a container, or to the sandbox of a pod (then the ids are the same)."""

    kind: Kind
    id: str
    pod_id: str
    time_ns: int = field(default_factory=time.time_ns)


class Subscription:
    """A bounded queue; `lost` once it has overflowed."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Event | None] = SimpleQueue()
        self.lost = False

    def put(self, event: Event | None) -> None:
        if self._queue.qsize() < LIMIT:
            self._queue.put(event)
        else:
            self.lost = True

    def get(self, seconds: float) -> Event | None:
        """The next event; None when none came in time or the engine closes."""
        try:
            return self._queue.get(timeout=seconds)
        except Empty:
            return None


class Events:
    """Publish and subscribe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: set[Subscription] = set()

    def subscribe(self) -> Subscription:
        subscription = Subscription()
        with self._lock:
            self._subscribers.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        with self._lock:
            self._subscribers.discard(subscription)

    def publish(self, event: Event) -> None:
        with self._lock:
            for subscription in self._subscribers:
                subscription.put(event)
