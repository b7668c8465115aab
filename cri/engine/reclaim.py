# SPDX-License-Identifier: Apache-2.0
"""Deleting the writable layers of containers that are gone: after the call that removed them, one at a time."""

from __future__ import annotations

import threading
from _queue import SimpleQueue

from cri.images.errors import ImageError
from cri.images.store import ImageStore


class Reclaim:
    """A layer may hold a million files, and nobody needs to wait. What a crash leaves, recovery hands in again."""

    def __init__(self, images: ImageStore) -> None:
        self._images = images
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="reclaim", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, key: str) -> None:
        """The key's mounts are gone; what lies under it may go too. At once, where no thread was started."""
        if self._thread.is_alive():
            self._queue.put(key)
        else:
            self._release(key)

    def close(self, seconds: float = 10.0) -> None:
        """Finish what was handed in, but not for ever."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(seconds)

    def _run(self) -> None:
        while (key := self._queue.get()) is not None:
            self._release(key)

    def _release(self, key: str) -> None:
        try:
            self._images.release(key)
        except (ImageError, OSError) as e:
            from logging import getLogger

            getLogger(__name__).warning("writable layer %s: %s; the next start tries again", key, e)
