# SPDX-License-Identifier: Apache-2.0
"""A start without an interpreter in the child: what the spawner has prepared travels to the keeper, which runs it."""

import os
from typing import Any

from runtime import quick_create, record
from runtime.errors import RuntimeFailure
from runtime.keep import native, oom, seed, standing
from runtime.linux import program
from runtime.linux.program import EXECUTED
from runtime.plan.flat import NotFlat


def prepare(state_dir: str, request: dict[str, Any]) -> quick_create.Prepared | None:
    """In the spawner: everything but the init; None where it must be done the long way, which finds the words."""
    if request["handler"] or request["tty"]:
        return None
    if seed.fd < 0:
        return None
    try:
        program.opened()
        return quick_create.prepare(native.create_request(request, state_dir), standing.give_back_in)
    except (OSError, ValueError, RuntimeFailure, NotFlat):
        return None


def packed(prepared: quick_create.Prepared) -> dict[str, Any]:
    """For a message to the keeper; with it go the lock of the record and the program, as memory to be mapped: what a
    keeper copies for a moment stays its own for ever, and there are many keepers."""
    return {
        "directory": prepared.entry.directory,
        "facts": prepared.entry.facts(),
        "memory_cgroup": prepared.memory_cgroup,
        "oom_kills": oom.kills(prepared.memory_cgroup),
    }


class QuickStart:
    """In the keeper: the init, from its birth to its execve."""

    def __init__(self, given: dict[str, Any], act: int, memory: int, stdio: list[int]) -> None:
        self._given = given
        self.entry = record.Record(given["directory"], given["facts"])
        self.report = quick_create.give_birth(self.entry, act, memory, stdio, seed.fd)
        self.pid = self.entry.pid

    def executed(self) -> bool:
        """Once the report has ended: whether by execve."""
        said = os.read(self.report, 64)
        os.close(self.report)
        self.report = -1
        return said == EXECUTED

    def answer(self) -> dict[str, Any]:
        """What a starter would have told."""
        known = ("memory_cgroup", "oom_kills")
        found = {"pid": self.pid, "start_time": self.entry.start_time, "fds": []}
        return {**found, **{name: self._given[name] for name in known}}


def undo(given: dict[str, Any]) -> None:
    """In a child of the keeper: take down what was prepared, so that it can be made the long way."""
    quick_create.undo(record.Record(given["directory"], given["facts"]))
