# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ARG002 - every RPC has the same two arguments
"""RPCs about usage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from cri.engine import usage
from cri.engine.engine import Engine
from cri.engine.records import ContainerRecord, PodRecord
from cri.engine.stats import ContainerUsage, PodUsage
from cri.services import answer, filters, metrics, wire
from cri.services.images import filesystem
from cri.services.warm import Warm
from proto import cri_pb2 as pb

BATCH = 500
FEW = 4


class StatsService:
    """Stats and metrics of containers and pods."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stats = engine.stats
        self._disk = ""  # the mount point under the writable layers; asking for it counts the whole store
        book = engine.book
        self._warm_containers = Warm[ContainerRecord](
            lambda r: container_stats(self._stats.container(r)), lambda r: (r.id, book.state(r))
        )
        self._warm_pods = Warm[PodRecord](lambda r: pod_stats(self._stats.pod(r)), self._members)
        self._warm_metrics = Warm[PodRecord](self._metrics_of, self._members)

    def _members(self, record: PodRecord) -> tuple[object, ...]:
        """What makes a pod's numbers those of another set of processes."""
        book = self._engine.book
        return (record.id, record.phase, *((c.id, book.state(c)) for c in book.of_pod(record.id)))

    def ContainerStats(self, request: Any, context: Any) -> Any:
        record = self._engine.container(wire.required(request.container_id, "container_id"))
        return pb.ContainerStatsResponse(stats=container_stats(self._stats.container(record, patient=True)))

    def ListContainerStats(self, request: Any, context: Any) -> Any:
        return pb.ListContainerStatsResponse(stats=self._containers(request.filter))

    def StreamContainerStats(self, request: Any, context: Any) -> Iterator[Any]:
        items = self._containers(request.filter)
        for first in range(0, len(items), BATCH):
            yield pb.StreamContainerStatsResponse(container_stats=items[first : first + BATCH])

    def _containers(self, wanted: Any) -> list[Any]:
        records = [r for r in self._engine.containers() if filters.container_named(r, wanted)]
        if len(records) <= FEW:
            return [container_stats(self._stats.container(r, patient=True)) for r in records]
        return self._warm_containers.messages(records)

    def PodSandboxStats(self, request: Any, context: Any) -> Any:
        record = self._engine.pod(wire.required(request.pod_sandbox_id, "pod_sandbox_id"))
        return pb.PodSandboxStatsResponse(stats=pod_stats(self._stats.pod(record)))

    def ListPodSandboxStats(self, request: Any, context: Any) -> Any:
        return pb.ListPodSandboxStatsResponse(stats=self._pods(request.filter))

    def StreamPodSandboxStats(self, request: Any, context: Any) -> Iterator[Any]:
        items = self._pods(request.filter)
        for first in range(0, len(items), BATCH):
            yield pb.StreamPodSandboxStatsResponse(pod_sandbox_stats=items[first : first + BATCH])

    def _pods(self, wanted: Any) -> list[Any]:
        records = [r for r in self._engine.pods() if filters.pod_stats(r, wanted)]
        return self._warm_pods.messages(records)

    def ListMetricDescriptors(self, request: Any, context: Any) -> Any:
        return pb.ListMetricDescriptorsResponse(
            descriptors=[
                pb.MetricDescriptor(name=d.name, help=d.help, label_keys=d.labels) for d in metrics.DESCRIPTORS
            ]
        )

    def ListPodSandboxMetrics(self, request: Any, context: Any) -> Any:
        return pb.ListPodSandboxMetricsResponse(pod_metrics=self._metrics())

    def StreamPodSandboxMetrics(self, request: Any, context: Any) -> Iterator[Any]:
        items = self._metrics()
        for first in range(0, len(items), BATCH):
            yield pb.StreamPodSandboxMetricsResponse(pod_sandbox_metrics=items[first : first + BATCH])

    def _metrics(self) -> list[Any]:
        if not self._disk:
            self._disk = self._engine.images.fs_info().mountpoint
        return self._warm_metrics.messages(self._engine.pods())

    def _metrics_of(self, record: PodRecord) -> Any:
        return metrics.of_pod(self._stats.pod(record, full=True), self._stats, self._disk)


def value(held: int | None) -> Any:
    return None if held is None else pb.UInt64Value(value=held)


def psi(stall: usage.Stall | None) -> Any:
    if stall is None:
        return None
    return pb.PsiStats(Full=psi_data(stall.full), Some=psi_data(stall.some))


def psi_data(line: usage.Pressure) -> Any:
    return pb.PsiData(Total=line.total, Avg10=line.avg10, Avg60=line.avg60, Avg300=line.avg300)


def cpu(seen: usage.Usage, nano_cores: int | None) -> Any:
    if seen.cpu is None:
        return None
    return pb.CpuUsage(
        timestamp=seen.time_ns,
        usage_core_nano_seconds=value(seen.cpu.total_ns),
        usage_nano_cores=value(nano_cores),
        psi=psi(seen.cpu.pressure),
    )


def memory(seen: usage.Usage) -> Any:
    held = seen.memory
    if held is None:
        return None
    return pb.MemoryUsage(
        timestamp=seen.time_ns,
        working_set_bytes=value(held.working_set),
        available_bytes=value(held.available) if held.limit else None,
        usage_bytes=value(held.usage),
        rss_bytes=value(held.rss),
        page_faults=value(held.page_faults),
        major_page_faults=value(held.major_page_faults),
        psi=psi(held.pressure),
    )


def swap(seen: usage.Usage) -> Any:
    held = seen.memory
    if held is None:
        return None
    left = max(0, held.swap_limit - held.swap) if held.swap_limit else 0
    return pb.SwapUsage(timestamp=seen.time_ns, swap_available_bytes=value(left), swap_usage_bytes=value(held.swap))


def container_stats(found: ContainerUsage) -> Any:
    record, seen = found.record, found.seen
    stats = pb.ContainerStats(
        attributes=pb.ContainerAttributes(
            id=record.id,
            metadata=answer.container_metadata(record),
            labels=record.request.labels,
            annotations=record.request.annotations,
        ),
        writable_layer=filesystem(found.layer) if found.layer is not None else None,
    )
    if seen is not None:
        for part, built in (("cpu", cpu(seen, found.nano_cores)), ("memory", memory(seen)), ("swap", swap(seen))):
            if built is not None:
                getattr(stats, part).CopyFrom(built)
        if seen.io_pressure is not None:
            stats.io.CopyFrom(pb.IoUsage(timestamp=seen.time_ns, psi=psi(seen.io_pressure)))
    return stats


def interface(link: usage.Interface) -> Any:
    return pb.NetworkInterfaceUsage(
        name=link.name,
        rx_bytes=value(link.rx_bytes),
        rx_errors=value(link.rx_errors),
        tx_bytes=value(link.tx_bytes),
        tx_errors=value(link.tx_errors),
    )


def pod_stats(found: PodUsage) -> Any:
    record, seen = found.record, found.seen
    linux = pb.LinuxPodSandboxStats(containers=[container_stats(c) for c in found.containers])
    if seen is not None:
        built = {"cpu": cpu(seen, found.nano_cores), "memory": memory(seen)}
        if seen.processes is not None:
            built["process"] = pb.ProcessUsage(timestamp=seen.time_ns, process_count=value(seen.processes))
        if seen.io_pressure is not None:
            built["io"] = pb.IoUsage(timestamp=seen.time_ns, psi=psi(seen.io_pressure))
        for part, message in built.items():
            if message is not None:
                getattr(linux, part).CopyFrom(message)
    if found.interfaces:
        first = next((i for i in found.interfaces if i.name == "eth0"), found.interfaces[0])
        linux.network.CopyFrom(
            pb.NetworkUsage(
                timestamp=time.time_ns(),
                default_interface=interface(first),
                interfaces=[interface(i) for i in found.interfaces if i is not first],
            )
        )
    return pb.PodSandboxStats(
        attributes=pb.PodSandboxAttributes(
            id=record.id,
            metadata=answer.pod_metadata(record),
            labels=record.request.labels,
            annotations=record.request.annotations,
        ),
        linux=linux,
    )
