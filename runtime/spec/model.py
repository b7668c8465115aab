# SPDX-License-Identifier: Apache-2.0
"""config.json as frozen types: what the runtime-spec 1.3 lets a bundle ask for on Linux."""

from __future__ import annotations

from runtime.linux.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Root(Frozen):
    """The root file system."""

    path: str
    readonly: bool


class IDMapping(Frozen):
    """One range of ids: inside the namespace and on the host."""

    inside: int
    host: int
    size: int


class Mount(Frozen):
    """One entry of mounts."""

    destination: str
    kind: str
    source: str
    options: tuple[str, ...]
    uid_mappings: tuple[IDMapping, ...]
    gid_mappings: tuple[IDMapping, ...]
    where: str


class Capabilities(Frozen):
    """The five sets; None where the config says nothing."""

    bounding: tuple[str, ...]
    effective: tuple[str, ...]
    inheritable: tuple[str, ...]
    permitted: tuple[str, ...]
    ambient: tuple[str, ...]


class Rlimit(Frozen):
    """One resource limit."""

    kind: str
    soft: int
    hard: int


class Scheduler(Frozen):
    """sched_setattr's arguments."""

    policy: str
    nice: int
    priority: int
    flags: tuple[str, ...]
    runtime: int
    deadline: int
    period: int


class IOPriority(Frozen):
    """ioprio_set's arguments."""

    klass: str
    priority: int


class Process(Frozen):
    """What is executed, as whom, and how confined."""

    terminal: bool
    console_size: tuple[int, int] | None
    cwd: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    uid: int
    gid: int
    umask: int | None
    additional_gids: tuple[int, ...]
    username: str
    capabilities: Capabilities | None
    rlimits: tuple[Rlimit, ...]
    no_new_privileges: bool
    apparmor_profile: str
    selinux_label: str
    oom_score_adj: int | None
    scheduler: Scheduler | None
    io_priority: IOPriority | None
    cpu_affinity_initial: str
    cpu_affinity_final: str


class Hook(Frozen):
    """One program to call at a point of the life."""

    path: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    timeout: int | None
    where: str


class Hooks(Frozen):
    """All hooks, by the point at which they run."""

    prestart: tuple[Hook, ...]
    create_runtime: tuple[Hook, ...]
    create_container: tuple[Hook, ...]
    start_container: tuple[Hook, ...]
    poststart: tuple[Hook, ...]
    poststop: tuple[Hook, ...]


class Namespace(Frozen):
    """A namespace: new, or joined by path."""

    kind: str
    path: str


class Device(Frozen):
    """A device node to make."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int | None
    uid: int
    gid: int


class DeviceRule(Frozen):
    """One rule of the device filter; None for major and minor means any."""

    allow: bool
    kind: str
    major: int | None
    minor: int | None
    access: str


class Memory(Frozen):
    """Memory limits in bytes; -1 is unlimited."""

    limit: int | None
    reservation: int | None
    swap: int | None
    kernel: int | None
    kernel_tcp: int | None
    swappiness: int | None
    disable_oom_killer: bool | None
    use_hierarchy: bool | None
    check_before_update: bool


class CPU(Frozen):
    """CPU time and placement."""

    shares: int | None
    quota: int | None
    burst: int | None
    period: int | None
    realtime_runtime: int | None
    realtime_period: int | None
    cpus: str
    mems: str
    idle: int | None


class WeightDevice(Frozen):
    """The block I/O weight of one device."""

    major: int
    minor: int
    weight: int | None
    leaf_weight: int | None


class ThrottleDevice(Frozen):
    """One throttle: which one is the key in BlockIO."""

    major: int
    minor: int
    rate: int


class BlockIO(Frozen):
    """Block I/O weights and throttles."""

    weight: int | None
    leaf_weight: int | None
    weight_devices: tuple[WeightDevice, ...]
    read_bps: tuple[ThrottleDevice, ...]
    write_bps: tuple[ThrottleDevice, ...]
    read_iops: tuple[ThrottleDevice, ...]
    write_iops: tuple[ThrottleDevice, ...]


class Resources(Frozen):
    """linux.resources."""

    devices: tuple[DeviceRule, ...]
    memory: Memory | None
    cpu: CPU | None
    pids_limit: int | None
    block_io: BlockIO | None
    hugepages: tuple[tuple[str, int], ...]
    network_class: int | None
    network_priorities: tuple[tuple[str, int], ...]
    rdma: tuple[tuple[str, int | None, int | None], ...]
    unified: Mapping[str, str]


class Extensions(Frozen):
    """What crun's annotations ask for beside the specification."""

    keep_original_groups: bool = False
    hooks_stdout: str = ""
    hooks_stderr: str = ""
    pidfd_receiver: str = ""
    seccomp_receiver: str = ""
    seccomp_fail_unknown: bool = False
    seccomp_program: bytes = b""
    mount_context_type: str = "context"
    systemd_v1_at: str = ""


class SyscallArgument(Frozen):
    """One condition on an argument of a system call."""

    index: int
    value: int
    value_two: int
    op: str


class SyscallRule(Frozen):
    """What to do with some system calls."""

    names: tuple[str, ...]
    action: str
    errno_ret: int | None
    args: tuple[SyscallArgument, ...]


class Seccomp(Frozen):
    """linux.seccomp."""

    default_action: str
    default_errno_ret: int | None
    architectures: tuple[str, ...]
    flags: tuple[str, ...]
    listener_path: str
    listener_metadata: str
    syscalls: tuple[SyscallRule, ...]
    fail_unknown: bool = False
    program: bytes = b""


class MemoryPolicy(Frozen):
    """set_mempolicy's arguments."""

    mode: str
    nodes: tuple[int, ...]
    flags: tuple[str, ...]


class Linux(Frozen):
    """The linux section."""

    namespaces: tuple[Namespace, ...]
    uid_mappings: tuple[IDMapping, ...]
    gid_mappings: tuple[IDMapping, ...]
    time_offsets: Mapping[str, tuple[int, int]]
    devices: tuple[Device, ...]
    net_devices: Mapping[str, str]
    cgroups_path: str
    resources: Resources
    rootfs_propagation: str
    seccomp: Seccomp | None
    sysctl: Mapping[str, str]
    masked_paths: tuple[str, ...]
    readonly_paths: tuple[str, ...]
    mount_label: str
    personality: tuple[str, tuple[str, ...]] | None
    memory_policy: MemoryPolicy | None


class Config(Frozen):
    """A whole config.json."""

    oci_version: str
    root: Root
    mounts: tuple[Mount, ...]
    process: Process | None
    hostname: str
    domainname: str
    hooks: Hooks
    annotations: Mapping[str, str]
    extensions: Extensions
    linux: Linux

    def namespace(self, kind: str) -> Namespace | None:
        """The namespace of this kind that the config asks for; None means the host's."""
        for namespace in self.linux.namespaces:
            if namespace.kind == kind:
                return namespace
        return None
