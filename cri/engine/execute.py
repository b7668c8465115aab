# SPDX-License-Identifier: Apache-2.0
"""Into a running container: exec, attach, its log."""

from __future__ import annotations

from cri.engine import container, patience
from cri.engine.book import State
from cri.engine.context import Context
from cri.engine.errors import BadRequest, Failed, TimedOut, WrongState
from cri.engine.phases import phase
from cri.engine.records import ContainerRecord
from cri.engine.request import ExecRequest
from cri.oci import users
from cri.oci.facts import Refused
from runtime.keep import client as keep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def running(context: Context, identity: str) -> ContainerRecord:
    record = context.book.container(identity)
    state = context.book.state(record)
    if state != State.RUNNING:
        raise WrongState(f"container {record.id}: is {state}, not running")
    return record


def process(context: Context, record: ContainerRecord, request: ExecRequest) -> dict[str, Any]:
    """The container's own process with another command."""
    if not request.argv:
        raise BadRequest("cmd: missing")
    if any("\0" in argument for argument in request.argv):
        raise BadRequest("cmd: an argument holds a NUL byte")
    built: dict[str, Any] = container.process_of(context, record)
    built["args"] = list(request.argv)
    built["terminal"] = request.tty
    built.pop("consoleSize", None)
    if request.tty and request.console[0]:
        built["consoleSize"] = {"width": request.console[0], "height": request.console[1]}
    if request.tty and not any(line.startswith("TERM=") for line in built["env"]):
        built["env"].append("TERM=xterm")
    for name, value in request.envs:
        built["env"] = [line for line in built["env"] if not line.startswith(f"{name}=")] + [f"{name}={value}"]
    if request.working_dir:
        built["cwd"] = request.working_dir
    if request.user:
        built["user"] = user_of(record, request.user)
    return built


def user_of(record: ContainerRecord, text: str) -> dict[str, Any]:
    """`user[:group]` looked up in the container as it is now."""
    import os

    from cri.engine.bundle import text_of
    from runtime.linux.quick_dataclasses import replace

    root = os.open(f"/proc/{record.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        plain = replace(record.request, run_as_user=None, run_as_group=None, run_as_username="")
        found = users.resolve(plain, text, text_of(root, "etc/passwd"), text_of(root, "etc/group"))
    except Refused as e:
        raise BadRequest(str(e)) from None
    finally:
        os.close(root)
    return {"uid": found.uid, "gid": found.gid, "additionalGids": list(found.groups)}


def open_exec(context: Context, request: ExecRequest, timeout_seconds: float | None = None) -> keep.Session:
    """Start a process; the session is the caller's."""
    record = running(context, request.container_id)
    asked = keep.ExecRequest(
        id=record.id,
        process=process(context, record, request),
        tty=request.tty,
        stdin=request.stdin,
        timeout_seconds=timeout_seconds,
    )
    try:
        return context.keep.exec(asked)
    except keep.KeepError as e:
        raise _failed(record, request, e) from e


def exec_sync(context: Context, request: ExecRequest, timeout_seconds: float | None) -> keep.ExecResult:
    """Run it to its end. A timeout kills it and all that it started."""
    record = running(context, request.container_id)
    with phase("config"):
        built = process(context, record, request)
    try:
        with phase("exec"):
            return context.keep.exec_sync(
                keep.ExecRequest(id=record.id, process=built, timeout_seconds=timeout_seconds),
                started=until_nobody_waits,
            )
    except keep.ExecTimeout as e:
        raise TimedOut(f"container {record.id}: {request.argv[0]!r} timed out after {timeout_seconds} s") from e
    except keep.KeepError as e:
        raise _failed(record, request, e) from e


def _failed(record: ContainerRecord, request: ExecRequest, error: keep.KeepError) -> Failed:
    """One sentence; each layer that the error came through has begun its own."""
    reason = str(error)
    for said in (f"cannot exec in container {record.id}: ", "exec failed: "):
        reason = reason.removeprefix(said)
    named = reason.startswith("exec: ")
    return Failed(f"container {record.id}: " + (reason if named else f"exec of {request.argv[0]!r}: {reason}"))


def until_nobody_waits(session: keep.Session) -> None:
    """A caller that goes away takes its program with it."""

    def kill() -> None:
        try:
            session.kill()
        except (keep.KeepError, OSError):
            return  # it has ended, which is what every call that runs to its end looks like here

    waiting = patience.caller()
    if waiting is not None:
        waiting.when_gone(kill)


def attach(context: Context, identity: str, *, stdin: bool, stdout: bool, stderr: bool) -> keep.Session:
    record = running(context, identity)
    try:
        return context.keep.attach(record.id, stdin=stdin and record.request.stdin, stdout=stdout, stderr=stderr)
    except keep.KeepError as e:
        raise Failed(f"container {record.id}: attach: {e}") from e


def reopen_log(context: Context, identity: str) -> None:
    record = running(context, identity)
    try:
        context.keep.reopen_log(record.id)
    except keep.KeepError as e:
        raise Failed(f"container {record.id}: its log could not be opened again: {e}") from e
