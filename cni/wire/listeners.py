# SPDX-License-Identifier: Apache-2.0
"""Who listens on a port of the host: a hostPort on top of a listener would silently take its traffic."""

import os
import struct
from _socket import inet_ntop

from runtime.linux import netlink_messages as m
from runtime.linux.kernel_error import KernelError
from runtime.linux.netlink import Socket
from runtime.linux.netlink_objects import attributes

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY = 4, 20
_LISTEN, _UNCONNECTED = 1 << 10, 1 << 7  # TCP_LISTEN; TCP_CLOSE is what an unconnected UDP socket is in
_SKV6ONLY = 11
TCP, UDP, SCTP = 6, 17, 132


class Listener:
    """A listening socket: its address, and the process that has it if that can be told."""

    __slots__ = ("address", "family", "inode", "only_own_family", "port")

    def __init__(self, body: bytes) -> None:
        self.family = body[0]
        self.port = int.from_bytes(body[4:6], "big")
        size = 4 if self.family == 2 else 16
        self.address = inet_ntop(self.family, body[8 : 8 + size])
        self.inode = int.from_bytes(body[68:72], "little")
        self.only_own_family = self.family == 2 or attributes(body, 72).get(_SKV6ONLY) == b"\1"

    @property
    def any_address(self) -> bool:
        return self.address in ("0.0.0.0", "::")  # noqa: S104 (compared, not bound)

    def covers(self, family: int, address: str | None) -> bool:
        """Whether it would get what goes to address (None: to any of that family)."""
        if self.family != family and not (self.any_address and not self.only_own_family):
            return False
        return address is None or self.any_address or self.address == address

    def described(self) -> str:
        owner = process_with_socket(self.inode)
        return f"{self.address} port {self.port}" + (f" of {owner}" if owner else "")


def listeners(protocol: int, port: int) -> list[Listener]:
    """The sockets that would receive on this port, in both families."""
    states = _UNCONNECTED if protocol == UDP else _LISTEN
    found: list[Listener] = []
    with Socket(NETLINK_SOCK_DIAG) as socket:
        for family in (2, 10):
            # The socket id holds only the port; the kernel compares it in dumps too (idiag_sport).
            identity = port.to_bytes(2, "big") + bytes(46)
            body = struct.pack("=BBBBI", family, protocol, 0, 0, states) + identity
            request = m.Request("SOCK_DIAG_BY_FAMILY", (f"protocol {protocol}", port), SOCK_DIAG_BY_FAMILY, 0, body)
            try:
                found += [Listener(answer) for answer in socket.dump(request)]
            except KernelError:
                continue  # SCTP's module is not there, and then neither is a listener
    return [listener for listener in found if listener.port == port]


def process_with_socket(inode: int) -> str:
    """name (pid) of a process that holds a socket; looked for only when a conflict is to be explained."""
    wanted = f"socket:[{inode}]"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") == wanted:
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                        return f"{file.read().strip()} (pid {pid})"
        except OSError:
            continue  # it has ended, or is not ours to look at
    return ""
