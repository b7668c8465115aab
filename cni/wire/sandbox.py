# SPDX-License-Identifier: Apache-2.0
"""A container's network namespace, opened: its descriptor, a netlink socket in it, a way to run something in it."""

import _thread
import os

from runtime.linux.netlink import Netlink, enter

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
    """A container's namespace for as long as the with block: a netlink socket born there, and a way to run in it.

    setns(2) moves one thread only. In a process that serves others that is a thread of our own, which ends with the
    block, so no other one ever has to come back. A command has but one thread, which goes in and comes back: that
    costs two calls, a thread with its stack and its locks 0.3 ms.
    """

    __slots__ = ("_thread", "netlink", "netns")

    def __init__(self, path: str, *, in_process: bool) -> None:
        self.netns = open_netns(path)
        try:
            self._thread: _Thread | _Visitor = _Thread(self.netns.fd) if in_process else _Visitor(self.netns.fd)
        except OSError as error:
            os.close(self.netns.fd)
            raise CniError(INVALID_NETNS, f"CNI_NETNS: {path} is not a network namespace") from error
        self.netlink: Netlink = self._thread.netlink

    def run(self, job: "Callable[[], T]") -> "T":
        """Do something inside, where /proc/sys/net and new sockets are the container's."""
        return self._thread.run(job)

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", at: "TracebackType | None"
    ) -> None:
        self.netlink.close()
        self._thread.close()
        os.close(self.netns.fd)


class _Visitor:
    """The only thread of a command."""

    __slots__ = ("_home", "_there", "netlink")

    def __init__(self, there: int) -> None:
        self._there = there
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.netlink = self.run(Netlink)
        except OSError:
            os.close(self._home)
            raise

    def run(self, job: "Callable[[], T]") -> "T":
        enter(self._there)
        try:
            return job()
        finally:
            enter(self._home)

    def close(self) -> None:
        os.close(self._home)


class _Thread:
    """A thread inside that does what it is asked to."""

    __slots__ = ("_ended", "_job", "_outcome", "_ready", "_wanted", "netlink")

    def __init__(self, there: int) -> None:
        self._wanted, self._ready, self._ended = (_thread.allocate_lock() for _ in range(3))
        for lock in (self._wanted, self._ready, self._ended):
            lock.acquire()
        self._job: Callable[[], object] | None = None
        self._outcome: tuple[object, BaseException | None] = (None, None)
        _thread.start_new_thread(self._work, ())
        try:
            self.netlink: Netlink = self.run(lambda: _enter(there))
        except BaseException:
            self.close()
            raise

    def run(self, job: "Callable[[], T]") -> "T":
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


def _enter(there: int) -> Netlink:
    enter(there)
    return Netlink()


def open_if_there(path: str, *, in_process: bool) -> Sandbox | None:
    """The sandbox, or None if its namespace is gone, or no path is known."""
    if not path:
        return None
    try:
        return Sandbox(path, in_process=in_process)
    except CniError:
        return None
