# SPDX-License-Identifier: Apache-2.0
"""In the foreground: wait for a program, passing signals on."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal imports enum, 3 ms
import posix

SIGKILL: int = signal.SIGKILL


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
                posix.kill(pid, info.si_signo)
            except ProcessLookupError:
                pass


def reap_until(pid: int) -> int | None:
    """Reap whatever has ended; the status of pid when it is among them."""
    while True:
        try:
            gone, status = posix.waitpid(-1, posix.WNOHANG)
        except ChildProcessError:
            return 255
        if gone == 0:
            return None
        if gone == pid:
            code = posix.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code
