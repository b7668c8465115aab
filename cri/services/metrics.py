# SPDX-License-Identifier: Apache-2.0
"""Metrics under the names that cAdvisor has made common: what each is called, and how it is filled."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from cri.engine import usage
from cri.engine.stats import ContainerUsage, PodUsage, Stats
from proto import cri_pb2 as pb
from runtime.linux.quick_dataclasses import dataclass

BASE = ("pod", "namespace", "container", "id", "image")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
LINK = (*BASE, "interface")
DISK = (*BASE, "device")


@dataclass(frozen=True, slots=True)
class Descriptor:
    name: str
    help: str
    labels: tuple[str, ...] = BASE
    gauge: bool = False


def _many(prefix: str, labels: tuple[str, ...], entries: dict[str, str], *, gauge: bool) -> list[Descriptor]:
    return [Descriptor(f"container_{prefix}{name}", text, labels, gauge) for name, text in entries.items()]


# cAdvisor has these for whole devices; dashboards and Kubernetes' own tests expect the names for containers too.
_NOT_COUNTED = "the kernel does not count it per cgroup, so 0"
_NOT_PER_CONTAINER = {
    "io_time_seconds_total": "Time with requests under way",
    "io_time_weighted_seconds_total": "The same, times their number",
    "read_seconds_total": "Time spent reading",
    "reads_merged_total": "Reads merged",
    "sector_reads_total": "Sectors read",
    "sector_writes_total": "Sectors written",
    "write_seconds_total": "Time spent writing",
    "writes_merged_total": "Writes merged",
}
DESCRIPTORS: tuple[Descriptor, ...] = (
    *_many(
        "cpu_",
        BASE,
        {
            "user_seconds_total": "Time spent in user mode, in seconds.",
            "system_seconds_total": "Time spent in the kernel, in seconds.",
            "usage_seconds_total": "All processor time, in seconds.",
            "cfs_periods_total": "Enforcement periods that have passed.",
            "cfs_throttled_periods_total": "Enforcement periods in which it was throttled.",
            "cfs_throttled_seconds_total": "How long it was throttled, in seconds.",
        },
        gauge=False,
    ),
    *_many(
        "memory_",
        BASE,
        {
            "cache": "Page cache, in bytes.",
            "rss": "Anonymous memory, in bytes.",
            "kernel_usage": "Memory of the kernel on its behalf, in bytes.",
            "mapped_file": "Mapped files, in bytes.",
            "swap": "Swap in use, in bytes.",
            "failcnt": "How often usage hit the limit (cgroup v1; on v2 the number of max events).",
            "usage_bytes": "All memory, in bytes.",
            "max_usage_bytes": "The most that was ever used, in bytes.",
            "working_set_bytes": "Memory without the page cache that could be dropped, in bytes.",
            "total_active_file_bytes": "Page cache that was used lately, in bytes.",
            "total_inactive_file_bytes": "Page cache that was not used lately, in bytes.",
        },
        gauge=True,
    ),
    Descriptor("container_memory_failures_total", "Page faults.", (*BASE, "failure_type", "scope")),
    Descriptor("container_oom_events_total", "How often the kernel killed a process of it for memory."),
    *_many(
        "fs_",
        DISK,
        {
            "inodes_free": "Inodes left within its own limit: 0, a writable layer has none.",
            "inodes_total": "Inodes that its writable layer takes.",
            "io_current": f"Requests under way; {_NOT_COUNTED}.",
            "limit_bytes": "Size of the filesystem of its writable layer.",
            "usage_bytes": "What its writable layer takes.",
        },
        gauge=True,
    ),
    *_many("fs_", DISK, {name: f"{text}; {_NOT_COUNTED}." for name, text in _NOT_PER_CONTAINER.items()}, gauge=False),
    *_many(
        "fs_",
        DISK,
        {
            "reads_bytes_total": "Bytes read.",
            "reads_total": "Reads completed.",
            "writes_bytes_total": "Bytes written.",
            "writes_total": "Writes completed.",
        },
        gauge=False,
    ),
    Descriptor("container_blkio_device_usage_total", "Bytes per device.", (*DISK, "major", "minor", "operation")),
    *_many(
        "network_",
        LINK,
        {
            f"{direction}_{name}_total": f"{what} {verb}."
            for direction, verb in (("receive", "received"), ("transmit", "sent"))
            for name, what in (
                ("bytes", "Bytes"),
                ("packets", "Packets"),
                ("packets_dropped", "Packets dropped that should have been"),
                ("errors", "Errors while packets were"),
            )
        },
        gauge=False,
    ),
    *_many(
        "",
        BASE,
        {
            "processes": "Processes.",
            "file_descriptors": "Open file descriptors.",
            "sockets": "Open sockets.",
            "threads_max": "Threads allowed; 0: no limit.",
            "threads": "Threads.",
        },
        gauge=True,
    ),
    Descriptor("container_ulimits_soft", "Soft limits of its first process; -1: none.", (*BASE, "ulimit"), gauge=True),
    *_many(
        "",
        BASE,
        {
            "last_seen": "When this was measured, in seconds since the epoch.",
            "start_time_seconds": "When it was started, in seconds since the epoch.",
            "spec_cpu_period": "Its enforcement period.",
            "spec_cpu_quota": "Its processor time per period.",
            "spec_cpu_shares": "Its weight.",
            "spec_memory_limit_bytes": "Its memory limit.",
            "spec_memory_reservation_limit_bytes": "Its memory reservation.",
            "spec_memory_swap_limit_bytes": "Its limit of memory and swap.",
        },
        gauge=True,
    ),
    Descriptor("container_hugetlb_usage_bytes", "Huge pages in use.", (*BASE, "pagesize"), gauge=True),
    Descriptor("container_hugetlb_max_usage_bytes", "The most huge pages ever used.", (*BASE, "pagesize"), gauge=True),
    *_many(
        "pressure_",
        BASE,
        {
            f"{resource}_{kind}_seconds_total": f"How long {tasks} waited for {resource}."
            for resource in ("cpu", "io", "memory")
            for kind, tasks in (("stalled", "all tasks"), ("waiting", "some tasks"))
        },
        gauge=False,
    ),
)
GAUGES = frozenset(d.name for d in DESCRIPTORS if d.gauge)


@dataclass(frozen=True, slots=True)
class Sample:
    """A value; extra label values follow the base ones."""

    name: str
    value: int
    extra: tuple[str, ...] = ()


def seconds(nanoseconds: int) -> int:
    return nanoseconds // 10**9


def messages(samples: Iterator[Sample], base: tuple[str, ...]) -> list[Any]:
    now = time.time_ns()
    return [
        pb.Metric(
            name=f"container_{s.name}",
            timestamp=now,
            metric_type=pb.GAUGE if f"container_{s.name}" in GAUGES else pb.COUNTER,
            label_values=(*base, *s.extra),
            value=pb.UInt64Value(value=max(0, s.value)),
        )
        for s in samples
    ]


def of_pod(found: PodUsage, stats: Stats, disk: str) -> Any:
    request = found.record.request
    base = (request.name, request.namespace, "POD", found.record.id, "")
    return pb.PodSandboxMetrics(
        pod_sandbox_id=found.record.id,
        metrics=messages(of_links(found.interfaces), base),
        container_metrics=[
            pb.ContainerMetrics(
                container_id=c.record.id,
                metrics=messages(
                    of_container(c, stats, disk),
                    (request.name, request.namespace, c.record.request.name, c.record.id, c.record.image_name),
                ),
            )
            for c in found.containers
            if c.seen is not None
        ],
    )


def of_links(links: tuple[usage.Interface, ...]) -> Iterator[Sample]:
    for link in links:
        for direction, side in (("receive", "rx"), ("transmit", "tx")):
            for name, part in (
                ("bytes", "bytes"),
                ("packets", "packets"),
                ("packets_dropped", "dropped"),
                ("errors", "errors"),
            ):
                yield Sample(f"network_{direction}_{name}_total", getattr(link, f"{side}_{part}"), (link.name,))


def of_container(found: ContainerUsage, stats: Stats, disk: str) -> Iterator[Sample]:
    seen = found.seen
    assert seen is not None
    if seen.cpu is not None:
        yield from of_cpu(seen.cpu)
    if seen.memory is not None:
        yield from of_memory(seen.memory)
    yield from of_pressure("io", seen.io_pressure)
    yield from of_disk(found, disk)
    yield from of_tasks(stats.tasks(found.record))
    yield from of_limits(found)


def of_cpu(cpu: usage.Cpu) -> Iterator[Sample]:
    yield Sample("cpu_user_seconds_total", seconds(cpu.user_ns))
    yield Sample("cpu_system_seconds_total", seconds(cpu.system_ns))
    yield Sample("cpu_usage_seconds_total", seconds(cpu.total_ns))
    yield Sample("cpu_cfs_periods_total", cpu.periods)
    yield Sample("cpu_cfs_throttled_periods_total", cpu.throttled_periods)
    yield Sample("cpu_cfs_throttled_seconds_total", seconds(cpu.throttled_ns))
    yield from of_pressure("cpu", cpu.pressure)


def of_pressure(resource: str, stall: usage.Stall | None) -> Iterator[Sample]:
    if stall is not None:
        yield Sample(f"pressure_{resource}_stalled_seconds_total", stall.full.total // 10**6)
        yield Sample(f"pressure_{resource}_waiting_seconds_total", stall.some.total // 10**6)


def of_memory(memory: usage.Memory) -> Iterator[Sample]:
    yield Sample("memory_cache", memory.cache)
    yield Sample("memory_rss", memory.rss)
    yield Sample("memory_kernel_usage", memory.kernel)
    yield Sample("memory_mapped_file", memory.mapped_file)
    yield Sample("memory_swap", memory.swap)
    yield Sample("memory_failcnt", memory.failures)
    yield Sample("memory_usage_bytes", memory.usage)
    yield Sample("memory_max_usage_bytes", memory.max_usage)
    yield Sample("memory_working_set_bytes", memory.working_set)
    yield Sample("memory_total_active_file_bytes", memory.active_file)
    yield Sample("memory_total_inactive_file_bytes", memory.inactive_file)
    for kind, count in (("pgfault", memory.page_faults), ("pgmajfault", memory.major_page_faults)):
        yield Sample("memory_failures_total", count, (kind, "container"))
        yield Sample("memory_failures_total", count, (kind, "hierarchy"))
    yield Sample("oom_events_total", memory.oom_kills)
    yield from of_pressure("memory", memory.pressure)


def of_disk(found: ContainerUsage, disk: str) -> Iterator[Sample]:
    filesystem = os.statvfs(disk)
    yield Sample("fs_inodes_free", 0, (disk,))
    yield Sample("fs_inodes_total", found.layer.inodes_used if found.layer is not None else 0, (disk,))
    for name in ("io_current", *_NOT_PER_CONTAINER):
        yield Sample(f"fs_{name}", 0, (disk,))
    yield Sample("fs_limit_bytes", filesystem.f_blocks * filesystem.f_frsize, (disk,))
    yield Sample("fs_usage_bytes", found.layer.used_bytes if found.layer is not None else 0, (disk,))
    assert found.seen is not None
    # Who read all from the page cache has no device in its group: then the layer's, with zeros, as from cAdvisor.
    here = os.stat(disk).st_dev
    for device in found.seen.devices or (usage.Device(os.major(here), os.minor(here)),):
        name = device_name(device)
        yield Sample("fs_reads_bytes_total", device.read_bytes, (name,))
        yield Sample("fs_reads_total", device.reads, (name,))
        yield Sample("fs_writes_bytes_total", device.write_bytes, (name,))
        yield Sample("fs_writes_total", device.writes, (name,))
        for operation, count in (("Read", device.read_bytes), ("Write", device.write_bytes)):
            extra = (name, str(device.major), str(device.minor), operation)
            yield Sample("blkio_device_usage_total", count, extra)


def device_name(device: usage.Device) -> str:
    try:
        return "/dev/" + os.path.basename(os.readlink(f"/sys/dev/block/{device.major}:{device.minor}"))
    except OSError:
        return f"{device.major}:{device.minor}"


def of_tasks(tasks: usage.Tasks) -> Iterator[Sample]:
    yield Sample("processes", tasks.processes)
    yield Sample("file_descriptors", tasks.descriptors)
    yield Sample("sockets", tasks.sockets)
    yield Sample("threads", tasks.threads)
    yield Sample("threads_max", 0)
    for name, limit in tasks.limits.items():
        if limit >= 0:  # the wire has no negative values, so `unlimited` is left out
            yield Sample("ulimits_soft", limit, (name,))


def of_limits(found: ContainerUsage) -> Iterator[Sample]:
    record, limits = found.record, found.record.request.resources
    yield Sample("last_seen", int(time.time()))
    yield Sample("start_time_seconds", seconds(record.started_at))
    yield Sample("spec_cpu_period", limits.cpu_period or 100000)
    if limits.cpu_quota > 0:
        yield Sample("spec_cpu_quota", limits.cpu_quota)
    yield Sample("spec_cpu_shares", limits.cpu_shares or 1024)
    # whole pages, as the kernel keeps it
    yield Sample("spec_memory_limit_bytes", limits.memory_limit_bytes // _PAGE_BYTES * _PAGE_BYTES)
    yield Sample("spec_memory_reservation_limit_bytes", 0)
    yield Sample("spec_memory_swap_limit_bytes", limits.memory_swap_limit_bytes)
