# SPDX-License-Identifier: Apache-2.0
"""What the steps of a plan leave for those after them: descriptors of the root, of procfs, of trees opened early."""

import os
import stat

from runtime.linux import beneath, syscalls
from runtime.linux._core import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from runtime.linux.mounts import Tree

    class Channel(Protocol):
        """The way to the parent, as far as steps use it."""

        def warn(self, sentence: str) -> None: ...


class Context:
    """The state of a child that applies its plan."""

    __slots__ = (
        "bundle",
        "channel",
        "console",
        "device_nodes",
        "environ",
        "group_paths",
        "hooks_state",
        "is_null_attached",
        "keep_fds",
        "masks",
        "null",
        "proc",
        "root",
        "root_path",
        "shared_root",
        "trees",
        "userns",
    )

    def __init__(self, *, bundle: str, root_path: str, channel: "Channel | None", userns: bool) -> None:
        self.bundle = bundle
        self.root_path = root_path
        self.channel = channel
        self.userns = userns
        self.root = -1
        self.proc = -1
        self.trees: dict[object, Tree] = {}
        self.masks: Tree | None = None
        self.console = -1
        self.null = -1
        self.is_null_attached = False
        self.device_nodes: dict[str, int] = {}
        self.environ: Sequence[str] = ()
        self.group_paths: dict[str, str] = {}
        self.hooks_state = ""
        self.keep_fds = 0
        self.shared_root = False

    def prepare(self) -> None:
        """Hold a copy of the host's /dev/null, checked to be what its name says, for masks.

        A detached copy: in a mount namespace that is made after this, the kernel refuses to copy the host's own mount.
        """
        fd = syscalls.open_tree("/dev/null", lib.OPEN_TREE_CLONE | lib.AT_SYMLINK_NOFOLLOW)
        facts = os.fstat(fd)
        if not stat.S_ISCHR(facts.st_mode) or facts.st_rdev != os.makedev(1, 3):
            os.close(fd)
            raise ValueError("/dev/null of the host is not the null device")
        self.null = fd

    def warn(self, sentence: str) -> None:
        """Tell the parent something that the user should know but that stops nothing."""
        if self.channel is not None:
            self.channel.warn(sentence)

    def open_proc(self) -> int:
        """A procfs of our own PID namespace that nobody else sees: a container's /proc cannot fool us."""
        if self.proc < 0:
            self.proc = private_procfs()
        return self.proc

    def write_proc(self, path: str, value: str) -> None:
        """Write a file of the private procfs."""
        flags = os.O_WRONLY
        fd = syscalls.openat2(
            self.open_proc(), path, flags, resolve=lib.RESOLVE_BENEATH | lib.RESOLVE_NO_SYMLINKS | lib.RESOLVE_NO_XDEV
        )
        try:
            os.write(fd, value.encode())
        except OSError as error:
            raise syscalls.KernelError(error.errno or 0, "write", (f"/proc/{path}", value)) from None
        finally:
            os.close(fd)


def private_procfs() -> int:
    """A detached procfs; without the right to make one, the host's /proc, checked to be procfs and its root."""
    from runtime.linux import mounts

    try:
        return mounts.make("proc").fd
    except syscalls.KernelError:
        fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if syscalls.filesystem_type(fd) != lib.PROC_SUPER_MAGIC or os.fstat(fd).st_ino != 1:
            os.close(fd)
            raise
        return fd


def target_in_root(context: Context, path: str, *, directory: bool) -> int:
    """Where something is to be mounted, made if it is missing; never outside the root."""
    if directory:
        return beneath.make_directories(context.root, path)
    return beneath.make_file(context.root, path)
