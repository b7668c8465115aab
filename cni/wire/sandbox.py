# SPDX-License-Identifier: Apache-2.0
"""A container's network namespace, opened: its descriptor, a netlink socket in it, a way to run something in it."""

import _thread
import os

from runtime.linux.netlink import CLONE_NEWNET, Netlink
from runtime.linux.syscalls import setns

from ..errors import INVALID_NETNS, UNKNOWN_CONTAINER, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import TypeVar

    T = TypeVar("T")


class NetNs:
    """An open descriptor of a network namespace."""

    __slots__ = ("fd", "path")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd

    def __enter__(self) -> "NetNs":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", at: "TracebackType | None"
    ) -> None:
        os.close(self.fd)


def open_netns(path: str) -> NetNs:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise CniError(
            UNKNOWN_CONTAINER, f"CNI_NETNS: {path} does not exist: the container is gone, or never was"
        ) from None
    except OSError as error:
        raise CniError(INVALID_NETNS, f"CNI_NETNS: cannot open {path}: {error.strerror}") from None
    return NetNs(path, fd)


class Sandbox:
    """One thread inside a container's namespace for as long as the with block, and a netlink socket born there.

    setns(2) moves one thread only. Ours ends with the block, so no thread that serves others ever has to come back.
    """

    __slots__ = ("_ended", "_job", "_outcome", "_ready", "_wanted", "netlink", "netns")

    def __init__(self, path: str) -> None:
        self.netns = open_netns(path)
        self._wanted, self._ready, self._ended = (_thread.allocate_lock() for _ in range(3))
        for lock in (self._wanted, self._ready, self._ended):
            lock.acquire()
        self._job: Callable[[], object] | None = self._enter
        self._outcome: tuple[object, BaseException | None] = (None, None)
        _thread.start_new_thread(self._work, ())
        self._wanted.release()
        self._ready.acquire()
        if self._outcome[1] is not None:
            self.close()
            raise CniError(INVALID_NETNS, f"CNI_NETNS: {path} is not a network namespace") from self._outcome[1]
        self.netlink: Netlink = self._outcome[0]  # type: ignore[assignment]  # what _enter returned

    def run(self, job: "Callable[[], T]") -> "T":
        """Do something inside, where /proc/sys/net and new sockets are the container's."""
        self._job = job
        self._wanted.release()
        self._ready.acquire()
        value, error = self._outcome
        if error is not None:
            raise error
        return value  # type: ignore[return-value]  # what job returned

    def close(self) -> None:
        self._job = None
        self._wanted.release()
        self._ended.acquire()  # a thread still inside would keep the namespace alive
        os.close(self.netns.fd)

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", at: "TracebackType | None"
    ) -> None:
        self.netlink.close()
        self.close()

    def _enter(self) -> Netlink:
        setns(self.netns.fd, CLONE_NEWNET)
        return Netlink()

    def _work(self) -> None:
        try:
            while True:
                self._wanted.acquire()
                job = self._job
                if job is None:
                    return
                try:
                    self._outcome = (job(), None)
                except BaseException as error:
                    self._outcome = (None, error)
                self._ready.release()
        finally:
            self._ended.release()


def open_if_there(path: str) -> Sandbox | None:
    """The sandbox, or None if its namespace is gone, or no path is known."""
    if not path:
        return None
    try:
        return Sandbox(path)
    except CniError:
        return None
