# SPDX-License-Identifier: Apache-2.0
"""Threads of one operation: the first failure stops all, and a caller who leaves does not wait for them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cri.images.cancel import Cancellation
from cri.images.errors import ImageError

_GRACE_SECONDS = 0.05  # after a cancel; with the 50 ms in which every wait looks up this stays below 100 ms


class Crew:
    """Start work, then wait; `stop` is what the workers watch."""

    def __init__(self, name: str, caller: Cancellation | None, finished: Callable[[], None]) -> None:
        """`finished` runs when the last worker is done, be it long after the caller has left."""
        self.stop = Cancellation()
        self._name = name
        self._caller = caller
        self._finished = finished
        self._changed = threading.Condition()
        self._working = 1  # the caller itself
        self._failure: BaseException | None = None
        self._forget = caller.on_cancel(self.stop.cancel) if caller is not None else lambda: None

    def start(self, work: Callable[[], None], label: str) -> None:
        """Run work in a thread of its own."""
        with self._changed:
            self._working += 1
        threading.Thread(target=self._run, args=(work,), name=f"{self._name} {label}", daemon=True).start()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.fail(error)
        finally:
            self._leave()

    def fail(self, error: BaseException) -> None:
        """Remember the first failure and stop the others."""
        with self._changed:
            if self._failure is None:
                self._failure = error
        self.stop.cancel()

    def _leave(self) -> None:
        with self._changed:
            self._working -= 1
            last = self._working == 0
            self._changed.notify_all()
        if last:
            self._finished()

    def wait(self, doing: str) -> None:
        """Until all are done; raises the first failure, or at once when the caller was cancelled."""
        with self._changed:
            while self._working > 1:
                if self._caller is not None and self._caller.cancelled:
                    self._changed.wait_for(lambda: self._working <= 1, _GRACE_SECONDS)
                    break
                self._changed.wait(0.03 if self._caller is not None else None)
            failure = self._failure
        if self._caller is not None:
            self._caller.check(doing)
        if failure is not None:
            if isinstance(failure, ImageError):
                raise failure
            raise ImageError(f"{doing}: {type(failure).__name__}: {failure}") from failure

    @contextmanager
    def unless_it_fails(self) -> Iterator[None]:
        """For what is prepared before the work begins: its failure ends the crew, nothing stays open."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """The caller leaves; workers still there are told to stop."""
        self._forget()
        with self._changed:
            busy = self._working > 1
        if busy:
            self.stop.cancel()
        self._leave()
