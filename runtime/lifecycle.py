# SPDX-License-Identifier: Apache-2.0
"""The life of a container after create: start, kill, delete, each one function over its record.

    (no record) ──create──► creating ──► created ──start──► running ──exit──► stopped ──delete──► (no record)
                               │            │                 ▲ │
                               └─ failure ──┴─► remove()      │ └─pause─► paused ─resume─┐
                                                              └──────────────────────────┘

`create` has its own module, because it needs all of the plan and these need nearly nothing: imports are their cost.
"""

from __future__ import annotations

import posix

from runtime import evidence, record
from runtime.errors import RuntimeFailure, WrongState
from runtime.linux import durable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    from runtime.inside.handshake import ParentEnd
    from runtime.linux.cgroup import Group
    from runtime.record import Record
    from runtime.seccomp_agent import Agent
    from runtime.spec.model import Config


def start(root: str, container_id: str) -> None:
    """Let a created container execute its program; returns when it has."""
    from runtime.inside import handshake  # with _socket 0.5 ms, which kill and delete need not spend
    from runtime.linux import fdpass

    entry = record.load(root, container_id)
    with record.lock(entry.directory):
        status = evidence.status(entry)
        if status != evidence.CREATED:
            raise WrongState(f"cannot start container {container_id!r}: it is {status}, and only a created one can be")
        agent = agent_for(entry.config_bytes())
        channel = handshake.ParentEnd(fdpass.connect(entry.start_socket))
        channel.say(handshake.START)
        try:
            await_exec(channel, entry, agent)
        finally:
            _unlink(entry.start_socket)
    if b'"poststart"' in entry.config_bytes():
        from runtime.linux import json_text
        from runtime.spec import parse

        poststart(entry, parse.config(json_text.loads(entry.config_bytes())))


def agent_for(config: bytes) -> Agent | None:
    """A connection to the agent that wants this container's seccomp listener, if there is one."""
    if b'"listenerPath"' not in config and b'"run.oci.seccomp.receiver"' not in config:
        return None
    from runtime import seccomp_agent, seccomp_filter
    from runtime.linux import json_text
    from runtime.spec import parse

    profile = parse.config(json_text.loads(config)).linux.seccomp
    if profile is None or not seccomp_filter.wants_listener(profile):
        return None
    return seccomp_agent.Agent(profile)


def await_exec(channel: ParentEnd, entry: Record, agent: Agent | None) -> None:
    """After START: until execve has succeeded, or the sentence why not."""
    from runtime.inside import handshake

    try:
        if agent is not None:
            state = record.spec_state(entry, entry.pid, "running")
            agent.serve(channel, channel.receive_mailbox(), entry.pid, state)
        channel.expect(b"")
    except (handshake.InitFailed, handshake.Died) as error:
        raise RuntimeFailure(str(error)) from None
    finally:
        channel.close()


def poststart(entry: Record, config: Config) -> None:
    """From 1.3 on a failing poststart hook stops the container."""
    if not config.hooks.poststart:
        return
    from runtime import hooks, remove

    try:
        with hooks.Output(config.extensions) as output:
            hooks.run_all(config.hooks.poststart, record.spec_state(entry, entry.pid, "running"), output)
    except hooks.HookFailed as error:
        remove.kill_everything(entry)
        raise RuntimeFailure(f"{error}; the container was stopped") from None


def _unlink(path: str) -> None:
    try:
        posix.unlink(path)
    except FileNotFoundError:
        pass


# --- signals and the end ---


def kill(root: str, container_id: str, number: int, *, everyone: bool = False) -> None:
    """Signal the init, or with everyone all processes of the container."""
    entry = record.load(root, container_id)
    status = evidence.status(entry)
    if everyone:
        _kill_all(entry, number)
        return
    if status == evidence.STOPPED:
        if number == 9 and _left_behind(entry):
            _remove().kill_everything(entry)
            return
        raise WrongState("container not running")
    from runtime.linux import processes

    if not processes.signal(entry.pid, entry.start_time, number):
        raise WrongState("container not running")
    if number == 9:
        if status == evidence.PAUSED and not entry.cgroup_v2:
            _group(entry).thaw()  # a frozen v1 task takes no signal, not even this one
        if not has_own_pid_namespace(entry):
            _remove().kill_everything(entry)


def has_own_pid_namespace(entry: Record) -> bool:
    """Whether the kernel kills everything with the init."""
    try:
        return posix.stat(f"/proc/{entry.pid}/ns/pid").st_ino != posix.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return True


def _group(entry: Record) -> Group:
    from runtime.linux import cgroup

    return cgroup.Group(entry.cgroup_paths, v2=entry.cgroup_v2)


def _remove() -> ModuleType:
    from runtime import remove

    return remove


def _left_behind(entry: Record) -> bool:
    return bool(entry.cgroup_paths) and bool(_group(entry).processes())


def _kill_all(entry: Record, number: int) -> None:
    if number == 9:
        _remove().kill_everything(entry)
        return
    for pid in _group(entry).processes():
        try:
            posix.kill(pid, number)
        except ProcessLookupError:
            pass


def delete(root: str, container_id: str, *, force: bool) -> None:
    """Take down what a container left; with force kill it first."""
    directory = f"{root}/{record.check_id(container_id)}"
    if force and not durable.is_directory(directory):
        return
    entry = _load_even_damaged(root, container_id) if force else record.load(root, container_id)
    if not force:
        status = evidence.status(entry)
        # As runc and crun do: a task that was never started is deleted by containerd's shim without --force.
        if status not in (evidence.STOPPED, evidence.CREATED):
            raise WrongState(
                f"cannot delete container {container_id!r}: it is {status} (stop it first, or use --force)"
            )
    try:
        lock = record.lock(directory)
    except FileNotFoundError:
        return
    with lock:
        _remove().remove(entry, run_hooks=True)


def _load_even_damaged(root: str, container_id: str) -> Record:
    """For --force: a directory without a readable record is removed too."""
    try:
        return record.load(root, container_id)
    except RuntimeFailure:
        return record.Record(
            f"{root}/{container_id}",
            {
                "id": container_id,
                "bundle": "",
                "rootfs": "",
                "oci_version": "",
                "created": "",
                "uid": 0,
                "pid": 0,
                "start_time": 0,
                "annotations": {},
                "cgroup_v2": False,
                "cgroup_paths": {},
                "cgroup_made": [],
            },
        )
