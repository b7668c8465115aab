# SPDX-License-Identifier: Apache-2.0
"""The same for many at once: a thread each, and what failed."""

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def failures_of(action: Callable[[T], object], items: Iterable[T]) -> list[Exception]:
    """Do action to every item in a thread of its own; the exceptions of those that failed."""
    failures: list[Exception] = []

    def attempt(item: T) -> None:
        try:
            action(item)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=attempt, args=(item,)) for item in items]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures
