# SPDX-License-Identifier: Apache-2.0
"""What a record and the facts together mean after a restart: pure, and total over every combination."""

from __future__ import annotations

from enum import StrEnum

from cri.engine.records import ContainerPhase, PodPhase
from runtime.linux.quick_dataclasses import dataclass


class PodVerdict(StrEnum):
    KEEP = "keep"
    STOP = "stop"
    REMOVE = "remove"


class ContainerVerdict(StrEnum):
    KEEP = "keep"
    ADOPT = "adopt"
    ENDED = "ended"
    NEVER_RAN = "never ran"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """What is seen now. `kept`: a keeper has written down that it started it."""

    same_boot: bool
    pod_known: bool
    alive: bool
    has_exit: bool
    kept: bool


def judge_pod(phase: PodPhase, *, same_boot: bool, pinned: bool) -> PodVerdict:
    """Half-made and half-stopped things are finished in the direction they were going."""
    if phase == PodPhase.MAKING or not same_boot:
        return PodVerdict.REMOVE
    if phase == PodPhase.STOPPED:
        return PodVerdict.KEEP
    if phase == PodPhase.STOPPING or not pinned:
        return PodVerdict.STOP
    return PodVerdict.KEEP


def judge_container(phase: ContainerPhase, facts: ContainerFacts) -> ContainerVerdict:
    """A container that lives is never touched unless it was being removed."""
    if phase in (ContainerPhase.MAKING, ContainerPhase.REMOVING) or not facts.same_boot or not facts.pod_known:
        return ContainerVerdict.REMOVE
    if phase == ContainerPhase.CREATED:
        return ContainerVerdict.KEEP
    if facts.has_exit:
        return ContainerVerdict.ENDED
    if facts.kept:
        # The call that started it died before it could write the pid down; the keeper's word is the evidence. Whether
        # the process still lives is for the watch to find out.
        return ContainerVerdict.ADOPT
    return ContainerVerdict.NEVER_RAN if phase == ContainerPhase.STARTING or not facts.alive else ContainerVerdict.ADOPT
