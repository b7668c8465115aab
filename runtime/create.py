# SPDX-License-Identifier: Apache-2.0
"""create: a bundle becomes a container whose init waits, or nothing at all.

For a warm keeper: fork a child that calls `create(request)` with `sibling=True` and `hold=False`. The init is then the
keeper's own child, not the caller's; `create` returns the Created with an open channel, and `release(created)` makes it
exec and returns when execve has succeeded. The child reports pid and start time to the keeper and exits.
"""

from __future__ import annotations

import errno
import os

from runtime import container_group, creation, hooks, launch, lifecycle, record, remove
from runtime.creation import Created
from runtime.errors import CreateFailed, RuntimeFailure
from runtime.inside import handshake, init
from runtime.linux import cgroup, durable, fdpass, namespaces, syscalls
from runtime.linux.steps import StepFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.creation import CreateRequest
    from runtime.linux.cgroup import Group
    from runtime.plan.container import Plan
    from runtime.record import Record


def create(request: CreateRequest) -> Created:
    """Make a container up to the point where its init waits. On failure everything is taken down again."""
    record.check_id(request.id)
    data, config = request.config or creation.read_config(request.config_path)
    layout = cgroup.layout()
    plan = creation.plan_for(request, config, layout)
    creation.check_console(request, plan)
    if not os.path.isdir(plan.root_path):
        raise RuntimeFailure(f"config.json: root.path: {plan.root_path} is not a directory (is --bundle right?)")
    directory = creation.reserve(request, plan)
    lock = record.lock(directory)
    entry = creation.first_record(directory, plan, config)
    try:
        entry.save()
        durable.replace(f"{directory}/config.json", data, 0o600, durable=False)
        return _make(request, plan, layout, entry, lock.fd)
    except BaseException as error:
        if isinstance(error, handshake.Died) and (killed := remove.killed_for_memory(entry)):
            error = CreateFailed(f"{error}: {killed}")
        _undo(entry, error)
        raise _as_failure(error) from error
    finally:
        lock.close()


def _undo(entry: Record, error: BaseException) -> None:
    try:
        remove.remove(entry, run_hooks=False)
    except Exception as second:
        raise CreateFailed(f"{_as_failure(error)}; and taking it down again failed: {second}") from error


def _as_failure(error: BaseException) -> BaseException:
    if isinstance(error, (RuntimeFailure, KeyboardInterrupt, SystemExit)):
        return error
    if isinstance(error, handshake.Died):
        return CreateFailed(f"{error} (killed for memory? a limit too small for the set-up itself kills it)")
    if isinstance(error, (handshake.InitFailed, hooks.HookFailed, StepFailed, OSError, ValueError)):
        return CreateFailed(str(error))
    return error


def _make(request: CreateRequest, plan: Plan, layout: cgroup.Layout, entry: Record, lock_fd: int) -> Created:
    if plan.scope is not None:
        return _make_in_scope(request, plan, layout, entry, lock_fd)
    group = None
    if plan.cgroup_paths:
        try:
            group, entry.cgroup_made = container_group.set_up(plan, layout)
        except OSError as error:
            plan = _do_without_cgroup(request, plan, layout, entry, error)
    return _make_in(group, request, plan, entry, lock_fd)


def _do_without_cgroup(
    request: CreateRequest, plan: Plan, layout: cgroup.Layout, entry: Record, error: OSError
) -> Plan:
    """A user who may make no group has his container in his own one, if there is nothing to limit."""
    if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not namespaces.is_rootless():
        raise error
    if plan.limits:
        asked = plan.limits[0].where
        hint = "a user's systemd lends him one: --systemd-cgroup"
        raise CreateFailed(f"{asked}: a limit needs a cgroup, and this user may make none: {error} ({hint})") from None
    cgroup.Group(plan.cgroup_paths, v2=plan.cgroup_v2).remove()
    entry.cgroup_paths = {}
    request.use_cgroups = False
    return creation.plan_for(request, plan.config, layout)


def _make_in_scope(request: CreateRequest, plan: Plan, layout: cgroup.Layout, entry: Record, lock_fd: int) -> Created:
    from runtime import systemd_scope

    group = cgroup.Group(plan.cgroup_paths, v2=plan.cgroup_v2)
    assert plan.scope is not None
    anchor = systemd_scope.start(plan.scope, group, layout)
    try:
        container_group.apply_limits(plan, group)
        container_group.give_away(plan, group)
        systemd_scope.room_for_anchor(group, plan.limits, more=1)
        created = _make_in(group, request, plan, entry, lock_fd)
        systemd_scope.settle(plan, group, anchor)
        return created
    finally:
        anchor.let_go()


def _make_in(group: Group | None, request: CreateRequest, plan: Plan, entry: Record, lock_fd: int) -> Created:
    birth = init.Launch()
    birth.group = group
    birth.foreign = (lock_fd,)
    birth.stdio = request.stdio
    birth.seed = request.seed
    if not plan.options.no_new_keyring:
        birth.keyring = f"_ses.{plan.id}"
        birth.keyring_label = plan.config.process.selinux_label if plan.config.process is not None else ""
    if plan.seccomp is not None:
        from runtime import seccomp_filter

        birth.filter = seccomp_filter.compiled(plan.seccomp, f"{request.root}/.cache/seccomp")
    if request.hold:
        birth.listener = fdpass.listen(entry.start_socket)
    if request.console_socket:
        birth.console_socket = _connect_console(request.console_socket)
    elif request.console_fd >= 0:
        birth.console_socket = fdpass.Socket(fileno=os.dup(request.console_fd))
    if plan.scope is not None and plan.scope.delegate and group is not None:
        birth.delegated = os.open(f"{group.paths[cgroup.UNIFIED]}/{plan.scope.delegate}/cgroup.procs", os.O_WRONLY)
    if plan.all_hooks():
        birth.hook_output = hooks.Output(plan.config.extensions)
    pid, channel = launch.clone_init(plan, birth, sibling=request.sibling)
    if birth.delegated >= 0:
        os.close(birth.delegated)
    if birth.listener is not None:
        birth.listener.close()
    if birth.console_socket is not None:
        birth.console_socket.close()
    try:
        _record_pid(entry, pid)
        if plan.moved_by_systemd:
            _have_moved(plan, pid)
        launched = launch.bring_up(plan, pid, channel, lambda p, s: record.spec_state(entry, p, s), birth.hook_output)
    except BaseException:
        _reap(pid, sibling=request.sibling)
        raise
    finally:
        if birth.hook_output is not None:
            birth.hook_output.close()
    _publish_pid(request, launched.pid)
    if plan.config.extensions.pidfd_receiver:
        send_pidfd(plan.config.extensions.pidfd_receiver, launched.pid)
    return Created(
        entry, plan, None if request.hold else launched.channel, [*plan.warnings, *launched.channel.warnings]
    )


def _have_moved(plan: Plan, pid: int) -> None:
    from runtime import systemd_scope

    assert plan.scope is not None
    systemd_scope.attach(plan.scope, pid)


def _record_pid(entry: Record, pid: int) -> None:
    from runtime.linux import processes

    started = processes.start_time(pid)
    if started is not None:
        entry.pid, entry.start_time = pid, started
        entry.save()


def _reap(pid: int, *, sibling: bool) -> None:
    """An init that failed on its own or that we give up."""
    try:
        os.kill(pid, 9)
        if not sibling:
            os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def _connect_console(path: str) -> fdpass.Socket:
    try:
        return fdpass.connect(path)
    except OSError as error:
        raise RuntimeFailure(f"--console-socket {path}: cannot connect: {error.strerror}") from None


def _publish_pid(request: CreateRequest, pid: int) -> None:
    if request.pid_file:
        try:
            durable.replace(request.pid_file, str(pid).encode(), 0o644, durable=False)
        except OSError as error:
            raise RuntimeFailure(f"--pid-file {request.pid_file}: cannot write: {error.strerror}") from None
    if request.pidfd_socket:
        send_pidfd(request.pidfd_socket, pid)


def send_pidfd(path: str, pid: int) -> None:
    """Hand a pidfd of the init to whoever listens."""
    pidfd = syscalls.pidfd_open(pid)
    try:
        sock = fdpass.connect(path)
        fdpass.send(sock, b"pidfd", [pidfd])
        sock.close()
    except OSError as error:
        raise RuntimeFailure(f"--pidfd-socket {path}: cannot send: {error.strerror}") from None
    finally:
        os.close(pidfd)


def release(created: Created) -> None:
    """Let the init of a container made with hold=False execute its program; returns when it has."""
    assert created.channel is not None
    agent = None
    if created.plan.seccomp is not None and created.plan.seccomp.listener_path:
        agent = lifecycle.agent_for(created.record.config_bytes())
    created.channel.say(handshake.START)
    lifecycle.await_exec(created.channel, created.record, agent)
    lifecycle.poststart(created.record, created.plan.config)
