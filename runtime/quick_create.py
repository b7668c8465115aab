# SPDX-License-Identifier: Apache-2.0
"""create and start for a warm spawner: the whole init compiled to system calls, which a small program runs (act.c).

    spawner                                keeper                          init, the keeper's child
      │ reads, plans, record, cgroup          │                               │
      ├── text of the program ──────────────► │ executes act, which clones ─► │ groups, namespaces, root, masks
      │                                       │ pid and start time to record  │
      │                                       ├── go ───────────────────────► │ confinement, execve
      │                                       │ ◄──────── end of the report ──┤

Only the ordinary case: no hooks, no terminal, no user namespace, no namespace of others but those of a pod. For the
rest, and whenever a child reports a failure, all is taken down again, and create.create makes it and finds the words.
"""

from __future__ import annotations

import os

from runtime import create, launch, record, remove
from runtime.errors import RuntimeFailure
from runtime.inside import execute, init
from runtime.linux import cgroup, durable, namespaces, syscalls
from runtime.linux._core import lib
from runtime.linux.program import Builder
from runtime.plan import container, flat
from runtime.plan.flat import NotFlat
from runtime.plan.flat_root import RootBuilder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.linux.program import Slot
    from runtime.plan.container import Plan
    from runtime.record import Record

MOST_BYTES = 1 << 18  # of a configuration: a larger one would hold up the spawner
GO = b"g"


class Prepared:
    """A container of which everything is there but its init."""

    __slots__ = ("entry", "lock", "memory_cgroup", "text")

    def __init__(self, entry: Record, lock: durable.Locked, text: bytes) -> None:
        self.entry = entry
        self.lock = lock
        self.text = text
        self.memory_cgroup = entry.cgroup_paths.get(cgroup.UNIFIED if entry.cgroup_v2 else "memory", "")


def prepare(request: create.CreateRequest, give_back: Callable[[Builder], None]) -> Prepared:
    """Plan, record and cgroup; NotFlat, or an error, with nothing left behind."""
    record.check_id(request.id)
    if request.seed < 0 or request.systemd_cgroup or os.stat(request.config_path).st_size > MOST_BYTES:
        raise NotFlat("no seed, systemd's groups, or much to read")
    data, config = create.read_config(request.config_path)
    layout = cgroup.layout()
    plan = create.plan_for(request, config, layout)
    _check(plan)
    text = _compile(plan, request, give_back)
    directory = create.reserve(request, plan)
    lock = record.lock(directory)
    entry = create.first_record(directory, plan, config)
    try:
        entry.save()
        durable.replace(f"{directory}/config.json", data, 0o600, durable=False)
        if plan.cgroup_paths:
            _, entry.cgroup_made = launch.set_up_cgroup(plan, layout)
    except BaseException:
        lock.close()
        undo(entry)
        raise
    return Prepared(entry, lock, text)


def undo(entry: Record) -> None:
    """As if it had never been asked for."""
    remove.remove(entry, run_hooks=False)


def _check(plan: Plan) -> None:
    process = plan.config.process
    listener = plan.seccomp is not None and plan.seccomp.listener_path
    joined = {kind for kind, _ in plan.namespaces.joined}
    if (
        process is None
        or process.terminal
        or listener
        or plan.userns
        or plan.scope is not None
        or plan.all_hooks()
        or plan.config.linux.net_devices
        or plan.config.linux.personality is not None
        or plan.config.linux.memory_policy is not None
        or plan.config.extensions.pidfd_receiver
        or any(step.destination == "/" for step in plan.mounts)
        or not joined <= {"net", "ipc", "uts"}
        or not container.fits_seed(plan)
    ):
        raise NotFlat("hooks, a terminal, a listener, or namespaces that take a process in between")


def _compile(plan: Plan, request: create.CreateRequest, give_back: Callable[[Builder], None]) -> bytes:
    process = plan.config.process
    assert process is not None
    builder = Builder()
    stdin, stdout, stderr, report, go, seed = (builder.slot() for _ in range(6))
    root = RootBuilder(builder, plan)
    give_back(builder)
    flat.oom_scores(builder, plan.process_steps)
    _give_birth(builder, plan)
    _enter(builder, plan)
    root.open_host()
    builder.call(lib.SYS_setns, seed, lib.CLONE_NEWNS)
    builder.close(seed)
    builder.call(lib.SYS_unshare, lib.CLONE_NEWNS)
    root.build(init.SEED_ROOT)
    builder.call(lib.SYS_umask, 0o022)
    may_raise = bool(syscalls.capget()[0] & flat.CAP_SYS_RESOURCE)
    flat.limits(builder, plan.process_steps, may_raise)
    flat.home(builder, process)
    builder.call(lib.ACT_AWAIT, go, GO[0])
    for target, source in enumerate((stdin, stdout, stderr)):
        builder.call(lib.SYS_dup3, source, target, 0)
    flat.own_stdio(builder, process.uid)
    flat.confinement(builder, plan.confinement, process, root.proc)
    flat.last_steps(builder)
    search = flat.candidates(process, execute.DEFAULT_PATH)
    return builder.finish(report, process.args, process.env, search, _filter(plan, request))


def _give_birth(builder: Builder, plan: Plan) -> None:
    """The init is born in its namespaces and, on v2, in its group: to move there would wait for RCU."""
    flags = plan.namespaces.clone_flags & ~lib.CLONE_NEWNS | lib.CLONE_PARENT
    if not (path := plan.cgroup_paths.get(cgroup.UNIFIED)):
        builder.call(lib.ACT_BIRTH, flags)
        return
    group = builder.slot()
    builder.call(lib.SYS_openat, syscalls.AT_FDCWD, path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, into=group)
    builder.call(lib.ACT_BIRTH, flags | lib.CLONE_INTO_CGROUP, group)
    builder.close(group)


def _enter(builder: Builder, plan: Plan) -> None:
    """As the init does it: session, groups, the pod's namespaces, a keyring, loopback."""
    call = builder.call
    call(lib.SYS_setsid)
    call(lib.SYS_umask, 0)
    for name, path in plan.cgroup_paths.items():
        if name != cgroup.UNIFIED:
            builder.write_file(f"{path}/tasks", b"0")
    call(lib.SYS_prctl, lib.PR_SET_DUMPABLE, 0)  # others in a namespace that we join must not look into us
    file = builder.slot()
    for kind, path in plan.namespaces.joined:
        # setns checks that it is a namespace of this kind; not blocking, in case it is a FIFO
        call(lib.SYS_openat, syscalls.AT_FDCWD, path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, into=file)
        call(lib.SYS_setns, file, namespaces.FLAGS[kind])
        builder.close(file)
    if plan.namespaces.new_cgroup:
        call(lib.SYS_unshare, lib.CLONE_NEWCGROUP)
    if not plan.options.no_new_keyring:
        assert plan.config.process is not None
        if plan.config.process.selinux_label:
            builder.write_file(init.KEYRING_LABEL, plan.config.process.selinux_label.encode())
        _keyring(builder, plan.id, file)
    if "net" in plan.namespaces.new:
        _raise_loopback(builder, file)


def _keyring(builder: Builder, name: str, serial: Slot) -> None:
    refused = (38, 122, 1, 13)  # as in init.join_keyring
    join = lib.KEYCTL_JOIN_SESSION_KEYRING
    joined = builder.call(lib.SYS_keyctl, join, f"_ses.{name}", into=serial, bear=refused)
    builder.call(lib.SYS_keyctl, lib.KEYCTL_SETPERM, serial, 0x3F3F0000, bear=refused)
    builder.skip_to_here(joined)


def _raise_loopback(builder: Builder, sock: Slot) -> None:
    request = b"lo".ljust(16, b"\0") + (0x41).to_bytes(2, "little") + bytes(22)  # IFF_UP | IFF_RUNNING
    builder.call(lib.SYS_socket, 2, 2 | os.O_CLOEXEC, 0, into=sock)  # AF_INET, SOCK_DGRAM
    builder.call(lib.SYS_ioctl, sock, 0x8914, request)  # SIOCSIFFLAGS
    builder.close(sock)


def _filter(plan: Plan, request: create.CreateRequest) -> tuple[bytes, int]:
    if plan.seccomp is None:
        return b"", 0
    from runtime import seccomp_filter

    if seccomp_filter.wants_listener(plan.seccomp):
        raise NotFlat("a seccomp listener")
    found = seccomp_filter.known(plan.seccomp, f"{request.root}/.cache/seccomp")
    if found is None:
        raise NotFlat("a seccomp filter that nobody has compiled yet")
    return found


__all__ = ["GO", "NotFlat", "Prepared", "RuntimeFailure", "prepare", "undo"]
