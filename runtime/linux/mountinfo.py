# SPDX-License-Identifier: Apache-2.0
"""The mount table as /proc/PID/mountinfo shows it."""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class MountEntry:
    """One line of mountinfo."""

    __slots__ = ("device", "id", "kind", "options", "parent", "point", "propagation", "root", "source", "super_options")

    def __init__(self, line: bytes) -> None:
        left, _, right = line.partition(b" - ")
        fields = left.split()
        kind, source, super_options = [*right.split(b" ", 2), b""][:3]
        self.id = int(fields[0])
        self.parent = int(fields[1])
        self.device = fields[2].decode()
        self.root = _plain(fields[3])
        self.point = _plain(fields[4])
        self.options = fields[5].decode().split(",")
        self.propagation = [field.decode() for field in fields[6:]]
        self.kind = kind.decode()
        self.source = _plain(source)
        self.super_options = super_options.decode().rstrip("\n").split(",")

    def __repr__(self) -> str:
        return f"{self.point} ({self.kind} from {self.source})"


def _plain(field: bytes) -> str:
    """Blanks and backslashes come as octal escapes."""
    if b"\\" not in field:
        return os.fsdecode(field)
    parts = field.split(b"\\")
    out = parts[0]
    for part in parts[1:]:
        out += bytes([int(part[:3], 8)]) + part[3:]
    return os.fsdecode(out)


def read(pid: int | str = "self") -> "Iterator[MountEntry]":
    """All mounts that the process sees, in the order of the kernel."""
    with open(f"/proc/{pid}/mountinfo", "rb") as table:
        data = table.read()
    for line in data.splitlines():
        yield MountEntry(line)


def beneath(path: str, pid: int | str = "self") -> "list[MountEntry]":
    """Mounts at path or below, the last mounted first: the order to unmount in."""
    path = path.rstrip("/") or "/"
    prefix = path if path == "/" else path + "/"
    found = [entry for entry in read(pid) if entry.point == path or entry.point.startswith(prefix)]
    found.reverse()
    return found


def holding(path: str, pid: int | str = "self") -> "MountEntry | None":
    """The mount that path (absolute, without symlinks) lies on."""
    best = None
    for entry in read(pid):
        inside = path == entry.point or entry.point == "/" or path.startswith(entry.point + "/")
        if inside and (best is None or len(entry.point) >= len(best.point)):
            best = entry
    return best
