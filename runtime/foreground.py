# SPDX-License-Identifier: Apache-2.0
"""run: create and start in one go; in the foreground with signals passed on, the exit status returned, all removed."""

from __future__ import annotations

import posix
import sys

from runtime import attending, creation, quick_create, remove
from runtime.commands import life

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli import Options
    from runtime.creation import Created, CreateRequest


def run(settings: Options, options: Options) -> int:
    """Run a container; its exit status is ours."""
    request = life.request_from(settings, options)
    request.hold = False
    detach = options.flag("--detach", "-d")
    if not detach and not options.flag("--no-subreaper"):
        from runtime.linux import syscalls
        from runtime.linux._core import lib

        syscalls.prctl(lib.PR_SET_CHILD_SUBREAPER, 1)
    terminal = None
    request.config = creation.read_config(request.config_path)
    process = request.config[1].process
    if not request.console_socket and process is not None and process.terminal:
        from runtime import own_terminal  # loads signal and tty: as long as all the rest

        terminal = own_terminal.offer(request, detach=detach)
    created = quick_create.run(request) if terminal is None else None
    if created is None:
        created = _make(settings, request)
    else:
        life.show_warnings(settings, created)
    if detach:
        return 0
    return _attend(settings, created, terminal, keep=options.flag("--keep"))


def _make(settings: Options, request: CreateRequest) -> Created:
    """The long way, with an interpreter in the init."""
    from runtime import create

    created = create.create(request)
    life.show_warnings(settings, created)
    try:
        create.release(created)
    except BaseException:
        remove.remove(created.record, run_hooks=True)
        _reap(created.record.pid)
        raise
    return created


def _reap(pid: int) -> None:
    try:
        posix.waitpid(pid, 0)
    except ChildProcessError:
        pass


def _attend(settings: Options, created: Created, terminal: object | None, *, keep: bool) -> int:
    """Wait for the init, passing signals on; then remove the container."""
    pid = created.record.pid
    if terminal is not None:
        from runtime import own_terminal

        status = own_terminal.attend(terminal, pid)
    else:
        status = attending.wait_passing_signals(pid)
    if status == 128 + attending.SIGKILL:
        tell_of_memory(settings, created)
    if not keep:
        remove.remove(created.record, run_hooks=True)
    return status


def tell_of_memory(settings: Options, created: Created) -> None:
    """A kill that nobody asked for: which group, which limit, which victim. Before the group and its counters go."""
    sentence = remove.killed_for_memory(created.record)
    if sentence:
        from runtime.cli import log_line

        log_line(settings.value("--log"), sentence, as_json=settings.value("--log-format") == "json", level="warning")
        sys.stderr.write(f"ketch-runtime: {sentence}\n")
