# SPDX-License-Identifier: Apache-2.0
"""Mounts of a container as steps: bind mounts, file systems, cgroup mounts, on descriptors beneath the root."""

from __future__ import annotations

import _stat as stat  # stat is Python around it
import posix

from runtime.linux import beneath, mounts, paths, syscalls
from runtime.linux._core import lib
from runtime.linux.steps import Step
from runtime.plan import mount_options
from runtime.plan.context import target_in_root
from runtime.spec.reader import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.plan.context import Context
    from runtime.plan.mount_options import MountOptions
    from runtime.spec.model import IDMapping, Mount

    UserMappings = tuple[tuple[IDMapping, ...], tuple[IDMapping, ...]]
    MountLabel = tuple[str, str] | None  # SELinux's option, such as context, and the label

# What lxcfs and others may put over files of procfs; anything else there could blind or fool what trusts it.
PROC_ALLOWED = (
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
)
# Their superblock is the kernel's or shared: read-only is the mount's business alone.
SHARED_SUPERBLOCK = ("proc", "sysfs", "cgroup", "cgroup2", "mqueue", "devpts", "tmpfs")
NO_ROOT = ("proc", "sysfs", "cgroup", "cgroup2", "mqueue", "devpts")
FSCONFIG_LIMIT = 255


def plan_mounts(
    entries: tuple[Mount, ...],
    *,
    bundle: str,
    cgroup: CgroupView,
    mount_label: MountLabel,
    user_mappings: UserMappings,
    systemd_v1_at: str,
) -> list[MountStep]:
    """The steps for the mounts section, in its order."""
    steps = [_plan_one(entry, bundle, cgroup, mount_label, user_mappings) for entry in entries]
    if systemd_v1_at and cgroup.v2:
        steps = [_systemd_v1(step, systemd_v1_at) for step in steps]
    return steps


def _systemd_v1(step: MountStep, destination: str) -> MountStep:
    """For a systemd inside that is too old for cgroup2: the one v1 hierarchy that it needs, without controllers."""
    if step.destination != paths.normal(destination):
        return step
    return NamedHierarchyMount(step.destination, step.options)


class CgroupView:
    """What a mount of type cgroup shows: the group's directories, and whether a namespace hides the rest."""

    __slots__ = ("namespace", "paths", "v2")

    def __init__(self, paths: Mapping[str, str], *, v2: bool, namespace: bool) -> None:
        self.paths = paths
        self.v2 = v2
        self.namespace = namespace


def _plan_one(entry: Mount, bundle: str, cgroup: CgroupView, label: MountLabel, mappings: UserMappings) -> MountStep:
    options = mount_options.read(entry.options)
    destination = paths.normal("/" + entry.destination.lstrip("/"))
    _check_destination(entry, destination, bind=options.bind or entry.kind == "bind")
    if options.bind or entry.kind == "bind":
        if not entry.source:
            raise SpecError(entry.where + ".source", "missing; expected the path to bind")
        source = entry.source if entry.source.startswith("/") else f"{bundle}/{entry.source}"
        return BindMount(destination, source, options, _idmap(entry, options, mappings))
    if not entry.kind:
        raise SpecError(
            entry.where + ".type", "missing; expected a file system type such as tmpfs, or an option bind or rbind"
        )
    if entry.uid_mappings or entry.gid_mappings or options.idmap:
        raise SpecError(entry.where, "id mappings are for bind mounts only")
    if entry.kind in ("cgroup", "cgroup2"):
        return CgroupMount(destination, options, cgroup)
    return FilesystemMount(destination, entry.kind, entry.source, options, label)


def _check_destination(entry: Mount, destination: str, *, bind: bool) -> None:
    if destination == "/" and not bind and entry.kind in NO_ROOT:
        raise SpecError(entry.where + ".destination", f"{entry.kind} cannot be the root of the container")
    if (
        destination.startswith("/proc/")
        and destination not in PROC_ALLOWED
        and not destination.startswith("/proc/sys/fs/binfmt")
    ):
        raise SpecError(
            entry.where + ".destination",
            f"{destination} is inside /proc, where only {', '.join(PROC_ALLOWED)} may be covered",
        )
    if destination == "/proc" and not bind and entry.kind != "proc":
        raise SpecError(entry.where + ".type", f"only procfs may be mounted on /proc, not {entry.kind or 'nothing'}")


def _idmap(entry: Mount, options: MountOptions, user: UserMappings) -> UserMappings | None:
    if not (entry.uid_mappings or entry.gid_mappings or options.idmap):
        return None
    if bool(entry.uid_mappings) != bool(entry.gid_mappings):
        raise SpecError(entry.where, "uidMappings and gidMappings must be given together")
    if entry.uid_mappings:
        return entry.uid_mappings, entry.gid_mappings
    if "=" in options.idmap:
        return _inline_mappings(entry, options.idmap.partition("=")[2], user)
    if not user[0]:
        raise SpecError(entry.where, "idmap without mappings means those of the user namespace, and there is none")
    return user


def _inline_mappings(entry: Mount, text: str, user: UserMappings) -> UserMappings:
    """crun's form: uids=0-1000-10#20-2000-5;gids=… A host id after @ is one of the container's user namespace."""
    from runtime.spec.model import IDMapping

    found: dict[str, list[IDMapping]] = {"uids": [], "gids": []}
    for part in text.split(";"):
        kind, _, ranges = part.partition("=")
        if kind not in found:
            raise SpecError(entry.where + ".options", f"idmap: expected uids= or gids=, got {part!r}")
        for words in ranges.split("#"):
            numbers = words.lstrip("@").split("-")
            if len(numbers) != 3 or not all(number.isdigit() for number in numbers):
                raise SpecError(entry.where + ".options", f"idmap: expected inside-host-size, got {words!r}")
            inside, host, size = map(int, numbers)
            if words.startswith("@"):
                host = _outside(entry, host, user[kind == "gids"])
            found[kind].append(IDMapping(inside=inside, host=host, size=size))
    return tuple(found["uids"]), tuple(found["gids"])


def _outside(entry: Mount, inside: int, ranges: tuple[IDMapping, ...]) -> int:
    for one in ranges:
        if one.inside <= inside < one.inside + one.size:
            return one.host + inside - one.inside
    raise SpecError(entry.where + ".options", f"idmap: @: {inside} is not mapped in the user namespace")


class MountStep(Step):
    """One mount: prepare() opens what lies outside the root while the host is still in sight, apply() attaches."""

    __slots__ = ("destination", "options")

    def __init__(self, destination: str, options: MountOptions) -> None:
        self.destination = destination
        self.options = options

    def needs_host(self) -> bool:
        """Whether prepare() must run with the rights and the mounts of the host."""
        return False

    def load(self) -> None:
        if self.options.copy_up:
            import runtime.linux.copy_up  # noqa: F401

    def prepare(self, context: Context) -> None:
        """Open what the host has and the container will not."""

    def _attach(self, context: Context, tree: mounts.Tree, *, directory: bool) -> None:
        if self.destination == "/":
            self._become_root(context, tree)
        else:
            self._attach_beneath(context, tree, directory=directory)
        if self.options.propagation:
            kind = self.options.propagation & ~lib.MS_REC
            recursive = bool(self.options.propagation & lib.MS_REC)
            syscalls.mount_setattr(tree.fd, propagation=kind, recursive=recursive)

    def _become_root(self, context: Context, tree: mounts.Tree) -> None:
        """Over the root, and the root from now on: an id-mapped one, or a throw-away layer over a read-only one."""
        if not stat.S_ISDIR(posix.fstat(tree.fd).st_mode):
            raise ValueError("what is mounted on / is not a directory")
        tree.attach("", context.root)
        posix.dup2(tree.fd, context.root, inheritable=False)

    def _attach_beneath(self, context: Context, tree: mounts.Tree, *, directory: bool) -> None:
        target = self._target(context, directory=directory)
        try:
            _refuse_proc(target, self.destination, tree)
            tree.attach("", target)
        finally:
            posix.close(target)

    def _target(self, context: Context, *, directory: bool) -> int:
        if self.options.target_nofollow:
            parent, name = paths.split(self.destination)
            here = beneath.make_directories(context.root, parent)
            try:
                return posix.open(name, posix.O_PATH | posix.O_NOFOLLOW | posix.O_CLOEXEC, dir_fd=here)
            except FileNotFoundError:
                pass
            finally:
                posix.close(here)
        return target_in_root(context, self.destination, directory=directory)

    def _words(self) -> str:
        options = self.options
        words = mount_options.attribute_names(options.set_)
        words += ["r" + name for name in mount_options.attribute_names(options.recursive_set)]
        words += list(options.superblock) + [key if value is None else f"{key}={value}" for key, value in options.data]
        words += [name for name, bits in mount_options.PROPAGATION.items() if bits == options.propagation]
        words += ["tmpcopyup"] if options.copy_up else []
        return f" ({', '.join(words)})" if words else ""


def _refuse_proc(target: int, destination: str, tree: mounts.Tree) -> None:
    """A symlink of the image may have led the target into procfs: then only what may be covered there is."""
    if syscalls.filesystem_type(target) != lib.PROC_SUPER_MAGIC or destination in PROC_ALLOWED:
        return
    if destination.startswith("/proc/sys/fs/binfmt") or (
        destination == "/proc" and syscalls.filesystem_type(tree.fd) == lib.PROC_SUPER_MAGIC
    ):
        return
    raise ValueError(f"{destination} leads into /proc, where nothing may be mounted")


class BindMount(MountStep):
    """A piece of the host made visible in the container."""

    __slots__ = ("idmap", "source")

    def __init__(self, destination: str, source: str, options: MountOptions, idmap: UserMappings | None) -> None:
        super().__init__(destination, options)
        self.source = source
        self.idmap = idmap

    def load(self) -> None:
        if self.idmap is not None:
            import runtime.linux.idmap  # noqa: F401

    def describe(self) -> str:
        mapped = ", ids mapped" if self.idmap else ""
        return f"bind {self.source} on {self.destination}{self._words()}{mapped}"

    def needs_host(self) -> bool:
        return True

    def prepare(self, context: Context) -> None:
        flags = lib.OPEN_TREE_CLONE | (lib.AT_RECURSIVE if self.options.recursive_bind else 0)
        if self.options.source_nofollow or self.options.copy_symlink:
            flags |= lib.AT_SYMLINK_NOFOLLOW
        tree = mounts.Tree(syscalls.open_tree(self.source, flags))
        context.trees[self] = tree
        if not context.shared_root:
            # The copy is a peer of the host's mount; as its slave, what the container mounts does not reach the host.
            syscalls.mount_setattr(tree.fd, propagation=lib.MS_SLAVE, recursive=True)
        if self.idmap is not None:
            from runtime.linux import idmap

            recursive = self.options.idmap.startswith("ridmap")
            uids, gids = (tuple((m.inside, m.host, m.size) for m in side) for side in self.idmap)
            idmap.apply(tree, uids, gids, recursive=recursive)

    def apply(self, context: Context) -> None:
        if self not in context.trees:
            self.prepare(context)
        tree = context.trees.pop(self)
        kind = posix.fstat(tree.fd).st_mode
        options = self.options
        if stat.S_ISLNK(kind) and options.copy_symlink:
            self._copy_symlink(context, tree)
            return
        if options.recursive_set or options.recursive_clear:
            tree.set_attributes(set_=options.recursive_set, clear=options.recursive_clear, recursive=True)
        if options.set_ or options.clear:
            # A mount of the host may be locked with nosuid and the like in a user namespace: to keep such a flag that
            # nobody asked to keep is right, to fail on "rw" there is not.
            try:
                tree.set_attributes(set_=options.set_, clear=options.clear)
            except syscalls.KernelError:
                if not options.clear or not context.userns:
                    raise
                tree.set_attributes(set_=options.set_)
        self._attach(context, tree, directory=stat.S_ISDIR(kind))
        tree.close()

    def _copy_symlink(self, context: Context, tree: mounts.Tree) -> None:
        target = posix.readlink("", dir_fd=tree.fd)
        parent, name = paths.split(self.destination)
        here = beneath.make_directories(context.root, parent)
        try:
            posix.symlink(target, name, dir_fd=here)
        except FileExistsError:
            if posix.readlink(name, dir_fd=here) != target:
                raise
        finally:
            posix.close(here)
            tree.close()


class FilesystemMount(MountStep):
    """A new file system: proc, sysfs, tmpfs, devpts, mqueue, overlay, or whatever the kernel knows."""

    __slots__ = ("kind", "label", "source")

    def __init__(self, destination: str, kind: str, source: str, options: MountOptions, label: MountLabel) -> None:
        super().__init__(destination, options)
        self.kind = kind
        self.source = source
        self.label = label

    def describe(self) -> str:
        return f"mount {self.kind} on {self.destination}{self._words()}"

    def apply(self, context: Context) -> None:
        if self.kind in ("proc", "sysfs"):
            self._refuse_symlink(context)
        try:
            tree = self._make()
        except syscalls.KernelError as error:
            # mqueue and others with a legacy interface want options in one string, sysfs a network namespace of ours.
            if self.kind == "sysfs" and error.errno == 1:
                tree = mounts.clone("/sys", recursive=True)
            elif error.errno == 22 and any(len(value or "") > FSCONFIG_LIMIT for _, value in self.options.data):
                self._mount_the_old_way(context)
                return
            else:
                raise
        before = self._open_old(context) if self.options.copy_up else -1
        if before >= 0:
            from runtime.linux import copy_up

            copy_up.copy(before, tree.fd)
            posix.close(before)
        self._set_late(tree)
        self._attach(context, tree, directory=True)
        tree.close()

    def _refuse_symlink(self, context: Context) -> None:
        """/proc and /sys must be directories: through a symlink the container could choose where masks would go."""
        name = self.destination.lstrip("/")
        try:
            mode = posix.stat(name, dir_fd=context.root, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(mode):
            raise ValueError(f"{self.kind} must be mounted on ordinary directory, and {self.destination} is none")

    def _pairs(self) -> list[tuple[str, str | None]]:
        options = self.options
        pairs: list[tuple[str, str | None]] = [(name, None) for name in options.superblock if name != "silent"]
        if options.set_ & lib.MOUNT_ATTR_RDONLY and self.kind not in SHARED_SUPERBLOCK:
            pairs.append(("ro", None))
        for key, value in options.data:
            if self.kind == "overlay" and key == "lowerdir" and value is not None and len(value) > FSCONFIG_LIMIT:
                pairs += [("lowerdir+", layer) for layer in value.split(":")]  # Linux 6.5
            else:
                pairs.append((key, value))
        if self.label and self.kind not in ("proc", "sysfs", "mqueue"):
            pairs.append(self.label)
        return pairs

    def _make(self) -> mounts.Tree:
        attributes = self.options.set_
        if self.options.copy_up:
            attributes &= ~lib.MOUNT_ATTR_RDONLY
        return mounts.make(self.kind, self._pairs(), attributes=attributes, source=self.source or self.kind)

    def _set_late(self, tree: mounts.Tree) -> None:
        options = self.options
        if options.copy_up and options.set_ & lib.MOUNT_ATTR_RDONLY:
            tree.set_attributes(set_=lib.MOUNT_ATTR_RDONLY)
        if options.recursive_set or options.recursive_clear:
            tree.set_attributes(set_=options.recursive_set, clear=options.recursive_clear, recursive=True)

    def _open_old(self, context: Context) -> int:
        try:
            return beneath.open_in_root(context.root, self.destination, posix.O_RDONLY | posix.O_DIRECTORY)
        except OSError:
            return -1

    def _mount_the_old_way(self, context: Context) -> None:
        """fsconfig takes 255 bytes per value; mount(2) a page in all."""
        options = self.options
        flags = 0
        for name, bit in (
            ("ro", lib.MS_RDONLY),
            ("nosuid", lib.MS_NOSUID),
            ("nodev", lib.MS_NODEV),
            ("noexec", lib.MS_NOEXEC),
        ):
            if options.set_ & mount_options.ATTRIBUTES[name][0]:
                flags |= bit
        for name in options.superblock:
            flags |= mount_options.SUPERBLOCK[name]
        data = ",".join(key if value is None else f"{key}={value}" for key, value in options.data)
        target = target_in_root(context, self.destination, directory=True)
        try:
            syscalls.mount(self.source or self.kind, f"/proc/self/fd/{target}", self.kind, flags, data)
        finally:
            posix.close(target)


class NamedHierarchyMount(MountStep):
    """A tmpfs with the v1 hierarchy name=systemd in it. The host must have that mounted: a user namespace may not be
    the first to do so."""

    __slots__ = ()

    def describe(self) -> str:
        return f"mount the cgroup v1 hierarchy name=systemd beneath {self.destination}{self._words()}"

    def apply(self, context: Context) -> None:
        attributes = self.options.set_ & ~lib.MOUNT_ATTR_RDONLY
        with mounts.make("tmpfs", [("size", "1024k"), ("mode", "755")], attributes=attributes, source="tmpfs") as top:
            self._attach(context, top, directory=True)
            posix.mkdir("systemd", 0o755, dir_fd=top.fd)
            options: list[tuple[str, str | None]] = [("none", None), ("name", "systemd"), ("xattr", None)]
            with mounts.make("cgroup", options, attributes=self.options.set_, source="cgroup") as hierarchy:
                hierarchy.attach("systemd", top.fd)


def is_writable_cgroup(step: MountStep) -> bool:
    return isinstance(step, CgroupMount) and not step.options.set_ & lib.MOUNT_ATTR_RDONLY


class CgroupMount(MountStep):
    """The container's view of its control groups."""

    __slots__ = ("view",)

    def __init__(self, destination: str, options: MountOptions, view: CgroupView) -> None:
        super().__init__(destination, options)
        self.view = view

    def describe(self) -> str:
        what = "cgroup2" if self.view.v2 else "the cgroup v1 hierarchies"
        return f"mount {what} on {self.destination}{self._words()}"

    def needs_host(self) -> bool:
        return not self.view.namespace

    def prepare(self, context: Context) -> None:
        """Without a cgroup namespace the group's own directories are bound, so that the host's tree stays hidden."""
        if self.view.namespace:
            return
        for name, path in self._shown():
            context.trees[(self, name)] = mounts.clone(path, recursive=False)

    def _shown(self) -> list[tuple[str, str]]:
        if self.view.v2:
            return [("unified", self.view.paths.get("unified", "/sys/fs/cgroup"))]
        return [(name.removeprefix("name="), path) for name, path in self.view.paths.items()]

    def apply(self, context: Context) -> None:
        if self.view.v2:
            tree = self._one(context, "unified", "unified")
            self._attach(context, tree, directory=True)
            tree.close()
            return
        top = mounts.make(
            "tmpfs", [("mode", "755")], attributes=self.options.set_ & ~lib.MOUNT_ATTR_RDONLY, source="tmpfs"
        )
        self._attach(context, top, directory=True)
        for name, _ in self._shown():
            tree = self._one(context, name, name)
            posix.mkdir(name, 0o755, dir_fd=top.fd)
            tree.attach(name, top.fd)
            tree.close()
        if self.options.set_ & lib.MOUNT_ATTR_RDONLY:
            top.set_attributes(set_=lib.MOUNT_ATTR_RDONLY)
        top.close()

    def _one(self, context: Context, name: str, hierarchy: str) -> mounts.Tree:
        attributes = self.options.set_
        if not self.view.namespace:
            if (self, name) not in context.trees:
                self.prepare(context)
            tree = context.trees.pop((self, name))
            if attributes:
                tree.set_attributes(set_=attributes)
            return tree
        if hierarchy == "unified":
            return mounts.make("cgroup2", attributes=attributes, source="cgroup")
        key = ("name", "systemd") if f"name={hierarchy}" in self.view.paths else (hierarchy, None)
        pairs = [key] if key[1] is None else [("none", None), key]
        return mounts.make("cgroup", pairs, attributes=attributes, source="cgroup")
