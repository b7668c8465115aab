# SPDX-License-Identifier: Apache-2.0
"""One function per system call that Python lacks; a failure is a KernelError that keeps call and arguments."""

import errno
import posix

from runtime.linux import paths
from runtime.linux._core import ffi, lib
from runtime.linux.kernel_error import KernelError as KernelError
from runtime.linux.kernel_error import fail as fail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

NULL = ffi.NULL
AT_FDCWD: int = lib.AT_FDCWD


def _text(value: "str | bytes | None") -> "Any":
    return NULL if value is None else paths.encode(value)


# --- mounts ---


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2): the old interface; for remounts, propagation, and file systems that know no fsopen."""
    result = lib.k_mount(_text(source), paths.encode(target), _text(kind), flags, _text(data))
    if result < 0:
        fail(result, "mount", source, target, kind, flags, data)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    result = lib.k_umount2(paths.encode(target), flags)
    if result < 0:
        fail(result, "umount2", target, flags)


def open_tree(path: str, flags: int, dirfd: int = AT_FDCWD) -> int:
    """A descriptor of the mount at path; with OPEN_TREE_CLONE of a detached copy. Closes on exec."""
    result = lib.k_open_tree(dirfd, paths.encode(path), flags | lib.OPEN_TREE_CLOEXEC)
    if result < 0:
        fail(result, "open_tree", path)
    return result


def move_mount(tree: int, target: str, target_fd: int = AT_FDCWD, flags: int | None = None) -> None:
    """Attach the detached tree at target; an empty target means the descriptor target_fd itself."""
    if flags is None:
        flags = lib.MOVE_MOUNT_F_EMPTY_PATH | (0 if target else lib.MOVE_MOUNT_T_EMPTY_PATH)
    result = lib.k_move_mount(tree, b"", target_fd, paths.encode(target), flags)
    if result < 0:
        fail(result, "move_mount", tree, target or target_fd)


def mount_setattr(
    fd: int,
    *,
    set_: int = 0,
    clear: int = 0,
    propagation: int = 0,
    userns: int = 0,
    recursive: bool = False,
    path: str = "",
) -> None:
    """Change the attributes of the mount that fd (and path beneath it) names."""
    flags = (lib.AT_RECURSIVE if recursive else 0) | (0 if path else lib.AT_EMPTY_PATH)
    result = lib.k_mount_setattr(fd, paths.encode(path), flags, set_, clear, propagation, userns)
    if result < 0:
        fail(result, "mount_setattr", path or fd, f"set {set_:#x}", f"clear {clear:#x}")


def fsopen(kind: str) -> int:
    """A context in which a file system of this kind is configured."""
    result = lib.k_fsopen(paths.encode(kind), lib.FSOPEN_CLOEXEC)
    if result < 0:
        fail(result, "fsopen", kind)
    return result


def fspick(path: str, dirfd: int = AT_FDCWD) -> int:
    """A context in which the file system mounted at path is reconfigured."""
    flags = lib.FSPICK_CLOEXEC | (0 if path else lib.FSPICK_EMPTY_PATH)
    result = lib.k_fspick(dirfd, paths.encode(path), flags)
    if result < 0:
        fail(result, "fspick", path or dirfd)
    return result


def fsconfig_string(fd: int, key: str, value: str) -> None:
    """Set one option with a value."""
    result = lib.k_fsconfig(fd, lib.FSCONFIG_SET_STRING, paths.encode(key), paths.encode(value), 0)
    if result < 0:
        fail(result, "fsconfig", key, value)


def fsconfig_flag(fd: int, key: str) -> None:
    """Set one option without a value."""
    result = lib.k_fsconfig(fd, lib.FSCONFIG_SET_FLAG, paths.encode(key), NULL, 0)
    if result < 0:
        fail(result, "fsconfig", key)


def fsconfig_fd(fd: int, key: str, value: int) -> None:
    """Set one option whose value is a descriptor (overlay layers, from Linux 6.13)."""
    result = lib.k_fsconfig(fd, lib.FSCONFIG_SET_FD, paths.encode(key), NULL, value)
    if result < 0:
        fail(result, "fsconfig", key, value)


def fsconfig_create(fd: int) -> None:
    """Make the file system from the options set so far."""
    result = lib.k_fsconfig(fd, lib.FSCONFIG_CMD_CREATE, NULL, NULL, 0)
    if result < 0:
        fail(result, "fsconfig", "create")


def fsconfig_reconfigure(fd: int) -> None:
    """Apply the options set so far to a living file system."""
    result = lib.k_fsconfig(fd, lib.FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0)
    if result < 0:
        fail(result, "fsconfig", "reconfigure")


def fsmount(fd: int, attributes: int = 0) -> int:
    """A detached mount of the file system made in this context."""
    result = lib.k_fsmount(fd, lib.FSMOUNT_CLOEXEC, attributes)
    if result < 0:
        fail(result, "fsmount", fd)
    return result


def syncfs(fd: int) -> None:
    """Bring everything of the file system that fd lies on to disk."""
    result = lib.k_syncfs(fd)
    if result < 0:
        fail(result, "syncfs", fd)


def pivot_root(new_root: str, put_old: str) -> None:
    """Make new_root the root of this mount namespace; see pivot_root(2)."""
    result = lib.k_pivot_root(paths.encode(new_root), paths.encode(put_old))
    if result < 0:
        fail(result, "pivot_root", new_root, put_old)


# --- namespaces and processes ---


def unshare(flags: int) -> None:
    """Leave the namespaces in flags for new ones; a new PID or time namespace is for children only."""
    result = lib.k_unshare(flags)
    if result < 0:
        fail(result, "unshare", f"{flags:#x}")


def setns(fd: int, flags: int = 0) -> None:
    """Enter the namespace of fd, or those in flags of the process whose pidfd it is."""
    result = lib.k_setns(fd, flags)
    if result < 0:
        fail(result, "setns", fd, f"{flags:#x}")


def clone3(flags: int, *, exit_signal: int = 17, cgroup_fd: int = -1) -> int:
    """fork() with clone flags, born in cgroup_fd if that is given: 0 in the child, its pid in the parent.

    With CLONE_PARENT the child is our sibling and takes our exit signal (the kernel wants 0 here).
    """
    if cgroup_fd >= 0:
        flags |= lib.CLONE_INTO_CGROUP
    if flags & lib.CLONE_PARENT:
        exit_signal = 0
    result = lib.k_clone3(flags, exit_signal, cgroup_fd)
    if result < 0:
        fail(result, "clone3", f"{flags:#x}", f"cgroup {cgroup_fd}" if cgroup_fd >= 0 else None)
    return result


def openat2(dirfd: int, path: str, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """Open path beneath dirfd by the rules in resolve. Closes on exec."""
    name = paths.encode(path)
    while True:
        result = lib.k_openat2(dirfd, name, flags | posix.O_CLOEXEC, mode, resolve)
        # EAGAIN: a rename raced with the walk beneath the root; the kernel asks to try again.
        if result != -errno.EAGAIN and result != -errno.EINTR:
            break
    if result < 0:
        fail(result, "openat2", path)
    return result


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """Close (or with CLOSE_RANGE_CLOEXEC mark) all descriptors from first to last."""
    result = lib.k_close_range(first, last, flags)
    if result < 0:
        fail(result, "close_range", first, last)


def string_array(strings: "Sequence[str | bytes]") -> "tuple[Any, list[Any]]":
    """A char*[] for exec and the memory that it points to, which must live as long."""
    kept = [ffi.new("char[]", paths.encode(text)) for text in strings]
    return ffi.new("char *[]", [*kept, NULL]), kept


def environ_list(environ: "Mapping[str, str]") -> list[str]:
    """KEY=value strings as exec wants them."""
    return [f"{key}={value}" for key, value in environ.items()]


def execveat(fd: int, path: str, argv: "Sequence[str]", environ: "Sequence[str]") -> "NoReturn":
    """Become the program at path beneath fd; an empty path means the file fd itself."""
    arguments, kept_arguments = string_array(argv)
    variables, kept_variables = string_array(environ)
    result = lib.k_execveat(fd, paths.encode(path), arguments, variables, 0 if path else lib.AT_EMPTY_PATH)
    del kept_arguments, kept_variables
    fail(result, "execveat", path or fd)


def pidfd_open(pid: int) -> int:
    """A descriptor that means this process and no later one of the same number."""
    result = lib.k_pidfd_open(pid, 0)
    if result < 0:
        fail(result, "pidfd_open", pid)
    return result


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """Signal the process of pidfd."""
    result = lib.k_pidfd_send_signal(pidfd, signal, 0)
    if result < 0:
        fail(result, "pidfd_send_signal", pidfd, signal)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """Our duplicate of descriptor fd of that process."""
    result = lib.k_pidfd_getfd(pidfd, fd)
    if result < 0:
        fail(result, "pidfd_getfd", pidfd, fd)
    return result


# --- attributes of this process ---


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    """prctl(2)."""
    result = lib.k_prctl(option, a, b, c, d)
    if result < 0:
        fail(result, "prctl", option, a, b)
    return result


def capget() -> tuple[int, int, int]:
    """Our effective, permitted and inheritable capabilities, as masks."""
    words = ffi.new("uint32_t[6]")
    result = lib.k_capget(words)
    if result < 0:
        fail(result, "capget")
    return words[0] | words[3] << 32, words[1] | words[4] << 32, words[2] | words[5] << 32


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set our capabilities."""
    masks = (effective, permitted, inheritable)
    words = ffi.new("uint32_t[6]", [mask >> shift & 0xFFFFFFFF for shift in (0, 32) for mask in masks])
    result = lib.k_capset(words)
    if result < 0:
        fail(result, "capset", f"{effective:#x}", f"{permitted:#x}", f"{inheritable:#x}")


def sched_setattr(
    policy: int,
    *,
    flags: int = 0,
    nice: int = 0,
    priority: int = 0,
    runtime: int = 0,
    deadline: int = 0,
    period: int = 0,
) -> None:
    """Our scheduling policy and its parameters."""
    result = lib.k_sched_setattr(policy, flags, nice, priority, runtime, deadline, period)
    if result < 0:
        fail(result, "sched_setattr", policy, f"nice {nice}", f"priority {priority}")


def ioprio_set(priority: int) -> None:
    """Our I/O class and priority in one number."""
    result = lib.k_ioprio_set(lib.IOPRIO_WHO_PROCESS, 0, priority)
    if result < 0:
        fail(result, "ioprio_set", priority)


def set_mempolicy(mode: int, nodes: "Sequence[int]") -> None:
    """Our NUMA memory policy; no nodes mean an empty mask."""
    words = ffi.new("unsigned long[17]")
    for node in nodes:
        words[node // 64] |= 1 << node % 64
    result = lib.k_set_mempolicy(mode, words if nodes else NULL, 1025 if nodes else 0)
    if result < 0:
        fail(result, "set_mempolicy", mode, str(list(nodes)))


def personality(persona: int) -> None:
    """Our execution domain."""
    result = lib.k_personality(persona)
    if result < 0:
        fail(result, "personality", f"{persona:#x}")


def sethostname(name: str) -> None:
    """The host name of our UTS namespace."""
    data = paths.encode(name)
    result = lib.k_sethostname(data, len(data))
    if result < 0:
        fail(result, "sethostname", name)


def setdomainname(name: str) -> None:
    """The NIS domain name of our UTS namespace."""
    data = paths.encode(name)
    result = lib.k_setdomainname(data, len(data))
    if result < 0:
        fail(result, "setdomainname", name)


def getrlimit(resource: int, pid: int = 0) -> tuple[int, int]:
    """Soft and hard limit."""
    old = ffi.new("uint64_t[2]")
    result = lib.k_prlimit(pid, resource, NULL, old)
    if result < 0:
        fail(result, "prlimit", pid, resource)
    return old[0], old[1]


def setrlimit(resource: int, soft: int, hard: int, pid: int = 0) -> None:
    """Set soft and hard limit."""
    result = lib.k_prlimit(pid, resource, ffi.new("uint64_t[2]", [soft, hard]), NULL)
    if result < 0:
        fail(result, "prlimit", pid, resource, soft, hard)


def join_session_keyring(name: str | None) -> int:
    """Leave the session keyring for a new one of this name; gives its serial."""
    result = lib.k_join_session_keyring(_text(name))
    if result < 0:
        fail(result, "keyctl", "join session keyring", name)
    return result


def keyctl(operation: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    """keyctl(2) for operations that take numbers only."""
    result = lib.k_keyctl(operation, a, b, c, d)
    if result < 0:
        fail(result, "keyctl", operation, a)
    return result


def reset_signals() -> None:
    """Every disposition to its default and an empty mask: both would survive execve."""
    result = lib.k_reset_signals()
    if result < 0:
        fail(result, "sigprocmask")


# --- facts ---


def filesystem_type(fd: int) -> int:
    """The magic number of the file system that fd lies on."""
    result = lib.k_filesystem_type(fd)
    if result < 0:
        fail(result, "fstatfs", fd)
    return result


def listmount(mount_id: int | None = None, room: int = 8192) -> list[int]:
    """Ids of the mounts beneath mount_id (the root by default), from Linux 6.8."""
    ids: list[int] = []
    buffer = ffi.new("uint64_t[]", room)
    while True:
        result = lib.k_listmount(lib.LSMT_ROOT if mount_id is None else mount_id, ids[-1] if ids else 0, buffer, room)
        if result < 0:
            fail(result, "listmount", mount_id)
        ids.extend(buffer[index] for index in range(result))
        if result < room:
            return ids


def statmount(mount_id: int) -> tuple[str, str]:
    """File system type and mount point of the mount with this unique id, from Linux 6.8."""
    buffer = ffi.new("char[]", 8192)
    result = lib.k_statmount(mount_id, 0x10 | 0x20, buffer, 8192)  # STATMOUNT_MNT_POINT, STATMOUNT_FS_TYPE
    if result < 0:
        fail(result, "statmount", mount_id)
    data = bytes(ffi.buffer(buffer))
    # struct statmount: the strings begin at 512, the offsets of these two among them are at 36 and 108.
    kind, point = (512 + int.from_bytes(data[at : at + 4], "little") for at in (36, 108))
    return data[kind : data.index(b"\0", kind)].decode(), paths.decode(data[point : data.index(b"\0", point)])


# --- bpf ---


def bpf_load_device_filter(program: bytes) -> int:
    """Load a cgroup device program of 8-byte instructions; gives its descriptor."""
    count = len(program) // 8
    result = lib.k_bpf_load(program, count, lib.BPF_PROG_TYPE_CGROUP_DEVICE, NULL, 0)
    if result == -errno.EACCES or result == -errno.EINVAL:
        log = ffi.new("char[]", 65536)
        lib.k_bpf_load(program, count, lib.BPF_PROG_TYPE_CGROUP_DEVICE, log, 65536)
        raise KernelError(-result, "bpf", ("load",), ffi.string(log).decode(errors="replace").strip()[-400:] or None)
    if result < 0:
        fail(result, "bpf", "load")
    return result


def bpf_attach_device_filter(cgroup_fd: int, program: int) -> None:
    """Let the program judge every open and mknod of a device inside the cgroup."""
    result = lib.k_bpf_attach(cgroup_fd, program, lib.BPF_CGROUP_DEVICE, lib.BPF_F_ALLOW_MULTI)
    if result < 0:
        fail(result, "bpf", "attach", cgroup_fd)


def bpf_device_filters(cgroup_fd: int) -> list[int]:
    """Descriptors of the device programs attached to the cgroup."""
    ids = ffi.new("uint32_t[64]")
    count = lib.k_bpf_query(cgroup_fd, lib.BPF_CGROUP_DEVICE, ids, 64)
    if count < 0:
        fail(count, "bpf", "query", cgroup_fd)
    found = []
    for index in range(min(count, 64)):
        fd = lib.k_bpf_fd_by_id(ids[index])
        if fd < 0:
            fail(fd, "bpf", "get program", ids[index])
        found.append(fd)
    return found


def bpf_detach_device_filter(cgroup_fd: int, program: int) -> None:
    """Take the program off the cgroup."""
    result = lib.k_bpf_detach(cgroup_fd, program, lib.BPF_CGROUP_DEVICE)
    if result < 0:
        fail(result, "bpf", "detach", cgroup_fd)
