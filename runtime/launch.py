# SPDX-License-Identifier: Apache-2.0
"""The parent's half of a plan: the clone of the init, its id mappings and hooks."""

from __future__ import annotations

import errno
import os

from runtime import hooks
from runtime.errors import CreateFailed
from runtime.inside import handshake, init
from runtime.linux import json_text, mounts, namespaces, processes, syscalls
from runtime.linux._core import lib
from runtime.plan import container, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runtime.inside.handshake import ParentEnd
    from runtime.plan.container import Plan
    from runtime.plan.context import Context
    from runtime.spec.model import IDMapping


_CAP_SYS_ADMIN = 1 << 21


class Launched:
    """An init that is alive: who it is, and the way to talk to it."""

    __slots__ = ("channel", "pid", "start_time")

    def __init__(self, pid: int, start_time: int, channel: ParentEnd) -> None:
        self.pid = pid
        self.start_time = start_time
        self.channel = channel


def clone_init(plan: Plan, launch: init.Launch, *, sibling: bool) -> tuple[int, ParentEnd]:
    """Give birth to the init; our child, or with `sibling` our parent's."""
    if launch.seed >= 0 and not container.fits_seed(plan):
        launch.seed = -1
    parent, child = handshake.pair()
    born_there = launch.group is not None and not plan.moved_by_systemd
    cgroup_fd = launch.group.open_unified() if launch.group is not None and born_there else -1
    family = lib.CLONE_PARENT if sibling else 0
    launch.foreign += (cgroup_fd,) if cgroup_fd >= 0 else ()
    for kind, path in plan.namespaces.joined:
        launch.host_namespaces[kind] = _open_joined(kind, path)
    try:
        if plan.namespaces.in_between:
            pid = _clone_in_between(plan, launch, parent, child, family, cgroup_fd)
        else:
            flags = plan.namespaces.clone_flags & ~(lib.CLONE_NEWNS if launch.seed >= 0 else 0)
            pid = syscalls.clone3(flags | family, cgroup_fd=cgroup_fd)
            if pid == 0:
                parent.close()
                init.run(plan, child, launch, None)
    except syscalls.KernelError as error:
        raise CreateFailed(explain_clone(plan, error)) from None
    finally:
        if cgroup_fd >= 0:
            os.close(cgroup_fd)
        for fd in launch.host_namespaces.values():
            os.close(fd)
        launch.host_namespaces = {}
    child.socket.close()
    return pid, parent


def _open_joined(kind: str, path: str) -> int:
    try:
        fd = namespaces.open_namespace(path)
    except OSError as error:
        raise CreateFailed(f"cannot join the {kind} namespace at {path}: {error.strerror}") from None
    except ValueError as error:
        raise CreateFailed(f"cannot join the {kind} namespace: {error}") from None
    actual = namespaces.kind_of(fd)
    if actual != kind:
        os.close(fd)
        raise CreateFailed(f"cannot join the {kind} namespace: {path} is a {actual} namespace")
    return fd


def _clone_in_between(
    plan: Plan, launch: init.Launch, parent: ParentEnd, child: handshake.ChildEnd, family: int, cgroup_fd: int
) -> int:
    """A process between: what it enters is entered by its children only, or takes its rights away."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    middle = syscalls.clone3(family, cgroup_fd=cgroup_fd)
    if middle == 0:
        os.close(reading)
        parent.close()
        init.guard(child, lambda: _between(plan, launch, child, writing))
    os.close(writing)
    try:
        answer = os.read(reading, 16)
    finally:
        os.close(reading)
    if not family:
        os.waitpid(middle, 0)
    if not answer:
        child.socket.close()  # or our own copy would keep us waiting for a process that died without a word
        parent.expect()  # raises what the process said
    return int(answer)


def _between(plan: Plan, launch: init.Launch, child: handshake.ChildEnd, writing: int) -> None:
    spaces = plan.namespaces
    if launch.group is not None:
        launch.group.enter()
    if plan.userns:
        identity.take_oom_score(plan.process_steps)
        _show_whole_proc(plan)
    # A user has no rights to prepare with; his init has them over its own copy of the host's mounts.
    context: Context | None = init.prepare(plan) if syscalls.capget()[0] & _CAP_SYS_ADMIN else None
    if "user" not in spaces.new:
        # Before the init is born into a PID namespace that others are in. A new user namespace has none, and its files
        # in /proc must stay the caller's until the ids are mapped.
        syscalls.prctl(lib.PR_SET_DUMPABLE, 0)
    for kind in namespaces.FLAGS:
        fd = launch.host_namespaces.pop(kind, -1)
        if fd >= 0:
            syscalls.setns(fd, namespaces.FLAGS[kind])
            os.close(fd)
    if spaces.new_time:
        syscalls.unshare(lib.CLONE_NEWTIME)
        for clock, (seconds, nanoseconds) in spaces.time_offsets.items():
            with open("/proc/self/timens_offsets", "w") as offsets:
                offsets.write(f"{clock} {seconds} {nanoseconds}\n")
    pid = syscalls.clone3(spaces.clone_flags | lib.CLONE_PARENT)
    if pid == 0:
        os.close(writing)
        init.run(plan, child, launch, context)
    os.write(writing, str(pid).encode())
    os._exit(0)


def _show_whole_proc(plan: Plan) -> None:
    """The kernel lets a user namespace mount proc only where a whole one is in sight already. On a host that covers
    parts of /proc (we may be in a container ourselves) we put a fresh one over it for the child to inherit."""
    if not any(mount.destination == "/proc" for mount in plan.mounts) or "pid" not in plan.namespaces.new:
        return
    with open("/proc/self/mountinfo", "rb") as table:
        if b" /proc/" not in table.read():
            return
    try:
        syscalls.unshare(lib.CLONE_NEWNS)
        mounts.set_propagation("/", lib.MS_SLAVE, recursive=True)
        with mounts.make("proc") as proc:
            proc.attach("/proc")
    except syscalls.KernelError:
        pass  # without the right to do so; the mount of proc will say what is wrong


def explain_clone(plan: Plan, error: syscalls.KernelError) -> str:
    """Why no process could be made."""
    if error.errno == errno.EAGAIN:
        return "cannot create a process: a pids limit of the container or of a cgroup above it is reached (pids.max)"
    if error.errno == errno.ENOSPC:
        return "cannot create the namespaces: a limit in /proc/sys/user/max_*_namespaces is reached, or 32 are nested"
    if error.errno == errno.EPERM and "user" not in plan.namespaces.new:
        return f"cannot create the namespaces: {error} (not root? use a user namespace)"
    if error.errno == errno.EINVAL and "time" in plan.namespaces.new:
        return f"cannot create the namespaces: {error} (time namespaces need Linux 5.6)"
    return f"cannot create the init process: {error}"


# --- id mappings ---


def write_mappings(plan: Plan, pid: int) -> None:
    """uid_map and gid_map of the new user namespace, by ourselves or by the setuid helpers."""
    spaces = plan.namespaces
    for kind, ranges in (("uid", spaces.uid_mappings), ("gid", spaces.gid_mappings)):
        text = "".join(f"{m.inside} {m.host} {m.size}\n" for m in ranges)
        path = f"/proc/{pid}/{kind}_map"
        try:
            if kind == "gid" and os.geteuid() != 0 and _only_own(ranges, os.getegid()):
                _write(f"/proc/{pid}/setgroups", "deny")
            _write(path, text)
        except OSError as error:
            if error.errno != errno.EPERM or (os.geteuid() == 0 and _privileged()):
                raise CreateFailed(
                    f"linux.{kind}Mappings: cannot write {path}: {_why_mapping(ranges, error)}"
                ) from None
            _map_by_helper(kind, pid, ranges)


def _privileged() -> bool:
    return bool(syscalls.capget()[0] >> 6 & 3 == 3)


def _only_own(ranges: Sequence[IDMapping], own: int) -> bool:
    return len(ranges) == 1 and ranges[0].size == 1 and ranges[0].host == own


def _why_mapping(ranges: Sequence[IDMapping], error: OSError) -> str:
    if error.errno == errno.EINVAL:
        if len(ranges) > 340:
            return f"{len(ranges)} ranges, and 340 are the most"
        return "the ranges overlap, or exceed the kernel's limit of one page of text"
    if error.errno == errno.EPERM:
        return "operation not permitted: are the host ids mapped in our own user namespace?"
    return str(error.strerror)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _map_by_helper(kind: str, pid: int, ranges: Sequence[IDMapping]) -> None:
    """newuidmap and newgidmap know from /etc/subuid and /etc/subgid what a user may map."""
    words = [str(number) for m in ranges for number in (m.inside, m.host, m.size)]
    program = f"new{kind}map"
    for directory in ("/usr/bin", "/usr/local/bin", "/bin"):
        path = f"{directory}/{program}"
        if os.path.exists(path):
            child = os.posix_spawn(path, [program, str(pid), *words], os.environ)
            if os.waitpid(child, 0)[1]:
                file = f"/etc/sub{kind}"
                raise CreateFailed(f"linux.{kind}Mappings: {program} refused the mapping; are the ranges in {file}?")
            return
    raise CreateFailed(f"linux.{kind}Mappings: needs {program}, which is not installed (package uidmap)")


# --- the conversation ---


def bring_up(
    plan: Plan,
    pid: int,
    channel: ParentEnd,
    state: Callable[[int, str], dict[str, object]],
    output: hooks.Output | None,
) -> Launched:
    """From birth to `created`: mappings, hooks, network devices. `state` gives the spec's state of this pid."""
    started = processes.start_time(pid)
    if "user" in plan.namespaces.new:
        write_mappings(plan, pid)
    if "user" in plan.namespaces.new or plan.moved_by_systemd:
        channel.say(handshake.MAPPED)
    if init.needs_parent_between(plan):
        channel.expect(handshake.NAMESPACES)
        if plan.config.linux.net_devices:
            from runtime import net_devices

            net_devices.move_in(plan.config.linux.net_devices, pid)
        text = json_text.dumps(state(pid, "creating"))
        # prestart hooks are from before `creating` was a status: crun tells them `created`, and they may look.
        old_text = json_text.dumps(state(pid, "created"))
        for hook in plan.hooks.prestart:
            hooks.run(hook, old_text, output)
        for hook in plan.hooks.create_runtime:
            hooks.run(hook, text, output)
        channel.socket.send(handshake.HOOKS_DONE + text.encode())
    channel.expect(handshake.CREATED)
    if started is None:
        raise handshake.Died("the init process died while it was being set up")
    return Launched(pid, started, channel)
