# SPDX-License-Identifier: Apache-2.0
"""exec for a warm spawner: what joins a container is compiled to system calls once, which a small program runs.

    spawner ── shares its memory, waits ──► in between: opens cgroups, enters namespaces; clones ──► the program, born
       │                                     in the PID namespace, our child: cgroups, limits, confinement, execve
       ▼ reads (step, errno), or the end of file that execve brings

Only the ordinary case is compiled: no terminal, no user namespace, no listener. For the rest, and whenever a
child reports a failure, joining.join does it all again, and finds the words.
"""

from __future__ import annotations

import os

from runtime import evidence, joining, record
from runtime.errors import RuntimeFailure
from runtime.linux import cgroup, processes, program, syscalls
from runtime.linux._core import lib
from runtime.linux.program import Builder
from runtime.plan import container, flat, identity
from runtime.plan.flat import NotFlat
from runtime.spec import parse
from runtime.spec.reader import Object, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.linux.program import Slot
    from runtime.record import Record
    from runtime.spec.model import Config


class Compiled:
    """The program that runs one process object in one living container."""

    __slots__ = ("entry", "process", "subreaper", "text")

    def __init__(self, entry: Record, process: dict[str, Any], text: bytes, *, subreaper: bool) -> None:
        self.entry = entry
        self.process = process
        self.text = text
        self.subreaper = subreaper

    def open_init(self) -> int:
        """A pidfd of the container's init; RuntimeFailure where it is gone or paused."""
        pidfd = processes.open_pidfd(self.entry.pid, self.entry.start_time)
        if pidfd is None or evidence.is_frozen(self.entry):
            if pidfd is not None:
                os.close(pidfd)
            raise RuntimeFailure("not running")
        return pidfd

    def run(self, stdin: int, stdout: int, stderr: int, report: int, pidfd: int) -> int:
        """The pid of our child."""
        memory = program.in_memory(self.text)
        try:
            return program.run(program.opened(), memory, (stdin, stdout, stderr, report, pidfd))
        finally:
            os.close(memory)


_MOST_CONTAINERS, _MOST_EACH = 512, 8
_known: dict[str, list[Compiled]] = {}


def compiled(
    root: str,
    container_id: str,
    start_time: int,
    process: dict[str, Any],
    give_back: Callable[[Builder], None],
    *,
    subreaper: bool,
) -> Compiled:
    """The program, from memory where the same was asked before: probes ask the same every second."""
    known = [found for found in _known.get(container_id, ()) if found.entry.start_time == start_time]
    for found in known:
        if found.process == process and found.subreaper == subreaper:
            return found
    entry = record.load(root, container_id)
    if entry.start_time != start_time or evidence.waits_for_start(entry):
        raise NotFlat("another container of this name")
    text = _compile(root, entry, process, give_back, subreaper=subreaper)
    made = Compiled(entry, process, text, subreaper=subreaper)
    if container_id not in _known and len(_known) >= _MOST_CONTAINERS:
        _known.pop(next(iter(_known)))
    _known[container_id] = [*known[-_MOST_EACH + 1 :], made]
    return made


def join(request: joining.JoinRequest, entry: Record) -> int | None:
    """For a cold command: the pid of the program, which has our stdio. None where it must be done the long way."""
    try:
        text = _compile(request.root, entry, request.process, lambda _: None, subreaper=False, silent=False)
        running = Compiled(entry, request.process, text, subreaper=False)
        given = [running.open_init()]
    except (OSError, ValueError, NotFlat, RuntimeFailure):
        return None
    said, report = os.pipe2(os.O_CLOEXEC)
    with open(said, "rb", 0) as stream:
        try:
            given += [report, *(os.dup(fd) for fd in range(3))]
            pidfd, _, stdin, stdout, stderr = given
            pid = running.run(stdin, stdout, stderr, report, pidfd)
        except OSError:
            return None
        finally:
            for fd in given:
                os.close(fd)
        if stream.read() == program.EXECUTED:
            return pid
    os.waitpid(pid, 0)
    return None


def forget(container_id: str) -> None:
    """The container has ended."""
    _known.pop(container_id, None)


def _compile(
    root: str,
    entry: Record,
    raw: dict[str, Any],
    give_back: Callable[[Builder], None],
    *,
    subreaper: bool,
    silent: bool = True,
) -> bytes:
    config = joining.config_of(entry)
    try:
        process = parse.process(Object(raw, "process"))
    except SpecError as error:
        raise NotFlat(str(error)) from None
    flags = joining.foreign_namespaces(entry.pid)
    if process.terminal or flags & lib.CLONE_NEWUSER or process.cpu_affinity_initial:
        raise NotFlat("a terminal, a user namespace or an affinity")
    filter_ = _filter(root, config)
    permitted = syscalls.capget()[1]
    facts = container.HostFacts(cgroup_v2=entry.cgroup_v2, capabilities=permitted, euid=os.geteuid(), egid=os.getegid())
    try:
        steps, confinement, _, warnings = container.plan_joining(config, process, facts, userns=False)
    except SpecError as error:
        raise NotFlat(str(error)) from None
    if not silent and (warnings or (steps and not permitted & flat.CAP_SYS_RESOURCE)):
        raise NotFlat("warnings, perhaps: a list of calls has no words for them")

    builder = Builder()
    stdin, stdout, stderr, report, pidfd = (builder.slot() for _ in range(5))
    give_back(builder)
    flat.oom_scores(builder, steps)
    groups = _enter(builder, entry, pidfd, flags)
    # From here on in the child, which the container can see.
    for tasks in groups:
        builder.call(lib.SYS_write, tasks, b"0", 1)
        builder.close(tasks)
    builder.call(lib.SYS_setsid)
    builder.call(lib.SYS_chdir, "/")
    builder.call(lib.SYS_umask, 0o022)
    if subreaper:
        builder.call(lib.SYS_prctl, lib.PR_SET_CHILD_SUBREAPER, 1)
    flat.limits(builder, steps, bool(permitted & flat.CAP_SYS_RESOURCE))
    flat.home(builder, process)
    for target, source in enumerate((stdin, stdout, stderr)):
        builder.call(lib.SYS_dup3, source, target, 0)
    flat.own_stdio(builder, process.uid)
    flat.confinement(builder, confinement, process, None)
    flat.last_steps(builder)
    search = flat.candidates(process, identity.DEFAULT_PATH)
    return builder.finish(report, process.args, process.env, search, filter_)


def _filter(root: str, config: Config) -> tuple[bytes, int]:
    seccomp = config.linux.seccomp
    if seccomp is None or not container.filters(seccomp):
        return b"", 0
    from runtime import seccomp_filter

    if seccomp_filter.wants_listener(seccomp):
        raise NotFlat("a seccomp listener")
    found = seccomp_filter.known(seccomp, f"{root}/.cache/seccomp")
    if found is None:
        raise NotFlat("a seccomp filter that nobody has compiled yet")
    return found


def _enter(builder: Builder, entry: Record, pidfd: Slot, flags: int) -> list[Slot]:
    """The steps in between. The v1 groups are opened here, where they can be seen, and entered by the child."""
    groups: list[Slot] = []
    unified = -1
    born_in: Slot | int = unified
    for name, path in entry.cgroup_paths.items():
        fd = builder.slot()
        if name == cgroup.UNIFIED:
            builder.call(lib.SYS_openat, syscalls.AT_FDCWD, path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, into=fd)
            born_in = fd
        else:
            builder.call(lib.SYS_openat, syscalls.AT_FDCWD, f"{path}/tasks", os.O_WRONLY | os.O_CLOEXEC, into=fd)
            groups.append(fd)
    # A cgroup2 that is mounted with nsdelegate lets nobody be born where its own namespace does not reach from where it
    # stands (ENOENT): so that namespace is entered by the child.
    late = 0 if isinstance(born_in, int) else flags & lib.CLONE_NEWCGROUP
    if flags & ~late:
        builder.call(lib.SYS_setns, pidfd, flags & ~late)
    birth = lib.CLONE_PARENT | (0 if isinstance(born_in, int) else lib.CLONE_INTO_CGROUP)
    builder.call(lib.ACT_BIRTH, birth, born_in)
    if not isinstance(born_in, int):
        builder.close(born_in)
    if late:
        builder.call(lib.SYS_setns, pidfd, late)
    builder.close(pidfd)
    return groups
