# SPDX-License-Identifier: Apache-2.0
"""What the steps of a plan leave for those after them: descriptors of the root, of procfs, of trees opened early."""

import _stat as stat  # stat is Python around it
import posix

from runtime.linux import beneath, mounts, syscalls
from runtime.linux._core import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from runtime.linux.mounts import Tree

    class Channel(Protocol):
        """The way to the parent, as far as steps use it."""

        def warn(self, sentence: str) -> None: ...


class Cover:
    """One mount that covers many places. The kernel copies no detached tree, so the first place gets the tree itself
    and the others copies of that."""

    __slots__ = ("tree", "used")

    def __init__(self, tree: "Tree") -> None:
        self.tree = tree
        self.used = False

    def another(self) -> "Tree":
        """A tree to attach; the caller closes it."""
        if self.used:
            return mounts.clone("", recursive=False, dirfd=self.tree.fd)
        self.used = True
        return mounts.Tree(posix.dup(self.tree.fd))


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
        "keep_fds",
        "masks",
        "null",
        "proc",
        "root",
        "root_at",
        "root_path",
        "shared_root",
        "trees",
        "userns",
    )

    def __init__(self, *, bundle: str, root_path: str, channel: "Channel | None", userns: bool) -> None:
        self.bundle = bundle
        self.root_path = root_path
        self.root_at = ""  # where the root is attached, if not over itself
        self.channel = channel
        self.userns = userns
        self.root = -1
        self.proc = -1
        self.trees: dict[object, Tree] = {}
        self.masks: Cover | None = None
        self.console = -1
        self.null: Cover | None = None
        self.device_nodes: dict[str, int] = {}
        self.environ: Sequence[str] = ()
        self.group_paths: dict[str, str] = {}
        self.hooks_state = ""
        self.keep_fds = 0
        self.shared_root = False

    def prepare(self) -> None:
        """Hold the host's /dev/null, checked to be what its name says, for masks."""
        # A copy: in a mount namespace made after this, the kernel refuses to copy the host's own mount.
        fd = syscalls.open_tree("/dev/null", lib.OPEN_TREE_CLONE | lib.AT_SYMLINK_NOFOLLOW)
        facts = posix.fstat(fd)
        if not stat.S_ISCHR(facts.st_mode) or facts.st_rdev != posix.makedev(1, 3):
            posix.close(fd)
            raise ValueError("/dev/null of the host is not the null device")
        # The copy would be a peer of the host's /dev, if that is shared.
        syscalls.mount_setattr(fd, set_=lib.MOUNT_ATTR_RDONLY, propagation=lib.MS_PRIVATE)
        self.null = Cover(mounts.Tree(fd))

    def let_go(self) -> None:
        """Close what belongs to the host: a waiting init holds nothing of it."""
        for cover in (self.null, self.masks):
            if cover is not None:
                cover.tree.close()
        self.null = self.masks = None

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
        flags = posix.O_WRONLY
        fd = syscalls.openat2(
            self.open_proc(), path, flags, resolve=lib.RESOLVE_BENEATH | lib.RESOLVE_NO_SYMLINKS | lib.RESOLVE_NO_XDEV
        )
        try:
            posix.write(fd, value.encode())
        except OSError as error:
            raise syscalls.KernelError(error.errno or 0, "write", (f"/proc/{path}", value)) from None
        finally:
            posix.close(fd)


def private_procfs() -> int:
    """A detached procfs; without the right to make one, the host's /proc, checked to be procfs and its root."""
    try:
        return mounts.make("proc").fd
    except syscalls.KernelError:
        fd = posix.open("/proc", posix.O_PATH | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC)
        if syscalls.filesystem_type(fd) != lib.PROC_SUPER_MAGIC or posix.fstat(fd).st_ino != 1:
            posix.close(fd)
            raise
        return fd


def target_in_root(context: Context, path: str, *, directory: bool) -> int:
    """Where something is to be mounted, made if it is missing; never outside the root."""
    if directory:
        return beneath.make_directories(context.root, path)
    return beneath.make_file(context.root, path)
