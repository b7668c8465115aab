# SPDX-License-Identifier: Apache-2.0
"""Namespaces: their names and flags, opening, entering, pinning and telling them apart."""

import posix

from runtime.linux import syscalls
from runtime.linux._core import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# The names under /proc/PID/ns, in the order in which they are entered: user first, because the rights in it open the
# others; mount last, because afterwards no path of the host is left.
FLAGS = {
    "user": lib.CLONE_NEWUSER,
    "cgroup": lib.CLONE_NEWCGROUP,
    "ipc": lib.CLONE_NEWIPC,
    "uts": lib.CLONE_NEWUTS,
    "net": lib.CLONE_NEWNET,
    "pid": lib.CLONE_NEWPID,
    "time": lib.CLONE_NEWTIME,
    "mnt": lib.CLONE_NEWNS,
}


def flags_of(names: "Iterable[str]") -> int:
    """The clone flags of these namespaces together."""
    flags = 0
    for name in names:
        flags |= FLAGS[name]
    return flags


def path_of(pid: int | str, name: str) -> str:
    """Where the kernel shows a namespace of a process; pid may be "self"."""
    return f"/proc/{pid}/ns/{name}"


def open_namespace(path: str) -> int:
    """A descriptor of the namespace at path, checked to be one."""
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    if syscalls.filesystem_type(fd) != lib.NSFS_MAGIC:
        # Before Linux 3.19 proc itself; every kernel that we run on answers with nsfs.
        posix.close(fd)
        raise ValueError(f"{path} is not a namespace")
    return fd


def kind_of(fd: int) -> str:
    """Which kind of namespace this descriptor is."""
    import fcntl

    kind = fcntl.ioctl(fd, lib.NS_GET_NSTYPE)
    for name, flag in FLAGS.items():
        if flag == kind:
            return name
    raise ValueError(f"unknown namespace type {kind:#x}")


def identity(where: int | str) -> tuple[int, int]:
    """Device and inode: two names or descriptors with the same identity are the same namespace."""
    facts = posix.stat(where)
    return facts.st_dev, facts.st_ino


def enter(path: str, name: str) -> None:
    """Enter the namespace at path, which must be of the kind that name says."""
    fd = open_namespace(path)
    try:
        syscalls.setns(fd, FLAGS[name])
    finally:
        posix.close(fd)


def pin(source: str, target: str) -> None:
    """Keep a namespace alive by binding it to the file target, which is made."""
    posix.close(posix.open(target, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o444))
    try:
        syscalls.mount(source, target, None, lib.MS_BIND)
    except OSError:
        posix.unlink(target)
        raise


def unpin(target: str) -> None:
    """Undo pin; a second time is a no-op."""
    import errno

    try:
        syscalls.umount(target, lib.MNT_DETACH | lib.UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
    try:
        posix.unlink(target)
    except FileNotFoundError:
        pass


def is_rootless() -> bool:
    """Without root, or root of a user namespace only."""
    if posix.geteuid() != 0:
        return True
    try:
        with open("/proc/self/uid_map", "rb", 0) as table:
            return table.read(4096).split() != [b"0", b"0", b"4294967295"]
    except OSError:
        return False
