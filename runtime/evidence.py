# SPDX-License-Identifier: Apache-2.0
"""What a container is now, from facts: its init alive, somebody waiting on its start socket, its cgroup frozen."""

from __future__ import annotations

import posix

from runtime.linux import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.record import Record

CREATING, CREATED, RUNNING, PAUSED, STOPPED = "creating", "created", "running", "paused", "stopped"


def status(record: Record) -> str:
    """The status as the runtime-spec names it, and `paused` as runc does."""
    if record.pid == 0:
        return CREATING if _is_locked(record.directory) else STOPPED
    if not processes.is_alive(record.pid, record.start_time):
        return STOPPED
    if is_frozen(record):
        return PAUSED
    return CREATED if waits_for_start(record) else RUNNING


def _is_locked(directory: str) -> bool:
    """A create that goes on holds the lock of its directory; the lock of a dead one is gone."""
    import fcntl

    try:
        fd = posix.open(directory, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        posix.close(fd)
    return False


def waits_for_start(record: Record) -> bool:
    """Whether an init listens on the start socket. The file may outlive a `start` that was killed; a listener cannot
    outlive execve, which closes it."""
    try:
        posix.stat(record.start_socket)
    except OSError:
        return False
    from runtime.linux import fdpass

    try:
        fdpass.connect(record.start_socket).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except BlockingIOError:
        return True
    return True


def is_frozen(record: Record) -> bool:
    """Whether its group is frozen, on v1 or v2."""
    for name, file, words in (
        ("freezer", "freezer.state", ("FROZEN", "FREEZING")),
        ("unified", "cgroup.events", ("frozen 1",)),
    ):
        path = record.cgroup_paths.get(name)
        if path is None:
            continue
        try:
            with open(f"{path}/{file}", "rb") as facts:
                text = facts.read().decode()
        except OSError:
            continue
        if any(word in text for word in words):
            return True
    return False


def state(record: Record, *, full: bool = False) -> dict[str, Any]:
    """The state as the spec has it; with full as `state` and `list` print it."""
    now = status(record)
    facts: dict[str, Any] = {"ociVersion": record.oci_version, "id": record.id}
    pid = 0 if now == STOPPED else record.pid
    if full:
        facts["pid"] = pid
        facts["status"] = now
        facts["bundle"] = record.bundle
        facts["rootfs"] = record.rootfs
        facts["created"] = record.created
    else:
        facts["status"] = now
        if pid:
            facts["pid"] = pid
        facts["bundle"] = record.bundle
    if record.annotations:
        facts["annotations"] = record.annotations
    if full:
        facts["owner"] = owner_name(record.uid)
    return facts


def owner_name(uid: int) -> str:
    """The name of a user from the host's /etc/passwd, or the number. A plain file: NSS would cost 5 ms."""
    try:
        with open("/etc/passwd", "rb") as users:
            for line in users:
                fields = line.split(b":")
                if len(fields) > 2 and fields[2] == str(uid).encode():
                    return fields[0].decode(errors="surrogateescape")
    except OSError:
        pass
    return str(uid)
