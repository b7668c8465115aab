# SPDX-License-Identifier: Apache-2.0
"""Which process is meant: pid and start time together, because the kernel gives a pid anew."""

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def _stat(pid: int | str) -> "list[bytes] | None":
    """The fields of /proc/PID/stat from the state on (field 3 is index 0); None when there is no such process."""
    try:
        fd = posix.open(f"/proc/{pid}/stat", posix.O_RDONLY | posix.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        data = posix.read(fd, 1024)
    except ProcessLookupError:
        return None
    finally:
        posix.close(fd)
    # The name in brackets may hold spaces and brackets itself; the last bracket ends it.
    return data[data.rindex(b")") + 2 :].split()


def start_time(pid: int) -> int | None:
    """Clock ticks between boot and the birth of the process; None when it is gone."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def state(pid: int) -> str | None:
    """The kernel's letter for what the process does: R, S, D, T, Z …; None when it is gone."""
    fields = _stat(pid)
    return None if fields is None else fields[0].decode()


def is_alive(pid: int, started: int) -> bool:
    """Whether the process that had this pid and start time still runs; a zombie does not."""
    if pid <= 0:
        return False
    fields = _stat(pid)
    return fields is not None and int(fields[19]) == started and fields[0] not in (b"Z", b"X")


def open_pidfd(pid: int, started: int) -> int | None:
    """A pidfd of exactly this process; None when it is gone."""
    try:
        fd = posix.pidfd_open(pid)
    except ProcessLookupError:
        return None
    # The start time is read after the pidfd is held: what it shows is then the process that we hold, or its end.
    if start_time(pid) != started:
        posix.close(fd)
        return None
    return fd


def signal(pid: int, started: int, number: int) -> bool:
    """Signal exactly this process; False when it is gone."""
    fd = open_pidfd(pid, started)
    if fd is None:
        return False
    from _signal import pidfd_send_signal  # type: ignore[import-not-found]  # the core takes 1.7 ms to import

    try:
        pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        posix.close(fd)
    return True


def children(pid: int) -> "Iterator[int]":
    """The children of a process as the kernel lists them now."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as listing:
            text = listing.read()
    except (FileNotFoundError, ProcessLookupError):
        return
    for word in text.split():
        yield int(word)
