# SPDX-License-Identifier: Apache-2.0
"""A process that joins a living container: enters its namespaces, confines itself, execs.

    parent ── clone ──► middle ── enters cgroups, namespaces; clones ──► joiner, born in the PID namespace
                          │ tells the pid, exits              │ confines itself, execs

The middle enters the mount namespace before it forks into the PID namespace: the container sees a process only when
that process already has the container's root.
"""

from __future__ import annotations

import os

from runtime.inside import execute, init
from runtime.linux import fdpass, syscalls
from runtime.linux._core import lib
from runtime.linux.frozen import Frozen
from runtime.linux.steps import Step
from runtime.linux.steps import run as run_steps
from runtime.plan.context import Context
from runtime.plan.identity import SetAffinity, take_oom_score

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from runtime.inside.handshake import ChildEnd
    from runtime.spec.model import Process


class JoinPlan(Frozen):
    """What a joining process becomes."""

    process: Process
    process_steps: tuple[Step, ...]
    confinement: tuple[Step, ...]
    namespace_flags: int
    userns: bool
    preserve_fds: int
    subreaper: bool = False


def describe(plan: JoinPlan) -> list[str]:
    """What becomes of the process, in order."""
    initial, final = (
        [SetAffinity(cpus).describe()] if cpus else []
        for cpus in (plan.process.cpu_affinity_initial, plan.process.cpu_affinity_final)
    )
    return [*initial, *(step.describe() for step in (*plan.process_steps, *plan.confinement)), *final]


def middle(plan: JoinPlan, channel: ChildEnd, launch: init.Launch, pidfd: int, writing: int) -> NoReturn:
    """Enter everything, then clone the joiner as our sibling and tell its pid."""
    init.guard(channel, lambda: _middle(plan, channel, launch, pidfd, writing))


def _middle(plan: JoinPlan, channel: ChildEnd, launch: init.Launch, pidfd: int, writing: int) -> None:
    for step in plan.confinement:
        step.load()
    init.seal(terminal=plan.process.terminal)
    for fd in launch.foreign:
        os.close(fd)
    if plan.userns:
        take_oom_score(plan.process_steps)
    syscalls.prctl(lib.PR_SET_DUMPABLE, 0)
    if launch.group is not None:
        launch.group.enter()
    if plan.namespace_flags:
        syscalls.setns(pidfd, plan.namespace_flags)
    os.close(pidfd)
    pid = syscalls.clone3(lib.CLONE_PARENT)
    if pid == 0:
        os.close(writing)
        init.guard(channel, lambda: _join(plan, channel, launch))
    os.write(writing, str(pid).encode())
    os._exit(0)


def enter(plan: JoinPlan, pidfd: int) -> None:
    """For a process that becomes the middle itself and goes on as the joiner's parent, in the container's namespaces
    but for its own PID namespace, where the container cannot see it."""
    for step in plan.confinement:
        step.load()
    init.seal(terminal=plan.process.terminal)
    syscalls.prctl(lib.PR_SET_DUMPABLE, 0)
    if flags := plan.namespace_flags & ~lib.CLONE_NEWCGROUP:
        syscalls.setns(pidfd, flags)


def run(plan: JoinPlan, channel: ChildEnd, launch: init.Launch, tasks: list[int], pidfd: int) -> NoReturn:
    """The child of a process that has entered: the v1 cgroups by their open files, then as any joiner."""
    init.guard(channel, lambda: _run(plan, channel, launch, tasks, pidfd))


def _run(plan: JoinPlan, channel: ChildEnd, launch: init.Launch, tasks: list[int], pidfd: int) -> None:
    # Only now: a cgroup2 mounted with nsdelegate lets nobody be born where its own namespace does not reach.
    if plan.namespace_flags & lib.CLONE_NEWCGROUP:
        syscalls.setns(pidfd, lib.CLONE_NEWCGROUP)
    for fd in tasks:
        os.write(fd, b"0")
        os.close(fd)
    _join(plan, channel, launch)


def _bare_context(channel: ChildEnd, plan: JoinPlan) -> Context:
    context = Context(bundle="", root_path="/", channel=channel, userns=plan.userns)
    context.keep_fds = plan.preserve_fds
    return context


def _join(plan: JoinPlan, channel: ChildEnd, launch: init.Launch) -> None:
    process = plan.process
    kept = {channel.socket.fileno(), *(launch.stdio or ())}
    if launch.console_socket is not None:
        kept.add(launch.console_socket.fileno())
    if launch.filter is not None and launch.filter.mailbox is not None:
        kept.add(launch.filter.mailbox)
    execute.close_all_but(kept, 3 + plan.preserve_fds)
    os.setsid()
    if plan.userns:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        syscalls.prctl(lib.PR_SET_DUMPABLE, 0)
    if launch.keyring is not None:
        init.join_keyring(launch.keyring, launch.keyring_label)
    context = _bare_context(channel, plan)
    os.chdir("/")
    os.umask(0o022)
    if plan.subreaper:
        syscalls.prctl(lib.PR_SET_CHILD_SUBREAPER, 1)  # execve keeps it
    if process.terminal:
        _open_console(process, context, launch)
    run_steps(plan.process_steps, context)
    environ = execute.with_home(process.env, process.uid)
    if launch.stdio is not None:
        for target, fd in enumerate(launch.stdio):
            os.dup2(fd, target, inheritable=True)
    if context.console >= 0:
        from runtime.inside import console

        console.become_controlling(context.console, process.uid)
    elif process.uid:
        init.own_stdio(process.uid)
    init.offer_mailbox(channel, launch.filter)
    init.confine(plan.confinement, process, context)
    execute.close_on_exec(plan.preserve_fds)
    path = execute.find(process.args[0], environ, process.cwd)
    execute.execute(path, process.args, environ, launch.filter)


def _open_console(process: Process, context: Context, launch: init.Launch) -> None:
    from runtime.inside import console

    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    master, slave = console.allocate(root)
    os.close(root)
    if process.console_size is not None:
        console.set_size(slave, *process.console_size)
    if launch.console_socket is not None:
        fdpass.send(launch.console_socket, b"/dev/pts/0", [master])
        launch.console_socket.close()
    os.close(master)
    context.console = slave
