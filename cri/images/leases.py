# SPDX-License-Identifier: Apache-2.0
"""What operations under way rely on, so that a collection beside them leaves it alone.

A lease is a file with one name per line, alive as long as its flock is held; a killed process lets go by dying.
"""

import fcntl
import os
import threading

from cri.images.layout import Layout, failures


class Lease:
    """Held by one operation; add first, then look whether the thing is there."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._path = os.path.join(layout.leases, os.urandom(8).hex())
        self._guard = threading.Lock()
        with failures("cannot note what is needed", layout.leases), layout.adding():
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)

    def add(self, *names: str) -> None:
        """Digests of blobs and names of layers that must not be collected until this lease ends."""
        with failures("cannot note what is needed", self._path), self._guard, self._layout.adding():
            os.write(self._fd, "".join(f"{name}\n" for name in names).encode())

    def close(self) -> None:
        with self._guard:
            if self._fd >= 0:
                try:
                    os.unlink(self._path)
                finally:
                    os.close(self._fd)
                    self._fd = -1

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def living(layout: Layout) -> set[str]:
    """Every name in a lease whose holder lives; leases of the dead are removed. Call while deciding."""
    names: set[str] = set()
    for entry in os.listdir(layout.leases):
        path = os.path.join(layout.leases, entry)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        except BlockingIOError:
            with os.fdopen(os.dup(fd), encoding="ascii") as lines:
                names.update(lines.read().split())
        except FileNotFoundError:
            pass
        finally:
            os.close(fd)
    return names
