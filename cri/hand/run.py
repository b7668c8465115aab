# SPDX-License-Identifier: Apache-2.0
"""run, create and start: what `making` planned, done in order, and undone in full when a step fails.

image ──► name taken ──► volumes, folders ──► pod (namespaces, network) ──► container (root, config.json) ──► start
  └── missing: pulled                 any failure from here on: the pod, the name and what was made for it go again
"""

from __future__ import annotations

import os
import signal
import sys

from cri.engine import sandbox
from cri.engine.errors import EngineError
from cri.engine.request import IdRange
from cri.hand import hosts, images, look, making, names, networks, notes, options, ports, removal, terminal, volumes
from cri.hand.errors import CANNOT_EXECUTE, NOT_FOUND, REFUSED, HandError, need_root
from cri.hand.grammar import Arguments
from cri.hand.places import Places
from cri.hand.room import Room
from cri.images.model import Image
from runtime.keep import client as keep
from runtime.linux import beneath, copy_up
from runtime.linux.quick_dataclasses import replace


def run(arguments: Arguments, places: Places) -> int:
    """Make it, start it, and stay with it unless it is to run in the background."""
    keys = terminal.detach_keys(arguments.text("detach-keys"))
    if arguments.flag("tty") and arguments.flag("interactive") and not arguments.flag("detach") and not os.isatty(0):
        raise HandError("-t needs a terminal, and our input is none", hint="leave out -t", code=REFUSED)
    need_root()
    with Room(places, shm_bytes=_shm_bytes(arguments)) as room:
        identity = make(room, arguments)
        if arguments.flag("detach"):
            start_detached(room, identity)
            print(identity)
            return 0
        return _run_in_front(room, identity, keys, proxy=arguments.on("sig-proxy"))


def create(arguments: Arguments, places: Places) -> int:
    """Make it and print its id."""
    need_root()
    with Room(places, shm_bytes=_shm_bytes(arguments)) as room:
        print(make(room, arguments))
    return 0


def _shm_bytes(arguments: Arguments) -> int:
    return options.size("--shm-size", arguments.text("shm-size")) if arguments.given("shm-size") else 0


def make(room: Room, arguments: Arguments) -> str:
    """Everything up to the start. On failure nothing of it stays."""
    places = room.places
    if arguments.given("cidfile") and os.path.lexists(arguments.text("cidfile")):
        raise HandError(f"--cidfile: {arguments.text('cidfile')} is there already", hint="remove it", code=REFUSED)
    image = images.need(room.context.images, arguments.words[0], arguments.text("pull"), arguments.text("platform"))
    identity = os.urandom(32).hex()
    given = arguments.text("name")
    name = options.object_name("--name", given) if given else names.invent(places)
    facts = making.Facts(
        id=identity,
        name=name,
        image_name=image.id,
        image=room.context.images.config(image.id),
        environment=dict(os.environ),
        volumes_dir=places.volumes,
        logs_dir=f"{places.root}/logs/{identity}",
        console=terminal.size() if arguments.flag("tty") else (0, 0),
        pid_target=_pid_target(places, arguments.text("pid")),
        user_range=_free_ids(places) if arguments.text("userns") in ("private", "auto") else None,
    )
    planned = making.plan(arguments, facts)
    if not planned.argv:
        raise HandError(f"image {arguments.words[0]} names no command", hint="write one after the image", code=REFUSED)
    if not planned.joins:
        networks.require(places, planned.network)
    planned = replace(planned, pod=ports.settle(places, planned.pod, planned.last_ports))
    with room.making(identity):
        names.take(places, name, identity)
        try:
            _prepare(places, planned)
            _make(room, identity, planned, image)
            terminal.hold_interrupts()
        except BaseException:
            removal.undo(room, identity, name, planned)
            raise
    if arguments.given("cidfile"):
        _write_id(arguments.text("cidfile"), identity)
    return identity


def _pid_target(places: Places, wanted: str) -> str:
    """The id of the running container that --pid container:NAME names."""
    if not wanted.startswith("container:"):
        return ""
    other = look.container(places, wanted.removeprefix("container:"))
    if other.state() != "running":
        raise HandError(f"--pid: container {other.name} is not running", code=REFUSED)
    return other.id


def _free_ids(places: Places) -> IdRange:
    """65536 ids of this machine that no other pod has."""
    taken = {int(line["host_id"]) for pod in look.pods(places, all_owners=True) for line in pod.record.get("uids", [])}
    first = 1 << 20
    while any(abs(first - other) < 65536 for other in taken):
        first += 65536
    return IdRange(0, first, 65536)


def _prepare(places: Places, planned: making.Plan) -> None:
    """What lies outside the container and has to be there first."""
    for folder in planned.folders:
        if not os.path.lexists(folder):
            os.makedirs(folder, mode=0o755, exist_ok=True)
    for mount in planned.container.mounts:
        ours = mount.kind != "bind" or mount.host_path.startswith(f"{places.volumes}/")
        if not ours and not os.path.exists(mount.host_path):
            hint = "make it first, or use -v, which makes it"
            raise HandError(f"cannot mount {mount.host_path}: it is not there", hint=hint, code=REFUSED)
    for volume in planned.volumes:
        volumes.ensure(places, volume, anonymous=volume in planned.anonymous)
    os.makedirs(planned.pod.log_directory, mode=0o700, exist_ok=True)


def _make(room: Room, identity: str, planned: making.Plan, image: Image) -> None:
    context = room.context
    asked = planned.container.namespaces
    if asked is not None and asked.target_id:
        room.load(look.container(room.places, asked.target_id))
    if planned.joins:
        other = look.container(room.places, planned.joins)
        if other.state() != "running":
            raise HandError(f"--network: container {other.name} is not running", code=REFUSED)
        room.load(other)
        pod_id = str(other.record["pod_id"])
    else:
        pod_id = sandbox.run(context, planned.pod, identity)
        hosts.write(room.places, pod_id)
    from cri.engine import container as engine  # the pod has been asked for by then; see room._NEXT

    engine.create(context, pod_id, replace(planned.container, image=image.id), identity)
    for volume, target in planned.copy_up.items():
        fill_volume(f"{context.bundles.directory(identity)}/rootfs", target, volumes.data_path(room.places, volume))


def fill_volume(rootfs: str, target: str, data: str) -> None:
    """A new volume begins with what the image has at its place, as docker's do; links followed beneath its root."""
    if os.listdir(data):
        return
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = beneath.open_in_root(root, target, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # nothing there, or no folder
    finally:
        os.close(root)
    into = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        copy_up.copy(found, into)
    finally:
        os.close(found)
        os.close(into)


def _write_id(path: str, identity: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except OSError as e:
        raise HandError(f"--cidfile: cannot write {path}: {e.strerror}", code=REFUSED) from None
    os.write(fd, identity.encode())
    os.close(fd)


# starting


def failure_code(sentence: str) -> int:
    """127 for no such command, 126 for one that cannot be executed, as shells and docker have it."""
    lower = sentence.lower()
    if "execve" in lower or "exec" in lower or "executable" in lower:
        if "no such file" in lower or "not found" in lower:
            return NOT_FOUND
        if "permission denied" in lower or "exec format" in lower or "is a directory" in lower:
            return CANNOT_EXECUTE
    return REFUSED


def _start_failed(room: Room, identity: str, error: EngineError) -> HandError:
    """What to say, after a container of --rm has been removed."""
    seen = look.container(room.places, identity)
    sentence = str(error).replace(f"container {identity}: cannot start container {identity}: ", "")
    sentence = sentence.replace(f"container {identity}: ", "")
    hint = f"ketch why {seen.name} says more"
    if seen.notes.get(notes.AUTO_REMOVE):
        removal.remove(room, seen, with_volumes=True)
        hint = ""
    return HandError(sentence, hint=hint, code=failure_code(sentence))


def start_detached(room: Room, identity: str) -> None:
    from cri.engine import container as engine

    try:
        engine.start(room.context, identity)
    except EngineError as e:
        raise _start_failed(room, identity, e) from e
    removal.when_ended(room, identity)


def _run_in_front(room: Room, identity: str, keys: bytes, *, proxy: bool = True) -> int:
    from cri.engine import container as engine

    record = room.context.book.container(identity)
    try:
        session = engine.start_attached(room.context, identity, stdin=record.request.stdin)
    except EngineError as e:
        raise _start_failed(room, identity, e) from e
    is_interrupted = proxy and terminal.take_interrupt()
    if is_interrupted:
        _signal(room, identity, signal.SIGKILL)
    try:
        code = converse(room, identity, session, tty=record.request.tty, keys=keys, proxy=proxy)
    except BaseException:  # Ctrl-C with --sig-proxy=false, or nobody reads our output any more: the container goes on
        removal.when_ended(room, identity)
        raise
    auto_remove = notes.AUTO_REMOVE in record.request.annotations
    if code == terminal.DETACHED:
        removal.when_ended(room, identity)
        return 0
    if auto_remove:
        seen = look.container(room.places, identity)
        removal.apart(lambda: removal.remove(room, seen, with_volumes=True))
    else:
        removal.apart(lambda: removal.release_network(room, identity))
    return 128 + signal.SIGINT if is_interrupted else code


def converse(room: Room, identity: str, session: keep.Session, *, tty: bool, keys: bytes, proxy: bool = True) -> int:
    """Stay with a container until it ends or the keys to leave are typed; signals go to it, unless it is no proxy."""

    def pass_on(number: int) -> None:
        _signal(room, identity, number)

    try:
        return terminal.Conversation(
            session, tty=tty, keys=keys, on_signal=pass_on if proxy and not (tty and os.isatty(0)) else None
        ).run()
    finally:
        session.close()


def _signal(room: Room, identity: str, number: int) -> None:
    try:
        room.context.keep.kill(identity, number)
    except keep.KeepError:
        return  # it has just ended


def start(arguments: Arguments, places: Places) -> int:
    """Start what was made, or start again what has ended."""
    keys = terminal.detach_keys(arguments.text("detach-keys"))
    attach = arguments.flag("attach") or arguments.flag("interactive")
    if attach and len(arguments.words) > 1:
        raise HandError("only one container can be attached to", hint="leave out -a", code=REFUSED)
    with Room(places) as room:
        for word in arguments.words:
            seen = look.container(places, word, all_owners=False)
            if seen.state() == "running":
                print(word)
                continue
            record = room.load(seen)
            removal.make_startable(room, seen)
            terminal.hold_interrupts()
            if attach:
                return _run_in_front(room, record.id, keys)
            start_detached(room, record.id)
            print(word)
    sys.stdout.flush()
    return 0
