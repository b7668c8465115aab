# SPDX-License-Identifier: Apache-2.0
"""exec: a process joins a running container, as its config or a process object says.

For a warm keeper: fork a child that calls `join(request)` with `sibling=True`: the process is then the keeper's own
child. `join` returns its pid once its program runs, or raises with one sentence.
"""

from __future__ import annotations

import errno
import os

from runtime import evidence, record
from runtime.errors import RuntimeFailure, WrongState
from runtime.inside import handshake, init
from runtime.inside import join as joiner
from runtime.linux import cgroup, fdpass, json_text, namespaces, processes, syscalls
from runtime.linux._core import lib
from runtime.plan import container
from runtime.spec import parse
from runtime.spec.reader import Object, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.record import Record
    from runtime.spec.model import Config, Process


class ExecFailure(RuntimeFailure):
    """The program could not be run in the container; runc's exit status for that is 255."""

    exit_status = 255


class JoinRequest:
    """What exec needs to know. `process` is an OCI process object as raw JSON. `sibling`: the process becomes a child
    of our parent. `stdio`: descriptors for 0, 1, 2. `console_fd`: a connected socket for the terminal's master.
    `subreaper`: what the program's children orphan falls to it, so that its keeper can find and end all of them.
    `plain`: nothing but a process with our own stdio is wanted, so it may be made without an interpreter.
    `here`: this process itself enters the container's namespaces, and stays there; a fork less for a process that has
    nothing else to do."""

    __slots__ = (
        "cgroup_path",
        "console_fd",
        "console_socket",
        "here",
        "id",
        "ignore_paused",
        "plain",
        "preserve_fds",
        "process",
        "root",
        "sibling",
        "stdio",
        "subreaper",
    )

    def __init__(self, root: str, container_id: str, process: Any) -> None:
        self.root = root
        self.id = container_id
        self.process = process
        self.console_socket = ""
        self.console_fd = -1
        self.preserve_fds = 0
        self.sibling = False
        self.stdio: tuple[int, int, int] | None = None
        self.subreaper = False
        self.here = False
        self.ignore_paused = False
        self.cgroup_path: dict[str, str] = {}
        self.plain = False


class Joined:
    """A process that runs in the container."""

    __slots__ = ("pid", "plan", "warnings")

    def __init__(self, pid: int, plan: joiner.JoinPlan | None, warnings: list[str]) -> None:
        self.pid = pid
        self.plan = plan
        self.warnings = warnings


# What a warm spawner has read for the children it forks: parsing is half of what an exec costs.
_remembered: dict[str, tuple[int, Config]] = {}
_MOST_REMEMBERED = 128


def remember(root: str, container_id: str) -> None:
    """Read a container's configuration now; children that are forked later find it. Errors are theirs to tell."""
    directory = f"{root}/{container_id}"
    if directory in _remembered:
        return
    if len(_remembered) >= _MOST_REMEMBERED:
        for gone in [known for known in _remembered if not os.path.exists(known)]:
            del _remembered[gone]
    if len(_remembered) < _MOST_REMEMBERED:
        try:
            entry = record.load(root, container_id)
            _remembered[directory] = entry.start_time, config_of(entry)
        except (OSError, ValueError, RuntimeFailure):
            pass


def config_of(entry: Record) -> Config:
    """The configuration of a container as it was at create."""
    known = _remembered.get(entry.directory)
    if known is not None and known[0] == entry.start_time:
        return known[1]
    return parse.config(json_text.loads(entry.config_bytes()))


def join(request: JoinRequest) -> Joined:
    """Run the process; returns when execve has succeeded."""
    entry = record.load(request.root, request.id)
    _check_status(entry, request)
    if request.plain:
        from runtime import quick_joining

        if (pid := quick_joining.join(request, entry)) is not None:
            return Joined(pid, None, [])
    config = config_of(entry)
    try:
        process = parse.process(Object(request.process, "process"))
    except SpecError as error:
        raise RuntimeFailure(str(error)) from None
    pidfd = processes.open_pidfd(entry.pid, entry.start_time)
    if pidfd is None:
        raise ExecFailure("cannot exec in a stopped container")
    try:
        return _join(request, entry, config, process, pidfd)
    except (handshake.InitFailed, handshake.Died, OSError) as error:
        raise ExecFailure(f"exec failed: {error}") from None
    finally:
        os.close(pidfd)


def _check_status(entry: Record, request: JoinRequest) -> None:
    status = evidence.status(entry)
    if status in (evidence.STOPPED, evidence.CREATING):
        raise ExecFailure(f"cannot exec in container {entry.id!r}: it is {status}")
    if status == evidence.PAUSED and not request.ignore_paused:
        raise WrongState(f"cannot exec in container {entry.id!r}: it is paused (resume it, or use --ignore-paused)")


def _join(request: JoinRequest, entry: Record, config: Config, process: Process, pidfd: int) -> Joined:
    birth = init.Launch()
    birth.stdio = request.stdio
    flags = foreign_namespaces(entry.pid)
    userns = bool(flags & lib.CLONE_NEWUSER)
    layout_v2 = entry.cgroup_v2
    try:
        facts = container.HostFacts(
            cgroup_v2=layout_v2, capabilities=syscalls.capget()[1], euid=os.geteuid(), egid=os.getegid()
        )
        steps, confinement, _, warnings = container.plan_joining(config, process, facts, userns=userns)
    except SpecError as error:
        raise RuntimeFailure(str(error)) from None
    if config.linux.seccomp is not None and container.filters(config.linux.seccomp):
        from runtime import seccomp_filter

        birth.filter = seccomp_filter.compiled(config.linux.seccomp, f"{request.root}/.cache/seccomp")
    plan = joiner.JoinPlan(
        process=process,
        process_steps=tuple(steps),
        confinement=tuple(confinement),
        namespace_flags=flags,
        userns=userns,
        preserve_fds=request.preserve_fds,
        subreaper=request.subreaper,
    )
    if request.console_socket:
        try:
            birth.console_socket = fdpass.connect(request.console_socket)
        except OSError as error:
            raise ExecFailure(f"--console-socket {request.console_socket}: cannot connect: {error.strerror}") from None
    elif request.console_fd >= 0:
        birth.console_socket = fdpass.Socket(fileno=os.dup(request.console_fd))
    birth.group = group_to_enter(entry, request.cgroup_path)
    agent = None
    if birth.filter is not None and birth.filter.mailbox is not None and config.linux.seccomp is not None:
        from runtime import seccomp_agent

        agent = seccomp_agent.Agent(config.linux.seccomp)
    before = _take_affinity(process.cpu_affinity_initial)
    try:
        if request.here and not userns:
            pid, channel = _clone_from_here(plan, birth, entry, pidfd)
        else:
            pid, channel = _clone(plan, birth, entry, pidfd, sibling=request.sibling)
    finally:
        if before:
            os.sched_setaffinity(0, before)
    if birth.console_socket is not None:
        birth.console_socket.close()
    try:
        if agent is not None:
            state = record.spec_state(entry, entry.pid, "running")
            agent.serve(channel, channel.receive_mailbox(), pid, state)
        channel.expect(b"")
    except BaseException:
        if not request.sibling:
            os.waitpid(pid, 0)
        raise
    finally:
        channel.close()
    return Joined(pid, plan, warnings + channel.warnings)


def _take_affinity(cpus: str) -> set[int]:
    """For the child to be born with: in the container's cgroups it may be too late for CPUs that its cpuset has not.
    Gives what we had ourselves."""
    if not cpus:
        return set()
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, parse.cpu_numbers(cpus))
    return before


def foreign_namespaces(pid: int) -> int:
    """Flags of the namespaces of a process that are not our own."""
    flags = 0
    for name, flag in namespaces.FLAGS.items():
        try:
            if os.stat(f"/proc/{pid}/ns/{name}").st_ino != os.stat(f"/proc/self/ns/{name}").st_ino:
                flags |= flag
        except FileNotFoundError:
            continue
    return flags


def group_to_enter(entry: Record, sub_paths: dict[str, str]) -> cgroup.Group | None:
    """The container's group, or those beneath it that --cgroup names."""
    if not entry.cgroup_paths:
        return None
    paths = dict(entry.cgroup_paths)
    for name, sub in sub_paths.items():
        if ".." in sub.split("/"):
            raise RuntimeFailure(f"--cgroup: {sub!r} contains ..")
        for key in list(paths) if not name else [name]:
            if key not in paths:
                raise RuntimeFailure(f"--cgroup: no cgroup controller {key!r}")
            paths[key] = os.path.normpath(f"{paths[key]}/{sub}")
            if not os.path.isdir(paths[key]):
                raise RuntimeFailure(f"--cgroup: {paths[key]} does not exist")
    return cgroup.Group(paths, v2=entry.cgroup_v2)


def _clone(
    plan: joiner.JoinPlan, birth: init.Launch, entry: Record, pidfd: int, *, sibling: bool
) -> tuple[int, handshake.ParentEnd]:
    parent, child = handshake.pair()
    reading, writing = os.pipe2(os.O_CLOEXEC)
    family = lib.CLONE_PARENT if sibling else 0
    cgroup_fd = birth.group.open_unified() if birth.group is not None else -1
    try:
        middle = _clone_into(family, cgroup_fd, entry)
    finally:
        if cgroup_fd >= 0:
            os.close(cgroup_fd)
    if middle == 0:
        os.close(reading)
        parent.close()
        joiner.middle(plan, child, birth, pidfd, writing)
    os.close(writing)
    child.socket.close()
    answer = os.read(reading, 16)
    os.close(reading)
    if not sibling:
        os.waitpid(middle, 0)
    if not answer:
        parent.expect()
    return int(answer), parent


def _clone_from_here(
    plan: joiner.JoinPlan, birth: init.Launch, entry: Record, pidfd: int
) -> tuple[int, handshake.ParentEnd]:
    """Without a middle: the cgroups are opened here, where they can still be seen; only the child enters them."""
    parent, child = handshake.pair()
    tasks = birth.group.open_tasks() if birth.group is not None else []
    cgroup_fd = birth.group.open_unified() if birth.group is not None else -1
    try:
        joiner.enter(plan, pidfd)
        pid = _clone_into(0, cgroup_fd, entry)
        if pid == 0:
            parent.close()
            joiner.run(plan, child, birth, tasks, pidfd)
    finally:
        for fd in (*tasks, *([cgroup_fd] if cgroup_fd >= 0 else [])):
            os.close(fd)
    child.socket.close()
    return pid, parent


def _clone_into(family: int, cgroup_fd: int, entry: Record) -> int:
    try:
        return syscalls.clone3(family, cgroup_fd=cgroup_fd)
    except syscalls.KernelError as error:
        if cgroup_fd < 0 or error.errno not in (errno.EBUSY, errno.EOPNOTSUPP):
            raise
    # The container gave its controllers to groups beneath, so its own group takes no process: go where its init is.
    path = cgroup.read_own(entry.pid).get(cgroup.UNIFIED, "/")
    directory = os.open(f"{cgroup.MOUNTED_AT}{path}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return syscalls.clone3(family, cgroup_fd=directory)
    finally:
        os.close(directory)
