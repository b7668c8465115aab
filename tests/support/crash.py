# SPDX-License-Identifier: Apache-2.0
"""Crash points: stop or kill a process at its n-th system call, or at its n-th record write, before the call happens.

    for n in crash.every_point(build, only=crash.RECORD_WRITES):    # until build runs to its end
        with crash.held_at(["ketch-runtime", "create", "x"], n):    # looks at what the world is like at that moment
            ...

A tracer is forked that traces the target and all its descendants with ptrace; the target is a command or a function.
"""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support import kernel

Target = Sequence[str] | Callable[[], object]

# The calls that make a record appear, change or vanish (runtime/linux/durable.py).
RECORD_WRITES = ("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat")

_START_MARK = "getpgrp"  # what a function under test calls first: the interpreter's own calls before it do not count


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the run ended: reached says whether there was an n-th call; calls counts those that matched."""

    reached: bool
    calls: int
    call: str  # the name of the n-th call, or of the last one that matched
    pid: int  # who was about to make it
    exit_code: int | None  # of the target, negative for a signal; None while it is held
    by_name: dict[str, int]  # how often each matching call was made
    processes: int  # how many the target and its descendants forked (threads are not processes)


def kill_at(target: Target, n: int, *, only: Collection[str] = (), everyone: bool = False) -> Outcome:
    """Run target and kill whoever makes the n-th matching call (everyone: all of its family), just before the call."""
    with _traced(target, n, only, "kill-everyone" if everyone else "kill") as (outcome, _):
        return outcome


def count(target: Target, *, only: Collection[str] = ()) -> int:
    """How many matching calls target and its descendants make when nothing happens to them."""
    return kill_at(target, 0, only=only).calls


def profile(target: Target) -> Outcome:
    """Every call that target and its descendants make, by name, and how many processes they fork."""
    return kill_at(target, 0)


def every_point(target: Target, *, only: Collection[str] = (), everyone: bool = False) -> Iterator[tuple[int, Outcome]]:
    """Kill target at its first, second, ... call until it reaches its end; the caller checks the world in between."""
    n = 1
    while True:
        outcome = kill_at(target, n, only=only, everyone=everyone)
        yield n, outcome
        if not outcome.reached:
            return
        n += 1


@contextlib.contextmanager
def held_at(target: Target, n: int, *, only: Collection[str] = ()) -> Iterator[Outcome]:
    """Run target up to its n-th matching call and hold it there; after the block it goes on to its end.

    Kill the held process (outcome.pid) inside the block to see what its death there means.
    """
    with _traced(target, n, only, "hold") as (outcome, _):
        yield outcome


@contextlib.contextmanager
def _traced(target: Target, n: int, only: Collection[str], action: str) -> Iterator[tuple[Outcome, int]]:
    reader, writer = os.pipe()
    resume_reader, resume_writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    tracer = os.fork()
    if tracer == 0:
        os.close(reader)
        os.close(resume_writer)
        _be_the_tracer(_Tracing(n, numbers(only), action), target, writer, resume_reader)
    os.close(writer)
    os.close(resume_reader)
    try:
        with os.fdopen(reader, "rb") as stream:
            line = stream.readline()
            if not line:
                raise RuntimeError("the tracer died; its message is on stderr")
            yield Outcome(**json.loads(line)), tracer
    finally:
        os.close(resume_writer)
        os.waitpid(tracer, 0)


def _be_the_tracer(tracing: "_Tracing", target: Target, writer: int, resume: int) -> None:
    try:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        tracing.run(target, writer, resume)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


class _Tracing:
    """The loop of the tracer: every stop of every traced thread is answered here."""

    def __init__(self, n: int, numbers: frozenset[int], action: str) -> None:
        self.n = n
        self.numbers = numbers
        self.action = action
        self.root = 0
        self.counting = False
        self.calls = 0
        self.last = -1
        self.reached = False
        self.hit_pid = 0
        self.exit_code: int | None = None
        self.by_number: Counter[int] = Counter()
        self.processes = 0

    def run(self, target: Target, writer: int, resume: int) -> None:
        self.start_mark = numbers((_START_MARK,)) if callable(target) else frozenset()
        self.root = start_held(target, (writer, resume))
        _continue(self.root, 0)
        while True:
            try:
                pid, status = os.waitpid(-1, WALL)
            except ChildProcessError:
                break
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                if pid == self.root:
                    self.exit_code = os.waitstatus_to_exitcode(status)
                continue
            self._answer(pid, status, writer, resume)
        if not (self.reached and self.action == "hold"):
            self._report(writer)

    def _answer(self, pid: int, status: int, writer: int, resume: int) -> None:
        stop_signal, event = status >> 8 & 0xFF, status >> 16
        if stop_signal == signal.SIGTRAP | 0x80:
            if self._is_the_point(pid):
                self._act(pid, writer, resume)
            _continue(pid, 0)
        elif event == _EVENT_STOP and stop_signal != signal.SIGTRAP:
            kernel.ptrace(kernel.PTRACE_LISTEN, pid, 0, 0)  # a group stop, as SIGSTOP makes: stay stopped
        elif event:
            self.processes += self.counting and event in _EVENTS_FORK and _forked_a_process(pid)
            if event == _EVENT_EXEC and pid == self.root and not self.start_mark:
                self.counting = True
            _continue(pid, 0)
        else:
            _continue(pid, stop_signal)  # a signal on its way to the process

    def _is_the_point(self, pid: int) -> bool:
        number = kernel.system_call_entered(pid)
        if number is None:
            return False
        if not self.counting:
            self.counting = pid == self.root and number in self.start_mark
            return False
        if self.numbers and number not in self.numbers:
            return False
        self.calls += 1
        self.last = number
        self.by_number[number] += 1
        return self.calls == self.n

    def _act(self, pid: int, writer: int, resume: int) -> None:
        self.reached = True
        self.hit_pid = pid
        if self.action == "hold":
            self._report(writer)
            os.read(resume, 1)  # ends when the test closes its side
        elif self.action == "kill-everyone":
            for each in _family(os.getpid()):
                _kill(each)
        else:
            _kill(pid)

    def _report(self, writer: int) -> None:
        names = {number: name for name, number in _table().items()}
        data = {
            "reached": self.reached,
            "calls": self.calls,
            "call": names.get(self.last, ""),
            "pid": self.hit_pid or self.root,
            "exit_code": self.exit_code,
            "by_name": {names[number]: count for number, count in self.by_number.items()},
            "processes": self.processes,
        }
        os.write(writer, json.dumps(data).encode() + b"\n")


def start_held(target: Target, private: tuple[int, ...] = ()) -> int:
    """Fork the target and seize it while it waits; it goes on, to its first stop, when it is told to."""
    _table()  # asks the compiler once, and not in the target
    gate_reader, gate_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        for fd in (gate_writer, *private):
            os.close(fd)
        _be_the_target(target, gate_reader)
    os.close(gate_reader)
    kernel.ptrace(kernel.PTRACE_SEIZE, pid, 0, _OPTIONS)
    kernel.ptrace(kernel.PTRACE_INTERRUPT, pid, 0, 0)
    os.waitpid(pid, WALL)
    os.close(gate_writer)
    return pid


def seize(pid: int, options: int = 0) -> None:
    """Stop a process that runs already, as its tracer; detach() lets it go on."""
    kernel.ptrace(kernel.PTRACE_SEIZE, pid, 0, _SYSGOOD | options)
    kernel.ptrace(kernel.PTRACE_INTERRUPT, pid, 0, 0)
    os.waitpid(pid, WALL)


def step_to(pid: int, name: str) -> None:
    """Let a seized process go on to its next call of this name, and stop it before it makes it."""
    wanted = numbers((name,))
    while True:
        kernel.ptrace(kernel.PTRACE_SYSCALL, pid, 0, 0)
        os.waitpid(pid, WALL)
        if kernel.system_call_entered(pid) in wanted:
            return


def next_child(pid: int) -> int:
    """Let a process that was seized with FORKS go on to its next fork; its child is held, and it itself let go."""
    kernel.ptrace(kernel.PTRACE_CONT, pid, 0, 0)
    while os.waitpid(pid, WALL)[1] >> 16 not in _EVENTS_FORK:
        kernel.ptrace(kernel.PTRACE_CONT, pid, 0, 0)
    child = kernel.ptrace_event_message(pid)
    os.waitpid(child, WALL)
    detach(pid)
    return child


def detach(pid: int) -> None:
    kernel.ptrace(kernel.PTRACE_DETACH, pid, 0, 0)


def _be_the_target(target: Target, gate: int) -> None:
    code = 1
    try:
        os.read(gate, 1)
        os.close(gate)
        if not callable(target):
            os.execvp(target[0], list(target))
        os.getpgrp()
        target()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _forked_a_process(pid: int) -> bool:
    """Whether what a traced thread has just made is a process, and not one more thread."""
    made = kernel.ptrace_event_message(pid)
    with contextlib.suppress(FileNotFoundError):
        return f"\nTgid:\t{made}\n" in Path(f"/proc/{made}/status").read_text()
    return True


def _continue(pid: int, with_signal: int) -> None:
    # A thread that was killed between its stop and this answer is gone: the wait says so.
    with contextlib.suppress(ProcessLookupError):
        kernel.ptrace(kernel.PTRACE_SYSCALL, pid, 0, with_signal)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _family(pid: int) -> list[int]:
    """All descendants: the tracer is their subreaper, so none has escaped."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in (task / "children").read_text().split():
                found += [int(child), *_family(int(child))]
    return found


@functools.cache
def _table() -> dict[str, int]:
    """System call numbers by name, from the headers of this architecture."""
    command = ["cc", "-E", "-dM", "-x", "c", "-include", "sys/syscall.h", "/dev/null"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    defined = (line.split() for line in lines if line.startswith("#define __NR_"))
    return {fields[1][5:]: int(fields[2]) for fields in defined if len(fields) == 3 and fields[2].isdigit()}


def numbers(names: Collection[str]) -> frozenset[int]:
    table = _table()
    if names and not any(name in table for name in names):
        raise ValueError(f"no system call of this architecture is named {', '.join(names)}")
    return frozenset(table[name] for name in names if name in table)  # arm64 has no rename, only renameat


WALL = 0x40000000
_EVENT_EXEC, _EVENT_STOP = 4, 128
_EVENTS_FORK = (1, 2, 3)  # fork, vfork, clone
_SYSGOOD = 0x1
FORKS = 0x2 | 0x4 | 0x8  # FORK, VFORK, CLONE
# and EXEC, and EXITKILL: a tracer that dies takes the traced along
_OPTIONS = _SYSGOOD | FORKS | 0x10 | 0x100000
