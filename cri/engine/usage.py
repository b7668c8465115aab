# SPDX-License-Identifier: Apache-2.0
"""What a cgroup uses, read from its files: the same numbers from v1 and v2."""

from __future__ import annotations

import os
import time

from runtime.linux import cgroup
from runtime.linux.quick_dataclasses import dataclass, field

UNLIMITED = 1 << 62  # v1 shows `no limit` as the largest multiple of the page size
USER_HZ = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Pressure:
    """One line of a pressure file; the total in microseconds."""

    total: int = 0
    avg10: float = 0.0
    avg60: float = 0.0
    avg300: float = 0.0


@dataclass(frozen=True, slots=True)
class Stall:
    """All tasks stalled, or some."""

    full: Pressure = Pressure()
    some: Pressure = Pressure()


@dataclass(frozen=True, slots=True)
class Cpu:
    total_ns: int = 0
    user_ns: int = 0
    system_ns: int = 0
    periods: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0
    pressure: Stall | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    usage: int = 0
    max_usage: int = 0
    limit: int = 0
    working_set: int = 0
    rss: int = 0
    cache: int = 0
    kernel: int = 0
    mapped_file: int = 0
    active_file: int = 0
    inactive_file: int = 0
    page_faults: int = 0
    major_page_faults: int = 0
    swap: int = 0
    swap_limit: int = 0
    failures: int = 0
    oom_kills: int = 0
    pressure: Stall | None = None

    @property
    def available(self) -> int:
        return max(0, self.limit - self.working_set) if self.limit else 0


@dataclass(frozen=True, slots=True)
class Device:
    """What one block device did for the group."""

    major: int
    minor: int
    read_bytes: int = 0
    write_bytes: int = 0
    reads: int = 0
    writes: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """One look at a group; a part is None where its controller is not there."""

    time_ns: int
    cpu: Cpu | None = None
    memory: Memory | None = None
    processes: int | None = None
    devices: tuple[Device, ...] = ()
    io_pressure: Stall | None = None


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0


@dataclass(frozen=True, slots=True)
class Tasks:
    """What only a walk over the processes tells."""

    processes: int = 0
    threads: int = 0
    descriptors: int = 0
    sockets: int = 0
    limits: dict[str, int] = field(default_factory=dict)


def look(group: cgroup.Group, *, full: bool = False) -> Usage | None:
    """None when the group is gone. Without `full` only what stats show: a file less is 20 us less, times 500 pods."""
    if group.v2:
        return look_v2(group)
    return look_v1(group) if full else glance_v1(group)


def glance_v1(group: cgroup.Group) -> Usage | None:
    """Processor time, memory and processes."""
    spent = group.read("cpuacct", "cpuacct.usage")
    current = group.read("memory", "memory.usage_in_bytes")
    if spent is None and current is None:
        return None
    pids = group.read("pids", "pids.current")
    return Usage(
        time_ns=time.time_ns(),
        cpu=None if spent is None else Cpu(total_ns=number(spent)),
        memory=None if current is None else glance_memory_v1(group, int(current)),
        processes=None if pids is None else number(pids),
    )


def glance_memory_v1(group: cgroup.Group, used: int) -> Memory:
    text = group.read("memory", "memory.stat") or ""
    # The file is sorted, and the totals stand together at its end.
    stat = pairs(text[max(0, text.find("total_cache")) :])
    inactive = stat.get("total_inactive_file", 0)
    return Memory(
        usage=used,
        limit=limit(group.read("memory", "memory.limit_in_bytes")),
        working_set=max(0, used - inactive),
        rss=stat.get("total_rss", 0),
        page_faults=stat.get("total_pgfault", 0),
        major_page_faults=stat.get("total_pgmajfault", 0),
        swap=stat.get("total_swap", 0),
    )


def pairs(text: str | None) -> dict[str, int]:
    """`name value` lines."""
    found = {}
    for line in (text or "").splitlines():
        name, _, value = line.partition(" ")
        if value.isdecimal():
            found[name] = int(value)
    return found


def number(text: str | None) -> int:
    """A single number; `max` and nothing are 0."""
    return int(text) if text is not None and text.strip().lstrip("-").isdecimal() else 0


def limit(text: str | None) -> int:
    value = number(text)
    return 0 if value >= UNLIMITED or value < 0 else value


def pressure(text: str | None) -> Stall | None:
    """A *.pressure file; None where the kernel has no PSI."""
    if not text:
        return None
    found: dict[str, Pressure] = {}
    for line in text.splitlines():
        kind, *words = line.split()
        values = dict(word.split("=", 1) for word in words)
        found[kind] = Pressure(
            int(values["total"]), float(values["avg10"]), float(values["avg60"]), float(values["avg300"])
        )
    return Stall(found.get("full", Pressure()), found.get("some", Pressure()))


def look_v2(group: cgroup.Group) -> Usage | None:
    stat = group.read("cpu", "cpu.stat")
    if stat is None:
        return None
    return Usage(
        time_ns=time.time_ns(),
        cpu=cpu_v2(pairs(stat), pressure(group.read("cpu", "cpu.pressure"))),
        memory=memory_v2(group),
        processes=number(group.read("pids", "pids.current")),
        devices=devices_v2(group.read("io", "io.stat")),
        io_pressure=pressure(group.read("io", "io.pressure")),
    )


def cpu_v2(stat: dict[str, int], stall: Stall | None) -> Cpu:
    return Cpu(
        total_ns=stat.get("usage_usec", 0) * 1000,
        user_ns=stat.get("user_usec", 0) * 1000,
        system_ns=stat.get("system_usec", 0) * 1000,
        periods=stat.get("nr_periods", 0),
        throttled_periods=stat.get("nr_throttled", 0),
        throttled_ns=stat.get("throttled_usec", 0) * 1000,
        pressure=stall,
    )


def memory_v2(group: cgroup.Group) -> Memory | None:
    current = group.read("memory", "memory.current")
    if current is None:
        return None
    stat = pairs(group.read("memory", "memory.stat"))
    events = pairs(group.read("memory", "memory.events"))
    usage, inactive = int(current), stat.get("inactive_file", 0)
    return Memory(
        usage=usage,
        max_usage=number(group.read("memory", "memory.peak")),
        limit=limit(group.read("memory", "memory.max")),
        working_set=max(0, usage - inactive),
        rss=stat.get("anon", 0),
        cache=stat.get("file", 0),
        kernel=stat.get("kernel", 0),
        mapped_file=stat.get("file_mapped", 0),
        active_file=stat.get("active_file", 0),
        inactive_file=inactive,
        page_faults=stat.get("pgfault", 0),
        major_page_faults=stat.get("pgmajfault", 0),
        swap=number(group.read("memory", "memory.swap.current")),
        swap_limit=limit(group.read("memory", "memory.swap.max")),
        failures=events.get("max", 0),
        oom_kills=events.get("oom_kill", 0),
        pressure=pressure(group.read("memory", "memory.pressure")),
    )


def devices_v2(text: str | None) -> tuple[Device, ...]:
    found = []
    for line in (text or "").splitlines():
        name, *words = line.split()
        if not words:
            continue
        major, _, minor = name.partition(":")
        values = {key: int(value) for key, _, value in (word.partition("=") for word in words) if value.isdecimal()}
        found.append(
            Device(
                int(major),
                int(minor),
                values.get("rbytes", 0),
                values.get("wbytes", 0),
                values.get("rios", 0),
                values.get("wios", 0),
            )
        )
    return tuple(found)


def look_v1(group: cgroup.Group) -> Usage | None:
    cpu = cpu_v1(group)
    memory = memory_v1(group)
    if cpu is None and memory is None:
        return None
    pids = group.read("pids", "pids.current")
    return Usage(
        time_ns=time.time_ns(),
        cpu=cpu,
        memory=memory,
        processes=None if pids is None else number(pids),
        devices=devices_v1(group),
    )


def cpu_v1(group: cgroup.Group) -> Cpu | None:
    total = group.read("cpuacct", "cpuacct.usage")
    if total is None:
        return None
    ticks = pairs(group.read("cpuacct", "cpuacct.stat"))
    stat = pairs(group.read("cpu", "cpu.stat"))
    return Cpu(
        total_ns=number(total),
        user_ns=ticks.get("user", 0) * (10**9 // USER_HZ),
        system_ns=ticks.get("system", 0) * (10**9 // USER_HZ),
        periods=stat.get("nr_periods", 0),
        throttled_periods=stat.get("nr_throttled", 0),
        throttled_ns=stat.get("throttled_time", 0),
    )


def memory_v1(group: cgroup.Group) -> Memory | None:
    current = group.read("memory", "memory.usage_in_bytes")
    if current is None:
        return None
    stat = pairs(group.read("memory", "memory.stat"))
    control = pairs(group.read("memory", "memory.oom_control"))
    usage, inactive = int(current), stat.get("total_inactive_file", 0)
    most = limit(group.read("memory", "memory.limit_in_bytes"))
    both = limit(group.read("memory", "memory.memsw.limit_in_bytes"))
    return Memory(
        usage=usage,
        max_usage=number(group.read("memory", "memory.max_usage_in_bytes")),
        limit=most,
        working_set=max(0, usage - inactive),
        rss=stat.get("total_rss", 0),
        cache=stat.get("total_cache", 0),
        kernel=number(group.read("memory", "memory.kmem.usage_in_bytes")),
        mapped_file=stat.get("total_mapped_file", 0),
        active_file=stat.get("total_active_file", 0),
        inactive_file=inactive,
        page_faults=stat.get("total_pgfault", 0),
        major_page_faults=stat.get("total_pgmajfault", 0),
        swap=stat.get("total_swap", 0),
        swap_limit=max(0, both - most) if both and most else 0,
        failures=number(group.read("memory", "memory.failcnt")),
        oom_kills=control.get("oom_kill", 0),
    )


def devices_v1(group: cgroup.Group) -> tuple[Device, ...]:
    """From the throttling layer: it sees every device, whatever its scheduler."""
    found: dict[tuple[int, int], dict[str, int]] = {}
    for file, names in (
        ("blkio.throttle.io_service_bytes", ("read_bytes", "write_bytes")),
        ("blkio.throttle.io_serviced", ("reads", "writes")),
    ):
        for line in (group.read("blkio", file) or "").splitlines():
            words = line.split()
            if len(words) != 3 or words[1] not in ("Read", "Write"):
                continue
            major, _, minor = words[0].partition(":")
            held = found.setdefault((int(major), int(minor)), {})
            held[names[words[1] == "Write"]] = int(words[2])
    return tuple(Device(major, minor, **held) for (major, minor), held in sorted(found.items()))


def interfaces(pid: int) -> tuple[Interface, ...]:
    """The links of a process's network namespace, without the loopback."""
    try:
        with open(f"/proc/{pid}/net/dev") as file:
            lines = file.read().splitlines()[2:]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ()
    found = []
    for line in lines:
        name, _, rest = line.partition(":")
        values = [int(word) for word in rest.split()]
        if name.strip() != "lo" and len(values) >= 12:
            rx, tx = values[:4], values[8:12]
            found.append(Interface(name.strip(), *rx, *tx))
    return tuple(found)


LIMITS = {
    "Max cpu time": "cpu",
    "Max file size": "fsize",
    "Max data size": "data",
    "Max stack size": "stack",
    "Max core file size": "core",
    "Max resident set": "rss",
    "Max processes": "nproc",
    "Max open files": "nofile",
    "Max locked memory": "memlock",
    "Max address space": "as",
    "Max file locks": "locks",
    "Max pending signals": "sigpending",
    "Max msgqueue size": "msgqueue",
    "Max nice priority": "nice",
    "Max realtime priority": "rtprio",
    "Max realtime timeout": "rttime",
}


def soft_limits(pid: int) -> dict[str, int]:
    """Of one process; -1 is unlimited."""
    try:
        with open(f"/proc/{pid}/limits") as file:
            lines = file.read().splitlines()[1:]
    except (FileNotFoundError, ProcessLookupError):
        return {}
    found = {}
    for line in lines:
        name, word = line[:26].strip(), line[26:].split()[0]
        if name in LIMITS:
            found[LIMITS[name]] = -1 if word == "unlimited" else int(word)
    return found


def tasks(pids: list[int], init: int) -> Tasks:
    """Threads, descriptors and sockets of all processes of a group."""
    threads = descriptors = sockets = processes = 0
    for pid in pids:
        try:
            threads += len(os.listdir(f"/proc/{pid}/task"))
            names = os.listdir(f"/proc/{pid}/fd")
        except (FileNotFoundError, ProcessLookupError):
            continue
        processes += 1
        descriptors += len(names)
        for name in names:
            try:
                sockets += os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:")
            except OSError:
                continue
    return Tasks(processes, threads, descriptors, sockets, soft_limits(init))
