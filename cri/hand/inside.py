# SPDX-License-Identifier: Apache-2.0
"""exec and attach: into a container that runs."""

from __future__ import annotations

import os

from cri.engine import execute
from cri.engine.errors import EngineError
from cri.engine.request import ExecRequest
from cri.hand import look, options, run, terminal
from cri.hand.errors import REFUSED, HandError, need_root
from cri.hand.grammar import Arguments
from cri.hand.places import Places
from cri.hand.room import Room
from runtime.linux.quick_dataclasses import replace


def _running(places: Places, word: str) -> look.Seen:
    seen = look.container(places, word)
    if seen.state() == "paused":
        raise HandError(f"container {seen.name} is paused", hint=f"ketch unpause {seen.name}")
    if seen.state() != "running":
        raise HandError(f"container {seen.name} is not running", hint=f"ketch why {seen.name}")
    return seen


def exec_(arguments: Arguments, places: Places) -> int:
    return exec_in(arguments, places, _running(places, arguments.words[0]), arguments.words[1:])


def exec_in(arguments: Arguments, places: Places, seen: look.Seen, argv: list[str]) -> int:
    """Run argv in it; the exit code is the command's."""
    need_root()
    tty, stdin = arguments.flag("tty"), arguments.flag("interactive")
    if tty and stdin and not os.isatty(0):
        raise HandError("-t needs a terminal, and our input is none", hint="leave out -t", code=REFUSED)
    keys = terminal.detach_keys(arguments.text("detach-keys"))
    console = terminal.size() if tty else (0, 0)
    request = ExecRequest(container_id=seen.id, argv=tuple(argv), tty=tty, stdin=stdin, console=console)
    if arguments.command.words == "exec":
        request = replace(
            request,
            user=arguments.text("user"),
            working_dir=arguments.text("workdir"),
            envs=tuple(options.environment(arguments.many("env"), [], dict(os.environ))),
            privileged=arguments.flag("privileged"),
        )
    with Room(places) as room:
        room.load(seen)
        try:
            session = execute.open_exec(room.context, request)
        except EngineError as e:
            sentence = str(e).replace(f"container {seen.id}: ", "")
            raise HandError(sentence, code=run.failure_code(sentence)) from e
        with session:
            if arguments.command.words == "exec" and arguments.flag("detach"):
                return 0
            code = terminal.Conversation(session, tty=tty, keys=keys, on_signal=None if tty else session.kill).run()
    return 0 if code == terminal.DETACHED else code


def attach(arguments: Arguments, places: Places) -> int:
    """Join it; the exit code is the container's when it ends meanwhile."""
    seen = _running(places, arguments.words[0])
    keys = terminal.detach_keys(arguments.text("detach-keys"))
    with Room(places) as room:
        record = room.load(seen)
        stdin = record.request.stdin and not arguments.flag("no-stdin")
        try:
            session = execute.attach(room.context, record.id, stdin=stdin, stdout=True, stderr=not record.request.tty)
        except EngineError as e:
            raise HandError(str(e)) from e
        code = run.converse(
            room, record.id, session, tty=record.request.tty, keys=keys, proxy=arguments.on("sig-proxy")
        )
    return 0 if code == terminal.DETACHED else code
