# SPDX-License-Identifier: Apache-2.0
"""run: create and start in one go; in the foreground with signals passed on, the exit status returned, all removed."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal imports enum, 3 ms
import os
import sys

from runtime import create, remove
from runtime.commands import life

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli import Options
    from runtime.create import Created


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
    if not request.console_socket:
        terminal = _own_terminal(request, detach=detach)
    created = create.create(request)
    life.show_warnings(settings, created)
    try:
        create.release(created)
    except BaseException:
        remove.remove(created.record, run_hooks=True)
        _reap(created.record.pid)
        raise
    if detach:
        return 0
    return _attend(settings, created, terminal, keep=options.flag("--keep"))


def _own_terminal(request: create.CreateRequest, *, detach: bool) -> object | None:
    from runtime import own_terminal

    return own_terminal.offer(request, detach=detach)


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def _attend(settings: Options, created: Created, terminal: object | None, *, keep: bool) -> int:
    """Wait for the init, passing signals on; then remove the container."""
    pid = created.record.pid
    if terminal is not None:
        from runtime import own_terminal

        status = own_terminal.attend(terminal, pid)
    else:
        status = wait_passing_signals(pid)
    if status == 128 + signal.SIGKILL:
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


def wait_passing_signals(pid: int) -> int:
    """The exit status of a child, 128 + signal if one killed it; our own signals are its."""
    passed = set(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGURG, 32, 33}
    signal.pthread_sigmask(signal.SIG_BLOCK, passed | {signal.SIGCHLD})
    while True:
        done = reap_until(pid)
        if done is not None:
            return done
        info = signal.sigwaitinfo(passed | {signal.SIGCHLD})
        if info.si_signo != signal.SIGCHLD:
            try:
                os.kill(pid, info.si_signo)
            except ProcessLookupError:
                pass


def reap_until(pid: int) -> int | None:
    """Reap whatever has ended; the status of pid when it is among them."""
    while True:
        try:
            gone, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 255
        if gone == 0:
            return None
        if gone == pid:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code
