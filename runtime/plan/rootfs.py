# SPDX-License-Identifier: Apache-2.0
"""The root file system as steps: bound, furnished with devices, masked, and made the root."""

from __future__ import annotations

import _stat as stat  # stat is Python around it
import posix

from runtime.linux import beneath, mounts, paths, syscalls
from runtime.linux._core import lib
from runtime.linux.frozen import Frozen
from runtime.linux.steps import Step
from runtime.plan import mount_options
from runtime.plan.context import Cover
from runtime.spec.model import Device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.plan.context import Context
    from runtime.spec.model import Config

DEFAULT_DEVICES = tuple(
    Device(path=f"/dev/{name}", kind="c", major=major, minor=minor, mode=0o666, uid=0, gid=0)
    for name, major, minor in (
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    )
)
LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
)
SEED_ROOT = "/root"  # where a seed namespace has room for a container's root
KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


class BindRoot(Step):
    """The root file system as a mount of its own, attached over itself: pivot_root wants a mount point."""

    __slots__ = ("host_mounts", "path", "propagation")

    def __init__(self, path: str, propagation: str, *, host_mounts: bool) -> None:
        self.path = path
        self.propagation = propagation
        self.host_mounts = host_mounts

    def load(self) -> None:
        if self.propagation in ("shared", "rshared"):
            import runtime.linux.mountinfo  # noqa: F401

    def describe(self) -> str:
        return f"use {self.path} as the root file system ({self.propagation or 'rslave'})"

    def prepare(self, context: Context) -> None:
        """Copy the tree while the host's mounts are in sight."""
        tree = mounts.clone(self.path, recursive=True)
        context.trees[self] = tree
        if not stat.S_ISDIR(posix.fstat(tree.fd).st_mode):
            raise syscalls.KernelError(20, "open_tree", (self.path,))
        context.shared_root = self.propagation in ("shared", "rshared")
        if not context.shared_root:
            syscalls.mount_setattr(tree.fd, propagation=lib.MS_SLAVE, recursive=True)

    def apply(self, context: Context) -> None:
        if self not in context.trees:
            self.prepare(context)
        if self.host_mounts:
            pass  # the namespace is the host's: nothing of it may change but what lies on our root
        elif not context.shared_root:
            mounts.set_propagation("/", lib.MS_SLAVE, recursive=True)
        else:
            # pivot_root refuses a shared root or parent; the root becomes shared again after it.
            from runtime.linux import mountinfo

            holder = mountinfo.holding(paths.real(self.path))
            if holder is not None:
                mounts.set_propagation(holder.point, lib.MS_PRIVATE, recursive=False)
        tree = context.trees.pop(self)
        private = context.shared_root or self.host_mounts
        syscalls.mount_setattr(tree.fd, propagation=lib.MS_PRIVATE if private else lib.MS_SLAVE)
        target = self._place(context)
        tree.attach("", target)
        posix.close(target)
        context.root = tree.fd

    def _place(self, context: Context) -> int:
        """Over itself, where hooks look for it; over / where the ids of a user namespace may not walk to it."""
        flags = posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC
        try:
            return posix.open(context.root_at or self.path, flags)
        except PermissionError:
            if not context.userns:
                raise
            return posix.open("/", flags)


class MakeDirectory(Step):
    """The working directory, made while the root can still be written to."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def describe(self) -> str:
        return f"make {self.path} where it is missing"

    def apply(self, context: Context) -> None:
        try:
            posix.close(beneath.make_directories(context.root, self.path))
        except OSError:
            pass  # on a mount that is read-only: found missing when the process enters it, with its own sentence


class DeviceNode(Step):
    """One node beneath the root; where mknod is not allowed (user namespaces) the host's node is bound."""

    __slots__ = ("bind", "device")

    def __init__(self, device: Device, *, bind: bool) -> None:
        self.device = device
        self.bind = bind

    def describe(self) -> str:
        device = self.device
        how = "bind the host's" if self.bind else "make"
        return f"{how} device {device.path} ({device.kind} {device.major}:{device.minor})"

    def prepare(self, context: Context) -> None:
        """Open the host's node when it is to be bound."""
        if self.bind and self.device.kind != "p":
            tree = context.trees[self] = mounts.clone(self.device.path, recursive=False)
            syscalls.mount_setattr(tree.fd, propagation=lib.MS_PRIVATE)  # no peer of the host's /dev

    def apply(self, context: Context) -> None:
        device = self.device
        if self.bind and device.kind != "p" and self not in context.trees:
            self.prepare(context)
        if self in context.trees:
            target = beneath.make_file(context.root, device.path)
            with context.trees.pop(self) as tree:
                tree.attach("", target)
            posix.close(target)
            return
        parent, name = paths.split(paths.normal(device.path))
        directory = beneath.make_directories(context.root, parent)
        try:
            self._make(directory, name)
        finally:
            posix.close(directory)

    def _make(self, directory: int, name: str) -> None:
        device = self.device
        mode = 0o666 if device.mode is None else device.mode & 0o7777
        kind = KINDS[device.kind]
        number = 0 if device.kind == "p" else posix.makedev(device.major, device.minor)
        try:
            posix.mknod(name, kind | mode, number, dir_fd=directory)
        except FileExistsError:
            pass
        except OSError as error:
            raise syscalls.KernelError(error.errno or 0, "mknod", (device.path,)) from None
        facts = posix.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_IFMT(facts.st_mode) != kind or facts.st_rdev != number:
            # An image may have put a symlink or another node there: to chown through it would reach the host's.
            raise ValueError(f"{device.path} in the root file system is something else")
        if (device.uid, device.gid) != (facts.st_uid, facts.st_gid):
            posix.chown(name, device.uid, device.gid, dir_fd=directory, follow_symlinks=False)


class DeviceLinks(Step):
    """The symlinks in /dev that programs expect."""

    __slots__ = ()

    def describe(self) -> str:
        return "link /dev/fd, stdin, stdout, stderr and ptmx"

    def apply(self, context: Context) -> None:
        directory = beneath.make_directories(context.root, "/dev")
        try:
            for target, path in LINKS:
                name = path.rpartition("/")[2]
                if name == "ptmx":
                    self._unlink(directory, name)
                try:
                    posix.symlink(target, name, dir_fd=directory)
                except FileExistsError:
                    pass
        finally:
            posix.close(directory)

    def _unlink(self, directory: int, name: str) -> None:
        try:
            posix.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise syscalls.KernelError(error.errno or 0, "unlink", ("/dev/ptmx",)) from None


class MaskPath(Step):
    """Hide a path: a file behind the host's /dev/null, a directory behind an empty read-only tmpfs."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def describe(self) -> str:
        return f"mask {self.path}"

    def apply(self, context: Context) -> None:
        try:
            target = beneath.open_in_root(context.root, self.path)
        except OSError as error:
            if error.errno in (2, 20, 13):
                return
            raise
        try:
            if stat.S_ISDIR(posix.fstat(target).st_mode):
                if context.masks is None:
                    context.masks = Cover(self._empty_directory())
                cover = context.masks
            else:
                assert context.null is not None
                cover = context.null
            with cover.another() as tree:
                tree.attach("", target)
        finally:
            posix.close(target)

    def _empty_directory(self) -> mounts.Tree:
        options = [("mode", "755"), ("size", "0"), ("nr_inodes", "2")]
        return mounts.make("tmpfs", options, attributes=lib.MOUNT_ATTR_RDONLY, source="tmpfs")


class ReadonlyPath(Step):
    """A path that may be read but not written."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def describe(self) -> str:
        return f"make {self.path} read-only"

    def apply(self, context: Context) -> None:
        try:
            target = beneath.open_in_root(context.root, self.path)
        except OSError as error:
            if error.errno in (2, 20, 13):
                return
            raise
        try:
            with mounts.clone("", recursive=True, dirfd=target) as tree:
                tree.set_attributes(set_=lib.MOUNT_ATTR_RDONLY)
                tree.attach("", target)
        finally:
            posix.close(target)


class ReadonlyRoot(Step):
    """The root itself read-only; what is mounted in it keeps its own flags."""

    __slots__ = ()

    def describe(self) -> str:
        return "make the root file system read-only"

    def apply(self, context: Context) -> None:
        syscalls.mount_setattr(context.root, set_=lib.MOUNT_ATTR_RDONLY)


class Pivot(Step):
    """Make it the root and let go of the host's tree."""

    __slots__ = ("no_pivot", "propagation")

    def __init__(self, propagation: str, *, no_pivot: bool) -> None:
        self.propagation = propagation
        self.no_pivot = no_pivot

    def describe(self) -> str:
        how = "move the root file system to / and chroot" if self.no_pivot else "pivot_root into the root file system"
        return how + (f", then make it {self.propagation}" if self.propagation else "")

    def apply(self, context: Context) -> None:
        posix.fchdir(context.root)
        if self.no_pivot:
            self._move(context)
        else:
            old = posix.open("/", posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC) if context.shared_root else -1
            syscalls.pivot_root(".", ".")
            if old >= 0:
                # The old root's mounts are still peers of the host's: to unmount them here would unmount them there.
                # "." would name the new root: mount(2), unlike umount2(2), does not look for what lies on top of it.
                posix.fchdir(old)
                posix.close(old)
                syscalls.mount(None, ".", None, lib.MS_SLAVE | lib.MS_REC)
            # The old root lies on top of the new one now: "." is it, and away it goes with all beneath.
            syscalls.umount(".", lib.MNT_DETACH)
        posix.chdir("/")
        if self.propagation:
            kind = mount_options.PROPAGATION[self.propagation]
            syscalls.mount(None, "/", None, kind)

    def _move(self, context: Context) -> None:
        """For a root on the initramfs, which cannot be pivoted away."""
        for entry in ("proc", "sys"):
            # What is full /proc and /sys of the host would stay reachable below the moved root.
            try:
                syscalls.umount(f"/{entry}", lib.MNT_DETACH)
            except syscalls.KernelError:
                pass
        syscalls.mount(f"/proc/self/fd/{context.root}" if paths.exists("/proc/self") else ".", "/", None, lib.MS_MOVE)
        posix.chroot(".")


class ChangeRoot(Step):
    """Without a mount namespace of its own the container's root is only where its processes look from. What was mounted
    on it is the host's to see, and is taken down with the container."""

    __slots__ = ()

    def describe(self) -> str:
        return "chroot into the root file system (there is no mount namespace)"

    def apply(self, context: Context) -> None:
        posix.fchdir(context.root)
        posix.chroot(".")
        posix.chdir("/")


class RootPlan(Frozen):
    """The steps around the mounts section."""

    bind: BindRoot
    before_mounts: tuple[Step, ...]
    after_mounts: tuple[Step, ...]
    masks: tuple[Step, ...]
    pivot: Step


def plan_root(config: Config, path: str, *, bind_devices: bool, no_pivot: bool) -> RootPlan:
    """What is done to the root file system."""
    linux = config.linux
    host_mounts = config.namespace("mnt") is None
    after: list[Step] = []
    if owns_dev(config):
        listed = {paths.normal(device.path) for device in linux.devices}
        devices = [device for device in DEFAULT_DEVICES if device.path not in listed] + list(linux.devices)
        after += [DeviceNode(device, bind=bind_devices) for device in devices]
        after.append(DeviceLinks())
    masks: list[Step] = [ReadonlyPath(path) for path in linux.readonly_paths]
    masks += [MaskPath(path) for path in linux.masked_paths]
    if config.root.readonly:
        if config.process is not None and config.process.cwd.strip("/"):
            masks.append(MakeDirectory(config.process.cwd))
        masks.append(ReadonlyRoot())
    return RootPlan(
        bind=BindRoot(path, linux.rootfs_propagation, host_mounts=host_mounts),
        before_mounts=(),
        after_mounts=tuple(after),
        masks=tuple(masks),
        pivot=ChangeRoot() if host_mounts else Pivot(linux.rootfs_propagation, no_pivot=no_pivot),
    )


def owns_dev(config: Config) -> bool:
    """Whether /dev is the container's own; a bind mount of somebody else's is left as it is."""
    for mount in config.mounts:
        if paths.normal("/" + mount.destination.lstrip("/")) == "/dev":
            options = mount_options.read(mount.options)
            if options.bind or mount.kind == "bind":
                return False
    return True
