# SPDX-License-Identifier: Apache-2.0
"""How people's containers go: by `rm`, by --rm when they end, and when making one has failed half-way."""

from __future__ import annotations

import os

from cri.engine import sandbox
from cri.engine.records import ContainerPhase
from cri.hand import hosts, look, making, names, notes, volumes
from cri.hand.errors import HandError
from cri.hand.room import Room
from runtime.keep import client as keep
from runtime.linux import beneath, json_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def undo(room: Room, identity: str, name: str, planned: making.Plan) -> None:
    """Take back what `make` did: the engine undoes its own failed step, this undoes the steps before."""
    for pod_id in [i for i in (identity,) if i in room.context.book.pods]:
        sandbox.remove(room.context, pod_id)
    for volume in planned.anonymous:
        volumes.delete(room.places, volume)
    _forget_logs(planned.pod.log_directory, room)
    names.release(room.places, name, identity)


def _forget_logs(directory: str, room: Room) -> None:
    if directory.startswith(f"{room.places.root}/logs/") and os.path.isdir(directory):
        beneath.remove_tree(directory)


def remove(room: Room, seen: look.Seen, *, with_volumes: bool) -> None:
    """All of a container; its pod too, when that was made for it and holds nobody else."""
    from cri.engine import container as engine

    record = room.load(seen)
    pod = room.context.book.pod(record.pod_id)
    engine.remove(room.context, record.id)
    network = pod.request.annotations.get(notes.NETWORK, "")
    if pod.request.annotations.get(notes.KIND) == notes.CONTAINER and not room.context.book.of_pod(pod.id):
        sandbox.remove(room.context, pod.id)
        _forget_logs(pod.request.log_directory, room)
    if with_volumes:
        for volume in json_text.loads(record.request.annotations.get(notes.ANONYMOUS, "[]")):
            volumes.delete(room.places, volume)
    names.release(room.places, record.request.name, record.id)
    hosts.refresh(room.places, network)


def apart(act: Callable[[], None]) -> None:
    """Do it in a child, and return once it is done. Threads of the bridge and portmap plugins are then still inside
    the kernel, which lets 20 ms go by before a link and a set are freed; a process cannot end before its threads do.
    The child is in a session of its own: Ctrl-C no longer reaches what has been begun."""
    told, tell = os.pipe2(os.O_CLOEXEC)
    if os.fork() == 0:
        try:
            os.setsid()
            _let_go_of_streams()
            os.write(tell, _outcome(act).encode())
            os.close(tell)
        finally:
            os._exit(0)
    os.close(tell)
    with open(told, encoding="utf-8") as file:
        said = file.read()
    if said != _DONE:
        raise HandError(said or "the process that removes it was killed", hint="ketch rm -f removes what is left")


_DONE = "done"


def _outcome(act: Callable[[], None]) -> str:
    try:
        act()
    except Exception as e:
        return str(e)
    return _DONE


def _let_go_of_streams() -> None:
    """Whoever reads our output until its end is not to wait for this process."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def when_ended(room: Room, identity: str) -> None:
    """Leave a small process that waits for the container's end and does what is to be done then: remove it for --rm,
    else give back its network, so that published ports are free again."""
    if os.fork() != 0:
        return
    try:
        os.setsid()
        if os.fork() == 0:
            _wait_and_clean(room, identity)
    finally:
        os._exit(0)


def _wait_and_clean(room: Room, identity: str) -> None:
    _let_go_of_streams()
    os.chdir("/")
    try:
        room.context.keep.wait(identity)
    except keep.KeepError:
        return
    try:
        seen = look.container(room.places, identity)
    except HandError:
        return
    if seen.state() != "exited":
        return  # it was started again meanwhile, and has another one waiting
    if seen.notes.get(notes.AUTO_REMOVE):
        remove(room, seen, with_volumes=True)
    else:
        release_network(room, identity)


def release_network(room: Room, identity: str) -> None:
    """Give back the addresses and ports of an ended container; `start` takes new ones."""
    try:
        seen = look.container(room.places, identity)
    except HandError:
        return
    pod = seen.pod
    if pod is None or not pod.is_for_one or not pod.ips:
        return
    room.load(seen)
    if any(member.state() == "running" for member in look.members(room.places, pod.id)):
        return
    with sandbox.locked(room.context, pod.id) as there:
        if there:
            record = room.context.book.pod(pod.id)
            room.context.network.delete(record)
            sandbox.update(room.context, record, ips=())
    hosts.refresh(room.places, pod.notes.get(notes.NETWORK, ""))


def make_startable(room: Room, seen: look.Seen) -> None:
    """An ended container becomes a created one again: its end is forgotten, its files stay, it joins its network."""
    from cri.engine import container as engine
    from cri.engine import runners

    record = room.context.book.container(seen.id)
    if record.phase != ContainerPhase.CREATED:
        runners.delete(room.context, record)
        room.context.keep.forget(record.id)
        room.context.book.ends.pop(record.id, None)
        engine.update(
            room.context,
            record,
            phase=ContainerPhase.CREATED,
            pid=0,
            start_time=0,
            started_at=0,
            failure="",
            failed_at=0,
        )
    pod = room.context.book.pod(record.pod_id)
    if pod.netns and not pod.ips and pod.request.network not in ("none", ""):
        sandbox.update(room.context, room.context.network.add(pod))
        hosts.write(room.places, pod.id)
