# SPDX-License-Identifier: Apache-2.0
"""The life of a container: created on disk, started by a keeper, stopped, and the one way all of it is taken down."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

from cri.engine import bundle, handlers, patience, runners, validate
from cri.engine.book import Ended, State, changed
from cri.engine.context import Context, new_id
from cri.engine.errors import Failed, NotFound, WrongState
from cri.engine.events import Event, Kind
from cri.engine.phases import phase
from cri.engine.records import ContainerPhase, ContainerRecord, PodPhase, PodRecord
from cri.engine.request import ContainerRequest
from cri.oci.resources import cgroups_path
from runtime.keep import client as keep
from runtime.linux import durable, mounts, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KILLED = 137


def create(context: Context, pod_id: str, request: ContainerRequest, identity: str = "") -> str:
    """Everything on disk that a start needs; on any failure nothing of it is left. Returns its id, which the caller may
    have chosen."""
    validate.container(request)
    pod = context.book.pod(pod_id)
    image = bundle.find_image(context, request.image)
    runner = handlers.find(context.config, pod.request.handler)
    defaults = bundle.defaults_of(context, image)
    identity = identity or new_id()
    record = ContainerRecord(
        id=identity,
        pod_id=pod.id,
        owner=context.owner,
        boot_id=context.boot_id,
        created_at=time.time_ns(),
        request=request,
        image_id=image.id,
        image_ref=image.digests[0] if image.digests else image.id,
        image_name=image.tags[0] if image.tags else request.image,
        log_path=log_path(pod, request),
        stop_signal=request.stop_signal or defaults.stop_signal or "SIGTERM",
        cgroups_path=context.cgroups.of_container(cgroups_path(pod.request.cgroup_parent, identity, context.node)),
        handler=runner.command,
        volume_keys=bundle.volume_keys(identity, request),
    )
    context.book.add_container(record)
    try:
        with phase("record"):
            context.bundles.save(record)
        patience.check()
        record = bundle.make(context, pod, record, defaults, runner)
        patience.check()
        with phase("foresee"):
            context.keep.foresee(start_request(context, record))
        with phase("record"):
            update(context, record, phase=ContainerPhase.CREATED)
    except BaseException:
        take_down(context, record.id)
        context.book.forget_container(record.id)
        raise
    context.events.publish(Event(Kind.CREATED, record.id, pod.id))
    return record.id


def log_path(pod: PodRecord, request: ContainerRequest) -> str:
    """Absolute; empty when there is nowhere to log to."""
    if not request.log_path or not pod.request.log_directory:
        return ""
    return os.path.join(pod.request.log_directory, request.log_path.lstrip("/"))


def update(context: Context, record: ContainerRecord, **changes: object) -> ContainerRecord:
    """To disk, then to memory."""
    new: ContainerRecord = changed(record, **changes)
    context.bundles.save(new)
    context.book.put(new)
    return new


def note(context: Context, record: ContainerRecord, **changes: object) -> ContainerRecord:
    """The same for what has happened, or goes down."""
    new: ContainerRecord = changed(record, **changes)
    context.bundles.note(new)
    context.book.put(new)
    return new


def locked(context: Context, identity: str) -> durable.Locked:
    """The container's lock, for threads and processes alike: a flock on its directory."""
    try:
        return patience.lock(context.bundles.directory(identity))
    except FileNotFoundError:
        raise NotFound(f"container {identity}: no such container") from None


def start(context: Context, identity: str) -> None:
    """Let its program run; when this returns its execve has succeeded."""
    _start(context, identity, context.keep.start)


def start_attached(context: Context, identity: str, *, stdin: bool) -> keep.Session:
    """The same, and the session that sees it from its first byte on."""
    sessions = []

    def starter(request: keep.StartRequest) -> keep.Started:
        started, session = context.keep.start_attached(request, stdin=stdin)
        sessions.append(session)
        return started

    _start(context, identity, starter)
    return sessions[0]


Starter = Callable[[keep.StartRequest], keep.Started]


def _start(context: Context, identity: str, starter: Starter) -> None:
    record = context.book.container(identity)
    with locked(context, record.id):
        record = context.book.container(record.id)
        if context.book.state(record) != State.CREATED or record.phase != ContainerPhase.CREATED:
            raise WrongState(
                f"container {record.id}: is {context.book.state(record)}, only a created one can be started"
            )
        pod = context.book.pod(record.pod_id)
        if pod.phase != PodPhase.READY:
            raise WrongState(f"container {record.id}: its pod is {pod.phase}")
        patience.check()
        if record.log_path:
            make_log_folder(record)
        with phase("record"):
            record = update(context, record, phase=ContainerPhase.STARTING)
        let_run(context, record, starter)


def make_log_folder(record: ContainerRecord) -> None:
    try:
        os.makedirs(os.path.dirname(record.log_path), mode=0o755, exist_ok=True)
    except OSError as e:
        raise Failed(f"container {record.id}: no folder for its log: {e}") from e


def start_request(context: Context, record: ContainerRecord) -> keep.StartRequest:
    """What its keeper must know."""
    request = record.request
    return keep.StartRequest(
        id=record.id,
        bundle=context.bundles.directory(record.id),
        log_path=record.log_path,
        tty=request.tty,
        stdin=request.stdin,
        stdin_once=request.stdin_once,
        systemd_cgroup=context.node.cgroup_driver == "systemd",
        handler=record.handler,
        max_line=context.config.runtime.max_log_line,
        timeout_seconds=patience.at_most(context.config.runtime.start_seconds),
    )


def let_run(context: Context, record: ContainerRecord, starter: Starter) -> None:
    """STARTING -> STARTED with a pid, or an end without a run."""
    try:
        with phase("start"):
            started = starter(start_request(context, record))
    except (keep.KeepError, OSError) as e:
        if isinstance(e, (keep.SpawnerGone, OSError)):
            # It died between our question and its answer: whatever it had made by then must not run unknown.
            runners.delete(context, record)
        now = time.time_ns()
        note(context, record, phase=ContainerPhase.STARTED, failure=str(e), failed_at=now)
        context.book.end(record.id, Ended(128, now, detail=str(e)))
        raise Failed(f"container {record.id}: {e}") from e
    with phase("record"):
        record = note(
            context,
            record,
            phase=ContainerPhase.STARTED,
            pid=started.pid,
            start_time=started.start_time,
            started_at=time.time_ns(),
        )
    context.events.publish(Event(Kind.STARTED, record.id, record.pod_id))
    context.watch.add(record.id, started.pid, started.start_time)  # may tell of its end at once


def ended(context: Context, identity: str) -> None:
    """Its init has gone: note how, from the exit file; without one, that nobody saw it."""
    found = context.keep.exit(identity)
    if found is None:
        try:
            found = context.keep.wait(identity, 10.0)
        except keep.KeepError:
            found = context.keep.exit(identity)
    note_end(context, identity, found)


def note_end(context: Context, identity: str, found: keep.Exit | None) -> None:
    how = Ended(None, time.time_ns(), detail="nobody saw how it ended")
    if found is not None:
        how = Ended(found.exit_code, found.finished_at, found.oom, found.oom_detail)
    try:
        record = context.book.container(identity)
    except NotFound:
        return
    if context.book.end(record.id, how):
        context.events.publish(Event(Kind.STOPPED, record.id, record.pod_id))


def alive(record: ContainerRecord) -> bool:
    return record.pid > 0 and processes.is_alive(record.pid, record.start_time)


def stop(context: Context, identity: str, grace_seconds: float) -> None:
    """The stop signal, then after the grace period SIGKILL; what has ended already is fine. No lock is held while we
    wait, so that a second call with a shorter grace can cut the first one's wait short."""
    try:
        record = context.book.container(identity)
    except NotFound:
        return
    if context.book.state(record) != State.RUNNING:
        return
    with phase("signal"):
        if grace_seconds > 0:
            send(context, record, signal_number(record.stop_signal))
            if wait(context, record, grace_seconds):
                return
        send(context, record, signal.SIGKILL)
    with phase("wait"):
        wait(context, record, None)


def signal_number(name: str) -> int:
    """SIGTERM, TERM, 15, RTMIN+3 …; what nobody knows is SIGTERM."""
    if name.isdecimal():
        return int(name)
    name = name.upper().removeprefix("SIG")
    for base, first in (("RTMIN+", signal.SIGRTMIN), ("RTMAX-", signal.SIGRTMAX)):
        if name.startswith(base) and name[len(base) :].isdecimal():
            offset = int(name[len(base) :])
            return first + offset if base == "RTMIN+" else first - offset
    try:
        return int(signal.Signals[f"SIG{name}"])
    except KeyError:
        return int(signal.SIGTERM)


def send(context: Context, record: ContainerRecord, number: int) -> None:
    """To the init, and at the end to all that it leaves behind: in a shared PID namespace its children outlive it."""
    if record.pid <= 0 or not processes.signal(record.pid, record.start_time, number):
        return
    if number == signal.SIGKILL:
        group = context.cgroups.group(record.cgroups_path)
        if group.exists():
            group.kill()


def wait(context: Context, record: ContainerRecord, seconds: float | None) -> bool:
    """Until its end is noted; False when the time is over first. Nobody waits on behalf of a caller that has gone."""
    try:
        found = wait_patiently(context, record.id, seconds)
    except keep.KeepError:
        # Nobody who keeps it can be asked now; the process itself tells when it has ended.
        if not patience.in_slices(seconds, lambda slice_seconds: has_gone(record, slice_seconds)):
            return False
        ended(context, record.id)
        return True
    if found is None:
        return False
    note_end(context, record.id, found)
    return True


def wait_patiently(context: Context, identity: str, seconds: float | None) -> keep.Exit | None:
    return patience.in_slices(seconds, lambda slice_seconds: context.keep.wait(identity, slice_seconds))


def has_gone(record: ContainerRecord, seconds: float) -> bool:
    """Whether its init ends within that time."""
    pidfd = processes.open_pidfd(record.pid, record.start_time)
    if pidfd is None:
        return True
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(pidfd)


def remove(context: Context, identity: str) -> None:
    """Kill it if it runs, take it down, forget it; a second time is a no-op."""
    try:
        record = context.book.container(identity)
    except NotFound:
        return
    stop(context, record.id, 0)
    with locked_if_there(context, record.id):
        if record.id not in context.book.containers:
            return
        note(context, context.book.container(record.id), phase=ContainerPhase.REMOVING)
        take_down(context, record.id)
        context.book.forget_container(record.id)
    context.events.publish(Event(Kind.DELETED, record.id, record.pod_id))


def locked_if_there(context: Context, identity: str) -> AbstractContextManager[object]:
    """Its lock; nothing where somebody has removed its directory: what is left of it goes all the same."""
    try:
        return locked(context, identity)
    except NotFound:
        return nullcontext()


def take_down(context: Context, identity: str) -> None:
    """The one teardown of a container: works from the record, may run twice, forgets last."""
    record = context.book.container(identity)
    with phase("processes"):
        runners.delete(context, record)
    with phase("forget"):
        context.keep.forget(record.id)
    with phase("rootfs"):
        mounts.detach_all_beneath(context.bundles.directory(record.id))
        for key in (record.id, *record.volume_keys):
            context.reclaim.put(key)
    with phase("record"):
        context.bundles.forget(record.id)


def stop_all_of(context: Context, pod_id: str) -> None:
    """Kill whatever of the pod still runs: the kubelet has given each its grace before."""
    for record in context.book.of_pod(pod_id):
        stop(context, record.id, 0)


def remove_all_of(context: Context, pod_id: str) -> None:
    for record in context.book.of_pod(pod_id):
        remove(context, record.id)


def process_of(context: Context, record: ContainerRecord) -> dict[str, object]:
    """The process object of its config.json: what an exec starts from. The caller's own copy."""
    known = context.book.processes.get(record.id) or _read_process(context, record)
    return {**known, "env": list(known["env"])}


def _read_process(context: Context, record: ContainerRecord) -> Mapping[str, Any]:
    """Once per container: nobody changes its process."""
    with open(f"{context.bundles.directory(record.id)}/config.json", "rb") as file:
        loaded: dict[str, Any] = json.loads(file.read())["process"]
    context.book.keep_process(record.id, loaded)
    return loaded
