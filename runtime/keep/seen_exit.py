# SPDX-License-Identifier: Apache-2.0
"""The wait status of a process whose parent somebody else is, from what the kernel shows of it; None is an answer."""

import fcntl
import select
import struct

from runtime.linux import syscalls

# struct pidfd_info, as of Linux 6.15 (include/uapi/linux/pidfd.h): mask, cgroup, eleven ids, exit code.
_INFO = struct.Struct("=QQ11Ii")
_GET_INFO = (3 << 30) | (_INFO.size << 16) | (0xFF << 8) | 11
_WANT_EXIT = 1 << 3
_CAP_SYS_PTRACE = 19


def has_ended(pidfd: int) -> bool:
    """Whether the process of pidfd has ended, reaped or not."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def status_of(pidfd: int, pid: int, started: int) -> int | None:
    """The wait status of an ended process: from its pidfd if it has been reaped and the kernel is 6.15 or newer, from
    /proc while it is a zombie."""
    status = _from_pidfd(pidfd)
    if status is None:
        status = _from_zombie(pid, started)
    # It may have been reaped between the two looks: then the pidfd tells by now.
    return _from_pidfd(pidfd) if status is None else status


def _from_pidfd(pidfd: int) -> int | None:
    request = bytearray(_INFO.pack(_WANT_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, request)
    except OSError:
        return None  # ENOTTY: an older kernel; ESRCH: reaped before the pidfd was opened
    mask, *_, status = _INFO.unpack(request)
    return status if mask & _WANT_EXIT else None


def _from_zombie(pid: int, started: int) -> int | None:
    # Without CAP_SYS_PTRACE the kernel prints 0 here, which is no evidence.
    if not syscalls.capget()[0] >> _CAP_SYS_PTRACE & 1:
        return None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    if fields[0] != b"Z" or int(fields[19]) != started:
        return None
    return int(fields[49])
