# SPDX-License-Identifier: Apache-2.0
"""The root file system's steps as plain system calls: bound, mounted, furnished, masked, pivoted, in that order."""

from __future__ import annotations

import _stat as stat  # stat is Python around it
import _struct as struct  # struct is Python around it, one more file to find
import errno
import posix

from runtime.linux import beneath, paths
from runtime.linux._core import lib
from runtime.linux.syscalls import AT_FDCWD
from runtime.plan import identity, mount_options, mounts, rootfs
from runtime.plan.flat import NotFlat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runtime.linux.program import Builder, Slot
    from runtime.linux.steps import Step
    from runtime.plan.container import Plan

SIMPLE = ("proc", "sysfs", "tmpfs", "devpts", "mqueue")
PATH = posix.O_PATH | posix.O_CLOEXEC
DIRECTORY = PATH | posix.O_DIRECTORY
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES)
AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW = lib.AT_EMPTY_PATH, lib.AT_SYMLINK_NOFOLLOW


def how(flags: int, resolve: int = beneath.IN_ROOT) -> bytes:
    """struct open_how."""
    return struct.pack("=QQQ", flags | posix.O_CLOEXEC, 0, resolve)


class RootBuilder:
    """Adds the steps that make a root. Slots: the root itself, a procfs of our own, and a few that are used again."""

    def __init__(self, builder: Builder, plan: Plan) -> None:
        self._builder = builder
        self._plan = plan
        self.root, self.proc = builder.slot(), builder.slot()
        self._context, self._tree, self._target, self._parent, self._copy = (builder.slot() for _ in range(5))
        self._empty, self._null = builder.slot(), builder.slot()
        self._opened: dict[object, Slot] = {}

    # --- while the host is in sight ---

    def open_host(self) -> None:
        """Everything that the container gets of the host but its control groups."""
        call = self._builder.call
        if self._plan.masks:
            flags = lib.OPEN_TREE_CLONE | AT_SYMLINK_NOFOLLOW | lib.OPEN_TREE_CLOEXEC
            call(lib.SYS_open_tree, AT_FDCWD, "/dev/null", flags, into=self._null)
            call(lib.ACT_EXPECT, self._null, 0o170000, stat.S_IFCHR, posix.makedev(1, 3), errno.EINVAL)
            self._attributes(self._null, set_=lib.MOUNT_ATTR_RDONLY, propagation=lib.MS_PRIVATE)
        self._clone(self.root, self._plan.bind_root.path, lib.AT_RECURSIVE)
        call(lib.ACT_DIRECTORY, self.root)
        self._attributes(self.root, propagation=lib.MS_SLAVE, recursive=True)
        for step in self._plan.mounts:
            if isinstance(step, mounts.BindMount):
                self._open_bind(step)

    def open_groups(self) -> None:
        """What it sees of its control groups, where no namespace of its own decides that."""
        for step in self._plan.mounts:
            if isinstance(step, mounts.CgroupMount) and not step.view.namespace:
                for name, path in step._shown():
                    slot = self._opened[step, name] = self._builder.slot()
                    self._clone(slot, path, 0)

    def _open_bind(self, step: mounts.BindMount) -> None:
        options = step.options
        if step.idmap is not None or options.copy_symlink or options.target_nofollow:
            raise NotFlat(step.describe())
        slot = self._opened[step] = self._builder.slot()
        flags = lib.AT_RECURSIVE if options.recursive_bind else 0
        self._clone(slot, step.source, flags | (AT_SYMLINK_NOFOLLOW if options.source_nofollow else 0))
        self._attributes(slot, propagation=lib.MS_SLAVE, recursive=True)

    def _clone(self, into: Slot, path: str, flags: int) -> None:
        everything = lib.OPEN_TREE_CLONE | lib.OPEN_TREE_CLOEXEC | flags
        self._builder.call(lib.SYS_open_tree, AT_FDCWD, path, everything, into=into)

    # --- in the new mount namespace ---

    def build(self, root_at: str) -> None:
        """From attaching the root to pivoting into it."""
        call = self._builder.call
        self._make(self.proc, "proc", [], 0, "")
        call(lib.SYS_mount, 0, "/", 0, lib.MS_SLAVE | lib.MS_REC, 0)
        self._attributes(self.root, propagation=lib.MS_SLAVE)
        call(lib.SYS_openat, AT_FDCWD, root_at, DIRECTORY, into=self._target)
        self._attach(self.root)
        for step in self._plan.mounts:
            self._mount(step)
        self._furnish(self._plan.furnish)
        for name in self._plan.names:
            self._name(name)
        self._mask(self._plan.masks)
        self._pivot()

    def _mount(self, step: mounts.MountStep) -> None:
        if isinstance(step, mounts.BindMount):
            self._bind(step)
        elif isinstance(step, mounts.FilesystemMount):
            self._filesystem(step)
        elif isinstance(step, mounts.CgroupMount):
            self._cgroup(step)
        else:
            raise NotFlat(step.describe())

    def _bind(self, step: mounts.BindMount) -> None:
        options, tree = step.options, self._opened[step]
        if options.recursive_set or options.recursive_clear:
            self._attributes(tree, set_=options.recursive_set, clear=options.recursive_clear, recursive=True)
        if options.set_ or options.clear:
            self._attributes(tree, set_=options.set_, clear=options.clear)
        self._builder.call(lib.ACT_TARGET, self.root, step.destination, beneath.IN_ROOT, tree, into=self._target)
        self._attach_checked(tree, step)
        self._builder.close(tree)

    def _filesystem(self, step: mounts.FilesystemMount) -> None:
        options = step.options
        pairs = step._pairs()
        if step.kind not in SIMPLE or options.copy_up or step.label or any(len(v or "") > 255 for _, v in pairs):
            raise NotFlat(step.describe())
        if step.kind in ("proc", "sysfs"):
            # Through a symlink the container could choose where masks would go.
            flags = PATH | posix.O_NOFOLLOW
            name = step.destination.lstrip("/")
            there = self._builder.call(lib.SYS_openat, self.root, name, flags, into=self._target, bear=(errno.ENOENT,))
            self._builder.call(lib.ACT_DIRECTORY, self._target)
            self._builder.close(self._target)
            self._builder.skip_to_here(there)
        self._make(self._tree, step.kind, pairs, options.set_, step.source or step.kind)
        if options.recursive_set or options.recursive_clear:
            self._attributes(self._tree, set_=options.recursive_set, clear=options.recursive_clear, recursive=True)
        self._directory(step.destination)
        self._attach_checked(self._tree, step)
        self._builder.close(self._tree)

    def _cgroup(self, step: mounts.CgroupMount) -> None:
        call, options = self._builder.call, step.options
        if step.view.v2:
            self._hierarchy(step, "unified")
            self._directory(step.destination)
            self._attach_checked(self._tree, step)
            self._builder.close(self._tree)
            return
        top = self._builder.slot()
        self._make(top, "tmpfs", [("mode", "755")], options.set_ & ~lib.MOUNT_ATTR_RDONLY, "tmpfs")
        self._directory(step.destination)
        self._attach_checked(top, step)
        for name, _ in step._shown():
            self._hierarchy(step, name)
            call(lib.SYS_mkdirat, top, name, 0o755)
            call(lib.SYS_move_mount, self._tree, "", top, name, lib.MOVE_MOUNT_F_EMPTY_PATH)
            self._builder.close(self._tree)
        if options.set_ & lib.MOUNT_ATTR_RDONLY:
            self._attributes(top, set_=lib.MOUNT_ATTR_RDONLY)
        self._builder.close(top)

    def _hierarchy(self, step: mounts.CgroupMount, name: str) -> None:
        """One hierarchy's tree, in the slot for trees."""
        if not step.view.namespace:
            opened = self._opened[step, name]
            if step.options.set_:
                self._attributes(opened, set_=step.options.set_)
            self._builder.call(lib.SYS_fcntl, opened, 1030, 0, into=self._tree)  # F_DUPFD_CLOEXEC
            self._builder.close(opened)
        elif name == "unified":
            self._make(self._tree, "cgroup2", [], step.options.set_, "cgroup")
        else:
            named = f"name={name}" in step.view.paths
            pairs: list[tuple[str, str | None]] = [("none", None), ("name", name)] if named else [(name, None)]
            self._make(self._tree, "cgroup", pairs, step.options.set_, "cgroup")

    def _attach_checked(self, tree: Slot, step: mounts.MountStep) -> None:
        """Onto the target, but never where a symlink has led it into procfs."""
        destination = step.destination
        own_proc = destination == "/proc" and isinstance(step, mounts.FilesystemMount) and step.kind == "proc"
        if not own_proc and destination not in mounts.PROC_ALLOWED:
            self._builder.call(lib.ACT_NOT_PROC, self._target)
        self._attach(tree)
        propagation = step.options.propagation
        if propagation:
            recursive = bool(propagation & lib.MS_REC)
            self._attributes(tree, propagation=propagation & ~lib.MS_REC, recursive=recursive)

    def _attach(self, tree: Slot) -> None:
        flags = lib.MOVE_MOUNT_F_EMPTY_PATH | lib.MOVE_MOUNT_T_EMPTY_PATH
        self._builder.call(lib.SYS_move_mount, tree, "", self._target, "", flags)
        self._builder.close(self._target)

    def _make(
        self, into: Slot, kind: str, pairs: Sequence[tuple[str, str | None]], attributes: int, source: str
    ) -> None:
        call, context = self._builder.call, self._context
        call(lib.SYS_fsopen, kind, lib.FSOPEN_CLOEXEC, into=context)
        if source:
            call(lib.SYS_fsconfig, context, lib.FSCONFIG_SET_STRING, "source", source, 0)
        for key, value in pairs:
            if value is None:
                call(lib.SYS_fsconfig, context, lib.FSCONFIG_SET_FLAG, key, 0, 0)
            else:
                call(lib.SYS_fsconfig, context, lib.FSCONFIG_SET_STRING, key, value, 0)
        call(lib.SYS_fsconfig, context, lib.FSCONFIG_CMD_CREATE, 0, 0, 0)
        call(lib.SYS_fsmount, context, lib.FSMOUNT_CLOEXEC, attributes, into=into)
        self._builder.close(context)

    def _attributes(
        self, tree: Slot, *, set_: int = 0, clear: int = 0, propagation: int = 0, recursive: bool = False
    ) -> None:
        data = struct.pack("=QQQQ", set_, clear, propagation, 0)
        flags = AT_EMPTY_PATH | (lib.AT_RECURSIVE if recursive else 0)
        self._builder.call(lib.SYS_mount_setattr, tree, "", flags, data, len(data))

    # --- targets beneath the root ---

    def _directory(self, path: str) -> None:
        """The target slot: a directory of the root, made where it is missing."""
        self._builder.call(lib.ACT_TARGET, self.root, path, beneath.IN_ROOT, -1, into=self._target)

    def _open(self, into: Slot, path: str, flags: int, bear: Sequence[int] = ()) -> int:
        data = how(flags)
        return self._builder.call(lib.SYS_openat2, self.root, path or ".", data, len(data), into=into, bear=bear)

    # --- devices, names, masks ---

    def _furnish(self, steps: Iterable[Step]) -> None:
        here = ""  # the directory that is open in the target slot
        for step in steps:
            if isinstance(step, rootfs.DeviceNode):
                parent, name = paths.split(paths.normal(step.device.path))
                here = self._stand_in(parent, here)
                self._node(step, name)
            elif isinstance(step, rootfs.DeviceLinks):
                here = self._stand_in("/dev", here)
                self._links()
            else:
                raise NotFlat(step.describe())
        if here:
            self._builder.close(self._target)

    def _stand_in(self, directory: str, here: str) -> str:
        """The target slot holds this directory, as it may do already."""
        if directory != here:
            if here:
                self._builder.close(self._target)
            self._directory(directory)
        return directory

    def _node(self, step: rootfs.DeviceNode, name: str) -> None:
        call, device = self._builder.call, step.device
        if step.bind:
            raise NotFlat(step.describe())
        mode = 0o666 if device.mode is None else device.mode & 0o7777
        kind = rootfs.KINDS[device.kind]
        number = 0 if device.kind == "p" else posix.makedev(device.major, device.minor)
        call(lib.SYS_mknodat, self._target, name, kind | mode, number, bear=(errno.EEXIST,))
        # An image may have put a symlink or another node there: to chown through it would reach the host's.
        call(lib.SYS_openat, self._target, name, PATH | posix.O_NOFOLLOW, into=self._parent)
        call(lib.ACT_EXPECT, self._parent, 0o170000, kind, number, errno.EEXIST)
        call(lib.SYS_fchownat, self._parent, "", device.uid, device.gid, AT_EMPTY_PATH)
        self._builder.close(self._parent)

    def _links(self) -> None:
        for target, path in rootfs.LINKS:
            name = path.rpartition("/")[2]
            if name == "ptmx":
                self._builder.call(lib.SYS_unlinkat, self._target, name, 0, bear=(errno.ENOENT,))
            self._builder.call(lib.SYS_symlinkat, target, self._target, name, bear=(errno.EEXIST,))

    def _name(self, step: Step) -> None:
        call = self._builder.call
        if isinstance(step, identity.HostName):
            call(lib.SYS_sethostname, step.name, len(step.name.encode()))
        elif isinstance(step, identity.DomainName):
            call(lib.SYS_setdomainname, step.name, len(step.name.encode()))
        elif isinstance(step, identity.Sysctl):
            data = how(posix.O_WRONLY, lib.RESOLVE_BENEATH | lib.RESOLVE_NO_SYMLINKS | lib.RESOLVE_NO_XDEV)
            path, value = "sys/" + identity.sysctl_path(step.key), step.value.encode()
            call(lib.SYS_openat2, self.proc, path, data, len(data), into=self._target)
            call(lib.SYS_write, self._target, value, len(value))
            self._builder.close(self._target)
        else:
            raise NotFlat(step.describe())

    def _mask(self, steps: Iterable[Step]) -> None:
        if any(isinstance(step, rootfs.MaskPath) for step in steps):
            pairs: list[tuple[str, str | None]] = [("mode", "755"), ("size", "0"), ("nr_inodes", "2")]
            self._make(self._empty, "tmpfs", pairs, lib.MOUNT_ATTR_RDONLY, "tmpfs")
        for step in steps:
            if isinstance(step, rootfs.ReadonlyRoot):
                self._attributes(self.root, set_=lib.MOUNT_ATTR_RDONLY)
                continue
            if isinstance(step, rootfs.MakeDirectory):
                self._directory(step.path)
                self._builder.close(self._target)
                continue
            if not isinstance(step, (rootfs.ReadonlyPath, rootfs.MaskPath)):
                raise NotFlat(step.describe())
            opened = self._open(self._target, step.path, PATH, bear=_GONE)
            if isinstance(step, rootfs.ReadonlyPath):
                self._copy_of(self._target, lib.AT_RECURSIVE)
                self._attributes(self._copy, set_=lib.MOUNT_ATTR_RDONLY)
                self._attach(self._copy)
                self._builder.close(self._copy)
            else:
                self._cover()
            self._builder.skip_to_here(opened)

    def _cover(self) -> None:
        """A directory behind a copy of the empty tmpfs, anything else behind one of /dev/null.

        Where the kernel copies no detached tree the first is the tree itself, and needed again: execve closes them.
        """
        self._builder.call(lib.ACT_COVER, self._target, self._empty, self._null, into=self._copy)
        self._copy_of(self._copy, 0, bear=(errno.EINVAL,))
        self._attach(self._copy)

    def _copy_of(self, tree: Slot, flags: int, bear: Sequence[int] = ()) -> int:
        everything = lib.OPEN_TREE_CLONE | lib.OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | flags
        return self._builder.call(lib.SYS_open_tree, tree, "", everything, into=self._copy, bear=bear)

    def _pivot(self) -> None:
        call, step = self._builder.call, self._plan.pivot
        if not isinstance(step, rootfs.Pivot) or step.no_pivot:
            raise NotFlat(step.describe())
        call(lib.SYS_fchdir, self.root)
        call(lib.SYS_pivot_root, ".", ".")
        call(lib.SYS_umount2, ".", lib.MNT_DETACH)
        call(lib.SYS_chdir, "/")
        if step.propagation:
            call(lib.SYS_mount, 0, "/", 0, mount_options.PROPAGATION[step.propagation], 0)
