# SPDX-License-Identifier: Apache-2.0
"""create and start for a warm spawner: the whole init compiled to system calls, which a small program runs (act.c).

    spawner                     keeper                             init, the keeper's child
      ├── expect ──────────────► │ stdio; executes act, which waits
      │ plan (if not foreseen),  │                                   │
      │ record                   │                                   │
      ├── the program is there ──┼────────────────────────► act ───► │ born; opens what it gets of the host
      │ groups, limits           │                                   │
      ├── the groups are there ──┼─────────────────────────────────► │ groups, namespaces, root, masks
      ├── start ───────────────► │ pid and start time to record      │
      │                          ├── go ───────────────────────────► │ confinement, execve
      │                          │ ◄─────────────── end of the report┤

An init that waits for a word and sees its end instead, because spawner or keeper has died, ends too.

Only the ordinary case: no hooks, no terminal, no user namespace, no namespace of others but those of a pod. For the
rest, and whenever a child reports a failure, all is taken down again, and create.create makes it and finds the words.
"""

from __future__ import annotations

import posix

from runtime import container_group, creation, record, remove
from runtime.errors import RuntimeFailure
from runtime.linux import cgroup, durable, namespaces, processes, program, syscalls
from runtime.linux._core import lib
from runtime.linux.program import Builder
from runtime.plan import container, flat, identity, rootfs
from runtime.plan.flat import NotFlat
from runtime.plan.flat_root import RootBuilder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runtime.linux.program import Slot
    from runtime.plan.container import Plan
    from runtime.record import Record

MOST_BYTES = 1 << 18  # of a configuration: a larger one would hold up the spawner


class Planned:
    """A container as it would be made, and the program for its init; nothing of it is there."""

    __slots__ = ("_file", "config", "data", "layout", "plan", "request", "text")

    def __init__(
        self, request: creation.CreateRequest, give_back: Callable[[Builder], None], *, waits: bool = False
    ) -> None:
        """`waits`: the program waits for its groups. NotFlat where the ordinary way is not enough."""
        record.check_id(request.id)
        self.request = request
        self._file = _identity(request.config_path)
        if request.systemd_cgroup or self._file[0] > MOST_BYTES:
            raise NotFlat("systemd's groups, or much to read")
        self.data, self.config = request.config or creation.read_config(request.config_path)
        self.layout = cgroup.layout()
        self.plan = creation.plan_for(request, self.config, self.layout)
        _check(self.plan)
        if request.seed < 0 and self.plan.process_steps and not syscalls.capget()[0] & flat.CAP_SYS_RESOURCE:
            raise NotFlat("what is refused here is told who gave the command, and a list of calls has no words")
        self.text = _compile(self.plan, request, give_back, waits=waits)

    def is_of(self, request: creation.CreateRequest) -> bool:
        """Whether it is what this request asks for, with the configuration as it is now."""
        same = all(getattr(self.request, name) == getattr(request, name) for name in ("id", "root", "bundle", "seed"))
        return same and self._file == _identity(request.config_path)


def _identity(path: str) -> tuple[int, ...]:
    """What changes when somebody writes to the file, or puts another into its place."""
    found = posix.stat(path)
    return found.st_size, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


class Prepared:
    """A container of which everything is there but its init."""

    __slots__ = ("entry", "lock", "memory_cgroup", "plan", "text")

    def __init__(self, entry: Record, lock: durable.Locked, planned: Planned) -> None:
        self.entry = entry
        self.lock = lock
        self.text = planned.text
        self.plan = planned.plan
        self.memory_cgroup = entry.cgroup_paths.get(cgroup.UNIFIED if entry.cgroup_v2 else "memory", "")


def prepare(planned: Planned, told: program.Told | None = None) -> Prepared:
    """Record and cgroup; an error, with nothing left behind. Who has been begun already is `told` the program as soon
    as its child can be born, and that the groups are there."""
    plan, layout = planned.plan, planned.layout
    directory = creation.reserve(planned.request, plan)
    lock = record.lock(directory)
    entry = creation.first_record(directory, plan, planned.config)
    try:
        entry.save()
        entry.cgroup_made = _make_birthplace(plan, layout) if plan.cgroup_paths else []
        if told is not None:
            told.tell(planned.text)
        durable.replace(f"{directory}/config.json", planned.data, 0o600, durable=False)
        if plan.cgroup_paths and not plan.cgroup_v2:
            entry.cgroup_made += container_group.set_up(plan, layout)[1]
        if told is not None:
            told.go_on()
    except BaseException:
        lock.close()
        undo(entry)
        raise
    return Prepared(entry, lock, planned)


def _make_birthplace(plan: Plan, layout: cgroup.Layout) -> list[str]:
    """The group in which the init is born; those of v1 it enters as soon as they are there."""
    if plan.cgroup_v2:
        return container_group.set_up(plan, layout)[1]
    place = {name: path for name, path in plan.cgroup_paths.items() if name == cgroup.UNIFIED}
    return cgroup.Group(place, v2=False).make(layout)


class Init:
    """An init from before its birth until it is on its way to its program; `said` is where it reports how that went."""

    __slots__ = ("_birth", "_go", "said")

    def __init__(self, act: int, memory: int, stdio: Sequence[int], seed: int = -1, ready: int = 0) -> None:
        self.said, report = posix.pipe2(posix.O_CLOEXEC)
        going, self._go = posix.pipe2(posix.O_CLOEXEC)
        more = [seed] if seed >= 0 else []
        more += [ready] if ready else []
        try:
            self._birth = program.Birth(act, memory, [*stdio, report, going, *more], ready)
        except BaseException:
            posix.close(self.said)
            posix.close(self._go)
            raise
        finally:
            posix.close(report)
            posix.close(going)

    def let_go(self, entry: Record) -> None:
        """Write down who it is, then let its program run."""
        try:
            pid = self._birth.born()
            # ECHILD: it has failed at once and is reaped already, so that the number may be another's by now.
            posix.waitid(posix.P_PID, pid, posix.WEXITED | posix.WNOHANG | posix.WNOWAIT)
            entry.pid, entry.start_time = pid, processes.start_time(pid) or 0
            entry.save()
            posix.write(self._go, program.WORD)
        except BrokenPipeError:
            pass  # it has failed before it came to wait, and its report says so
        finally:
            posix.close(self._go)

    def drop(self) -> None:
        """It has nothing to wait for: it ends."""
        self._birth.close()
        posix.close(self._go)
        posix.close(self.said)


def run(request: creation.CreateRequest) -> creation.Created | None:
    """For a cold command: the container, whose program runs and has our stdio. None where that takes the long way."""
    special = request.console_socket or request.pid_file or request.pidfd_socket or request.options.preserve_fds
    if special or request.options.rootless:
        return None
    try:
        act = program.opened()
        planned = Planned(request, lambda _: None, waits=True)
    except _LONG_WAY:
        return None
    told = program.Told()
    stdio = [posix.dup(fd) for fd in range(3)]
    try:
        return _make(planned, told, Init(act, told.memory, stdio, ready=told.ready))
    except OSError:
        return None
    finally:
        told.close()
        for fd in stdio:
            posix.close(fd)


_LONG_WAY = (OSError, ValueError, RuntimeFailure, NotFlat)


def _make(planned: Planned, told: program.Told, begun: Init) -> creation.Created | None:
    """The groups are made on one processor while the init is born on another."""
    try:
        prepared = prepare(planned, told)
    except _LONG_WAY:
        begun.drop()
        return None
    entry, plan = prepared.entry, prepared.plan
    try:
        if _has_executed(begun, prepared):
            return creation.Created(entry, plan, None, list(plan.warnings))
    except OSError:
        pass
    except BaseException:
        undo(entry)
        raise
    undo(entry)
    return None


def _has_executed(begun: Init, prepared: Prepared) -> bool:
    with prepared.lock, open(begun.said, "rb", 0) as said:
        begun.let_go(prepared.entry)
        if said.read() == program.EXECUTED:
            return True
    posix.waitpid(prepared.entry.pid, 0)
    return False


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


def _compile(
    plan: Plan, request: creation.CreateRequest, give_back: Callable[[Builder], None], *, waits: bool
) -> bytes:
    process = plan.config.process
    assert process is not None
    builder = Builder()
    stdin, stdout, stderr, report, go = (builder.slot() for _ in range(5))  # as Init hands them over
    seed = builder.slot() if request.seed >= 0 else None
    ready = builder.slot() if waits else None
    root = RootBuilder(builder, plan)
    give_back(builder)
    flat.oom_scores(builder, plan.process_steps)
    _give_birth(builder, plan)
    root.open_host()
    if ready is not None:
        builder.call(lib.ACT_AWAIT, ready, lib.ACT_WORD)
        builder.close(ready)
    _enter(builder, plan)
    root.open_groups()
    if seed is not None:
        builder.call(lib.SYS_setns, seed, lib.CLONE_NEWNS)
        builder.close(seed)
    builder.call(lib.SYS_unshare, lib.CLONE_NEWNS)
    root.build(rootfs.SEED_ROOT if request.seed >= 0 else plan.bind_root.path)
    builder.call(lib.SYS_umask, 0o022)
    may_raise = bool(syscalls.capget()[0] & flat.CAP_SYS_RESOURCE)
    flat.limits(builder, plan.process_steps, may_raise)
    flat.home(builder, process)
    builder.call(lib.ACT_AWAIT, go, lib.ACT_WORD)
    for target, source in enumerate((stdin, stdout, stderr)):
        builder.call(lib.SYS_dup3, source, target, 0)
    flat.own_stdio(builder, process.uid)
    flat.confinement(builder, plan.confinement, process, root.proc)
    flat.last_steps(builder)
    search = flat.candidates(process, identity.DEFAULT_PATH)
    return builder.finish(report, process.args, process.env, search, _filter(plan, request))


def _give_birth(builder: Builder, plan: Plan) -> None:
    """The init is born in its namespaces and, on v2, in its group: to move there would wait for RCU."""
    flags = plan.namespaces.clone_flags & ~lib.CLONE_NEWNS | lib.CLONE_PARENT
    if not (path := plan.cgroup_paths.get(cgroup.UNIFIED)):
        builder.call(lib.ACT_BIRTH, flags)
        return
    group = builder.slot()
    builder.call(
        lib.SYS_openat, syscalls.AT_FDCWD, path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC, into=group
    )
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
        call(lib.SYS_openat, syscalls.AT_FDCWD, path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC, into=file)
        call(lib.SYS_setns, file, namespaces.FLAGS[kind])
        builder.close(file)
    if plan.namespaces.new_cgroup:
        call(lib.SYS_unshare, lib.CLONE_NEWCGROUP)
    if not plan.options.no_new_keyring:
        assert plan.config.process is not None
        if plan.config.process.selinux_label:
            builder.write_file(identity.KEYRING_LABEL, plan.config.process.selinux_label.encode())
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
    builder.call(lib.SYS_socket, 2, 2 | posix.O_CLOEXEC, 0, into=sock)  # AF_INET, SOCK_DGRAM
    builder.call(lib.SYS_ioctl, sock, 0x8914, request)  # SIOCSIFFLAGS
    builder.close(sock)


def _filter(plan: Plan, request: creation.CreateRequest) -> tuple[bytes, int]:
    if plan.seccomp is None:
        return b"", 0
    from runtime import seccomp_filter

    if seccomp_filter.wants_listener(plan.seccomp):
        raise NotFlat("a seccomp listener")
    found = seccomp_filter.known(plan.seccomp, f"{request.root}/.cache/seccomp")
    if found is None:
        raise NotFlat("a seccomp filter that nobody has compiled yet")
    return found


__all__ = ["Init", "NotFlat", "Planned", "Prepared", "RuntimeFailure", "prepare", "undo"]
