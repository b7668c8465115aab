# SPDX-License-Identifier: Apache-2.0
"""Mounts by descriptor: clone a tree, make a file system, attach, change attributes, take down."""

import errno
import posix

from runtime.linux import syscalls
from runtime.linux._core import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType


class Tree:
    """A mount held by descriptor, mostly detached; closing an unattached one dissolves it."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> "Tree":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the descriptor; an attached mount stays."""
        if self.fd >= 0:
            posix.close(self.fd)
            self.fd = -1

    def attach(self, target: str, target_fd: int = syscalls.AT_FDCWD) -> None:
        """Put it at target, or with an empty target onto the descriptor target_fd."""
        syscalls.move_mount(self.fd, target, target_fd)

    def set_attributes(self, *, set_: int = 0, clear: int = 0, recursive: bool = False, userns: int = 0) -> None:
        """Change attributes of the mount, and with recursive of those beneath it."""
        syscalls.mount_setattr(self.fd, set_=set_, clear=clear, userns=userns, recursive=recursive)


def clone(path: str, *, recursive: bool, dirfd: int = syscalls.AT_FDCWD) -> Tree:
    """A detached copy of what is mounted at path (a bind mount that is nowhere yet)."""
    flags = lib.OPEN_TREE_CLONE | (lib.AT_RECURSIVE if recursive else 0) | (0 if path else lib.AT_EMPTY_PATH)
    return Tree(syscalls.open_tree(path, flags, dirfd))


def make(kind: str, options: "Sequence[tuple[str, str | None]]" = (), *, attributes: int = 0, source: str = "") -> Tree:
    """A new detached mount of a new file system."""
    context = syscalls.fsopen(kind)
    try:
        if source:
            syscalls.fsconfig_string(context, "source", source)
        for key, value in options:
            if value is None:
                syscalls.fsconfig_flag(context, key)
            else:
                syscalls.fsconfig_string(context, key, value)
        syscalls.fsconfig_create(context)
        return Tree(syscalls.fsmount(context, attributes))
    except syscalls.KernelError as error:
        raise with_log(error, context) from None
    finally:
        posix.close(context)


def with_log(error: syscalls.KernelError, context: int) -> syscalls.KernelError:
    """The same error with what the file system itself said about it."""
    said = []
    while True:
        try:
            line = posix.read(context, 1024)
        except OSError:
            break
        if not line:
            break
        said.append(line.decode(errors="replace").strip())
    if not said:
        return error
    return syscalls.KernelError(error.errno or 0, error.call, error.arguments, f"{error.reason} ({'; '.join(said)})")


def set_propagation(path: str, kind: int, *, recursive: bool) -> None:
    """Make the mount at path shared, private, slave or unbindable (an MS_ constant)."""
    syscalls.mount(None, path, None, kind | (lib.MS_REC if recursive else 0))


def detach(target: str) -> bool:
    """Take the topmost mount off target, even if busy; False when nothing is mounted there."""
    try:
        syscalls.umount(target, lib.MNT_DETACH | lib.UMOUNT_NOFOLLOW)
    except syscalls.KernelError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return False
        raise
    return True


def detach_all_beneath(path: str) -> int:
    """Take down every mount at path and below, the last first; gives how many there were."""
    from runtime.linux import mountinfo

    count = 0
    for entry in mountinfo.beneath(path):
        if detach(entry.point):
            count += 1
    return count
