# SPDX-License-Identifier: Apache-2.0
"""A small rtnetlink: a socket that lives in one network namespace, and what Linux can be asked through it.

    with Netlink() as host, Netlink(netns_fd) as inside:
        host.transact(messages.new_link("veth0", "veth", ...))
        inside.set_up("lo")

A netlink socket stays in the network namespace where it was born, whatever its thread enters later. So one is opened
outside and one inside, and nobody switches back and forth.
"""

import errno
import fcntl
import os
import struct
from _socket import AF_INET, AF_INET6, SO_BINDTODEVICE, SOCK_CLOEXEC, SOCK_RAW, SOL_SOCKET, socket

from . import netlink_messages as m
from .kernel_error import KernelError
from .netlink_objects import Address, Link, Neighbour, Route, Rule, attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, TypeVar

    T = TypeVar("T")

AF_NETLINK, NETLINK_ROUTE = 16, 0
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 1, 10, 11, 12
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_MULTI, NLM_F_DUMP_INTR = 0x2, 0x10
RTNLGRP_LINK = 1
CLONE_NEWNET = 0x40000000
MSG_DONTWAIT = 0x40
SIOCGIFINDEX = 0x8933

_HEADER = struct.Struct("=IHHII")
_IFREQ = struct.Struct("=16si20x")
# A message is at most 32 KiB today. Twice as much is still too little for malloc(3) to map and unmap it every time.
_RECEIVE = 1 << 16
_BUSY_DUMPS = 10
_syscalls: "Any" = None  # the module, once somebody has entered a namespace


class Socket:
    """One netlink socket of any family of requests, with numbered messages and answers matched to them."""

    __slots__ = ("_sequence", "_socket")

    def __init__(self, protocol: int = NETLINK_ROUTE, groups: "tuple[int, ...]" = ()) -> None:
        try:
            self._socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)
            if groups:  # others get their number with their first request
                self._socket.bind((0, 0))
        except OSError as error:
            raise KernelError(error.errno or 0, "socket", ("AF_NETLINK", protocol)) from error
        self._sequence = 0
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            try:
                self._socket.setsockopt(SOL_NETLINK, option, 1)
            except OSError:  # 4.3, 4.12, 4.20: an older kernel answers less precisely, and that is all
                pass
        for group in groups:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def __enter__(self) -> "Socket":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", at: "TracebackType | None"
    ) -> None:
        self.close()

    def transact(self, *requests: m.Request) -> None:
        """Send the requests in one call and wait for the last one's answer; the first that failed is raised.

        The kernel works through all of them even if one fails, so a caller that sees an error tears down.
        """
        if not requests:
            return
        first = self._sequence + 1
        last = self._sequence + len(requests)
        packets = []
        for request in requests:
            self._sequence += 1
            # Only the last one asks for an answer: failures are told unasked and in order, and an answer costs a recv.
            flags = m.NLM_F_REQUEST | request.flags | (m.NLM_F_ACK if self._sequence == last else 0)
            packets.append(_HEADER.pack(16 + len(request.body), request.kind, flags, self._sequence, 0) + request.body)
            packets.append(bytes(-len(request.body) & 3))
        self._send(b"".join(packets), requests[0])
        failure = None
        answered = first - 1
        while answered < last:
            for kind, _, sequence, body in self._receive():
                if kind != NLMSG_ERROR or not first <= sequence <= last:
                    continue
                answered = sequence
                request = requests[sequence - first]
                error = failure_of(request, body)
                if error is not None and failure is None and error.errno not in request.tolerated:
                    failure = error
        if failure is not None:
            raise failure

    def get(self, request: m.Request) -> bytes:
        """Ask for one object and return its body."""
        body = self.find(request, 0)
        if body is None:
            raise KernelError(errno.ENODATA, request.call, request.arguments)
        return body

    def find(self, request: m.Request, absent: int) -> bytes | None:
        """As get(), for an object that may well be absent: None if the kernel says so by that errno."""
        self._sequence += 1
        header = _HEADER.pack(16 + len(request.body), request.kind, m.NLM_F_REQUEST | request.flags, self._sequence, 0)
        self._send(header + request.body, request)
        while True:
            for kind, _, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                if kind != NLMSG_ERROR:
                    return body
                if -int.from_bytes(body[:4], "little", signed=True) == absent:
                    return None
                raise failure_of(request, body) or KernelError(errno.ENODATA, request.call, request.arguments)

    def dump(self, request: m.Request) -> list[bytes]:
        """All objects that match; asked again when the kernel says that the list changed under way."""
        for _ in range(_BUSY_DUMPS):
            bodies, whole = self._dump_once(request)
            if whole:
                return bodies
        return bodies

    def _dump_once(self, request: m.Request) -> tuple[list[bytes], bool]:
        self._sequence += 1
        flags = m.NLM_F_REQUEST | m.NLM_F_DUMP | request.flags
        self._send(_HEADER.pack(16 + len(request.body), request.kind, flags, self._sequence, 0) + request.body, request)
        bodies: list[bytes] = []
        whole = True
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                whole = whole and not flags & NLM_F_DUMP_INTR
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    error = failure_of(request, body)
                    if error is not None:
                        raise error
                    return bodies, whole
                bodies.append(body)

    def events(self) -> list[tuple[int, bytes]]:
        """Wait for notifications of the groups that were joined; (kind, body) of each."""
        return [(kind, body) for kind, _, _, body in self._receive()]

    def _send(self, data: bytes, request: m.Request) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            raise KernelError(error.errno or 0, request.call, request.arguments) from error

    def _receive(self, flags: int = 0) -> list[tuple[int, int, int, bytes]]:
        data = self._socket.recv(_RECEIVE, flags)
        messages = []
        offset, end = 0, len(data)
        while offset + 16 <= end:
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            messages.append((kind, flags, sequence, data[offset + 16 : offset + length]))
            offset += (length + 3) & ~3
        return messages


def failure_of(request: m.Request, body: bytes) -> KernelError | None:
    """The error in an NLMSG_ERROR or NLMSG_DONE body, with the kernel's own words where it gave some."""
    if len(body) < 4:
        return None
    code = -int.from_bytes(body[:4], "little", signed=True)
    if code <= 0:
        return None
    words = attributes(body, 20).get(1) if len(body) > 20 else None  # 1: NLMSGERR_ATTR_MSG
    reason = None
    if words:
        reason = f"{os.strerror(code)}: {words.rstrip(bytes(1)).decode(errors='replace')}"
    return KernelError(code, request.call, request.arguments, reason)


class Netlink(Socket):
    """rtnetlink of the calling thread's network namespace, or of the one behind netns_fd."""

    __slots__ = ()

    def __init__(self, netns_fd: int | None = None, groups: "tuple[int, ...]" = ()) -> None:
        if netns_fd is None:
            super().__init__(NETLINK_ROUTE, groups)
        else:
            inside(netns_fd, lambda: super(Netlink, self).__init__(NETLINK_ROUTE, groups))

    def __enter__(self) -> "Netlink":
        return self

    def links(self) -> list[Link]:
        return [Link(body) for body in self.dump(m.dump_links())]

    def link(self, name: str) -> Link:
        return Link(self.get(m.get_link(name=name)))

    def link_by_index(self, index: int) -> Link:
        return Link(self.get(m.get_link(index)))

    def find_link(self, name: str) -> Link | None:
        """The link of that name, or None if there is none."""
        body = self.find(m.get_link(name=name), errno.ENODEV)
        return None if body is None else Link(body)

    def has_link(self, name: str) -> bool:
        """Whether somebody has that name. Binding a socket to a link looks the name up and takes no lock; a netlink
        socket that is bound to one is as good as before. SIOCGIFINDEX would run modprobe for a name that nobody has."""
        try:
            self._socket.setsockopt(SOL_SOCKET, SO_BINDTODEVICE, name.encode())
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise KernelError(error.errno or 0, "SO_BINDTODEVICE", (name,)) from error
        return True

    def index_of(self, name: str) -> int:
        """The number of a link that is there. A tenth of link(): forty attributes are neither written nor read."""
        try:
            answer = fcntl.ioctl(self._socket, SIOCGIFINDEX, _IFREQ.pack(name.encode(), 0))
        except OSError as error:
            raise KernelError(error.errno or 0, "SIOCGIFINDEX", (name,)) from error
        index: int = _IFREQ.unpack(answer)[1]
        return index

    def set_up(self, name: str) -> None:
        self.transact(m.link_up(self.link(name).index))

    def set_down(self, name: str) -> None:
        self.transact(m.link_down(self.link(name).index))

    def addresses(self, index: int = 0, family: int = 0) -> list[Address]:
        found = [Address(body) for body in self.dump(m.dump_addresses(index, family))]
        return [address for address in found if not index or address.index == index]

    def routes(self, family: int, table: int = 0) -> list[Route]:
        found = [Route(body) for body in self.dump(m.dump_routes(family, table))]
        return [route for route in found if route.family == family and (not table or route.table == table)]

    def route_to(self, address: str) -> Route:
        return Route(self.get(m.route_to(address)))

    def rules(self, family: int) -> list[Rule]:
        return [Rule(body) for body in self.dump(m.dump_rules(family))]

    def neighbours(self, index: int = 0) -> list[Neighbour]:
        found = [Neighbour(body) for body in self.dump(m.dump_neighbours(index))]
        return [neighbour for neighbour in found if not index or neighbour.index == index]

    def default_link(self) -> Link | None:
        """The link of the default route, IPv4 first."""
        for family, zero in ((AF_INET, "0.0.0.0/0"), (AF_INET6, "::/0")):
            defaults = [r for r in self.routes(family, m.RT_TABLE_MAIN) if r.destination == zero and r.link]
            if defaults:
                return self.link_by_index(min(defaults, key=lambda r: r.priority).link)
        return None


def inside(netns_fd: int, action: "Callable[[], T]") -> "T":
    """Run action in the network namespace behind netns_fd and return what it returns.

    setns(2) moves the calling thread only. It goes in and comes back, which is two quick calls; a thread of our own for
    the visit would be a new stack and four waits for a processor. One that cannot come back must not go on: it would
    take the pod for the host.
    """
    global _syscalls
    if _syscalls is None:  # not above: the C core costs a cold command 1 ms, and a DEL enters nothing
        from . import syscalls as _syscalls
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            _syscalls.setns(netns_fd, CLONE_NEWNET)
            return action()
        finally:
            # Not by the wrapper: an interrupt between two calls of Python's would leave this thread in the pod.
            if _syscalls.lib.k_setns(home, CLONE_NEWNET) < 0:
                os.abort()
    finally:
        os.close(home)


def write_sysctl(key: str, value: str) -> None:
    """Set /proc/sys/<key> of the calling thread's namespace; nothing is written if it already has the value."""
    path = f"/proc/sys/{key}"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(error.errno or 0, "open", (path,)) from error
    try:
        if os.read(fd, 64).strip() != value.encode():
            os.pwrite(fd, value.encode(), 0)
    except OSError as error:
        raise KernelError(error.errno or 0, "write", (path, value)) from error
    finally:
        os.close(fd)


def read_sysctl(key: str) -> str | None:
    """The value of /proc/sys/<key> in the calling thread's namespace, None if this kernel has no such key."""
    try:
        fd = os.open(f"/proc/sys/{key}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return os.read(fd, 4096).decode().strip()
    finally:
        os.close(fd)
