# SPDX-License-Identifier: Apache-2.0
"""What an engine may ask of the spawner and the keepers: typed requests, blocking calls, safe from any thread.

Every call opens its own connection, so threads never share one; a call ends when its answer arrives, and losing the
caller (kill -9) ends no container. Descriptors in an answer belong to the caller, who closes them.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType

from runtime.keep import places, wire
from runtime.keep.bring_up import bring_up
from runtime.linux import processes
from runtime.linux.quick_dataclasses import asdict, dataclass, field, fields
from runtime.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self


# KeepError
#  ├─ SpawnerGone        no spawner answers, and none could be started
#  ├─ NoSuchContainer    no keeper knows this id (never started here, or forgotten)
#  ├─ Refused            the request itself is at fault: wrong state, missing file, bad field
#  ├─ StartFailed        the init could not be made to execve; the sentence names call, object, reason
#  ├─ ExecFailed         the same for a process that joins a container
#  └─ ExecTimeout        the process was killed because its time was over; carries what it had printed
class KeepError(Exception):
    """Something asked of a spawner or keeper did not happen; str() is one sentence for the user."""


class SpawnerGone(KeepError):
    """No spawner answers in this state directory; containers run on, start another with connect(start=True)."""


class NoSuchContainer(KeepError):
    """No keeper knows this id."""


class Refused(KeepError):
    """The request cannot be carried out as it is; nothing was changed."""


class StartFailed(KeepError):
    """The container's program was never executed; whatever had been made for it is taken down again."""


class ExecFailed(KeepError):
    """The program was never executed in the container."""


class ExecTimeout(KeepError):
    """Killed with everything it had started, because `timeout_seconds` were over."""

    def __init__(self, sentence: str, stdout: bytes = b"", stderr: bytes = b"") -> None:
        super().__init__(sentence)
        self.stdout = stdout
        self.stderr = stderr


_ERRORS: dict[str, type[KeepError]] = {
    "gone": SpawnerGone,
    "unknown": NoSuchContainer,
    "refused": Refused,
    "start": StartFailed,
    "exec": ExecFailed,
    "timeout": ExecTimeout,
}


@dataclass(frozen=True, slots=True)
class IdMapping:
    """One line of a uid_map: `size` ids from `container_id` inside are those from `host_id` outside."""

    container_id: int
    host_id: int
    size: int


@dataclass(frozen=True, slots=True)
class PinRequest:
    """Namespaces for a pod, kept alive without a process by bind mounts.

    `pins` says which and where: keys among "net", "ipc", "uts", "user", "pid", "cgroup"; values are absolute paths of
    files to be made. With "user" the others belong to that user namespace. With "pid" a static program is the
    namespace's PID 1; it sits in an empty read-only root, in the cgroups given as absolute directories.
    A pod that shares the node's namespace simply leaves the key out.
    """

    pins: Mapping[str, str]
    sysctls: Mapping[str, str] = field(default_factory=dict)  # dotted names; written inside
    hostname: str = ""
    uid_mappings: Sequence[IdMapping] = ()
    gid_mappings: Sequence[IdMapping] = ()
    reaper_cgroups: Sequence[str] = ()
    reaper_oom_score_adj: int | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """A process as evidence: the pid means this one only while its start time (clock ticks since boot) agrees."""

    pid: int
    start_time: int


@dataclass(frozen=True, slots=True)
class Pinned:
    """The request's pins, all in place; `reaper` is PID 1 of a shared PID namespace."""

    pins: Mapping[str, str]
    reaper: Process | None


@dataclass(frozen=True, slots=True)
class StartRequest:
    """A container from an OCI bundle; its cgroups, namespaces and the rest come from `bundle`/config.json.

    `handler`: empty for our own runtime, or a foreign OCI command with its global options, say
    ("runc", "--root", "/run/ketch/runc"); the keeper runs its create and start and is its container's parent.
    `runtime_root`: where the runtime keeps its record of the container (what `ketch-runtime --root` reads).
    """

    id: str
    bundle: str
    log_path: str = ""  # empty: the output is read and thrown away, attach still sees it
    tty: bool = False
    stdin: bool = False
    stdin_once: bool = False
    runtime_root: str = ""  # default: <state>/runtime
    systemd_cgroup: bool = False
    handler: Sequence[str] = ()
    max_line: int = 16384  # bytes of output per log line; longer ones are split into P parts
    timeout_seconds: float = 120.0  # for the start as a whole; hooks have their own


@dataclass(frozen=True, slots=True)
class Started:
    """The container's program runs: its execve has succeeded."""

    pid: int
    start_time: int


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended, from its exit file.

    `exit_code` is None when nobody could see it (UNKNOWN, never 0); 128 + signal after a signal. `finished_at` counts
    nanoseconds since the epoch. `oom`: the kernel killed a process of this container for memory while it ran;
    `oom_detail` names cgroup and limit.
    """

    exit_code: int | None
    signal: int | None
    finished_at: int
    oom: bool = False
    oom_detail: str = ""


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """A process in a running container. `process` is the OCI process object (args, env, cwd, user, capabilities, ...);
    what it leaves out of confinement (seccomp, labels) comes from the container's own config.
    """

    id: str
    process: Mapping[str, Any]
    tty: bool = False
    stdin: bool = False
    timeout_seconds: float | None = None  # then it and everything it started is killed
    columns: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What ExecSync answers."""

    exit_code: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """What is written down about a container while it is kept (<state>/containers/<id>/kept)."""

    id: str
    pid: int
    start_time: int
    keeper: str
    log_path: str
    tty: bool
    stdin: bool


@dataclass(frozen=True, slots=True)
class ExitEvent:
    """A container's exit file has just been written. id "" means: events may be lost, look at all exit files."""

    id: str
    exit: Exit | None


class Session:
    """A process run by exec, or an attachment: its stdio, and how it ended.

    The descriptors are -1 where there is none. `stdin` takes what the process shall read; close_stdin() is the end of
    file. With a terminal, `stdin` and `stdout` are two descriptors of its master and `stderr` is -1. What the process
    wrote before its end is readable when wait() returns.
    """

    def __init__(self, connection: wire.Connection, stdin: int, stdout: int, stderr: int) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.pid = 0
        self._connection = connection
        self._exit_code: int | None = None

    def fileno(self) -> int:
        """Readable as soon as wait() would not block: for a selector beside the streams."""
        return self._connection.fileno()

    def wait(self, timeout_seconds: float | None = None) -> int | None:
        """The exit code (128 + signal); for an attachment that of the container. None: it still runs after
        `timeout_seconds`, nobody knows the code, or close() came first. Raises ExecTimeout when the request's own
        time was over."""
        if self._exit_code is None:
            answer = self._connection.receive(timeout_seconds)
            if answer is None:
                return None
            self._exit_code = _checked(answer)["exit_code"]
        return self._exit_code

    def resize(self, columns: int, rows: int) -> None:
        """Tell the terminal its size in characters; without a terminal, nothing."""
        self._connection.send({"op": "resize", "columns": columns, "rows": rows})

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal an exec's program; no effect once it has ended."""
        self._connection.send({"op": "signal", "signal": number})

    def close_stdin(self) -> None:
        """End of file for an exec's process; for a container attached to, when it has stdin_once."""
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def close(self) -> None:
        """Let go of all descriptors and release wait(). The process lives on; only its terminal, if any, hangs up."""
        self.close_stdin()
        for fd in (self.stdout, self.stderr):
            if fd >= 0:
                os.close(fd)
        self.stdout = self.stderr = -1
        self._connection.shut_down()  # wakes a thread that waits; closing alone would not
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def connect(state_dir: str, *, start: bool = True) -> Client:
    """A client of the spawner in `state_dir`; with `start` one is started when none answers (or an older version is
    there, which then takes no new work and stays until its last keeper is gone)."""
    client = Client(state_dir, start=start)
    found = client.ping()
    if start and found["release"] != VERSION:
        client.replace_spawner()
    return client


class Client:
    """The calls. Holds no connection and no descriptor, so it may be kept for ever and used from every thread.

    `meanwhile` is called while the spawner makes namespaces or a container: a short command loads then what it needs
    next, on the processor that would else be idle.
    """

    def __init__(self, state_dir: str, *, start: bool = True, meanwhile: Callable[[str], None] | None = None) -> None:
        self.state_dir = os.path.abspath(state_dir)
        self._start = start
        self._meanwhile = meanwhile

    # the node

    def ping(self) -> Mapping[str, Any]:
        """Who answers: {"pid", "version", "keepers": {name: containers}}."""
        return self._ask_spawner({"op": "ping"})

    def shutdown(self, *, force: bool = False) -> None:
        """End the spawner and its keepers. Refused while containers are kept; with `force` the containers run on with
        nobody reading their output: only for tests and for taking a node apart."""
        connection = wire.connect(places.spawner_socket(self.state_dir))
        if connection is None:
            return
        with connection:
            connection.send({"op": "shutdown", "force": force})
            _checked(connection.receive(None))
            connection.receive(None)  # until it is gone: the end of the connection

    def replace_spawner(self) -> None:
        """Start a spawner of our own release. The one that is there takes no new work, and stays for its keepers."""
        self._ask_spawner({"op": "yield"})
        bring_up(self.state_dir)

    def events(self) -> Iterator[ExitEvent]:
        """Exits as they are written, for ever; starts with, and after a lost spawner yields, an event without id."""
        while True:
            with self._spawner() as connection:
                connection.send({"op": "events"})
                yield ExitEvent("", None)
                while (message := connection.receive(None)) is not None and not connection.ended:
                    identity = str(message["id"])
                    yield ExitEvent(identity, self.exit(identity))

    # pods

    def pin_namespaces(self, request: PinRequest) -> Pinned:
        """Make the namespaces and pin them; on failure none of the paths is left."""
        with self._spawner() as connection:
            connection.send({"op": "pin", **asdict(request)})
            try:
                answer = self._answer(connection, "pin")
            except KeyboardInterrupt:
                connection.receive(_INTERRUPTED_SECONDS)  # who takes it down again must not meet it half made
                raise
        reaper = Process(**answer["reaper"]) if answer.get("reaper") else None
        return Pinned(dict(request.pins), reaper)

    def unpin(self, pins: Mapping[str, str]) -> None:
        """Unmount and remove pins; those that are gone already are fine."""
        self._ask_spawner({"op": "unpin", "pins": dict(pins)})

    # containers

    def foresee(self, request: StartRequest) -> None:
        """This start will be asked for soon: the spawner may plan it meanwhile. Nothing is made, and nobody waits."""
        try:
            connection = wire.connect(places.spawner_socket(self.state_dir))
        except OSError:
            return
        if connection is not None:
            with connection:
                connection.send({"op": "foresee", **_fields(request)})

    def start(self, request: StartRequest) -> Started:
        """Make the container and let its program run; returns after its execve, or raises StartFailed."""
        answer = self._ask_spawner({"op": "start", **_fields(request)})
        return Started(answer["pid"], answer["start_time"])

    def start_attached(self, request: StartRequest, *, stdin: bool = False) -> tuple[Started, Session]:
        """start() and attach() in one: the session sees what the container prints from its first byte on."""
        connection = self._spawner()
        wanted = {"stdin": stdin, "stdout": True, "stderr": True}
        streams: tuple[int, int, int] = (-1, -1, -1)
        try:
            connection.send({"op": "start", **_fields(request), "attach": wanted})
            answer = self._answer(connection, "start")
            while "pid" not in answer:
                streams = _streams(answer)
                answer = _checked(connection.receive(None))
            return Started(answer["pid"], answer["start_time"]), Session(connection, *streams)
        except BaseException:
            for fd in streams:
                if fd >= 0:
                    os.close(fd)
            connection.close()
            raise

    def exec(self, request: ExecRequest) -> Session:
        """Run a program in a container; returns after its execve with its streams, or raises ExecFailed."""
        return self._exec(request, sync=False)

    def _exec(self, request: ExecRequest, *, sync: bool) -> Session:
        """`sync`: the caller waits for a short command, which need not outlive the spawner."""
        connection = self._spawner()
        try:
            connection.send({"op": "exec", "sync": sync, **_fields(request)})
            answer = _checked(connection.receive(None))
            session = Session(connection, *_streams(answer))
            session.pid = answer["pid"]
            return session
        except BaseException:
            connection.close()
            raise

    def exec_sync(
        self, request: ExecRequest, *, limit: int = 16 << 20, started: Callable[[Session], object] | None = None
    ) -> ExecResult:
        """Run a program to its end and answer its output, at most `limit` bytes of each stream. `started` is told the
        session as soon as there is one, and may kill it from any thread."""
        with self._exec(request, sync=True) as session:
            if started is not None:
                started(session)
            return _collect(session, limit)

    def attach(self, identity: str, *, stdin: bool = False, stdout: bool = True, stderr: bool = True) -> Session:
        """Join a container's stdio from now on. Any number of clients may; output goes to each of them, and one that
        does not read for 10 s is let go. wait() ends with the container."""
        connection = self._keeper(identity)
        try:
            connection.send({"op": "attach", "id": identity, "stdin": stdin, "stdout": stdout, "stderr": stderr})
            answer = _checked(connection.receive(None))
            return Session(connection, *_streams(answer))
        except BaseException:
            connection.close()
            raise

    def resize(self, identity: str, columns: int, rows: int) -> None:
        """Set the size of a container's terminal."""
        self._ask_keeper({"op": "resize", "id": identity, "columns": columns, "rows": rows})

    def reopen_log(self, identity: str) -> None:
        """Close the log and open it again by its path; the new file exists when this returns."""
        self._ask_keeper({"op": "reopen_log", "id": identity})

    def close_stdin(self, identity: str) -> None:
        """End of file on a container's standard input."""
        self._ask_keeper({"op": "close_stdin", "id": identity})

    def kill(self, identity: str, number: int = signal.SIGKILL) -> bool:
        """Signal a container's init; False when it has already ended. Never hits a later process of the same pid."""
        kept = self.kept(identity)
        if kept is None:
            raise NoSuchContainer(f"cannot signal container {identity}: it was never started here")
        return processes.signal(kept.pid, kept.start_time, number)

    def wait(self, identity: str, timeout_seconds: float | None = None) -> Exit | None:
        """The container's exit once its file is written and its log complete; None after `timeout_seconds`."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while (found := self.exit(identity)) is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                with self._keeper(identity) as connection:
                    connection.send({"op": "wait", "id": identity})
                    answer = connection.receive(left)
                    if answer is None and not connection.ended:
                        return None
                    if answer is not None:
                        _checked(answer)
            except NoSuchContainer:
                # It may have ended while we looked for its keeper; the file is there before the keeper forgets it.
                if (found := self.exit(identity)) is None:
                    raise
                return found
        return found

    def stop(self, identity: str, number: int, grace_seconds: float) -> Exit | None:
        """Signal, wait for `grace_seconds`, then SIGKILL and wait for the end."""
        self.kill(identity, number)
        ended = self.wait(identity, grace_seconds) if grace_seconds > 0 else None
        if ended is None:
            self.kill(identity, signal.SIGKILL)
            ended = self.wait(identity, None)
        return ended

    def forget(self, identity: str) -> None:
        """Remove what is written down about an ended container (its FIFOs, its exit file); the log stays."""
        self._ask_spawner({"op": "forget", "id": identity})

    # evidence, read from files: needs no spawner

    def kept(self, identity: str) -> Kept | None:
        """What was written down when the container started; None when it never did."""
        found = places.read_json(places.kept_file(self.state_dir, identity))
        if found is None:
            return None
        return Kept(**{entry.name: found[entry.name] for entry in fields(Kept)})

    def exit(self, identity: str) -> Exit | None:
        """How it ended; None while no exit file is there."""
        found = places.read_json(places.exit_file(self.state_dir, identity))
        if found is None:
            return None
        return Exit(**{entry.name: found[entry.name] for entry in fields(Exit) if entry.name in found})

    # connections

    def _spawner(self) -> wire.Connection:
        connection = wire.connect(places.spawner_socket(self.state_dir))
        if connection is None and self._start:
            bring_up(self.state_dir)
            connection = wire.connect(places.spawner_socket(self.state_dir))
        if connection is None:
            raise SpawnerGone(f"no spawner answers at {places.spawner_socket(self.state_dir)}")
        return connection

    def _keeper(self, identity: str) -> wire.Connection:
        """To the keeper of a container; if that has died the spawner names the one that adopted."""
        kept = self.kept(identity)
        if kept is not None:
            connection = wire.connect(places.keeper_socket(self.state_dir, kept.keeper))
            if connection is not None:
                return connection
        answer = self._ask_spawner({"op": "whose", "id": identity, "dead": kept.keeper if kept else ""})
        connection = wire.connect(places.keeper_socket(self.state_dir, answer["keeper"]))
        if connection is None:
            raise SpawnerGone(f"the keeper of container {identity} does not answer")
        return connection

    def _answer(self, connection: wire.Connection, op: str) -> dict[str, Any]:
        if self._meanwhile is not None:
            self._meanwhile(op)
        return _checked(connection.receive(None))

    def _ask_spawner(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._spawner() as connection:
            connection.send(request)
            return _checked(connection.receive(None))

    def _ask_keeper(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._keeper(request["id"]) as connection:
            connection.send(request)
            return _checked(connection.receive(None))


_INTERRUPTED_SECONDS = 5.0
_PIPE_HOLDS = 1 << 20  # what the program can have left in a pipe; a child that writes on for ever is cut off here


def _fields(request: StartRequest | ExecRequest) -> dict[str, Any]:
    """asdict() would copy every list in it, one string at a time."""
    return {entry.name: getattr(request, entry.name) for entry in fields(request)}


def _checked(answer: dict[str, Any] | None) -> dict[str, Any]:
    if answer is None:
        raise SpawnerGone("the spawner or keeper ended before it answered")
    if "error" in answer:
        raise _ERRORS.get(answer["kind"], KeepError)(answer["error"])
    return answer


def _streams(answer: dict[str, Any]) -> tuple[int, int, int]:
    """The answer says which of stdin, stdout, stderr its descriptors are, in this order."""
    fds = answer["fds"]
    stdin, stdout, stderr = (fds.pop(0) if name in answer["streams"] else -1 for name in ("stdin", "stdout", "stderr"))
    return stdin, stdout, stderr


def _collect(session: Session, limit: int) -> ExecResult:
    """Read both streams until the program has ended; what a background child keeps open is not waited for."""
    chunks: dict[int, bytearray] = {}
    ready, ending = select.poll(), session.fileno()
    ready.register(ending, select.POLLIN)
    for stream in (session.stdout, session.stderr):
        if stream >= 0:
            os.set_blocking(stream, False)
            chunks[stream] = bytearray()
            ready.register(stream, select.POLLIN)
    ended = False
    while not ended:
        for fd, _ in ready.poll():
            if fd == ending:
                ended = True
            elif not _drain(fd, chunks[fd], limit):
                ready.unregister(fd)
    for stream, chunk in chunks.items():
        _drain(stream, chunk, limit, most=_PIPE_HOLDS)
    out, err = (bytes(chunks[s]) if s >= 0 else b"" for s in (session.stdout, session.stderr))
    try:
        code = session.wait()
    except ExecTimeout as timeout:
        raise ExecTimeout(str(timeout), out, err) from None
    if code is None:
        raise KeepError("the exec's keeper ended before it could say how the program ended")
    return ExecResult(code, out, err)


def _drain(stream: int, into: bytearray, limit: int, *, most: int = 1) -> bool:
    """Read until `most` bytes came or none are there; False at the end of the stream. Beyond `limit` it is read and
    thrown away."""
    while most > 0:
        try:
            chunk = os.read(stream, 65536)
        except BlockingIOError:
            return True
        if not chunk:
            return False
        into += chunk[: limit - len(into)]
        most -= len(chunk)
    return True


__all__ = [
    "Client",
    "ExecFailed",
    "ExecRequest",
    "ExecResult",
    "ExecTimeout",
    "Exit",
    "ExitEvent",
    "IdMapping",
    "KeepError",
    "Kept",
    "NoSuchContainer",
    "PinRequest",
    "Pinned",
    "Process",
    "Refused",
    "Session",
    "SpawnerGone",
    "StartFailed",
    "StartRequest",
    "Started",
    "connect",
]
