# SPDX-License-Identifier: Apache-2.0
"""Descriptors sent over unix sockets, and sockets at paths of any length; without importing socket."""

import _socket
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

Socket = _socket.socket


def pair(kind: int = _socket.SOCK_SEQPACKET) -> "tuple[Socket, Socket]":
    """Two connected unix sockets that close on exec."""
    return _socket.socketpair(_socket.AF_UNIX, kind | _socket.SOCK_CLOEXEC)


def _within(path: str) -> "tuple[int, str]":
    """sun_path holds 107 bytes, paths are longer: reach the socket through a descriptor of its directory."""
    directory, slash, name = path.rpartition("/")
    fd = posix.open(directory or slash or ".", posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    return fd, f"/proc/self/fd/{fd}/{name}"


def connect(path: str, kind: int = _socket.SOCK_STREAM) -> "Socket":
    """A socket connected to the listener at path."""
    fd, short = _within(path)
    try:
        sock = _socket.socket(_socket.AF_UNIX, kind | _socket.SOCK_CLOEXEC)
        try:
            sock.connect(short)
        except BaseException:
            sock.close()
            raise
        return sock
    finally:
        posix.close(fd)


def listen(path: str, kind: int = _socket.SOCK_STREAM, backlog: int = 8, mode: int = 0o600) -> "Socket":
    """A socket that listens at path, which must not exist, reachable by its owner only."""
    fd, short = _within(path)
    try:
        sock = _socket.socket(_socket.AF_UNIX, kind | _socket.SOCK_CLOEXEC)
        # The mode is decided at bind: a chmod afterwards would leave a moment in which others could connect.
        before = posix.umask(0o777 & ~mode)
        try:
            sock.bind(short)
            sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
        finally:
            posix.umask(before)
        return sock
    finally:
        posix.close(fd)


def send(sock: "Socket", data: bytes, fds: "Sequence[int]" = ()) -> None:
    """Send data and descriptors as one message. Data must not be empty: a stream carries no fds without a byte."""
    if not fds:
        sock.sendall(data)
        return
    packed = b"".join(fd.to_bytes(4, "little", signed=True) for fd in fds)
    sent = sock.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])
    if sent < len(data):
        sock.sendall(data[sent:])


def receive(sock: "Socket", size: int = 65536, max_fds: int = 64) -> tuple[bytes, list[int]]:
    """One message and the descriptors with it; they close on exec."""
    data, ancillary, flags, _ = sock.recvmsg(size, _socket.CMSG_SPACE(4 * max_fds), _socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            whole = len(payload) - len(payload) % 4
            fds += [int.from_bytes(payload[at : at + 4], "little", signed=True) for at in range(0, whole, 4)]
    if flags & _socket.MSG_CTRUNC:
        for fd in fds:
            posix.close(fd)
        raise OSError(f"more than {max_fds} descriptors in one message")
    return data, fds


def peer(sock: "Socket") -> tuple[int, int, int]:
    """pid, uid and gid of the process at the other end, as the kernel knows them."""
    data = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    pid, uid, gid = (int.from_bytes(data[at : at + 4], "little", signed=True) for at in (0, 4, 8))
    return pid, uid, gid
