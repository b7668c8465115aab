# SPDX-License-Identifier: Apache-2.0
"""stop, restart, kill, rm, pause, unpause, update, wait, rename: for many containers, as far as it can be done."""

from __future__ import annotations

import sys
from collections.abc import Callable

from cri.engine import container as engine
from cri.engine.container import signal_number
from cri.engine.errors import EngineError
from cri.hand import look, names, notes, options, removal, run
from cri.hand.errors import USAGE, HandError, UsageError, need_root
from cri.hand.grammar import Arguments
from cri.hand.places import Places
from cri.hand.room import Room
from runtime.keep import client as keep
from runtime.linux import tracebacks


def each(arguments: Arguments, places: Places, action: Callable[[Room, look.Seen], None], words: list[str]) -> int:
    """Do it to all, print the names that it was done to, and complain of the others; 1 when there were any."""
    need_root()
    code = 0
    with Room(places) as room:
        for word in words:
            try:
                action(room, look.container(places, word, all_owners=arguments.command.words in ("wait",)))
            except (HandError, EngineError, keep.KeepError, OSError) as e:
                sys.stdout.flush()
                tracebacks.show_if_wanted()
                print(f"ketch: {e}", file=sys.stderr)
                code = 1
            else:
                print(word)
    return code


def _grace(arguments: Arguments, seen: look.Seen) -> float:
    if arguments.given("time"):
        return float(arguments.number("time"))
    return float(seen.notes.get(notes.STOP_SECONDS, arguments.text("time")))


def stop(arguments: Arguments, places: Places) -> int:
    return each(arguments, places, lambda room, seen: _stop(room, seen, _grace(arguments, seen)), arguments.words)


def _stop(room: Room, seen: look.Seen, grace_seconds: float) -> None:
    record = room.load(seen)
    if seen.state() == "paused":
        room.context.cgroups.group(record.cgroups_path).thaw()
    engine.stop(room.context, record.id, grace_seconds)
    removal.release_network(room, record.id)


def restart(arguments: Arguments, places: Places) -> int:
    def action(room: Room, seen: look.Seen) -> None:
        _stop(room, seen, _grace(arguments, seen))
        again = look.container(places, seen.id)
        room.context.book.ends.pop(seen.id, None)
        room.load(again)
        removal.make_startable(room, again)
        run.start_detached(room, seen.id)

    return each(arguments, places, action, arguments.words)


def kill(arguments: Arguments, places: Places) -> int:
    number = signal_number(options.signal_name("--signal", arguments.text("signal")))

    def action(room: Room, seen: look.Seen) -> None:
        if seen.state() not in ("running", "paused"):
            raise HandError(f"container {seen.name} is not running")
        room.context.keep.kill(seen.id, number)

    return each(arguments, places, action, arguments.words)


def remove(arguments: Arguments, places: Places) -> int:
    words = [seen.id for seen in look.containers(places)] if arguments.flag("all") else arguments.words

    def action(room: Room, seen: look.Seen) -> None:
        if seen.state() in ("running", "paused") and not arguments.flag("force"):
            raise HandError(
                f"container {seen.name} is {seen.state()}", hint=f"stop it first, or ketch rm -f {seen.name}"
            )
        if seen.pod is not None and not seen.pod.is_for_one:
            raise HandError(f"{seen.name} belongs to a pod", hint=f"ketch pod delete {seen.pod.name}")
        if seen.state() == "paused":
            room.context.cgroups.group(str(seen.record.get("cgroups_path", ""))).thaw()
        removal.remove(room, seen, with_volumes=arguments.flag("volumes"))

    if not words and not arguments.flag("all"):
        raise HandError("rm: CONTAINER missing", hint="ketch ps -a lists them")
    return each(arguments, places, action, words)


def pause(arguments: Arguments, places: Places) -> int:
    def action(room: Room, seen: look.Seen) -> None:
        if seen.state() != "running":
            raise HandError(f"container {seen.name} is {seen.state()}, only a running one can be paused")
        room.context.cgroups.group(str(seen.record.get("cgroups_path", ""))).freeze()

    return each(arguments, places, action, arguments.words)


def unpause(arguments: Arguments, places: Places) -> int:
    def action(room: Room, seen: look.Seen) -> None:
        if seen.state() != "paused":
            raise HandError(f"container {seen.name} is not paused")
        room.context.cgroups.group(str(seen.record.get("cgroups_path", ""))).thaw()

    return each(arguments, places, action, arguments.words)


def wait(arguments: Arguments, places: Places) -> int:
    need_root()
    client = keep.Client(places.state)
    for word in arguments.words:
        seen = look.container(places, word)
        if seen.state() == "created" and not seen.failure:
            raise HandError(f"container {seen.name} was never started", hint=f"ketch start {seen.name}")
        code = seen.exit_code()
        if code is None and seen.state() in ("running", "paused"):
            ended = client.wait(seen.id)
            code = ended.exit_code if ended else None
        print("unknown" if code is None else code)
    return 0


def update(arguments: Arguments, places: Places) -> int:
    from cri.engine import limits
    from cri.hand import making

    wanted = making.resources(arguments)
    if not any(map(arguments.given, (option.long for option in arguments.command.options))):
        raise UsageError("update: no limit is given", hint="ketch update --help lists them", code=USAGE)

    def action(room: Room, seen: look.Seen) -> None:
        limits.update(room.context, room.load(seen).id, wanted)

    return each(arguments, places, action, arguments.words)


def rename(arguments: Arguments, places: Places) -> int:
    from cri.engine import sandbox
    from runtime.linux.quick_dataclasses import replace

    need_root()
    new = options.object_name("rename", arguments.words[1])
    with Room(places) as room:
        seen = look.container(places, arguments.words[0], all_owners=False)
        record = room.load(seen)
        names.take(places, new, record.id)
        engine.update(room.context, record, request=replace(record.request, name=new))
        pod = room.context.book.pod(record.pod_id)
        if seen.pod is not None and seen.pod.is_for_one:
            sandbox.update(room.context, pod, request=replace(pod.request, name=new))
        names.release(places, record.request.name, record.id)
    return 0
