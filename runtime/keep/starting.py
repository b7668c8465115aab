# SPDX-License-Identifier: Apache-2.0
"""A start in its keeper: the half of a container that is the keeper's, and the process that makes the other half."""

from __future__ import annotations

import os
import signal

from runtime.keep import birth, places, quick_start, seed, starter, wire
from runtime.keep.kept import KeptContainer
from runtime.keep.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime import quick_create
    from runtime.keep.attach import Viewer
    from runtime.keep.keeper import Keeper


class Refusal(Exception):
    """A request that cannot be served; kind is the client's exception."""

    def __init__(self, sentence: str, kind: str = "refused") -> None:
        super().__init__(sentence)
        self.kind = kind


class Half:
    """A container's directory, its FIFOs with our ends and `theirs`, and perhaps who waits to be its init."""

    def __init__(self, keeper: Keeper, request: dict[str, Any]) -> None:
        self.container, self.theirs = _lay_out(keeper, request)
        self.init: quick_create.Init | None = None

    def begin(self, given: list[int]) -> None:
        """With what the spawner has sent for it."""
        self.init = quick_start.begin(given, self.theirs)

    def close_theirs(self) -> None:
        """The container has them, or never will."""
        for fd in self.theirs:
            os.close(fd)
        self.theirs = []

    def drop(self) -> None:
        """Nothing of it stays but its log."""
        if self.init is not None:
            self.init.drop()
        self.close_theirs()
        self.container.release()
        self.container.remove_files()


class Starting:
    """A start under way: the container's half that we keep, and the process that makes the other (a starter), or is it
    already (an init without an interpreter)."""

    def __init__(self, keeper: Keeper, client: wire.Connection, request: dict[str, Any], half: Half | None) -> None:
        self.client = client
        self._keeper = keeper
        self._request = request
        self._answered = False
        self.watched: dict[str, Any] = request.get("attach") or {}
        self.viewer: Viewer | None = None
        self._quick: quick_start.QuickStart | None = None
        self._report: wire.Connection | None = None
        self._late = False
        self._half = half or Half(keeper, request)
        self.container = self._half.container
        if not request["tty"]:
            keeper.attach_starting(self)  # before it can print; a terminal is there only later
        try:
            self._begin()
        except OSError:
            self.undo()
            raise
        self._deadline = keeper.loop.after(float(request["timeout_seconds"]), self._too_long)

    def _begin(self) -> None:
        init, self._half.init = self._half.init, None
        quick = self._request.get("quick")
        if quick is None:
            if init is not None:
                init.drop()
            self._fork_starter()
            return
        if init is not None:
            try:
                self._quick = quick_start.QuickStart(quick, init)
            except OSError:
                pass  # not even born; why is found on the long way
        if self._quick is None:
            self._fall_back(quick["facts"])
            return
        self.pid = self._quick.pid
        self._keeper.loop.watch(self._quick.report, 0, self._executed_or_not)  # its end only

    def _fork_starter(self) -> None:
        ours, far = wire.pair()
        request, state_dir, theirs = self._request, self._keeper.state_dir, self._half.theirs

        def body() -> int:
            return starter.main(request, state_dir, theirs, far)

        try:
            self.pid = birth.fork("ketch-starter", [*theirs, far.fileno(), seed.fd], body)
        except OSError:
            ours.close()
            raise
        finally:
            far.close()
        self._report = ours
        self._keeper.loop.watch(ours.fileno(), READ, self._heard)

    def _executed_or_not(self) -> None:
        """The init without an interpreter has closed its report: by execve, or it has failed and nobody has seen it."""
        quick, self._quick = self._quick, None
        if quick is None:
            return
        self._keeper.loop.ignore(quick.report)
        if quick.executed():
            self._settle(quick.answer())
            return
        self._fall_back(quick.entry.facts())
        self._keeper.started_anew(quick.pid, self)

    def _fall_back(self, facts: dict[str, Any]) -> None:
        """To the long way: its starter finds the record as it is written, and removes everything before it begins."""
        request = dict(self._request)
        undo = {**request.pop("quick"), "facts": facts}
        self._request = {**request, "undo": undo, **({"late": True} if self._late else {})}
        self._fork_starter()

    def _heard(self) -> None:
        assert self._report is not None
        for message in self._report.pump():
            self._settle(message)
            return
        if self._report.ended:
            self._settle(None)

    def child_ended(self) -> None:
        """It is reaped; what it has said may still be there to be read."""
        if self._quick is not None:
            self._executed_or_not()
            return
        if not self._answered:
            self._heard()
        if not self._answered:
            self._settle(None)

    def _settle(self, answer: dict[str, Any] | None) -> None:
        if self._answered:
            return
        self._answered = True
        self._keeper.loop.cancel(self._deadline)
        if self._report is not None:
            self._keeper.loop.ignore(self._report.fileno())
            self._report.close()
        self._half.close_theirs()
        if self._late and answer is None:
            answer = {"error": "it took too long and was ended"}
        self._keeper.made(self, answer)

    def _too_long(self) -> None:
        """The starter undoes on SIGTERM what it has made, and says so."""
        self._late = True
        os.kill(self.pid, signal.SIGKILL if self._quick is not None else signal.SIGTERM)

    def undo(self) -> None:
        """Nothing of a failed start stays but its log."""
        self._half.drop()


def _lay_out(keeper: Keeper, request: dict[str, Any]) -> tuple[KeptContainer, list[int]]:
    """The directory, the FIFOs and the container's ends of its stdio: three descriptors, none with a terminal."""
    identity = str(request["id"])
    directory = places.container_dir(keeper.state_dir, identity)
    os.makedirs(places.containers_dir(keeper.state_dir), 0o711, exist_ok=True)
    try:
        os.mkdir(directory, 0o711)
    except FileExistsError:
        raise Refusal("it was started before (forget it first)") from None
    try:
        record = {key: request[key] for key in _RECORDED} | {"pid": 0, "start_time": 0, "keeper": keeper.name}
        places.write_json(places.kept_file(keeper.state_dir, identity), record)
        container = KeptContainer(keeper.state_dir, record, keeper.loop)
    except BaseException:
        places.remove_container(keeper.state_dir, identity)
        raise
    if request["tty"]:
        return container, []
    return container, _open_stdio(keeper, container)


def _open_stdio(keeper: Keeper, container: KeptContainer) -> list[int]:
    if container.record["stdin"]:
        stdin, ours = os.pipe2(os.O_CLOEXEC)
        container.take_input(ours, lambda: keeper.tell({"op": "drop", "id": container.id}))
    else:
        stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    theirs = [stdin]
    for name in ("stdout", "stderr"):
        path = places.fifo(keeper.state_dir, container.id, name)
        os.mkfifo(path, 0o600)
        # The container's own description (O_NONBLOCK must not be shared), and open for reading too: while the
        # container lives the FIFO has a reader, so no death of ours can ever raise SIGPIPE in it.
        theirs.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    container.open_fifos()
    return theirs


_RECORDED = (
    "id",
    "bundle",
    "log_path",
    "tty",
    "stdin",
    "stdin_once",
    "runtime_root",
    "systemd_cgroup",
    "handler",
    "max_line",
)
