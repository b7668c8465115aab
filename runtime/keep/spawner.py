# SPDX-License-Identifier: Apache-2.0
"""The warm process from which everything for a container is forked: keepers, execs, namespaces; a subreaper of them.

Single-threaded, with few imports, started by exec in one way only (bring_up.py). It waits for nothing but its loop:
what could take time happens in a child.
"""

import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from runtime import quick_joining
from runtime.keep import birth, exec_keeper, native, pins, places, quick_exec, quick_start, seed, standing, wire
from runtime.keep.loop import READ, Loop
from runtime.keep.nursery import Nursery
from runtime.keep.starting import Refusal
from runtime.linux import processes, syscalls
from runtime.linux._core import lib
from runtime.version import VERSION

PER_KEEPER = 20
# Of each length Python keeps 2,000 freed tuples and gives them back in a full collection only, which nothing causes
# here: 0.4 KB per start until then. What was there at our start is frozen, so one takes 0.1 ms.
COLLECT_EVERY = 100
ANSWER_SECONDS = 2.0  # that a new spawner serves nobody while it waits for the keepers it has found


class _Kept:
    """What the spawner knows of a container: its keeper, its init, copies of its terminal or stdin."""

    __slots__ = ("copies", "id", "keeper", "pid", "status")

    def __init__(self, identity: str, of: "_KeeperProcess") -> None:
        self.id = identity
        self.keeper = of
        self.pid = 0
        self.status: int | None = None
        self.copies: list[int] = []

    def drop(self) -> None:
        """Close the copies: without that the container never sees the end of its stdin."""
        for fd in self.copies:
            os.close(fd)
        self.copies = []


class _KeeperProcess:
    """A keeper: our child, or one that an earlier spawner has left."""

    __slots__ = ("channel", "containers", "expects", "name", "pid")

    def __init__(self, name: str, pid: int, channel: wire.Connection, *, expects: bool = True) -> None:
        self.name = name
        self.pid = pid
        self.channel = channel
        self.expects = expects  # knows "expect"; one of an earlier release makes every container the long way
        self.containers: dict[str, _Kept] = {}


class Spawner:
    """The loop and its tables."""

    def __init__(self, state_dir: str) -> None:
        self.state_dir = state_dir
        self.loop = Loop()
        self._listener: socket.socket | None = wire.listen(places.spawner_socket(state_dir))
        self._own_name = self._name()
        self._keepers: dict[str, _KeeperProcess] = {}
        self._kept: dict[str, _Kept] = {}
        self._by_pid: dict[int, _Kept] = {}
        self._children: set[int] = set()  # execs, pins, retired keepers: their ends mean nothing
        self._execs: dict[int, quick_exec.QuickExec] = {}
        self._subscribers: list[wire.Connection] = []
        self._asking: list[tuple[_Kept, wire.Connection]] = []
        self._forgetting: list[tuple[str, wire.Connection]] = []
        self._asked: dict[str, wire.Connection] = {}  # keepers of a spawner that has died: will they be ours?
        self._number = 0
        self._ended = 0
        self._leaving = False
        self._forced = False
        self._nursery: Nursery | None = None

    def run(self) -> None:
        """For ever, or until told to end."""
        syscalls.prctl(lib.PR_SET_CHILD_SUBREAPER, 1)
        self.loop.on_child(self._child_ended)
        assert self._listener is not None
        self.loop.watch(self._listener.fileno(), READ, self._accept)
        native.warm_up()
        seed.plant(self.state_dir)
        gc.collect()
        gc.freeze()
        self._nursery = Nursery(self.state_dir)
        self._children.add(self._nursery.pid)
        self._find_left_behind()
        self.loop.run()

    # clients

    def _accept(self) -> None:
        assert self._listener is not None
        connection = wire.accept(self._listener)
        if connection is not None:
            self.loop.watch(connection.fileno(), READ, lambda: self._serve(connection))

    def _serve(self, connection: wire.Connection) -> None:
        for message in connection.pump():
            self._answer(connection, message)
        if connection.ended:
            self._hang_up(connection)

    def _hang_up(self, connection: wire.Connection) -> None:
        if connection.fileno() >= 0:
            self.loop.ignore(connection.fileno())
            connection.close()
        if connection in self._subscribers:
            self._subscribers.remove(connection)

    def _answer(self, connection: wire.Connection, message: dict[str, Any]) -> None:
        operation = _OPERATIONS.get(str(message.get("op")))
        try:
            if operation is None:
                raise Refusal(f"this spawner knows no {message.get('op')!r}")
            if "id" in message:
                places.check_id(message["id"])
            answer = operation(self, connection, message)
        except Refusal as why:
            answer = {"error": str(why), "kind": why.kind}
        except (OSError, KeyError, TypeError, ValueError) as why:
            answer = {"error": str(why) or repr(why), "kind": "refused"}
        if answer is not None:
            connection.send(answer)

    def _ping(self, _: wire.Connection, __: dict[str, Any]) -> dict[str, Any]:
        keepers = {k.name: sorted(k.containers) for k in self._keepers.values()}
        return {"pid": os.getpid(), "version": wire.VERSION, "release": VERSION, "keepers": keepers}

    def _events(self, connection: wire.Connection, _message: dict[str, Any]) -> None:
        self._subscribers.append(connection)
        os.set_blocking(connection.fileno(), False)  # one that does not listen loses its connection, we no time

    def _pin(self, connection: wire.Connection, message: dict[str, Any]) -> None:
        self._delegate("ketch-pin", connection, lambda: pins.serve(connection, message))

    def _unpin(self, connection: wire.Connection, message: dict[str, Any]) -> None:
        self._delegate("ketch-pin", connection, lambda: pins.serve_unpin(connection, message))

    def _exec(self, connection: wire.Connection, message: dict[str, Any]) -> None:
        record = places.read_json(places.kept_file(self.state_dir, message["id"]))
        if record is None or not record["pid"]:
            raise Refusal(f"container {message['id']} is not running", "unknown")
        quick = message.get("sync") and not (record["handler"] or message["tty"] or message["stdin"])
        if not quick or not self._exec_quickly(connection, record, message):
            self._exec_slowly(connection, record, message)

    def _exec_quickly(self, connection: wire.Connection, record: dict[str, Any], message: dict[str, Any]) -> bool:
        """Without a process between us and the program; False where that cannot be."""
        try:
            compiled = quick_exec.compiled(self.state_dir, record, message)
            running = quick_exec.QuickExec(
                self.loop,
                connection,
                compiled,
                message["timeout_seconds"],
                lambda: self._exec_slowly(connection, record, message),
            )
        except quick_exec.REFUSED:
            return False
        self._execs[running.pid] = running
        return True

    def _exec_slowly(self, connection: wire.Connection, record: dict[str, Any], message: dict[str, Any]) -> None:
        if not record["handler"]:
            native.remember(record, self.state_dir)
        self._delegate("ketch-exec", connection, lambda: exec_keeper.serve(self.state_dir, connection, record, message))

    def _delegate(self, name: str, connection: wire.Connection, body: Callable[[], int | None]) -> None:
        """A child answers; we let go of the connection."""
        self._children.add(birth.fork(name, [connection.fileno()], body))
        self._hang_up(connection)

    def _foresee(self, _: wire.Connection, message: dict[str, Any]) -> None:
        if quick_start.can_be(message):
            quick_start.foresee(self.state_dir, message)

    def _start(self, connection: wire.Connection, message: dict[str, Any]) -> None:
        identity = message["id"]
        if identity in self._kept:
            raise Refusal(f"cannot start container {identity}: it was started before (forget it first)", "start")
        chosen = self._with_room()
        self._kept[identity] = chosen.containers[identity] = _Kept(identity, chosen)
        self._hand_over(chosen, connection, message)
        self._hang_up(connection)

    def _hand_over(self, chosen: _KeeperProcess, connection: wire.Connection, message: dict[str, Any]) -> None:
        """With everything prepared but the init where that is possible; the keeper begins meanwhile."""
        can_be = chosen.expects and quick_start.can_be(message)
        told = quick_start.expect(chosen.channel, message) if can_be else None
        if told is None:
            chosen.channel.send(message, [connection.fileno()])
            return
        try:
            prepared = quick_start.prepare(self.state_dir, message, told)
            if prepared is None:
                chosen.channel.send(message, [connection.fileno()])
                return
            with prepared.lock as lock:
                quick = quick_start.packed(prepared)
                chosen.channel.send({**message, "quick": quick}, [connection.fileno(), lock.fd])
        finally:
            told.close()

    def _whose_is(self, connection: wire.Connection, message: dict[str, Any]) -> dict[str, Any] | None:
        kept = self._kept.get(message["id"])
        if kept is None:
            raise Refusal(f"container {message['id']} is not kept (has it ended?)", "unknown")
        if kept.keeper.name == message.get("dead"):
            self._asking.append((kept, connection))  # answered when its death has reached us, too
            return None
        return {"keeper": kept.keeper.name}

    def _answer_asking(self) -> None:
        for entry in [entry for entry in self._asking if not entry[0].keeper.channel.ended]:
            self._asking.remove(entry)
            self._answer(entry[1], {"op": "whose", "id": entry[0].id})

    def _forget(self, connection: wire.Connection, message: dict[str, Any]) -> dict[str, Any] | None:
        identity = message["id"]
        quick_start.forget(identity)
        if not os.path.exists(places.exit_file(self.state_dir, identity)):
            record = places.read_json(places.kept_file(self.state_dir, identity)) or {"pid": 0}
            if record["pid"] and processes.is_alive(record["pid"], record["start_time"]):
                raise Refusal(f"cannot forget container {identity}: it has not ended")
        if identity in self._kept:
            # It is being started, or its end is being written down: a matter of moments.
            self._forgetting.append((identity, connection))
            return None
        places.remove_container(self.state_dir, identity)
        return {}

    def _forget_now(self, identity: str) -> None:
        """The keeper has let go of a container that somebody wants forgotten."""
        for entry in [entry for entry in self._forgetting if entry[0] == identity]:
            self._forgetting.remove(entry)
            places.remove_container(self.state_dir, identity)
            entry[1].send({})

    def _shutdown(self, connection: wire.Connection, message: dict[str, Any]) -> dict[str, Any] | None:
        if self._kept and not message.get("force"):
            raise Refusal(f"cannot shut down: {len(self._kept)} containers are kept (try: stop them first)")
        connection.send({})
        self._stop_listening(remove=True)
        for process in self._keepers.values():
            process.channel.send({"op": "retire", "force": bool(message.get("force"))})
        self._leaving = True
        self._forced = bool(message.get("force"))
        self._leave_if_idle()
        return None

    def _yield(self, _: wire.Connection | None, _message: dict[str, Any]) -> dict[str, Any]:
        """A spawner of another release takes over; we stay for our keepers."""
        self._stop_listening(remove=False)
        self._leaving = True
        for process in self._keepers.values():
            process.channel.send({"op": "retire"})
        self._leave_if_idle()
        return {}

    def _stop_listening(self, *, remove: bool) -> None:
        if self._listener is not None:
            self.loop.ignore(self._listener.fileno())
            self._listener.close()
            self._listener = None
            if remove:
                os.unlink(places.spawner_socket(self.state_dir))

    def _leave_if_unknown(self) -> None:
        """Somebody has removed the state directory: nobody finds us, and whom we kept for has another spawner."""
        if not self._kept and not self._leaving and self._name() != self._own_name:
            self._yield(None, {})

    def _name(self) -> tuple[int, int] | None:
        """What is at the place of our socket."""
        try:
            found = os.stat(places.spawner_socket(self.state_dir))
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _leave_if_idle(self) -> None:
        if self._leaving and not self._keepers and (self._forced or not self._execs):
            self.loop.running = False

    # keepers

    def _with_room(self) -> _KeeperProcess:
        for process in self._keepers.values():
            if len(process.containers) < PER_KEEPER:
                return process
        return self._new_keeper()

    def _new_keeper(self) -> _KeeperProcess:
        os.makedirs(places.keepers_dir(self.state_dir), 0o700, exist_ok=True)
        self._number += 1
        name = f"{os.getpid()}-{self._number}"
        ours, theirs = wire.pair()
        # Bound before it is born: whoever hears its name can connect.
        listener = wire.listen(places.keeper_socket(self.state_dir, name))
        if self._nursery is None:
            self._nursery = Nursery(self.state_dir)
            self._children.add(self._nursery.pid)
        pid = self._nursery.keeper(name, theirs.fileno(), listener.fileno())
        theirs.close()
        listener.close()
        return self._know(_KeeperProcess(name, pid, ours))

    def _know(self, process: _KeeperProcess) -> _KeeperProcess:
        self._keepers[process.name] = process
        self.loop.watch(process.channel.fileno(), READ, lambda: self._told(process))
        return process

    def _told(self, process: _KeeperProcess) -> None:
        for message in process.channel.pump():
            try:
                self._note(process, message)
            except Exception:
                traceback.print_exc()
                sys.stderr.flush()
        if process.channel.ended:
            self._keeper_gone(process)

    def _note(self, process: _KeeperProcess, message: dict[str, Any]) -> None:
        operation, identity = message["op"], message["id"]
        kept = self._kept.get(identity)
        if kept is None or kept.keeper is not process:
            kept = self._kept[identity] = process.containers[identity] = _Kept(identity, process)
        if operation == "kept":
            for entry in [entry for entry in self._forgetting if entry[0] == identity]:
                self._forgetting.remove(entry)
                self._answer(entry[1], {"op": "forget", "id": identity})
            kept.pid = message["pid"]
            kept.drop()
            kept.copies = message["fds"]
            self._by_pid[kept.pid] = kept
        elif operation == "drop":
            kept.drop()
        elif operation == "status":
            process.channel.send({"op": "reaped", "id": identity, "status": kept.status})
        elif operation in ("exited", "unstarted"):
            self._no_longer(kept)
            if operation == "exited":
                self._publish(identity)
            self._forget_now(identity)

    def _no_longer(self, kept: _Kept) -> None:
        quick_joining.forget(kept.id)
        kept.drop()
        self._kept.pop(kept.id, None)
        self._by_pid.pop(kept.pid, None)
        kept.keeper.containers.pop(kept.id, None)
        self._retire_if_spare(kept.keeper)
        self._ended += 1
        if self._ended % COLLECT_EVERY == 0:
            gc.collect()
        self._leave_if_unknown()

    def _retire_if_spare(self, process: _KeeperProcess) -> None:
        """An empty keeper stays while it is the only one with room: the next start needs one."""
        others = any(len(k.containers) < PER_KEEPER for k in self._keepers.values() if k is not process)
        if not process.containers and others and process.name in self._keepers:
            process.channel.send({"op": "retire"})
            del self._keepers[process.name]
            self._children.add(process.pid)
            # Nothing more is sent to it; its end of the channel closes when it has gone.

    def _publish(self, identity: str) -> None:
        for subscriber in list(self._subscribers):
            subscriber.send({"id": identity})
            if subscriber.ended:
                self._hang_up(subscriber)

    # deaths

    def _child_ended(self, pid: int, status: int) -> None:
        if pid in self._children:
            self._children.discard(pid)
            if self._nursery is not None and pid == self._nursery.pid:
                self._nursery.close()
                self._nursery = None
            return
        running = self._execs.pop(pid, None)
        if running is not None:
            running.ended(status)
            self._leave_if_idle()
            return
        if pid not in self._by_pid:
            # An orphan's keeper may have told us of it just before it died.
            for process in list(self._keepers.values()):
                self._told(process)
            self._children.discard(pid)  # a keeper, whose end has just been heard of: the number is free for others now
        kept = self._by_pid.get(pid)
        if kept is not None:
            kept.status = status
            kept.keeper.channel.send({"op": "reaped", "id": kept.id, "status": status})

    def _keeper_gone(self, process: _KeeperProcess) -> None:
        """Its channel has ended, so it has. Its containers are our children now, or the host's; another adopts them."""
        self.loop.ignore(process.channel.fileno())
        process.channel.close()
        if self._keepers.pop(process.name, None) is not None:  # else it was told to go, and is among the children
            self._children.add(process.pid)  # its own end is no news
        _unlink(places.keeper_socket(self.state_dir, process.name))
        self.loop.reap()
        orphans = list(process.containers.values())
        if orphans:
            sys.stderr.write(f"keeper {process.name} has died; {len(orphans)} containers get another\n")
            sys.stderr.flush()
            self._give_away(orphans)
            self._answer_asking()
        self._leave_if_idle()

    def _give_away(self, orphans: list[_Kept]) -> None:
        heir = self._new_keeper()
        entries, fds = [], []
        for kept in orphans:
            kept.keeper = heir
            heir.containers[kept.id] = kept
            entries.append({"id": kept.id, "status": kept.status, "fds": len(kept.copies)})
            fds += kept.copies
        heir.channel.send({"op": "adopt", "id": "", "containers": entries}, fds)

    def _find_left_behind(self) -> None:
        """Keepers of a spawner that has died, and containers of keepers that died with it."""
        for entry in _names(places.keepers_dir(self.state_dir)):
            self._ask(entry.removesuffix(".sock"))
        deadline = time.monotonic() + ANSWER_SECONDS
        for name, connection in list(self._asked.items()):
            answer = connection.receive(max(0.0, deadline - time.monotonic()))
            if answer is not None or connection.ended:
                self._heard_of(name, answer)
            else:
                self.loop.watch(connection.fileno(), READ, lambda name=name: self._heard_late(name))  # type: ignore[misc]
        self._give_left_behind()

    def _ask(self, name: str) -> None:
        connection = wire.connect(places.keeper_socket(self.state_dir, name))
        if connection is None:
            _unlink(places.keeper_socket(self.state_dir, name))
            return
        connection.send({"op": "channel"})
        self._asked[name] = connection

    def _heard_of(self, name: str, answer: dict[str, Any] | None) -> None:
        """A keeper that answers is ours from now on, unless an older spawner has it; one that hangs up has died."""
        connection = self._asked.pop(name)
        if answer is None or "error" in answer:
            connection.close()
            if answer is None:
                _unlink(places.keeper_socket(self.state_dir, name))
            return
        process = _KeeperProcess(name, answer["pid"], connection, expects=answer.get("expects", False))
        self._told(self._know(process))  # what came behind the answer

    def _heard_late(self, name: str) -> None:
        connection = self._asked[name]
        answer = connection.receive(0.0)
        if answer is not None or connection.ended:
            self.loop.ignore(connection.fileno())
            self._heard_of(name, answer)
            self._give_left_behind()

    def _give_left_behind(self) -> None:
        """Who kept them is dead. Looked for once every living keeper has answered: what it was told to adopt it has
        adopted by then, and two readers of one FIFO would tear its lines apart."""
        if self._asked:
            return
        left = [name for name in _names(places.containers_dir(self.state_dir)) if self._is_left_behind(name)]
        for start in range(0, len(left), PER_KEEPER):
            heir = self._new_keeper()
            entries = []
            for identity in left[start : start + PER_KEEPER]:
                self._kept[identity] = heir.containers[identity] = _Kept(identity, heir)
                entries.append({"id": identity, "status": None, "fds": 0})
            heir.channel.send({"op": "adopt", "id": "", "containers": entries})

    def _is_left_behind(self, identity: str) -> bool:
        record = places.read_json(places.kept_file(self.state_dir, identity))
        if record is None or os.path.exists(places.exit_file(self.state_dir, identity)):
            return False
        return not os.path.exists(places.keeper_socket(self.state_dir, record["keeper"]))


_OPERATIONS = {
    "ping": Spawner._ping,
    "events": Spawner._events,
    "pin": Spawner._pin,
    "unpin": Spawner._unpin,
    "exec": Spawner._exec,
    "foresee": Spawner._foresee,
    "start": Spawner._start,
    "whose": Spawner._whose_is,
    "forget": Spawner._forget,
    "shutdown": Spawner._shutdown,
    "yield": Spawner._yield,
}


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def main(argv: list[str] | None = None) -> int:
    """ketch-spawner STATE-DIRECTORY [--ready-fd=N]: started by bring_up, and never by hand."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    ready = [int(a.partition("=")[2]) for a in arguments if a.startswith("--ready-fd=")]
    places_given = [a for a in arguments if not a.startswith("--")]
    if len(places_given) != 1 or not os.path.isabs(places_given[0]):
        sys.stderr.write("ketch-spawner: expected one absolute path, the state directory (ketch-cri starts this)\n")
        return 2
    if os.fork():
        return 0  # whoever started us waits for this; the spawner is nobody's zombie
    birth.rename("ketch-spawner")
    standing.take()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN if number != signal.SIGTERM else signal.SIG_DFL)
    os.umask(0o022)
    os.chdir("/")
    spawner = Spawner(places_given[0])
    for fd in ready:
        os.write(fd, b"+")
        os.close(fd)
    spawner.run()
    return 0
