# SPDX-License-Identifier: Apache-2.0
"""linux.resources as writes of control files, for cgroup v1 and v2; pure."""

from __future__ import annotations

from runtime.linux.steps import Step
from runtime.spec.reader import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.linux.cgroup import Group
    from runtime.spec.model import CPU, BlockIO, Memory, Resources, ThrottleDevice


class CgroupWrite(Step):
    """One control file and its value. An optional one may be missing on this kernel: then a warning suffices."""

    __slots__ = ("controller", "file", "optional", "value", "where")

    def __init__(self, controller: str, file: str, value: str, where: str, *, optional: bool = False) -> None:
        self.controller = controller
        self.file = file
        self.value = value
        self.where = where
        self.optional = optional

    def describe(self) -> str:
        return f"limit {self.file} = {self.value}"

    def apply(self, context: Group) -> None:
        try:
            context.write(self.controller, self.file, self.value)
        except OSError as error:
            if self.optional and error.errno in (1, 2, 13, 22, 30, 95):
                return
            raise


def plan(resources: Resources, *, v2: bool) -> list[CgroupWrite]:
    """All writes except the device filter."""
    writes: list[CgroupWrite] = []
    if resources.memory is not None:
        writes += memory_v2(resources.memory) if v2 else memory_v1(resources.memory)
    if resources.cpu is not None:
        writes += cpu_v2(resources.cpu) if v2 else cpu_v1(resources.cpu)
    if resources.pids_limit is not None:
        value = "max" if resources.pids_limit < 0 else str(resources.pids_limit)
        writes.append(CgroupWrite("pids", "pids.max", value, "linux.resources.pids.limit"))
    if resources.block_io is not None:
        writes += io_v2(resources.block_io) if v2 else io_v1(resources.block_io)
    writes += _hugepages(resources, v2=v2)
    writes += _network(resources, v2=v2)
    writes += _rdma(resources)
    writes += _unified(resources, v2=v2)
    return writes


def _unlimited(value: int, word: str = "max") -> str:
    return word if value < 0 else str(value)


# --- memory ---


def memory_v1(memory: Memory) -> list[CgroupWrite]:
    """Order matters: the kernel wants limit <= memsw at every moment; on a new group both start unlimited."""
    where = "linux.resources.memory."
    writes = []
    if memory.limit is not None:
        writes.append(CgroupWrite("memory", "memory.limit_in_bytes", str(memory.limit), where + "limit"))
    swap = memory.swap
    if swap is None and memory.limit == -1:
        swap = -1
    if swap is not None:
        if memory.limit is not None and memory.limit > 0 and 0 <= swap < memory.limit:
            raise SpecError(
                where + "swap", f"{swap} is memory and swap together, so it cannot be below the limit {memory.limit}"
            )
        writes.append(
            CgroupWrite(
                "memory", "memory.memsw.limit_in_bytes", str(swap), where + "swap", optional=memory.swap is None
            )
        )
        if swap == -1:
            writes.reverse()
    if memory.reservation is not None:
        writes.append(
            CgroupWrite("memory", "memory.soft_limit_in_bytes", str(memory.reservation), where + "reservation")
        )
    if memory.kernel is not None and memory.kernel != 0:
        file = "memory.kmem.limit_in_bytes"  # a no-op since 5.4, gone since 6.1 or so
        writes.append(CgroupWrite("memory", file, str(memory.kernel), where + "kernel", optional=True))
    if memory.kernel_tcp is not None and memory.kernel_tcp != 0:
        file = "memory.kmem.tcp.limit_in_bytes"
        writes.append(CgroupWrite("memory", file, str(memory.kernel_tcp), where + "kernelTCP", optional=True))
    if memory.swappiness is not None:
        if memory.swappiness > 100:
            raise SpecError(where + "swappiness", f"expected 0 to 100, got {memory.swappiness}")
        writes.append(CgroupWrite("memory", "memory.swappiness", str(memory.swappiness), where + "swappiness"))
    if memory.disable_oom_killer:
        writes.append(CgroupWrite("memory", "memory.oom_control", "1", where + "disableOOMKiller"))
    if memory.use_hierarchy:
        writes.append(CgroupWrite("memory", "memory.use_hierarchy", "1", where + "useHierarchy", optional=True))
    return writes


def memory_v2(memory: Memory) -> list[CgroupWrite]:
    """v1's swap is memory and swap together, v2's is swap alone."""
    where = "linux.resources.memory."
    writes = []
    limit = memory.limit
    if memory.swap is not None or limit == -1:
        swap = memory.swap if memory.swap is not None else -1
        if swap > 0:
            if limit is None or limit <= 0:
                raise SpecError(
                    where + "swap", "on cgroup v2 a swap limit needs a memory limit, of which it is the rest"
                )
            if swap < limit:
                raise SpecError(
                    where + "swap", f"{swap} is memory and swap together, so it cannot be below the limit {limit}"
                )
        value = "max" if swap < 0 else str(swap - limit if limit and limit > 0 and swap > 0 else 0)
        if swap != 0:
            writes.append(
                CgroupWrite("memory", "memory.swap.max", value, where + "swap", optional=value in ("max", "0"))
            )
    if limit is not None and limit != 0:
        writes.append(CgroupWrite("memory", "memory.max", _unlimited(limit), where + "limit"))
    if memory.reservation is not None and memory.reservation != 0:
        writes.append(CgroupWrite("memory", "memory.low", _unlimited(memory.reservation), where + "reservation"))
    if memory.disable_oom_killer:
        raise SpecError(where + "disableOOMKiller", "cgroup v2 cannot switch off the OOM killer")
    return writes


# --- cpu ---


def cpu_v1(cpu: CPU) -> list[CgroupWrite]:
    """The period before the quota: their ratio is checked against the parent at each write."""
    where = "linux.resources.cpu."
    pairs = [
        ("cpu", "cpu.shares", cpu.shares or None, "shares"),
        ("cpu", "cpu.cfs_period_us", cpu.period or None, "period"),
        ("cpu", "cpu.cfs_quota_us", cpu.quota or None, "quota"),
        ("cpu", "cpu.cfs_burst_us", cpu.burst, "burst"),
        ("cpu", "cpu.rt_period_us", cpu.realtime_period or None, "realtimePeriod"),
        ("cpu", "cpu.rt_runtime_us", cpu.realtime_runtime or None, "realtimeRuntime"),
        ("cpu", "cpu.idle", cpu.idle, "idle"),
        ("cpuset", "cpuset.cpus", cpu.cpus or None, "cpus"),
        ("cpuset", "cpuset.mems", cpu.mems or None, "mems"),
    ]
    return [CgroupWrite(name, file, str(value), where + key) for name, file, value, key in pairs if value is not None]


def cpu_weight(shares: int) -> int:
    """v1 shares (2..262144, default 1024) on the scale of v2 weights (1..10000, default 100).

    The curve of runc 1.3.2 and crun 1.23: exact at the ends and at the default, where the old straight line gave 39.
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    import math

    power = math.log2(shares)
    exponent = (power * power + 125 * power) / 612 - 7 / 34
    return math.ceil(10**exponent)


def cpu_v2(cpu: CPU) -> list[CgroupWrite]:
    """Quota and period are one file; real-time groups do not exist on v2."""
    where = "linux.resources.cpu."
    writes = []
    if cpu.idle is not None:
        writes.append(CgroupWrite("cpu", "cpu.idle", str(cpu.idle), where + "idle"))
    if cpu.shares:
        optional = bool(cpu.idle)  # an idle group takes no weight
        writes.append(
            CgroupWrite("cpu", "cpu.weight", str(cpu_weight(cpu.shares)), where + "shares", optional=optional)
        )
    if cpu.quota or cpu.period:
        quota = "max" if not cpu.quota or cpu.quota < 0 else str(cpu.quota)
        writes.append(CgroupWrite("cpu", "cpu.max", f"{quota} {cpu.period or 100000}", where + "quota"))
    if cpu.burst is not None:
        writes.append(CgroupWrite("cpu", "cpu.max.burst", str(cpu.burst), where + "burst"))
    if cpu.realtime_runtime or cpu.realtime_period:
        raise SpecError(where + "realtimeRuntime", "cgroup v2 has no real-time CPU limits")
    if cpu.cpus:
        writes.append(CgroupWrite("cpuset", "cpuset.cpus", cpu.cpus, where + "cpus"))
    if cpu.mems:
        writes.append(CgroupWrite("cpuset", "cpuset.mems", cpu.mems, where + "mems"))
    return writes


# --- block I/O ---

_THROTTLES = (
    ("read_bps", "blkio.throttle.read_bps_device", "rbps", "throttleReadBpsDevice"),
    ("write_bps", "blkio.throttle.write_bps_device", "wbps", "throttleWriteBpsDevice"),
    ("read_iops", "blkio.throttle.read_iops_device", "riops", "throttleReadIOPSDevice"),
    ("write_iops", "blkio.throttle.write_iops_device", "wiops", "throttleWriteIOPSDevice"),
)


def io_v1(block_io: BlockIO) -> list[CgroupWrite]:
    """BFQ's files where only they exist: the weight files of CFQ went with Linux 5.0."""
    where = "linux.resources.blockIO."
    writes = []
    if block_io.weight:
        writes.append(CgroupWrite("blkio", "blkio.bfq.weight", str(block_io.weight), where + "weight", optional=True))
        writes.append(CgroupWrite("blkio", "blkio.weight", str(block_io.weight), where + "weight", optional=True))
    if block_io.leaf_weight:
        writes.append(
            CgroupWrite("blkio", "blkio.leaf_weight", str(block_io.leaf_weight), where + "leafWeight", optional=True)
        )
    for device in block_io.weight_devices:
        name = f"{device.major}:{device.minor}"
        if device.weight:
            files = ("blkio.bfq.weight_device", "blkio.weight_device")
            value = f"{name} {device.weight}"
            writes += [CgroupWrite("blkio", file, value, where + "weightDevice", optional=True) for file in files]
        if device.leaf_weight:
            value = f"{name} {device.leaf_weight}"
            writes.append(
                CgroupWrite("blkio", "blkio.leaf_weight_device", value, where + "weightDevice", optional=True)
            )
    for field, file, _, key in _THROTTLES:
        throttles: tuple[ThrottleDevice, ...] = getattr(block_io, field)
        writes += [CgroupWrite("blkio", file, f"{t.major}:{t.minor} {t.rate}", where + key) for t in throttles]
    return writes


def io_v2(block_io: BlockIO) -> list[CgroupWrite]:
    """io.bfq.weight has BFQ's scale (1..1000), io.weight its own (1..10000)."""
    where = "linux.resources.blockIO."
    writes = []
    if block_io.weight:
        weight = block_io.weight
        scaled = 1 + (weight - 10) * 9999 // 990 if weight >= 10 else 1
        writes.append(CgroupWrite("io", "io.bfq.weight", str(weight), where + "weight", optional=True))
        writes.append(CgroupWrite("io", "io.weight", f"default {scaled}", where + "weight", optional=True))
    for device in block_io.weight_devices:
        value = f"{device.major}:{device.minor} {device.weight}"
        if device.weight:
            writes += [CgroupWrite("io", "io.bfq.weight", value, where + "weightDevice", optional=True)]
    for field, _, word, key in _THROTTLES:
        throttles: tuple[ThrottleDevice, ...] = getattr(block_io, field)
        for t in throttles:
            value = f"{t.major}:{t.minor} {word}={t.rate or 'max'}"
            writes.append(CgroupWrite("io", "io.max", value, where + key))
    return writes


# --- the rest ---


def _hugepages(resources: Resources, *, v2: bool) -> list[CgroupWrite]:
    writes = []
    for size, limit in resources.hugepages:
        where = f"linux.resources.hugepageLimits ({size})"
        if v2:
            writes.append(CgroupWrite("hugetlb", f"hugetlb.{size}.max", str(limit), where))
            writes.append(CgroupWrite("hugetlb", f"hugetlb.{size}.rsvd.max", str(limit), where, optional=True))
        else:
            writes.append(CgroupWrite("hugetlb", f"hugetlb.{size}.limit_in_bytes", str(limit), where))
            writes.append(
                CgroupWrite("hugetlb", f"hugetlb.{size}.rsvd.limit_in_bytes", str(limit), where, optional=True)
            )
    return writes


def _network(resources: Resources, *, v2: bool) -> list[CgroupWrite]:
    if v2:
        return []  # net_cls and net_prio have no v2 form; firewalls match cgroup paths there
    writes = []
    if resources.network_class is not None:
        value = str(resources.network_class)
        writes.append(CgroupWrite("net_cls", "net_cls.classid", value, "linux.resources.network.classID"))
    for name, priority in resources.network_priorities:
        where = "linux.resources.network.priorities"
        writes.append(CgroupWrite("net_prio", "net_prio.ifpriomap", f"{name} {priority}", where))
    return writes


def _rdma(resources: Resources) -> list[CgroupWrite]:
    writes = []
    for device, handles, objects in resources.rdma:
        words = [device]
        words += [f"hca_handle={handles}"] if handles is not None else []
        words += [f"hca_object={objects}"] if objects is not None else []
        writes.append(CgroupWrite("rdma", "rdma.max", " ".join(words), f"linux.resources.rdma.{device}"))
    return writes


def _unified(resources: Resources, *, v2: bool) -> list[CgroupWrite]:
    if not resources.unified:
        return []
    if not v2:
        raise SpecError("linux.resources.unified", "these are files of cgroup v2, and this host has cgroup v1")
    writes = []
    for file, value in resources.unified.items():
        where = f"linux.resources.unified.{file}"
        writes += [CgroupWrite(file.partition(".")[0], file, line, where) for line in value.splitlines() or [""]]
    return writes
