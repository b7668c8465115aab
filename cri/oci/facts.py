# SPDX-License-Identifier: Apache-2.0
"""What the builders of config.json are told about the node, the pod and the image; they look nothing up themselves."""

from __future__ import annotations

from cri.engine.request import IdRange, PodRequest
from runtime.linux.quick_dataclasses import dataclass, field


class Refused(ValueError):
    """A request that cannot be met as it is; the message names the field, and what to try."""


@dataclass(frozen=True, slots=True)
class Node:
    """What this machine offers, and how it is configured."""

    cgroup_version: int = 2
    cgroup_driver: str = "cgroupfs"
    apparmor: bool = False
    selinux: bool = False
    seccomp: bool = True
    # Capabilities that root has here: what is missing from the bounding set cannot be given to anybody.
    capabilities: tuple[str, ...] = ()
    # The lowest oom_score_adj that can be set: without CAP_SYS_RESOURCE it can only be raised.
    oom_score_adj_floor: int = -1000
    nofile: tuple[int, int] = (65536, 524288)
    kernel: tuple[int, int] = (6, 1)
    hugepage_sizes: tuple[str, ...] = ()
    default_cgroup_parent: str = "/ketch"
    # Where a container without a seccomp field runs: nil means unconfined on the wire.
    swap: bool = True


@dataclass(frozen=True, slots=True)
class PodPlace:
    """Where the pod's shared things lie. An empty namespace path means the node's own namespace."""

    id: str
    request: PodRequest
    hostname: str
    network_namespace: str = ""
    ipc_namespace: str = ""
    uts_namespace: str = ""
    pid_namespace: str = ""
    user_namespace: str = ""
    uids: tuple[IdRange, ...] = ()
    gids: tuple[IdRange, ...] = ()
    shm: str = ""
    etc_hostname: str = ""
    etc_hosts: str = ""
    resolv_conf: str = ""


@dataclass(frozen=True, slots=True)
class User:
    """Who the container's process is, as numbers; looked up in the container's own files."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


@dataclass(frozen=True, slots=True)
class ImageDefaults:
    """What an image says about how to run it."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Device:
    """A device node of the host, seen."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int
    uid: int = 0
    gid: int = 0
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True)
class BoundMount:
    """A mount whose source has been found: a host path, or a mounted image volume."""

    destination: str
    source: str
    options: tuple[str, ...]
    kind: str = "bind"
    uids: tuple[IdRange, ...] = ()
    gids: tuple[IdRange, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """What was found out about one container before its config.json is written."""

    id: str
    image_name: str
    defaults: ImageDefaults
    user: User
    mounts: tuple[BoundMount, ...] = ()
    devices: tuple[Device, ...] = ()
    target_pid_namespace: str = ""
    seccomp: dict[str, object] | None = None
    apparmor: str = ""
    annotations: dict[str, str] = field(default_factory=dict)
