# SPDX-License-Identifier: Apache-2.0
"""events: what a container uses, in runc's JSON, and a line when the kernel killed for memory."""

from __future__ import annotations

import os
import sys

from runtime.linux import json_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.linux.cgroup import Group
    from runtime.record import Record

USER_HZ = 100


def event(entry: Record, group: Group) -> dict[str, Any]:
    """One statistics event."""
    return {"type": "stats", "id": entry.id, "data": statistics(group, entry)}


def statistics(group: Group, entry: Record) -> dict[str, Any]:
    """cpu, cpuset, memory, pids, blkio, hugetlb."""
    facts = _v2(group) if entry.cgroup_v2 else _v1(group)
    return facts | {"intel_rdt": {}, "network_interfaces": None}


def _flat(text: str | None) -> dict[str, int]:
    """Lines of a key and a number."""
    found = {}
    for line in (text or "").splitlines():
        key, _, value = line.partition(" ")
        if value.lstrip("-").isdigit():
            found[key] = int(value)
    return found


def _number(text: str | None) -> int:
    if text is None or not text.strip().isdigit():
        return 0 if text is None else (1 << 64) - 1
    return int(text)


def _entry(group: Group, controller: str, prefix: str) -> dict[str, int]:
    return {
        "limit": _number(group.read(controller, f"{prefix}.limit_in_bytes")),
        "usage": _number(group.read(controller, f"{prefix}.usage_in_bytes")),
        "max": _number(group.read(controller, f"{prefix}.max_usage_in_bytes")),
        "failcnt": _number(group.read(controller, f"{prefix}.failcnt")),
    }


def _v1(group: Group) -> dict[str, Any]:
    stat = _flat(group.read("memory", "memory.stat"))
    cpu = _flat(group.read("cpuacct", "cpuacct.stat"))
    throttling = _flat(group.read("cpu", "cpu.stat"))
    per_cpu = [int(word) for word in (group.read("cpuacct", "cpuacct.usage_percpu") or "").split()]
    tick = 1_000_000_000 // USER_HZ
    return {
        "cpu": {
            "usage": {
                "total": _number(group.read("cpuacct", "cpuacct.usage")),
                "percpu": per_cpu,
                "kernel": cpu.get("system", 0) * tick,
                "user": cpu.get("user", 0) * tick,
            },
            "throttling": _throttling(throttling, "throttled_time", 1),
        },
        "cpuset": {},
        "memory": {
            "cache": stat.get("total_cache", stat.get("cache", 0)),
            "usage": _entry(group, "memory", "memory"),
            "swap": _entry(group, "memory", "memory.memsw"),
            "kernel": _entry(group, "memory", "memory.kmem"),
            "kernelTCP": _entry(group, "memory", "memory.kmem.tcp"),
            "raw": stat,
        },
        "pids": _pids(group),
        "blkio": {"ioServiceBytesRecursive": _blkio_v1(group, "blkio.throttle.io_service_bytes_recursive")},
        "hugetlb": {},
    }


def _throttling(stat: dict[str, int], time_key: str, factor: int) -> dict[str, int]:
    return {
        "periods": stat.get("nr_periods", 0),
        "throttledPeriods": stat.get("nr_throttled", 0),
        "throttledTime": stat.get(time_key, 0) * factor,
    }


def _pids(group: Group) -> dict[str, int]:
    limit = group.read("pids", "pids.max")
    facts = {"current": _number(group.read("pids", "pids.current"))}
    if limit is not None and limit != "max":
        facts["limit"] = int(limit)
    return facts


def _blkio_v1(group: Group, file: str) -> list[dict[str, Any]]:
    found = []
    for line in (group.read("blkio", file) or "").splitlines():
        words = line.split()
        if len(words) == 3:
            major, minor = words[0].split(":")
            found.append({"major": int(major), "minor": int(minor), "op": words[1], "value": int(words[2])})
    return found


def _v2(group: Group) -> dict[str, Any]:
    cpu = _flat(group.read("cpu", "cpu.stat"))
    stat = _flat(group.read("memory", "memory.stat"))
    events = _flat(group.read("memory", "memory.events"))
    return {
        "cpu": {
            "usage": {
                "total": cpu.get("usage_usec", 0) * 1000,
                "kernel": cpu.get("system_usec", 0) * 1000,
                "user": cpu.get("user_usec", 0) * 1000,
            },
            "throttling": _throttling(cpu, "throttled_usec", 1000),
        },
        "cpuset": {},
        "memory": {
            "cache": stat.get("file", 0),
            "usage": {
                "limit": _number(group.read("memory", "memory.max")),
                "usage": _number(group.read("memory", "memory.current")),
                "max": _number(group.read("memory", "memory.peak")),
                "failcnt": events.get("max", 0),
            },
            "swap": {
                "limit": _number(group.read("memory", "memory.swap.max")),
                "usage": _number(group.read("memory", "memory.swap.current")),
                "failcnt": 0,
            },
            "kernel": {"usage": stat.get("kernel", 0)},
            "raw": stat,
        },
        "pids": _pids(group),
        "blkio": {"ioServiceBytesRecursive": _io_v2(group)},
        "hugetlb": {},
    }


def _io_v2(group: Group) -> list[dict[str, Any]]:
    names = {"rbytes": "Read", "wbytes": "Write", "dbytes": "Discard"}
    found = []
    for line in (group.read("io", "io.stat") or "").splitlines():
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key in names:
                found.append({"major": int(major), "minor": int(minor), "op": names[key], "value": int(value)})
    return found


def oom_kills(group: Group, *, v2: bool) -> int:
    """How often the kernel has killed a process of this group for memory."""
    file = "memory.events" if v2 else "memory.oom_control"
    return _flat(group.read("memory", file)).get("oom_kill", 0)


def watch(entry: Record, group: Group, seconds: float) -> None:
    """A statistics event per interval and an `oom` event per kill, until the container has ended."""
    import select

    from runtime.linux import processes

    pidfd = processes.open_pidfd(entry.pid, entry.start_time)
    if pidfd is None:
        return
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    killed = oom_kills(group, v2=entry.cgroup_v2)
    while True:
        _print(event(entry, group))
        ended = bool(poller.poll(seconds * 1000))
        now = oom_kills(group, v2=entry.cgroup_v2)
        for _ in range(killed, now):
            _print({"type": "oom", "id": entry.id})
        killed = now
        if ended:
            os.close(pidfd)
            return


def _print(document: dict[str, Any]) -> None:
    sys.stdout.write(json_text.dumps(document) + "\n")
    sys.stdout.flush()
