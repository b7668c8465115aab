# SPDX-License-Identifier: Apache-2.0
"""create: a bundle becomes a container whose init waits, or nothing at all.

For a warm keeper: fork a child that calls `create(request)` with `sibling=True` and `hold=False`. The init is then the
keeper's own child, not the caller's; `create` returns the Created with an open channel, and `release(created)` makes it
exec and returns when execve has succeeded. The child reports pid and start time to the keeper and exits.
"""

from __future__ import annotations

import errno
import os

from runtime import create_time, hooks, launch, lifecycle, record, remove
from runtime.errors import CreateFailed, RuntimeFailure
from runtime.inside import handshake, init
from runtime.linux import cgroup, durable, fdpass, json_text, namespaces, syscalls
from runtime.linux.steps import StepFailed
from runtime.plan import container
from runtime.spec import parse
from runtime.spec.reader import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.inside.handshake import ParentEnd
    from runtime.linux.cgroup import Group
    from runtime.plan.container import CreateOptions, Plan
    from runtime.plan.scope import Scope
    from runtime.record import Record
    from runtime.spec.model import Config


class CreateRequest:
    """What `create` needs to know. `hold`: the init waits on a start socket for a later command; otherwise it waits for
    release() by this process. `sibling`: the init becomes a child of our parent. `stdio`: descriptors for 0, 1, 2.
    `shares_cgroup`: others of its owner's may live in its group, as a pod's reaper does."""

    __slots__ = (
        "bundle",
        "config",
        "config_path",
        "console_fd",
        "console_socket",
        "hold",
        "id",
        "options",
        "pid_file",
        "pidfd_socket",
        "root",
        "seed",
        "shares_cgroup",
        "sibling",
        "stdio",
        "systemd_cgroup",
        "use_cgroups",
    )

    def __init__(self, root: str, container_id: str, bundle: str) -> None:
        self.root = root
        self.id = container_id
        self.bundle = os.path.realpath(bundle)
        self.config_path = f"{self.bundle}/config.json"
        self.config: tuple[bytes, Config] | None = None  # what the caller has read there already
        self.console_socket = ""
        self.console_fd = -1
        self.pid_file = ""
        self.pidfd_socket = ""
        self.options: CreateOptions = container.CreateOptions()
        self.systemd_cgroup = False
        self.use_cgroups = True
        self.hold = True
        self.sibling = False
        self.seed = -1
        self.shares_cgroup = False
        self.stdio: tuple[int, int, int] | None = None


class Created:
    """A container whose init waits."""

    __slots__ = ("channel", "plan", "record", "warnings")

    def __init__(self, record_: Record, plan: Plan, channel: ParentEnd | None, warnings: list[str]) -> None:
        self.record = record_
        self.plan = plan
        self.channel = channel
        self.warnings = warnings


def read_config(path: str) -> tuple[bytes, Config]:
    """config.json as bytes and as types."""
    try:
        data = durable.read(path)
    except OSError as error:
        raise RuntimeFailure(f"cannot read {path}: {error.strerror}") from None
    if data is None:
        raise RuntimeFailure(f"{path} does not exist (is --bundle right?)")
    try:
        return data, parse.config(_with_sockets_of_systemd(json_text.loads(data)))
    except json_text.JSONError as error:
        raise RuntimeFailure(f"{path}: not JSON: {error}") from None
    except SpecError as error:
        raise RuntimeFailure(f"config.json: {error}") from None


NOTIFY_PATH = "/run/notify/notify.sock"


def _with_sockets_of_systemd(raw: Any) -> Any:
    """What a service is given goes on to its program: NOTIFY_SOCKET, bound into the container, and LISTEN_FDS; both
    named in its environment. An abstract NOTIFY_SOCKET (@) belongs to a network namespace and cannot be."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    has_notify = path.startswith("/") and os.path.exists(path)
    if not (has_notify or "LISTEN_FDS" in os.environ) or not isinstance(raw, dict):
        return raw
    process, mounts = raw.get("process"), raw.get("mounts") or []
    if not isinstance(process, dict) or not isinstance(process.get("env") or [], list) or not isinstance(mounts, list):
        return raw  # the parser will say what is wrong
    env = list(process.get("env") or [])
    if has_notify:
        mount = {"destination": NOTIFY_PATH, "source": path, "options": ["bind", "nosuid", "nodev", "noexec"]}
        mounts = [*mounts, mount]
        env.append(f"NOTIFY_SOCKET={NOTIFY_PATH}")
    if "LISTEN_FDS" in os.environ:
        from runtime import activation

        env += activation.variables()
    return raw | {"mounts": mounts, "process": process | {"env": env}}


def host_facts(layout: cgroup.Layout) -> container.HostFacts:
    """What the plan must know about this host."""
    return container.HostFacts(
        cgroup_v2=layout.v2,
        capabilities=syscalls.capget()[1],
        euid=os.geteuid(),
        egid=os.getegid(),
        rootless=namespaces.is_rootless(),
    )


def plan_for(request: CreateRequest, config: Config, layout: cgroup.Layout) -> Plan:
    """Plan the container of this request; changes nothing."""
    if os.geteuid() and config.namespace("user") is None and config.namespace("mnt") is not None:
        from runtime import rootless

        config = rootless.with_user_namespace(config)
    try:
        paths: dict[str, str] = {}
        scope = None
        if request.use_cgroups and request.systemd_cgroup:
            scope = _scope(request, config, layout)
            paths = layout.directories(scope.group)
        elif request.use_cgroups:
            paths = layout.directories(cgroup_path(config, request.id))
        return container.build(
            config,
            container_id=request.id,
            bundle=request.bundle,
            host=host_facts(layout),
            options=request.options,
            cgroup_paths=paths,
            scope=scope,
        )
    except SpecError as error:
        raise RuntimeFailure(f"config.json: {error}") from None


def _scope(request: CreateRequest, config: Config, layout: cgroup.Layout) -> Scope:
    from runtime import systemd_scope
    from runtime.plan import limits

    writes = limits.plan(config.linux.resources, v2=layout.v2)
    return systemd_scope.plan(config, request.id, layout, writes, container.device_rules(config))


def cgroup_path(config: Config, container_id: str) -> str:
    """linux.cgroupsPath, without any way out of the hierarchy; a group named as the container by default."""
    path = config.linux.cgroups_path
    if not path:
        return container_id
    if ".." in path.split("/"):
        raise SpecError("linux.cgroupsPath", f"{path!r} contains .., which could name a group of others")
    clean = os.path.normpath("/" + path.lstrip("/"))
    if clean == "/":
        raise SpecError("linux.cgroupsPath", "is the root group, whose limits are the host's")
    return clean if path.startswith("/") else clean.lstrip("/")


def create(request: CreateRequest) -> Created:
    """Make a container up to the point where its init waits. On failure everything is taken down again."""
    record.check_id(request.id)
    data, config = request.config or read_config(request.config_path)
    layout = cgroup.layout()
    plan = plan_for(request, config, layout)
    check_console(request, plan)
    if not os.path.isdir(plan.root_path):
        raise RuntimeFailure(f"config.json: root.path: {plan.root_path} is not a directory (is --bundle right?)")
    directory = reserve(request, plan)
    lock = record.lock(directory)
    entry = first_record(directory, plan, config)
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


def check_console(request: CreateRequest, plan: Plan) -> None:
    """A terminal needs somebody to receive it, and the other way round."""
    process = plan.config.process
    terminal = process is not None and process.terminal
    if terminal and request.hold and not request.console_socket:
        raise RuntimeFailure("process.terminal is true: --console-socket is needed to hand over the terminal")
    if request.console_socket and not terminal:
        raise RuntimeFailure("--console-socket is given, but process.terminal in config.json is not true")


def reserve(request: CreateRequest, plan: Plan) -> str:
    """The container's directory, empty: its id is free, and so is its cgroup."""
    directory = record.reserve(request.root, request.id)
    try:
        if not request.shares_cgroup:
            _refuse_occupied_cgroup(plan)
    except BaseException:
        record.forget(directory)
        raise
    return directory


def _refuse_occupied_cgroup(plan: Plan) -> None:
    """Before a record names the group: its removal ends all that is in there, and these are another's processes."""
    if plan.scope is not None:
        return
    if found := cgroup.Group(plan.cgroup_paths, v2=plan.cgroup_v2).processes():
        group = next(iter(plan.cgroup_paths.values()))
        raise CreateFailed(
            f"linux.cgroupsPath: the container's cgroup {group} is not empty: {len(found)} process(es) found, the first"
            f" is {found[0]} (has another container this path, or one of this id under another --root?)"
        )


def first_record(directory: str, plan: Plan, config: Config) -> Record:
    return record.Record(
        directory,
        {
            "id": plan.id,
            "bundle": plan.bundle,
            "rootfs": plan.root_path,
            "oci_version": config.oci_version,
            "created": create_time.now(),
            "uid": os.geteuid(),
            "pid": 0,
            "start_time": 0,
            "annotations": dict(config.annotations),
            "cgroup_v2": plan.cgroup_v2,
            "cgroup_paths": dict(plan.cgroup_paths),
            "cgroup_made": [],
            "systemd_unit": plan.scope.unit if plan.scope is not None else "",
            "host_mounts": config.namespace("mnt") is None,
        },
    )


def _make(request: CreateRequest, plan: Plan, layout: cgroup.Layout, entry: Record, lock_fd: int) -> Created:
    if plan.scope is not None:
        return _make_in_scope(request, plan, layout, entry, lock_fd)
    group = None
    if plan.cgroup_paths:
        try:
            group, entry.cgroup_made = launch.set_up_cgroup(plan, layout)
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
    return plan_for(request, plan.config, layout)


def _make_in_scope(request: CreateRequest, plan: Plan, layout: cgroup.Layout, entry: Record, lock_fd: int) -> Created:
    from runtime import systemd_scope

    group = cgroup.Group(plan.cgroup_paths, v2=plan.cgroup_v2)
    assert plan.scope is not None
    anchor = systemd_scope.start(plan.scope, group, layout)
    try:
        launch.apply_limits(plan, group)
        launch.give_group_away(plan, group)
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
