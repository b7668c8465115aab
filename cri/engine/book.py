# SPDX-License-Identifier: Apache-2.0
"""What exists, in memory: the records of one owner, indexed by id and by name, and how containers ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from enum import StrEnum

from cri.engine.errors import AlreadyExists, NotFound, WrongState
from cri.engine.records import ContainerPhase, ContainerRecord, PodPhase, PodRecord
from runtime.linux.quick_dataclasses import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    R = TypeVar("R", PodRecord, ContainerRecord)


class State(StrEnum):
    """What a container is. UNKNOWN: it has ended and nobody saw how."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended; no exit_code when nobody saw it."""

    exit_code: int | None
    finished_at: int
    oom: bool = False
    detail: str = ""


def state_of(record: ContainerRecord, ended: Ended | None) -> State:
    """Facts first: an end outweighs everything else."""
    if ended is not None:
        return State.UNKNOWN if ended.exit_code is None else State.EXITED
    return State.RUNNING if record.phase == ContainerPhase.STARTED else State.CREATED


def pod_name(record: PodRecord) -> str:
    request = record.request
    return f"{request.name}_{request.namespace}_{request.uid}_{request.attempt}"


class Book:
    """Every change of a record goes through here, after it has gone to the disk."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.pods: dict[str, PodRecord] = {}
        self.containers: dict[str, ContainerRecord] = {}
        self.ends: dict[str, Ended] = {}
        self.processes: dict[str, Mapping[str, Any]] = {}  # what an exec starts from, of containers that had one
        self.members: dict[str, set[str]] = {}
        self._names: dict[str, str] = {}
        # Told the id of each pod and container that is forgotten: who remembers something of it forgets it, too.
        self.when_gone: list[Callable[[str], None]] = []

    # pods

    def add_pod(self, record: PodRecord) -> None:
        """Take the name; two pods of one name and attempt are a mistake, or a retry of a call that still runs."""
        with self.lock:
            self._take(f"pod {pod_name(record)}", record.id)
            self.pods[record.id] = record
            self.members.setdefault(record.id, set())

    def load_pod(self, record: PodRecord) -> None:
        """One that was there before this process, in any phase."""
        with self.lock:
            self._names.setdefault(f"pod {pod_name(record)}", record.id)
            self.pods[record.id] = record
            self.members.setdefault(record.id, set())

    def pod(self, identity: str) -> PodRecord:
        """By id or by an unambiguous beginning of one."""
        with self.lock:
            return _find(self.pods, identity, "pod sandbox")

    def forget_pod(self, identity: str) -> None:
        with self.lock:
            record = self.pods.pop(identity, None)
            self.members.pop(identity, None)
            if record is not None:
                self._names.pop(f"pod {pod_name(record)}", None)
        self._tell_gone(identity)

    # containers

    def add_container(self, record: ContainerRecord) -> None:
        """In one step with the look at the pod: a pod that is being stopped gets no more members."""
        with self.lock:
            pod = self.pods.get(record.pod_id)
            if pod is None:
                raise NotFound(f"pod sandbox {record.pod_id}: no such pod")
            if pod.phase != PodPhase.READY:
                raise WrongState(f"pod sandbox {record.pod_id}: is {pod.phase}, not ready")
            self._take(self._container_name(record), record.id)
            self.containers[record.id] = record
            self.members[record.pod_id].add(record.id)

    def load_container(self, record: ContainerRecord) -> None:
        """One that was there before this process; its pod may be in any phase."""
        with self.lock:
            self._names.setdefault(self._container_name(record), record.id)
            self.containers[record.id] = record
            self.members.setdefault(record.pod_id, set()).add(record.id)

    def container(self, identity: str) -> ContainerRecord:
        with self.lock:
            return _find(self.containers, identity, "container")

    def forget_container(self, identity: str) -> None:
        with self.lock:
            record = self.containers.pop(identity, None)
            self.ends.pop(identity, None)
            self.processes.pop(identity, None)
            if record is not None:
                self.members.get(record.pod_id, set()).discard(identity)
                self._names.pop(self._container_name(record), None)
        self._tell_gone(identity)

    def of_pod(self, pod_id: str) -> list[ContainerRecord]:
        with self.lock:
            return [self.containers[i] for i in sorted(self.members.get(pod_id, ())) if i in self.containers]

    # both

    def __contains__(self, identity: str) -> bool:
        return identity in self.containers or identity in self.pods

    def _tell_gone(self, identity: str) -> None:
        for tell in self.when_gone:
            tell(identity)

    def is_free(self, seconds: float) -> bool:
        """Whether the lock can be had in that time."""
        if self.lock.acquire(timeout=seconds):
            self.lock.release()
            return True
        return False

    def put(self, record: PodRecord | ContainerRecord) -> None:
        with self.lock:
            if isinstance(record, PodRecord):
                self.pods[record.id] = record
            else:
                self.containers[record.id] = record

    def end(self, identity: str, ended: Ended) -> bool:
        """Note how a container ended; False if that was known, or it is no longer here."""
        with self.lock:
            if identity not in self.containers or identity in self.ends:
                return False
            self.ends[identity] = ended
            return True

    def keep_process(self, identity: str, process: Mapping[str, Any]) -> None:
        with self.lock:
            if identity in self.containers:
                self.processes[identity] = process

    def state(self, record: ContainerRecord) -> State:
        return state_of(record, self.ends.get(record.id))

    def visible_pods(self) -> list[PodRecord]:
        """A pod that is still being made is nobody's business yet."""
        with self.lock:
            return [record for record in self.pods.values() if record.phase != PodPhase.MAKING]

    def visible_containers(self, pod_id: str = "") -> list[ContainerRecord]:
        """All of them, or those of one pod: a kubelet asks for each pod in turn, so that one must not look at all."""
        hidden = (ContainerPhase.MAKING, ContainerPhase.REMOVING)
        with self.lock:
            found = self.of_pod(pod_id) if pod_id else self.containers.values()
            return [record for record in found if record.phase not in hidden]

    def _container_name(self, record: ContainerRecord) -> str:
        return f"container {record.request.name} attempt {record.request.attempt} of pod {record.pod_id}"

    def _take(self, name: str, identity: str) -> None:
        holder = self._names.setdefault(name, identity)
        if holder != identity:
            raise AlreadyExists(f"{name}: the name is taken by {holder}")


def _find(objects: Mapping[str, R], identity: str, what: str) -> R:
    found = objects.get(identity)
    if found is not None:
        return found
    if identity:
        matches = [record for key, record in objects.items() if key.startswith(identity)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise NotFound(f"{what} {identity}: the beginning of {len(matches)} ids; give more of it")
    raise NotFound(f"{what} {identity!r}: no such {what}")


def changed(record: R, **changes: Any) -> R:
    return replace(record, **changes)
