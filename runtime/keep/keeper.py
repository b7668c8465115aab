# SPDX-License-Identifier: Apache-2.0
"""The parent of several containers: starts them, keeps their stdio, waits, writes exit files; outlives the others."""

import os
import socket
import sys
import traceback
from typing import Any

from runtime.keep import places, quick_start, seen_exit, wire
from runtime.keep.attach import Viewer
from runtime.keep.kept import KeptContainer
from runtime.keep.loop import READ, Loop
from runtime.keep.starting import Half, Refusal, Starting
from runtime.linux import processes, syscalls
from runtime.linux._core import lib


class Keeper:
    """One process. Containers arrive over the channel from the spawner; clients come to our own socket."""

    def __init__(self, state_dir: str, name: str, listener: socket.socket, channel: wire.Connection) -> None:
        self.state_dir = state_dir
        self.name = name
        self.loop = Loop()
        self.containers: dict[str, KeptContainer] = {}
        self._by_pid: dict[int, KeptContainer] = {}
        self._statuses: dict[int, int] = {}  # of children that ended before we knew whose they are
        self._expected: dict[str, Half] = {}  # laid out, while the spawner plans
        self._starting: dict[int, Starting] = {}  # starter's pid -> what it makes
        self._listener = listener
        self._channel: wire.Connection | None = None
        self._lingering: list[KeptContainer] = []  # ended, but a viewer has not taken all of the output yet
        self._retired = False
        self._take_channel(channel)

    def run(self) -> int:
        """Until nothing is kept and the spawner has no use for us, or has gone."""
        syscalls.prctl(lib.PR_SET_CHILD_SUBREAPER, 1)
        self.loop.on_child(self._child_ended)
        self.loop.watch(self._listener.fileno(), READ, self._accept)
        self.loop.run()
        try:
            os.unlink(places.keeper_socket(self.state_dir, self.name))
        except FileNotFoundError:
            pass  # the spawner was quicker
        return 0

    # who talks to us

    def _accept(self) -> None:
        connection = wire.accept(self._listener)
        if connection is not None:
            self.loop.watch(connection.fileno(), READ, lambda: self._serve(connection))

    def _serve(self, connection: wire.Connection) -> None:
        for message in connection.pump():
            self._answer(connection, message)
        if connection.ended:
            self._hang_up(connection)

    def _hang_up(self, connection: wire.Connection) -> None:
        for container in self.containers.values():
            if connection in container.waiters:
                container.waiters.remove(connection)
        self.loop.ignore(connection.fileno())
        connection.close()

    def _answer(self, connection: wire.Connection, message: dict[str, Any]) -> None:
        operation = _OPERATIONS.get(str(message.get("op")))
        try:
            if operation is None:
                raise Refusal(f"this keeper knows no {message.get('op')!r}")
            answer = operation(self, connection, message)
        except Refusal as why:
            answer = {"error": str(why), "kind": why.kind}
        except (OSError, KeyError, TypeError, ValueError) as why:
            answer = {"error": str(why) or repr(why), "kind": "refused"}
        if answer is not None:
            connection.send(answer)

    def _container(self, message: dict[str, Any]) -> KeptContainer:
        found = self.containers.get(str(message.get("id")))
        if found is None:
            raise Refusal(f"container {message.get('id')} is not kept here (has it ended?)", "unknown")
        return found

    def _attach(self, connection: wire.Connection, message: dict[str, Any]) -> None:
        container = self._container(message)
        self.loop.ignore(connection.fileno())
        viewer = container.attach(connection, message)
        self.loop.watch(connection.fileno(), READ, lambda: self._heard(container, viewer))

    def _heard(self, container: KeptContainer, viewer: Viewer) -> None:
        for message in viewer.connection.pump():
            if message.get("op") == "resize":
                container.resize(int(message["columns"]), int(message["rows"]))
        if viewer.connection.ended:
            viewer.leave()
            self._leave_if_idle()

    def _resize(self, _: wire.Connection, message: dict[str, Any]) -> dict[str, Any]:
        self._container(message).resize(int(message["columns"]), int(message["rows"]))
        return {}

    def _reopen_log(self, _: wire.Connection, message: dict[str, Any]) -> dict[str, Any]:
        self._container(message).log.reopen()
        return {}

    def _close_stdin(self, _: wire.Connection, message: dict[str, Any]) -> dict[str, Any]:
        container = self._container(message)
        if container.input is not None:
            container.input.close_after_pending()
        return {}

    def _wait(self, connection: wire.Connection, message: dict[str, Any]) -> dict[str, Any] | None:
        container = self.containers.get(places.check_id(message.get("id")))
        if container is None:
            found = places.read_json(places.exit_file(self.state_dir, str(message.get("id"))))
            if found is None:
                raise Refusal(f"container {message.get('id')} is not kept here", "unknown")
            return found
        container.waiters.append(connection)
        return None

    def _new_channel(self, connection: wire.Connection, _: dict[str, Any]) -> dict[str, Any] | None:
        """A new spawner, after ours has died."""
        if self._channel is not None:
            return {"error": "another spawner has this keeper", "kind": "refused"}
        self.loop.ignore(connection.fileno())
        connection.send({"name": self.name, "pid": os.getpid(), "expects": True})
        if connection.ended:
            return None  # it has died while it waited for us; the next one shall not be refused for it
        self._take_channel(connection)
        for container in self.containers.values():
            self._announce(container)
        return None

    # the spawner

    def _take_channel(self, channel: wire.Connection) -> None:
        self._channel = channel
        self.loop.watch(channel.fileno(), READ, self._instructed)

    def _instructed(self) -> None:
        channel = self._channel
        assert channel is not None
        for message in channel.pump():
            try:
                self._obey(message)
            except Exception:
                traceback.print_exc()
                sys.stderr.flush()
        if channel.ended:
            self._hang_up(channel)
            self._channel = None
            while self._expected:
                self._expected.popitem()[1].drop()
            for container in list(self.containers.values()):
                container.parent_gone = True
                self._look_at_orphan(container)
            self._leave_if_idle()

    def _obey(self, message: dict[str, Any]) -> None:
        operation = message["op"]
        if operation == "expect":
            self._expect(message)
        elif operation == "start":
            self._start(wire.adopted(message["fds"][0]), message, message["fds"][1:])
        elif operation == "adopt":
            self._adopt(message)
        elif operation == "reaped":
            container = self.containers.get(message["id"])
            if container is not None and container.pidfd >= 0:
                self._ended(container, message["status"])
        elif operation == "retire":
            self._retired = True
            self._leave_if_idle()
            if message.get("force"):
                self.loop.running = False

    def tell(self, message: dict[str, Any], fds: "tuple[int, ...]" = ()) -> None:
        if self._channel is not None:
            self._channel.send(message, fds)

    def _announce(self, container: KeptContainer) -> None:
        """Let the spawner know whose orphan it might meet one day, and hold copies of what would be lost with us."""
        self.tell({"op": "kept", "id": container.id, "pid": container.record["pid"]}, container.precious())

    def _leave_if_idle(self) -> None:
        self._lingering = [container for container in self._lingering if container.viewers]
        if (
            not self.containers
            and not self._expected
            and not self._starting
            and not self._lingering
            and (self._retired or self._channel is None)
        ):
            self.loop.running = False

    # starting

    def _expect(self, request: dict[str, Any]) -> None:
        """A container is coming: lay out our half of it, and begin the process that will be told what to do."""
        try:
            half = self._expected[request["id"]] = Half(self, request)
            half.begin(request["fds"])
        except (Refusal, OSError):
            pass  # the start that follows meets the same, and says so
        finally:
            for fd in request["fds"]:
                os.close(fd)

    def _start(self, client: wire.Connection, request: dict[str, Any], lock: list[int]) -> None:
        try:
            starting = Starting(self, client, request, self._expected.pop(request["id"], None))
        except (Refusal, OSError) as why:
            if "quick" in request:
                quick_start.undo(request["quick"])
            self.tell({"op": "unstarted", "id": request["id"]})
            client.send({"error": f"cannot start container {request['id']}: {why}", "kind": "start"})
            client.close()
            return
        finally:
            for fd in lock:
                os.close(fd)
        self._starting[starting.pid] = starting

    def started_anew(self, before: int, starting: Starting) -> None:
        """The quick way has failed; a starter goes the long one."""
        self._starting.pop(before, None)
        self._starting[starting.pid] = starting

    def made(self, starting: Starting, answer: dict[str, Any] | None) -> None:
        """The starter has spoken, or died."""
        container = starting.container
        self._starting.pop(starting.pid, None)
        if answer is None or "error" in answer:
            sentence = answer["error"] if answer else "its starter died; spawner.log may say why"
            starting.undo()
            self.tell({"op": "unstarted", "id": container.id})
            starting.client.send({"error": f"cannot start container {container.id}: {sentence}", "kind": "start"})
        else:
            if answer["fds"]:
                self._give_terminal(container, answer["fds"][0])
            container.record.update(pid=answer["pid"], start_time=answer["start_time"])
            container.record.update(memory_cgroup=answer["memory_cgroup"], oom_kills=answer["oom_kills"])
            self.containers[container.id] = container
            self._by_pid[answer["pid"]] = container
            places.write_json(places.kept_file(self.state_dir, container.id), container.record)
            self._announce(container)
            if container.record["tty"]:
                self.attach_starting(starting)
            starting.client.send({"pid": answer["pid"], "start_time": answer["start_time"]})
            if (status := self._statuses.pop(answer["pid"], None)) is not None:
                self._ended(container, status)
        if starting.viewer is None:
            starting.client.close()
        elif container.id not in self.containers and not container.ended:
            starting.viewer.leave()  # it did not come to life; why was just said
        self._leave_if_idle()

    def attach_starting(self, starting: Starting) -> None:
        """Who starts a container may watch it from its first byte on: the same connection is its viewer then."""
        if starting.watched:
            viewer = starting.viewer = starting.container.attach(starting.client, starting.watched)
            self.loop.watch(starting.client.fileno(), READ, lambda: self._heard(starting.container, viewer))

    def _give_terminal(self, container: KeptContainer, master: int) -> None:
        container.take_terminal(master)
        if container.record["stdin"]:
            container.take_input(os.dup(master), lambda: None)

    # adoption

    def _adopt(self, message: dict[str, Any]) -> None:
        """Containers of a keeper that has died. Each comes with what the spawner holds for it, and with its wait
        status if the spawner has reaped it already."""
        fds = list(message["fds"])
        for entry in message["containers"]:
            given = [fds.pop(0) for _ in range(entry["fds"])]
            try:
                self._adopt_one(entry, given)
            except Exception:
                traceback.print_exc()
                sys.stderr.flush()

    def _adopt_one(self, entry: dict[str, Any], given: list[int]) -> None:
        record = places.read_json(places.kept_file(self.state_dir, entry["id"]))
        if record is None or not record["pid"] or os.path.exists(places.exit_file(self.state_dir, entry["id"])):
            for fd in given:
                os.close(fd)
            self.tell({"op": "unstarted", "id": entry["id"]})
            return
        record["keeper"] = self.name
        places.write_json(places.kept_file(self.state_dir, entry["id"]), record)
        container = KeptContainer(self.state_dir, record, self.loop)
        container.log.mend()
        self.containers[container.id] = container
        if not record["tty"]:
            container.open_fifos()
            if given:
                container.take_input(given[0], lambda: self.tell({"op": "drop", "id": container.id}))
        elif given:
            self._give_terminal(container, given[0])
        self._announce(container)
        if entry["status"] is not None:
            self._ended(container, entry["status"])
            return
        pidfd = processes.open_pidfd(record["pid"], record["start_time"])
        if pidfd is None:
            self._ended(container, None)  # gone, and nobody saw how
            return
        container.pidfd = pidfd
        self.loop.watch(pidfd, READ, lambda: self._look_at_orphan(container))

    def _look_at_orphan(self, container: KeptContainer) -> None:
        """An adopted container may have ended."""
        if container.pidfd < 0 or not seen_exit.has_ended(container.pidfd):
            return
        self.loop.ignore(container.pidfd)
        status = seen_exit.status_of(container.pidfd, container.record["pid"], container.record["start_time"])
        # Where nothing is to be seen, the spawner may be its parent and tell; without a spawner nobody will.
        if status is not None or self._channel is None or container.parent_gone:
            self._ended(container, status)
        else:
            self.tell({"op": "status", "id": container.id, "pid": container.record["pid"]})

    # endings

    def _child_ended(self, pid: int, status: int) -> None:
        starting = self._starting.get(pid)
        if starting is not None:
            starting.child_ended()
        container = self._by_pid.get(pid)
        if container is not None:
            self._ended(container, status)
        elif self._starting and starting is None:
            self._statuses[pid] = status

    def _ended(self, container: KeptContainer, status: int | None) -> None:
        self.containers.pop(container.id, None)
        self._by_pid.pop(container.record["pid"], None)
        try:
            container.finish(status)
        except OSError:
            traceback.print_exc()
            sys.stderr.flush()
        self._lingering.append(container)
        container.when_left = self._leave_if_idle
        self.tell({"op": "exited", "id": container.id})
        if not self._starting:
            self._statuses.clear()
        self._leave_if_idle()


_OPERATIONS = {
    "attach": Keeper._attach,
    "resize": Keeper._resize,
    "reopen_log": Keeper._reopen_log,
    "close_stdin": Keeper._close_stdin,
    "wait": Keeper._wait,
    "channel": Keeper._new_channel,
}
