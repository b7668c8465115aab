# SPDX-License-Identifier: Apache-2.0
"""A container's network namespace, opened: its descriptor, a netlink socket in it, a way to run something in it."""

import os

from runtime.linux.netlink import Netlink, inside

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
    """A container's namespace for as long as the with block: a netlink socket born there, and a way to run in it."""

    __slots__ = ("netlink", "netns")

    def __init__(self, path: str) -> None:
        self.netns = open_netns(path)
        try:
            self.netlink = Netlink(self.netns.fd)
        except OSError as error:
            os.close(self.netns.fd)
            raise CniError(INVALID_NETNS, f"CNI_NETNS: {path} is not a network namespace") from error

    def run(self, job: "Callable[[], T]") -> "T":
        """Do something inside, where /proc/sys/net and new sockets are the container's."""
        return inside(self.netns.fd, job)

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", at: "TracebackType | None"
    ) -> None:
        self.netlink.close()
        os.close(self.netns.fd)


def open_if_there(path: str) -> Sandbox | None:
    """The sandbox, or None if its namespace is gone, or no path is known."""
    if not path:
        return None
    try:
        return Sandbox(path)
    except CniError:
        return None
