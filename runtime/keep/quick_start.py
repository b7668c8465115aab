# SPDX-License-Identifier: Apache-2.0
"""A start without an interpreter in the child: what the spawner has prepared travels to the keeper, which runs it."""

import os
from typing import Any

from runtime import creation, quick_create, record
from runtime.errors import RuntimeFailure
from runtime.keep import native, oom, seed, standing, wire
from runtime.linux import program
from runtime.linux.program import EXECUTED
from runtime.plan.flat import NotFlat


def can_be(request: dict[str, Any]) -> bool:
    """Whether this way is open at all; what else stands against it is found when it is planned."""
    return not (request["handler"] or request["tty"] or seed.fd < 0)


def expect(channel: wire.Connection, request: dict[str, Any]) -> program.Told | None:
    """In the spawner: have the keeper lay out its half and begin a process while we plan what that shall do."""
    try:
        act, told = program.opened(), program.Told()
    except OSError:
        return None
    channel.send({**request, "op": "expect"}, [act, told.memory, told.ready])
    return told


_MOST_FORESEEN = 16
_foreseen: dict[str, quick_create.Planned] = {}


def foresee(state_dir: str, request: dict[str, Any]) -> None:
    """In the spawner: plan a start that will be asked for soon. Nothing is made, so nothing need ever be undone."""
    try:
        planned = _plan(native.create_request(request, state_dir))
    except _REFUSED:
        return
    while len(_foreseen) >= _MOST_FORESEEN:
        _foreseen.pop(next(iter(_foreseen)))
    _foreseen[request["id"]] = planned


def forget(identity: str) -> None:
    """It will not be started any more."""
    _foreseen.pop(identity, None)


def prepare(state_dir: str, request: dict[str, Any], told: program.Told) -> quick_create.Prepared | None:
    """In the spawner: everything but the init; None where it must be done the long way, which finds the words."""
    planned = _foreseen.pop(request["id"], None)
    try:
        asked = native.create_request(request, state_dir)
        if planned is None or not planned.is_of(asked):
            planned = _plan(asked)
        return quick_create.prepare(planned, told)
    except _REFUSED:
        return None


def _plan(asked: creation.CreateRequest) -> quick_create.Planned:
    return quick_create.Planned(asked, standing.give_back_in, waits=True)


_REFUSED = (OSError, ValueError, RuntimeFailure, NotFlat)


def packed(prepared: quick_create.Prepared) -> dict[str, Any]:
    """For a message to the keeper, with which the lock of the record goes."""
    return {
        "directory": prepared.entry.directory,
        "facts": prepared.entry.facts(),
        "memory_cgroup": prepared.memory_cgroup,
        "oom_kills": oom.kills(prepared.memory_cgroup),
    }


def begin(given: list[int], stdio: list[int]) -> quick_create.Init:
    """In the keeper: the process, with what came beside the spawner's word that a container is coming."""
    act, memory, ready = given
    return quick_create.Init(act, memory, stdio, seed.fd, ready)


class QuickStart:
    """In the keeper: the init, from its birth to its execve."""

    def __init__(self, given: dict[str, Any], init: quick_create.Init) -> None:
        self._given = given
        self.entry = record.Record(given["directory"], given["facts"])
        self.report = init.said
        try:
            init.let_go(self.entry)
        except BaseException:
            os.close(self.report)
            raise
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
