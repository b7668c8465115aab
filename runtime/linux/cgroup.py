# SPDX-License-Identifier: Apache-2.0
"""Control groups: where the hierarchies are, and one group across all of them, on v1, v2 and hybrid hosts."""

import errno
import posix

from runtime.linux import durable
from runtime.linux.kernel_error import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MOUNTED_AT = "/sys/fs/cgroup"
UNIFIED = "unified"


class Layout:
    """Where each controller is mounted and which group of it we are in. `v2` means that no v1 hierarchy is there."""

    __slots__ = ("mounts", "own", "v2")

    def __init__(self, mounts: "Mapping[str, str]", own: "Mapping[str, str]") -> None:
        self.mounts = mounts
        self.own = own
        self.v2 = list(mounts) == [UNIFIED]

    @property
    def hybrid(self) -> bool:
        """v1 hierarchies with a cgroup2 mount beside them."""
        return not self.v2 and UNIFIED in self.mounts

    def directories(self, path: str) -> dict[str, str]:
        """The directory of a group in each hierarchy; a relative path starts at our own group."""
        from runtime.linux import paths  # only here: `delete` makes no group

        found = {}
        for name, mount in self.mounts.items():
            base = "" if path.startswith("/") else self._base(name)
            found[name] = paths.normal(f"{mount}/{base}/{path}")
        return found

    def _base(self, name: str) -> str:
        # A v2 group that holds processes cannot give controllers to children, and ours holds us: go beside it.
        own = self.own.get(name, "/")
        return (own.rpartition("/")[0] or "/") if self.v2 else own


# From <linux/magic.h>; named here because deleting a group needs neither them nor the system calls' module.
CGROUP_SUPER_MAGIC = 0x27E0EB
CGROUP2_SUPER_MAGIC = 0x63677270


def _look(path: str) -> tuple[int, str]:
    """The kind of file system there, and the path without links; 0 where there is none."""
    from runtime.linux import syscalls

    try:
        fd = posix.open(path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    except OSError:
        return 0, path
    try:
        return syscalls.filesystem_type(fd), posix.readlink(f"/proc/self/fd/{fd}")
    finally:
        posix.close(fd)


def read_own(pid: int | str = "self") -> dict[str, str]:
    """The group of a process in each hierarchy: controller (or name= for named ones, "unified" for v2) -> path."""
    own = {}
    with open(f"/proc/{pid}/cgroup", "rb", 0) as table:
        lines = table.read().decode(errors="surrogateescape").splitlines()
    for line in lines:
        _, names, path = line.split(":", 2)
        if not names:
            own[UNIFIED] = path
        for name in names.split(",") if names else ():
            own[name] = path
    return own


_remembered: "list[Layout]" = []


def remember_layout() -> None:
    """For a process that makes many containers: look for the hierarchies once, 90 system calls less each time."""
    _remembered[:] = [layout()]


def layout(mounted_at: str = MOUNTED_AT) -> Layout:
    """Find the hierarchies. Looks at the usual places first: reading mountinfo costs a millisecond per 500 mounts."""
    if _remembered and mounted_at == MOUNTED_AT:
        return _remembered[0]
    own = read_own()
    if _look(mounted_at)[0] == CGROUP2_SUPER_MAGIC:
        return Layout({UNIFIED: mounted_at}, own)
    mounts = {}
    for name in own:
        plain = name.removeprefix("name=")
        magic, place = _look(f"{mounted_at}/{plain}")
        if magic in (CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC):
            mounts[name] = place
    if not mounts:
        mounts = _from_mountinfo()
    return Layout(mounts, own)


def _from_mountinfo() -> dict[str, str]:
    from runtime.linux import mountinfo

    mounts = {}
    for entry in mountinfo.read():
        if entry.kind == "cgroup2" and UNIFIED not in mounts:
            mounts[UNIFIED] = entry.point
        elif entry.kind == "cgroup":
            for option in entry.super_options:
                if option not in ("rw", "ro", "none", "xattr", "clone_children", "noprefix", "cpuset_v2_mode"):
                    mounts.setdefault(option, entry.point)
    return mounts


def write(path: str, value: str) -> None:
    """Write one control file; an error names file and value."""
    try:
        fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
    except OSError as error:
        raise KernelError(error.errno or 0, "open", (path,)) from None
    try:
        posix.write(fd, value.encode())
    except OSError as error:
        raise KernelError(error.errno or 0, "write", (path, value)) from None
    finally:
        posix.close(fd)


def write_lines(directory: str, lines: "Iterable[tuple[str, str]]") -> None:
    """Write each line to its control file, in order, opening each file once; an error names file and line."""
    opened: dict[str, int] = {}
    try:
        for file, line in lines:
            try:
                if file not in opened:
                    opened[file] = posix.open(f"{directory}/{file}", posix.O_WRONLY | posix.O_CLOEXEC)
                posix.write(opened[file], line.encode())
            except OSError as error:
                raise KernelError(error.errno or 0, "write", (f"{directory}/{file}", line)) from None
    finally:
        for fd in opened.values():
            posix.close(fd)


def read(path: str) -> str | None:
    """One control file as text without the last newline; None when there is none."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        parts = []
        while part := posix.read(fd, 65536):
            parts.append(part)
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.EOPNOTSUPP):
            return None
        raise
    finally:
        posix.close(fd)
    return b"".join(parts).decode(errors="replace").rstrip("\n")


class Group:
    """One group: its directory in each hierarchy. Made, entered, frozen, killed and removed as one."""

    __slots__ = ("paths", "v2")

    def __init__(self, paths: "Mapping[str, str]", *, v2: bool) -> None:
        self.paths = paths
        self.v2 = v2

    def directory(self, controller: str) -> str | None:
        """Where this controller's files are; on v2 every controller's are in one directory."""
        return self.paths.get(UNIFIED if self.v2 else controller)

    def directories(self) -> list[str]:
        """Each directory once."""
        return list(dict.fromkeys(self.paths.values()))

    def exists(self) -> bool:
        """Whether it is there in any hierarchy."""
        return any(durable.is_directory(path) for path in self.paths.values())

    # --- making ---

    def make(self, layout: Layout) -> list[str]:
        """Create it in every hierarchy; gives the directories that were not there before, in order of creation."""
        made: list[str] = []
        for name, path in self.paths.items():
            mount = layout.mounts[name]
            made += _make_directories(mount, path, cpuset=name == "cpuset", v2=self.v2)
        return made

    def write(self, controller: str, file: str, value: str) -> None:
        """Write a control file of this group."""
        directory = self.directory(controller)
        if directory is None:
            raise KernelError(errno.ENOENT, "write", (f"{controller}:{file}", value), "no such cgroup controller")
        write(f"{directory}/{file}", value)

    def read(self, controller: str, file: str) -> str | None:
        """Read a control file of this group."""
        directory = self.directory(controller)
        return None if directory is None else read(f"{directory}/{file}")

    # --- members ---

    def enter(self) -> None:
        """Move this single-threaded process into the v1 hierarchies.

        `tasks` moves one thread and returns at once; `cgroup.procs` waits for a grace period of RCU, 8 to 15 ms on an
        idle machine. The unified one is entered at birth (clone3), for the same reason.
        """
        for name, path in self.paths.items():
            if name != UNIFIED:
                write(f"{path}/tasks", "0")

    def open_tasks(self) -> list[int]:
        """What enter() writes "0" to, opened: for a child that no longer sees the hierarchies."""
        flags = posix.O_WRONLY | posix.O_CLOEXEC
        return [posix.open(f"{path}/tasks", flags) for name, path in self.paths.items() if name != UNIFIED]

    def enter_slowly(self, pid: int) -> None:
        """Move a whole process into every hierarchy."""
        for path in self.directories():
            write(f"{path}/cgroup.procs", str(pid))

    def open_unified(self) -> int:
        """The directory for clone3 to be born in; -1 when there is no cgroup2 mount."""
        path = self.paths.get(UNIFIED)
        return -1 if path is None else posix.open(path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)

    def _watched(self) -> str | None:
        """The hierarchy whose list of members is taken for the truth."""
        for name in (UNIFIED, "freezer", "pids", "name=systemd", "memory", "devices"):
            if name in self.paths and durable.is_directory(self.paths[name]):
                return self.paths[name]
        for path in self.paths.values():
            if durable.is_directory(path):
                return path
        return None

    def processes(self) -> list[int]:
        """Pids in this group and those beneath it."""
        found: list[int] = []
        for path in (self._watched(),) if self.v2 else self._all_watched():
            found += _processes_in(path) if path else []
        return list(dict.fromkeys(found))

    def _all_watched(self) -> "Iterable[str]":
        # Hosts differ in which v1 hierarchy a process may have left; two opinions see it in either.
        return dict.fromkeys(path for name in (UNIFIED, "pids", "freezer") if (path := self.paths.get(name)))

    # --- freezing ---

    def freeze(self) -> None:
        """Stop every process; returns when the kernel says that all have stopped."""
        self._set_frozen(frozen=True)

    def thaw(self) -> None:
        """Let them go on."""
        self._set_frozen(frozen=False)

    def _set_frozen(self, *, frozen: bool) -> None:
        if self.v2 or "freezer" not in self.paths:
            self._freeze_unified(frozen=frozen)
            return
        path = self.paths["freezer"] + "/freezer.state"
        wanted = "FROZEN" if frozen else "THAWED"
        # FREEZING may last while members fork; writing again sweeps up those born since.
        for attempt in range(2000):
            write(path, wanted)
            if read(path) == wanted:
                return
            _pause(attempt)
        if frozen:
            write(path, "THAWED")
        raise KernelError(errno.EBUSY, "freeze", (self.paths["freezer"],))

    def _freeze_unified(self, *, frozen: bool) -> None:
        path = self.paths.get(UNIFIED)
        if path is None:
            raise KernelError(errno.ENOENT, "freeze", (), "no freezer controller and no cgroup2 mount")
        write(f"{path}/cgroup.freeze", "1" if frozen else "0")
        _wait_for_event(path, "frozen", "1" if frozen else "0")

    def is_frozen(self) -> bool:
        """Whether the group is frozen by its own setting or an ancestor's."""
        if not self.v2 and "freezer" in self.paths:
            return read(self.paths["freezer"] + "/freezer.state") in ("FROZEN", "FREEZING")
        if UNIFIED not in self.paths:
            return False
        return "frozen 1" in (read(self.paths[UNIFIED] + "/cgroup.events") or "")

    # --- the end ---

    def kill(self) -> bool:
        """SIGKILL every member; a fork bomb has no time to escape. False where it is seen that there is none."""
        path = self.paths.get(UNIFIED)
        if path is not None:
            try:
                write(f"{path}/cgroup.kill", "1")
                if self.v2:
                    return True
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV):  # systemd may remove it at the same moment
                    raise
        return self._kill_one_by_one()  # v1, and v2 before Linux 5.14

    def _kill_one_by_one(self) -> bool:
        if not self.processes():
            return False
        frozen = True
        try:
            self.freeze()
        except OSError:
            frozen = False
        try:
            for pid in self.processes():
                try:
                    posix.kill(pid, 9)
                except ProcessLookupError:
                    pass
        finally:
            if frozen:
                self.thaw()
        return True

    def kill_and_wait(self, seconds: float = 10.0) -> None:
        """SIGKILL every member and wait until none is left."""
        import time

        deadline = time.monotonic() + seconds
        while True:
            left = self.processes() if self.kill() else []
            if not left:
                return
            if self.is_frozen():
                self.thaw()  # a frozen v1 task takes no signal
            _wait_for_exit(left, 0.5)
            if time.monotonic() > deadline:
                raise KernelError(
                    errno.EBUSY,
                    "kill",
                    (self._watched(),),
                    f"processes {left[:5]} do not die (in the kernel, state D?)",
                )

    def remove(self) -> None:
        """Remove it and every group beneath; a second time is a no-op."""
        for path in self.directories():
            remove_directory(path)


def remove_directory(path: str) -> None:
    """rmdir a group and those beneath it, waiting a little for members that are on their way out."""
    for attempt in range(400):
        try:
            posix.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise KernelError(error.errno or 0, "rmdir", (path,)) from None
        for name in _groups_in(path):
            remove_directory(f"{path}/{name}")
        left = _processes_in(path)
        if left and attempt > 100:
            raise KernelError(errno.EBUSY, "rmdir", (path,), f"processes {left[:5]} are still in the group")
        _pause(attempt)
    raise KernelError(errno.EBUSY, "rmdir", (path,))


def remove_if_empty(paths: "Iterable[str]") -> None:
    """Remove groups that were made on the way to another, where nobody else uses them by now."""
    for path in paths:
        try:
            posix.rmdir(path)
        except OSError:
            continue


def _groups_in(path: str) -> list[str]:
    try:
        with posix.scandir(path) as listing:
            return [entry.name for entry in listing if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _processes_in(path: str) -> list[int]:
    try:
        text = read(f"{path}/cgroup.procs")
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:  # a threaded group beneath: its processes are listed above it
            raise
        text = None
    found = [int(word) for word in (text or "").split()]
    for name in _groups_in(path):
        found += _processes_in(f"{path}/{name}")
    return [pid for pid in found if pid]


_CPUSET = ("cpuset.cpus", "cpuset.mems")


def _make_directories(mount: str, path: str, *, cpuset: bool, v2: bool) -> list[str]:
    """mkdir -p of a group; on the way hands down what the kernel does not: cpusets on v1, controllers on v2."""
    if not path.startswith(mount + "/"):
        raise ValueError(f"cgroup path {path} is not beneath {mount}")
    made = []
    here, parts = mount, path[len(mount) + 1 :].split("/")
    parent = path.rpartition("/")[0]
    if parent != mount and not v2 and _is_ready(parent, cpuset=cpuset):
        here, parts = parent, parts[-1:]
    for part in parts:
        if v2:
            delegate_controllers(here)
        parent, here = here, f"{here}/{part}"
        try:
            posix.mkdir(here, 0o755)
            made.append(here)
        except FileExistsError:
            pass
        except OSError as error:
            raise KernelError(error.errno or 0, "mkdir", (here,)) from None
        if cpuset:
            for file in _CPUSET:
                if here in made or not read(f"{here}/{file}"):
                    write(f"{here}/{file}", read(f"{parent}/{file}") or "")
    return made


def _is_ready(parent: str, *, cpuset: bool) -> bool:
    """Whether a v1 group is there, with all that it hands down: nothing need be done above it."""
    return all(read(f"{parent}/{file}") for file in _CPUSET) if cpuset else durable.is_directory(parent)


def delegate_controllers(directory: str) -> None:
    """Give every controller of a v2 group to its children; those that cannot be given are left out one by one."""
    offered = set((read(f"{directory}/cgroup.controllers") or "").split())
    missing = offered - set((read(f"{directory}/cgroup.subtree_control") or "").split())
    if not missing:
        return
    try:
        write(f"{directory}/cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(missing)))
    except OSError:
        for name in missing:
            try:
                write(f"{directory}/cgroup.subtree_control", f"+{name}")
            except OSError:
                pass  # found out when a limit of this controller is asked for and its file is missing


def give(directory: str, uid: int, gid: int) -> None:
    """Who may divide a v2 group owns its directory and the files that the kernel names; -1 leaves a user or group."""
    named = read("/sys/kernel/cgroup/delegate") or "cgroup.procs\ncgroup.threads\ncgroup.subtree_control"
    for path in (directory, *(f"{directory}/{name}" for name in named.split())):
        try:
            posix.chown(path, uid, gid)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EPERM):
                raise


def _pause(attempt: int) -> None:
    """Between two looks at something that the kernel does asynchronously and has no event for."""
    import time

    time.sleep(min(0.0005 * (attempt + 1), 0.02))


def _wait_for_event(path: str, key: str, value: str, seconds: float = 10.0) -> None:
    """Wait until cgroup.events shows key with this value; the file wakes pollers when it changes."""
    import select
    import time

    deadline = time.monotonic() + seconds
    fd = posix.open(f"{path}/cgroup.events", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        poller = select.poll()
        poller.register(fd, select.POLLPRI)
        while f"{key} {value}" not in posix.pread(fd, 4096, 0).decode():
            left = deadline - time.monotonic()
            if left <= 0:
                raise KernelError(errno.ETIMEDOUT, "wait", (f"{path}/cgroup.events", f"{key} {value}"))
            poller.poll(left * 1000)
    finally:
        posix.close(fd)


def _wait_for_exit(pids: "Iterable[int]", seconds: float) -> None:
    """Wait until one at least of these processes has ended, or the time is up."""
    import select

    poller = select.poll()
    fds = []
    for pid in list(pids)[:64]:
        try:
            fds.append(posix.pidfd_open(pid))
        except OSError:
            continue
        poller.register(fds[-1], select.POLLIN)
    try:
        if fds:
            poller.poll(seconds * 1000)
    finally:
        for fd in fds:
            posix.close(fd)
