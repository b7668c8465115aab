# SPDX-License-Identifier: Apache-2.0
"""Usage of containers and pods: read when asked, with what is dear (the size of a writable layer) kept for a while."""

from __future__ import annotations

import queue
import threading
import time

from cri.engine import usage
from cri.engine.book import State
from cri.engine.context import Context
from cri.engine.records import ContainerRecord, PodRecord
from cri.images.errors import ImageError
from cri.images.model import FsUsage
from runtime.linux.quick_dataclasses import dataclass

LAYER_SECONDS = 10.0
PATIENCE_SECONDS = 0.2
RATE_NS = 500_000_000  # two looks closer than this say nothing about a rate


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """One container now."""

    record: ContainerRecord
    seen: usage.Usage | None
    nano_cores: int | None
    layer: FsUsage | None


@dataclass(frozen=True, slots=True)
class PodUsage:
    """One pod now: its own cgroup where it has one, else the sum of its containers."""

    record: PodRecord
    seen: usage.Usage | None
    nano_cores: int | None
    interfaces: tuple[usage.Interface, ...]
    containers: tuple[ContainerUsage, ...]


class Stats:
    """Looks at cgroups; remembers the last look for rates, and the sizes of layers."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._counted = threading.Condition(self._lock)
        # id -> (time, cpu, rate)
        self._last: dict[str, tuple[int, int, int | None]] = {}
        self._layers: dict[str, tuple[float, FsUsage]] = {}
        self._wanted: queue.Queue[str] = queue.Queue()
        self._asked: set[str] = set()
        self._thread: threading.Thread | None = None
        context.book.when_gone.append(self._forget)

    def container(self, record: ContainerRecord, *, full: bool = False, patient: bool = False) -> ContainerUsage:
        """`patient`: a layer that was never counted is waited for, a moment."""
        running = self._context.book.state(record) == State.RUNNING
        seen = usage.look(self._context.cgroups.group(record.cgroups_path), full=full) if running else None
        return ContainerUsage(record, seen, self._rate(record.id, seen), self.layer(record.id, patient=patient))

    def pod(self, record: PodRecord, *, full: bool = False) -> PodUsage:
        members = [self.container(c, full=full) for c in self._context.book.of_pod(record.id)]
        parent = record.request.cgroup_parent
        # A parent that was not given is everybody's: its numbers are not this pod's.
        seen = usage.look(self._context.cgroups.group(self._context.cgroups.of_parent(parent))) if parent else None
        if seen is None:
            seen = total([m.seen for m in members if m.seen is not None])
        pid = next((m.record.pid for m in members if m.seen is not None), record.reaper_pid)
        links = usage.interfaces(pid) if pid and record.netns else ()
        return PodUsage(record, seen, self._rate(record.id, seen), links, tuple(members))

    def tasks(self, record: ContainerRecord) -> usage.Tasks:
        pids = self._context.cgroups.group(record.cgroups_path).processes()
        return usage.tasks(pids, record.pid)

    def _forget(self, identity: str) -> None:
        with self._lock:
            self._last.pop(identity, None)
            self._layers.pop(identity, None)

    def _rate(self, identity: str, seen: usage.Usage | None) -> int | None:
        """Cores in billionths since the last look that was long enough ago."""
        if seen is None or seen.cpu is None:
            return None
        now = time.monotonic_ns()  # the node's clock may be set back
        with self._lock:
            then, spent, rate = self._last.get(identity, (0, 0, None))
            if then and now - then < RATE_NS:
                return rate
            new = max(0, (seen.cpu.total_ns - spent) * 10**9 // (now - then)) if then else None
            if identity in self._context.book:  # else it has just been forgotten, and nobody would forget it again
                self._last[identity] = (now, seen.cpu.total_ns, new)
            return new

    def layer(self, identity: str, *, patient: bool = False) -> FsUsage | None:
        """The size of a writable layer as last counted; counting walks a tree, so it happens beside the call."""
        found = self._ask_for(identity)
        if found is None and patient:
            with self._counted:
                self._counted.wait_for(lambda: identity in self._layers, PATIENCE_SECONDS)
            found = self._layers.get(identity)
        return found[1] if found is not None else None

    def _ask_for(self, identity: str) -> tuple[float, FsUsage] | None:
        with self._lock:
            found = self._layers.get(identity)
            if (found is None or time.monotonic() - found[0] > LAYER_SECONDS) and identity not in self._asked:
                self._asked.add(identity)
                self._wanted.put(identity)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._count, name="layers", daemon=True)
                    self._thread.start()
        return found

    def _count(self) -> None:
        while True:
            identity = self._wanted.get()
            try:
                counted = self._context.images.rootfs_usage(identity)
            except (ImageError, OSError):
                counted = None
            with self._counted:
                self._asked.discard(identity)
                if counted is not None and identity in self._context.book.containers:
                    self._layers[identity] = (time.monotonic(), counted)
                    self._counted.notify_all()


def total(seen: list[usage.Usage]) -> usage.Usage | None:
    """The sum of what containers use."""
    if not seen:
        return None
    cpus = [s.cpu for s in seen if s.cpu is not None]
    memories = [s.memory for s in seen if s.memory is not None]
    return usage.Usage(
        time_ns=max(s.time_ns for s in seen),
        cpu=usage.Cpu(total_ns=sum(c.total_ns for c in cpus)) if cpus else None,
        memory=usage.Memory(
            usage=sum(m.usage for m in memories),
            working_set=sum(m.working_set for m in memories),
            rss=sum(m.rss for m in memories),
            page_faults=sum(m.page_faults for m in memories),
            major_page_faults=sum(m.major_page_faults for m in memories),
            swap=sum(m.swap for m in memories),
        )
        if memories
        else None,
        processes=sum(s.processes or 0 for s in seen),
    )
