# SPDX-License-Identifier: Apache-2.0
"""The init of a container: a forked child that applies its half of the plan, waits for the start, and execs.

`run` never returns. It is the same for a cold `ketch-runtime create` and for a child of a warm keeper: what it needs
was imported and planned before the fork. After `seal` nothing can be imported any more, so nothing can come from the
container.
"""

from __future__ import annotations

import os
import sys

from runtime import hooks
from runtime.inside import execute, handshake
from runtime.linux import namespaces, syscalls
from runtime.linux._core import lib
from runtime.linux.steps import StepFailed
from runtime.linux.steps import run as run_steps
from runtime.plan.confine import verify_working_directory
from runtime.plan.container import needs_host
from runtime.plan.context import Context
from runtime.plan.identity import KEYRING_LABEL, SetAffinity
from runtime.plan.rootfs import SEED_ROOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from runtime.inside.execute import Filter
    from runtime.inside.handshake import ChildEnd
    from runtime.linux.cgroup import Group
    from runtime.linux.fdpass import Socket
    from runtime.linux.steps import Step
    from runtime.plan.container import Plan
    from runtime.spec.model import Process


class Launch:
    """What the parent hands to the init besides the plan; all of it in memory, across the fork.

    `listener`: the start socket of `create`; None when the parent itself will say START. `console_socket`: a connected
    socket that receives the terminal's master; `stdio`: descriptors to become 0, 1, 2 (None: those of the parent stay).
    `seed`: a nearly empty mount namespace to start from instead of a copy of the host's (1.5 us per mount), or -1.
    `delegated`: the cgroup.procs of a group beneath its own that it moves to (run.oci.delegate-cgroup), or -1.
    `hook_output`: files for what hooks write.
    """

    __slots__ = (
        "console_socket",
        "delegated",
        "filter",
        "foreign",
        "group",
        "hook_output",
        "host_namespaces",
        "keyring",
        "keyring_label",
        "listener",
        "notify",
        "seed",
        "stdio",
    )

    def __init__(self) -> None:
        self.listener: Socket | None = None
        self.console_socket: Socket | None = None
        self.stdio: tuple[int, int, int] | None = None
        self.filter: Filter | None = None
        self.group: Group | None = None
        self.host_namespaces: dict[str, int] = {}
        self.keyring: str | None = None
        self.keyring_label = ""
        self.foreign: tuple[int, ...] = ()
        self.notify: tuple[str, str] | None = None
        self.seed = -1
        self.delegated = -1
        self.hook_output: hooks.Output | None = None


def seal(*, terminal: bool) -> None:
    """From here on nothing is imported: what a lookup would find could be the container's.

    What steps import late is imported now, where `sys.path` still means us.
    """
    import fcntl
    import select
    import time

    if terminal:
        import runtime.inside.console as console

        del console
    del fcntl, select, time
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()


def prepare(plan: Plan) -> Context:
    """Open everything of the host that the container will get; runs where the host's mounts and rights still are."""
    context = Context(bundle=plan.bundle, root_path=plan.root_path, channel=None, userns=plan.userns or plan.rootless)
    if plan.masks:
        context.prepare()
    prepare_into(plan, context)
    return context


def prepare_into(plan: Plan, context: Context) -> None:
    """The same for a context that is there."""
    for step in (plan.bind_root, *plan.mounts, *plan.furnish):
        if needs_host(step):
            try:
                step.prepare(context)  # type: ignore[attr-defined]
            except (OSError, ValueError) as cause:
                raise StepFailed(step, cause) from cause


def run(plan: Plan, channel: ChildEnd, launch: Launch, context: Context | None) -> NoReturn:
    """Everything from birth to execve. Errors go to the parent as one sentence."""
    guard(channel, lambda: _run(plan, channel, launch, context))


def guard(channel: ChildEnd, body: Callable[[], None]) -> NoReturn:
    """Run body; whatever goes wrong becomes one message, and the process ends without Python's own farewell."""
    code = 1
    try:
        body()
    except (StepFailed, execute.ExecFailed, hooks.HookFailed, OSError, ValueError) as error:
        channel.say(handshake.FAILED, str(error))
    except SystemExit:
        pass
    except BaseException as error:
        channel.say(handshake.FAILED, f"internal error: {type(error).__name__}: {error}")
    os._exit(code)


def _run(plan: Plan, channel: ChildEnd, launch: Launch, context: Context | None) -> None:
    for step in (plan.bind_root, *plan.mounts, *plan.furnish, *plan.names, *plan.confinement):
        step.load()
    seal(terminal=plan.config.process is not None and plan.config.process.terminal)
    for fd in launch.foreign:
        os.close(fd)  # a lock of the parent's that we must not keep
    _enter(plan, channel, launch)
    if context is None:
        # Each step opens what it needs of the host by itself: the host is in sight until the pivot.
        context = Context(
            bundle=plan.bundle, root_path=plan.root_path, channel=None, userns=plan.userns or plan.rootless
        )
        if plan.masks:
            context.prepare()
    context.channel = channel
    if launch.seed >= 0:
        _leave_for_seed(plan, context, launch.seed)
    _wait_for_parent(plan, channel, context)
    _build(plan, context, launch)
    path = _ready(plan, context)
    _let_go_of_the_host(plan, channel, launch, context)
    channel.say(handshake.CREATED)
    answer = _wait_for_start(channel, launch)
    guard(answer, lambda: _start(plan, context, launch, path, answer))


def _leave_for_seed(plan: Plan, context: Context, seed: int) -> None:
    """Open what the container gets of the host, then leave the host's mounts behind without ever copying them."""
    prepare_into(plan, context)
    syscalls.setns(seed, lib.CLONE_NEWNS)
    os.close(seed)
    syscalls.unshare(lib.CLONE_NEWNS)
    context.root_at = SEED_ROOT


def _enter(plan: Plan, channel: ChildEnd, launch: Launch) -> None:
    """Cgroups, users, session, namespaces."""
    os.setsid()
    os.umask(0)  # the modes of what we make are meant as they are written
    spaces = plan.namespaces
    if launch.group is not None and not spaces.in_between:
        launch.group.enter()
    if "user" in spaces.new or plan.moved_by_systemd:
        channel.expect(handshake.MAPPED)
    if plan.userns:
        # The host's root is nobody in there, and what nobody makes has no owner: EOVERFLOW.
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    # Others in a shared PID namespace must not look into us. Not before the mapping: our files in /proc change owner.
    syscalls.prctl(lib.PR_SET_DUMPABLE, 0)
    for kind, fd in launch.host_namespaces.items():
        syscalls.setns(fd, namespaces.FLAGS[kind])
        os.close(fd)
    if spaces.new_cgroup:
        syscalls.unshare(lib.CLONE_NEWCGROUP)
    if launch.delegated >= 0:
        # After the namespace is made: its root is the group with the limits, and the program manages what is beneath.
        os.write(launch.delegated, b"0")
        os.close(launch.delegated)
    if launch.keyring is not None:
        join_keyring(launch.keyring, launch.keyring_label)
    if "net" in spaces.new:
        _raise_loopback()


def join_keyring(name: str, label: str) -> None:
    """A session keyring of its own, so that the caller's keys are out of reach; with the SELinux label of the process,
    which could not use one of the caller's."""
    if label:
        with open(KEYRING_LABEL, "w") as file:
            file.write(label)
    try:
        serial = syscalls.join_session_keyring(name)
        permissions = 0x3F3F0000  # possessor and owner: everything but changing it
        syscalls.keyctl(lib.KEYCTL_SETPERM, serial, permissions)
    except syscalls.KernelError as error:
        # ENOSYS: built without keys; EDQUOT: too many keys of this user; both harm nobody who does not use keys.
        if error.errno not in (38, 122, 1, 13):
            raise


def _raise_loopback() -> None:
    """A new network namespace has `lo` down. By ioctl: one call instead of a netlink conversation."""
    import _socket
    import fcntl

    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        request = b"lo".ljust(16, b"\0") + (0x41).to_bytes(2, "little") + bytes(22)  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(sock.fileno(), 0x8914, request)  # SIOCSIFFLAGS
    finally:
        sock.close()


def needs_parent_between(plan: Plan) -> bool:
    """Whether the parent has work to do between the namespaces and the mounts."""
    h = plan.hooks
    in_child = h.create_container or h.start_container  # they are given the state, with the pid that the parent knows
    return bool(h.prestart or h.create_runtime or in_child or plan.config.linux.net_devices)


def _wait_for_parent(plan: Plan, channel: ChildEnd, context: Context) -> None:
    if not needs_parent_between(plan):
        return
    channel.say(handshake.NAMESPACES)
    message = channel.socket.recv(1 << 20)
    if message[:1] != handshake.HOOKS_DONE:
        raise SystemExit(1)
    context.hooks_state = message[1:].decode()


def _build(plan: Plan, context: Context, launch: Launch) -> None:
    """The root file system, from bind to pivot."""
    process = plan.config.process
    if any(step for step in plan.names) or process is not None:
        context.open_proc()
    run_steps((plan.bind_root, *plan.mounts, *plan.furnish), context)
    if process is not None and process.terminal:
        _open_console(plan, context, launch)
    for hook in plan.hooks.create_container:
        hooks.run(hook, context.hooks_state, launch.hook_output)
    run_steps((*plan.names, *plan.masks, plan.pivot), context)
    os.close(context.root)
    context.root = -1
    context.let_go()


def _let_go_of_the_host(plan: Plan, channel: ChildEnd, launch: Launch, context: Context) -> None:
    """While we wait, others of the container may look at us, and a later execve may find a way to what we hold."""
    kept = {channel.socket.fileno(), context.proc, context.console, *(launch.stdio or ())}
    if launch.listener is not None:
        kept.add(launch.listener.fileno())
    if launch.filter is not None and launch.filter.mailbox is not None:
        kept.add(launch.filter.mailbox)
    if launch.hook_output is not None and plan.hooks.start_container:
        kept.update(launch.hook_output.fds.values())
    execute.close_all_but(kept, 3 + plan.options.preserve_fds)


def _open_console(plan: Plan, context: Context, launch: Launch) -> None:
    from runtime.inside import console
    from runtime.linux import fdpass

    process = plan.config.process
    assert process is not None
    master, slave = console.allocate(context.root)
    if process.console_size is not None:
        console.set_size(slave, *process.console_size)
    console.bind_to_dev_console(context.root, slave)
    if launch.console_socket is not None:
        fdpass.send(launch.console_socket, b"/dev/pts/0", [master])
        launch.console_socket.close()
    os.close(master)
    context.console = slave
    # Now, not at start: containerd's shim reads the output of `create` to its end, and we would hold that open.
    for fd in (0, 1, 2):
        os.dup2(slave, fd, inheritable=True)


def _ready(plan: Plan, context: Context) -> str:
    """Limits of the process, and the program found while an error can still be one of `create`."""
    process = plan.config.process
    if process is None:
        return ""
    os.chdir("/")
    os.umask(0o022)
    run_steps(plan.process_steps, context)
    context.environ = execute.with_home(process.env, process.uid)
    if process.args[0].startswith("/") or "/" not in process.args[0]:
        return execute.find(process.args[0], context.environ, process.cwd)
    return process.args[0]


def _wait_for_start(channel: ChildEnd, launch: Launch) -> ChildEnd:
    """Until the parent or a client of the start socket says START; who says it hears what becomes of it."""
    if launch.listener is None:
        channel.expect(handshake.START)
        return channel
    channel.socket.close()
    while True:
        connection, _ = launch.listener._accept()  # type: ignore[attr-defined]
        client = _connected(connection)
        # A client that only asks whether somebody waits here closes without a word.
        if client.socket.recv(16) == handshake.START:
            launch.listener.close()
            return client
        client.socket.close()


def _connected(fd: int) -> ChildEnd:
    import _socket

    os.set_inheritable(fd, False)  # noqa: FBT003
    return handshake.ChildEnd(_socket.socket(fileno=fd))


def _start(plan: Plan, context: Context, launch: Launch, path: str, answer: ChildEnd) -> None:
    """From START to execve."""
    process = plan.config.process
    if process is None:
        raise execute.ExecFailed("config.json: process: missing; there is nothing to start")
    context.channel = answer
    for hook in plan.hooks.start_container:
        # As from runc and crun, not of the specification: without an environment of its own it has the program's.
        own = hook if hook.env else hook.changed(env=tuple(context.environ))
        hooks.run(own, context.hooks_state, launch.hook_output)
    uid = process.uid
    if launch.stdio is not None:
        for target, fd in enumerate(launch.stdio):
            os.dup2(fd, target, inheritable=True)
    if context.console >= 0:
        from runtime.inside import console

        console.become_controlling(context.console, uid)
    elif uid:
        own_stdio(uid)
    offer_mailbox(answer, launch.filter)
    confine(plan.confinement, process, context)
    execute.close_on_exec(plan.options.preserve_fds)
    if not path.startswith("/"):
        path = execute.find(path, context.environ, process.cwd)
    execute.execute(path, process.args, context.environ, launch.filter)


def offer_mailbox(channel: ChildEnd, filter_: Filter | None) -> None:
    """Whoever said START will take the seccomp listener from us; it learns its number through this memory."""
    if filter_ is not None and filter_.mailbox is not None:
        channel.send_mailbox(filter_.mailbox)


def own_stdio(uid: int) -> None:
    """Pipes and files that the caller made belong to the container's user, so that /dev/stdout can be opened again."""
    null = os.makedev(1, 3)
    for fd in (0, 1, 2):
        try:
            facts = os.fstat(fd)
            if facts.st_rdev != null and facts.st_uid != uid:
                os.fchown(fd, uid, -1)
        except OSError:
            continue  # read-only file systems, sockets of others, or not open at all


def confine(steps: Sequence[Step], process: Process, context: Context) -> None:
    """The confinement steps, then the working directory as the user itself, for directories that root may not enter."""
    run_steps(steps, context)
    try:
        os.chdir(process.cwd)
    except PermissionError:
        # Entered as root already, as runc does; only where root may not (NFS) must the user be able to.
        if os.getcwd() != os.path.normpath(process.cwd):
            raise
    verify_working_directory()
    if process.cpu_affinity_final:
        SetAffinity(process.cpu_affinity_final).apply(context)
