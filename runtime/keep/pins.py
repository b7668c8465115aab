# SPDX-License-Identifier: Apache-2.0
"""A pod's namespaces, made in forked children and kept alive by bind mounts; and PID 1 where the pod shares its PIDs.

spawner ──fork──► pinner (in the host's mount namespace; binds, writes id maps, answers the client)
                    ├─fork──► member: unshare, lo up, sysctls, hostname; waits until all is bound
                    └─fork──► reaper: PID 1; its own empty read-only root, no descriptors, no capabilities
"""

import fcntl
import os
import signal
import socket
import struct
from collections.abc import Callable
from typing import Any, NoReturn

from runtime.keep import birth, wire
from runtime.linux import capabilities, installation, mountinfo, mounts, namespaces, processes, syscalls
from runtime.linux._core import lib

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_MEMBER = ("user", "net", "ipc", "uts", "cgroup")


class PinFailed(Exception):
    """One sentence: which step of which namespace, and why."""


def serve(connection: wire.Connection, request: dict[str, Any]) -> int:
    """Answer a pin request; on failure nothing of it is left, nor when nobody hears the answer: whoever clears up after
    a killed caller may have done so while we were still at it."""
    done: list[str] = []
    made: list[str] = []
    try:
        reaper = _pin(request, done, made)
    except (OSError, PinFailed, ValueError) as why:
        _undo(done, made)
        connection.send({"error": f"cannot make the pod's namespaces: {why}", "kind": "refused"})
        return 0
    connection.send({"reaper": reaper})
    if connection.ended:
        if reaper is not None:
            processes.signal(reaper["pid"], reaper["start_time"], signal.SIGKILL)
        _undo(done, made)
    return 0


def _undo(done: list[str], made: list[str]) -> None:
    for path in done:
        namespaces.unpin(path)
    for directory in [path for path in made if not os.listdir(path)]:
        mounts.detach(directory)
        os.rmdir(directory)


def serve_unpin(connection: wire.Connection, request: dict[str, Any]) -> int:
    """Unmount and remove; what is gone already is fine."""
    try:
        for path in request["pins"].values():
            namespaces.unpin(path)
    except OSError as why:
        connection.send({"error": f"cannot unpin: {why}", "kind": "refused"})
        return 0
    connection.send({})
    return 0


def _pin(request: dict[str, Any], done: list[str], made: list[str]) -> dict[str, int] | None:
    pins: dict[str, str] = request["pins"]
    for name in pins:
        if name not in (*_MEMBER, "pid"):
            raise PinFailed(f"{name!r} is no namespace that can be pinned")
    made.extend(directory for directory in {os.path.dirname(path) for path in pins.values()} if share(directory))
    if "user" in pins:
        with _Helper(lambda step: _member(request, step)) as member:
            _map_ids(member.pid, request)
            member.step()  # its ids have a meaning now: it makes the others
            _bind(pins, member.pid, done)
    else:
        # Without a user namespace this process keeps its rights: it is the first member itself, a fork less.
        _make(request)
        _bind(pins, "self", done)
    return _pin_pid(request, done) if "pid" in pins else None


def _bind(pins: dict[str, str], pid: int | str, done: list[str]) -> None:
    for name in _MEMBER:
        if name in pins:
            namespaces.pin(namespaces.path_of(pid, name), pins[name])
            done.append(pins[name])


def share(directory: str) -> bool:
    """Bind a directory on itself and make it shared, once: pins then show in mount namespaces made before them, and
    removing one does not fail because somebody's copy still holds it. Says whether it was made for that."""
    try:
        os.makedirs(directory, 0o755)
        made = True
    except FileExistsError:
        made = False
    directory = os.path.realpath(directory)
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # `ip netns add` does the same
        mount = _mount_at(directory)  # not at the lock: who held it may have mounted over what we had opened
        bound = mount is not None and mount.point == directory
        if bound and mount is not None and any(p.startswith("shared:") for p in mount.propagation):
            return made
        if not bound:
            syscalls.mount(directory, directory, None, lib.MS_BIND | lib.MS_REC)
        mounts.set_propagation(directory, lib.MS_SHARED, recursive=True)
    finally:
        os.close(lock)
    return made


def _mount_at(directory: str) -> mountinfo.MountEntry | None:
    """The mount that a path leads to now. By its number: a mount that another one covers has the same path."""
    found = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{found}") as file:
            number = next((int(line.split()[1]) for line in file if line.startswith("mnt_id:")), -1)
    finally:
        os.close(found)
    return next((entry for entry in mountinfo.read() if entry.id == number), None)


# --- the member: whoever is in a namespace first may set it up ---


def _member(request: dict[str, Any], step: Callable[[], None]) -> None:
    syscalls.unshare(lib.CLONE_NEWUSER)
    step()
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    _make(request)
    step()


def _make(request: dict[str, Any]) -> None:
    pins: dict[str, str] = request["pins"]
    syscalls.unshare(namespaces.flags_of(name for name in _MEMBER if name in pins and name != "user"))
    if "net" in pins:
        _loopback_up()
    if "uts" in pins and request["hostname"]:
        syscalls.sethostname(request["hostname"])
    for name, value in request["sysctls"].items():
        _set_sysctl(name, value, pins)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        found = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sH22x", b"lo", 0))
        flags = struct.unpack_from("H", found, 16)[0]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))


_IPC_SYSCTLS = ("kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax")
_IPC_PREFIXES = ("kernel.shm_rmid_forced", "kernel.shmmni", "fs.mqueue.", "kernel.msg_next_id", "kernel.sem_next_id")


def _set_sysctl(name: str, value: str, pins: dict[str, str]) -> None:
    """Only into a namespace of the pod's own: anything else would be the node's."""
    if name.startswith("net."):
        owner = "net"
    elif name in _IPC_SYSCTLS or name.startswith((*_IPC_PREFIXES, "kernel.shm_next_id")):
        owner = "ipc"
    elif name in ("kernel.hostname", "kernel.domainname"):
        owner = "uts"
    else:
        raise PinFailed(f"sysctl {name}: it belongs to no namespace, so it cannot be set for a pod")
    if owner not in pins:
        raise PinFailed(f"sysctl {name}: the pod shares the node's {owner} namespace")
    # Names may use either separator; with slashes as separators a dot belongs to an interface's name.
    path = name.replace(".", "/") if "/" not in name else name
    if ".." in path.split("/"):
        raise PinFailed(f"sysctl {name}: not a name")
    try:
        with open("/proc/sys/" + path, "w", encoding="ascii") as file:
            file.write(value)
    except OSError as why:
        raise PinFailed(f"sysctl {name}={value}: {why.strerror}") from why


def _map_ids(pid: int, request: dict[str, Any]) -> None:
    for kind in ("uid", "gid"):
        lines = [f"{m['container_id']} {m['host_id']} {m['size']}\n" for m in request[f"{kind}_mappings"]]
        try:
            with open(f"/proc/{pid}/{kind}_map", "w", encoding="ascii") as file:
                file.write("".join(lines))
        except OSError as why:
            raise PinFailed(f"{kind} mapping {' '.join(lines)!r}: {why.strerror}") from why


# --- PID 1 ---


def _pin_pid(request: dict[str, Any], done: list[str]) -> dict[str, int]:
    """Make the PID namespace with its reaper."""
    said, end = os.pipe2(os.O_CLOEXEC)
    with mounts.clone(installation.REAPER, recursive=False) as binary:
        binary.set_attributes(set_=lib.MOUNT_ATTR_RDONLY)  # a container that opens /proc/1/exe to write gets EROFS
        if "user" in request["pins"]:
            # A process between, for what it enters it cannot leave; PID 1 falls to the spawner when it ends.
            between = syscalls.clone3(0)
            if between == 0:
                _guard(end, lambda: _fork_reaper(request, binary.fd, end))
            os.waitpid(between, 0)
        else:
            _fork_reaper(request, binary.fd, end)
    os.close(end)
    words = b""
    while more := os.read(said, 4096):
        words += more
    os.close(said)
    if not words or b"-" in words:
        raise PinFailed("PID 1: " + (words.partition(b"-")[2].decode() or "its parent died"))
    return _pinned(int(words), request["pins"]["pid"], done)


def _pinned(pid: int, path: str, done: list[str]) -> dict[str, int]:
    started = processes.start_time(pid)
    if started is None:
        raise PinFailed("PID 1 ended at once")
    try:
        namespaces.pin(namespaces.path_of(pid, "pid"), path)
    except OSError:
        processes.signal(pid, started, signal.SIGKILL)
        raise
    done.append(path)
    return {"pid": pid, "start_time": started}


def _guard(said: int, body: Callable[[], None]) -> NoReturn:
    """In a child: whatever goes wrong, the parent has to say it."""
    code = 1
    try:
        body()
        code = 0
    except BaseException as why:
        os.write(said, b"-" + str(why).encode())
    os._exit(code)


def _fork_reaper(request: dict[str, Any], binary: int, said: int) -> None:
    """Enter the cgroups and the pod's namespaces, then fork PID 1 and tell its pid."""
    pins = request["pins"]
    empty = os.path.dirname(pins["pid"])
    cgroup = -1
    for directory in request["reaper_cgroups"]:
        if os.path.exists(directory + "/tasks"):
            # The single thread of a process moves itself; cgroup.procs would wait for an RCU grace period.
            with open(directory + "/tasks", "w", encoding="ascii") as tasks:
                tasks.write("0")
        else:
            cgroup = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # v2: PID 1 is born there
    if request["reaper_oom_score_adj"] is not None:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(request["reaper_oom_score_adj"]))
    if "user" in pins:
        # Containers of the pod may look at /proc/1: it must show nothing of the node's.
        for name in ("user", "net", "ipc", "uts", "cgroup"):
            if name in pins:
                namespaces.enter(pins[name], name)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    syscalls.unshare(lib.CLONE_NEWPID)
    pid = syscalls.clone3(0, cgroup_fd=cgroup)
    if pid == 0:
        _guard(said, lambda: _become_reaper(empty, binary))
    os.write(said, str(pid).encode())
    if cgroup >= 0:
        os.close(cgroup)


def _become_reaper(empty: str, binary: int) -> None:
    os.setsid()
    syscalls.unshare(lib.CLONE_NEWNS)
    mounts.set_propagation("/", lib.MS_PRIVATE, recursive=True)
    syscalls.mount("none", empty, "tmpfs", lib.MS_NOSUID | lib.MS_NODEV | lib.MS_NOEXEC, "size=4k,nr_inodes=2,mode=555")
    os.chdir(empty)
    syscalls.pivot_root(".", ".")
    syscalls.umount(".", lib.MNT_DETACH)
    os.chdir("/")
    syscalls.mount(None, "/", None, lib.MS_REMOUNT | lib.MS_BIND | lib.MS_RDONLY | lib.MS_NOSUID | lib.MS_NODEV)
    capabilities.limit_bounding(0)
    syscalls.prctl(lib.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.capset(0, 0, 0)
    syscalls.reset_signals()
    # What PID 1 has no handler for is dropped, but not what it blocks: a signal that comes before its first line waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGCHLD])
    for fd in (0, 1, 2):
        os.close(fd)
    syscalls.execveat(binary, "", ["ketch-pod"], [])


class _Helper:
    """A child that goes on step by step and tells what fails; it ends with the `with`."""

    def __init__(self, body: Callable[[Callable[[], None]], None]) -> None:
        awaited, self._go = os.pipe2(os.O_CLOEXEC)
        self._said, end = os.pipe2(os.O_CLOEXEC)

        def step() -> None:
            os.write(end, b"+")
            if os.read(awaited, 1) != b"+":
                os._exit(0)

        def run() -> int:
            try:
                body(step)
            except (OSError, PinFailed, ValueError) as why:
                os.write(end, b"-" + str(why).encode())
            return 0

        self.pid = birth.fork("ketch-member", [awaited, end], run)
        os.close(awaited)
        os.close(end)
        self._expect()

    def step(self) -> None:
        """Let it go on to its next step."""
        os.write(self._go, b"+")
        self._expect()

    def _expect(self) -> None:
        word = os.read(self._said, 4096)
        if word[:1] != b"+":
            self.close()
            raise PinFailed(word[1:].decode(errors="replace") or "the helper process died")

    def close(self) -> None:
        """End it; a second time is a no-op."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self._go)
            os.close(self._said)
            self.pid = 0

    def __enter__(self) -> "_Helper":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
