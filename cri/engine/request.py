# SPDX-License-Identifier: Apache-2.0
"""What may be asked of the engine: frozen types that both doors, the CRI and the `ketch` command, fill in."""

from __future__ import annotations

from enum import StrEnum

from runtime.linux.quick_dataclasses import dataclass, field


class Mode(StrEnum):
    """Whose namespace: shared in the pod, the container's own, the node's, or another container's."""

    POD = "pod"
    CONTAINER = "container"
    NODE = "node"
    TARGET = "target"


class Propagation(StrEnum):
    """What becomes of mounts made later, on either side of a bind mount."""

    PRIVATE = "private"
    HOST_TO_CONTAINER = "host-to-container"
    BIDIRECTIONAL = "bidirectional"


class ProfileKind(StrEnum):
    RUNTIME_DEFAULT = "runtime-default"
    UNCONFINED = "unconfined"
    LOCALHOST = "localhost"


@dataclass(frozen=True, slots=True)
class Profile:
    """A seccomp or AppArmor profile; the reference names a localhost one."""

    kind: ProfileKind
    reference: str = ""


@dataclass(frozen=True, slots=True)
class IdRange:
    """One line of a uid or gid map."""

    container_id: int
    host_id: int
    length: int


@dataclass(frozen=True, slots=True)
class UserNamespace:
    mode: Mode = Mode.NODE
    uids: tuple[IdRange, ...] = ()
    gids: tuple[IdRange, ...] = ()


@dataclass(frozen=True, slots=True)
class Namespaces:
    network: Mode = Mode.POD
    pid: Mode = Mode.POD
    ipc: Mode = Mode.POD
    target_id: str = ""
    user: UserNamespace = UserNamespace()
    target_anywhere: bool = False  # the target may be in another pod: only people may ask for that


@dataclass(frozen=True, slots=True)
class SELinux:
    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


@dataclass(frozen=True, slots=True)
class PortMapping:
    protocol: str
    container_port: int
    host_port: int
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class Dns:
    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HugepageLimit:
    page_size: str
    limit: int


@dataclass(frozen=True, slots=True)
class Resources:
    """Zero and empty mean: not asked, as on the wire."""

    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_shares: int = 0
    memory_limit_bytes: int = 0
    memory_swap_limit_bytes: int = 0
    oom_score_adj: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    hugepages: tuple[HugepageLimit, ...] = ()
    unified: dict[str, str] = field(default_factory=dict)
    pids_limit: int = 0
    blkio_weight: int = 0
    # (name in config.json, major, minor, bytes or operations a second); only people ask for these.
    throttles: tuple[tuple[str, int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class PodRequest:
    """A pod to run."""

    name: str
    namespace: str
    uid: str
    attempt: int = 0
    hostname: str = ""
    log_directory: str = ""
    dns: Dns | None = None
    port_mappings: tuple[PortMapping, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    cgroup_parent: str = ""
    sysctls: dict[str, str] = field(default_factory=dict)
    overhead: Resources | None = None
    resources: Resources | None = None
    namespaces: Namespaces = Namespaces()
    selinux: SELinux = SELinux()
    run_as_user: int | None = None
    run_as_group: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    privileged: bool = False
    seccomp: Profile | None = None
    apparmor: Profile | None = None
    handler: str = ""
    # Which CNI network list to join; empty: the first one of the configured folder. A person may name one.
    network: str = ""
    network_args: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MountRequest:
    container_path: str
    host_path: str = ""
    readonly: bool = False
    recursive_readonly: bool = False
    relabel: bool = False
    propagation: Propagation = Propagation.PRIVATE
    uids: tuple[IdRange, ...] = ()
    gids: tuple[IdRange, ...] = ()
    image: str = ""
    image_sub_path: str = ""
    options: tuple[str, ...] = ()
    # tmpfs: made by the door of people; a kubelet mounts its own and passes the path
    kind: str = "bind"


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    container_path: str
    host_path: str
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True)
class Rlimit:
    type: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class ContainerRequest:
    """A container to create in a pod."""

    name: str
    image: str
    attempt: int = 0
    user_specified_image: str = ""
    image_annotations: dict[str, str] = field(default_factory=dict)
    image_handler: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    envs: tuple[tuple[str, str], ...] = ()
    mounts: tuple[MountRequest, ...] = ()
    devices: tuple[DeviceRequest, ...] = ()
    cdi_devices: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    log_path: str = ""
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    stop_signal: str = ""
    resources: Resources = Resources()
    add_capabilities: tuple[str, ...] = ()
    drop_capabilities: tuple[str, ...] = ()
    ambient_capabilities: tuple[str, ...] = ()
    privileged: bool = False
    namespaces: Namespaces | None = None
    selinux: SELinux = SELinux()
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_username: str = ""
    readonly_rootfs: bool = False
    supplemental_groups: tuple[int, ...] = ()
    supplemental_group_names: tuple[str, ...] = ()  # of the image's /etc/group
    strict_groups: bool = False
    no_new_privileges: bool = False
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    seccomp: Profile | None = None
    apparmor: Profile | None = None
    rlimits: tuple[Rlimit, ...] = ()
    # Columns and rows of the terminal from the first moment on; a kubelet tells them only later.
    console: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """A further process in a running container."""

    container_id: str
    argv: tuple[str, ...]
    tty: bool = False
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    user: str = ""
    working_dir: str = ""
    envs: tuple[tuple[str, str], ...] = ()
    privileged: bool = False
    console: tuple[int, int] = (0, 0)
