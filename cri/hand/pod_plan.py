# SPDX-License-Identifier: Apache-2.0
"""What a manifest comes to: a pod, its containers, the volumes that must be there first."""

from __future__ import annotations

from cri.engine.request import (
    ContainerRequest,
    PodRequest,
)
from runtime.linux.quick_dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class File:
    """One file of a configMap or secret volume."""

    path: str
    data: bytes
    mode: int


@dataclass(frozen=True, slots=True)
class Volume:
    """What must be there before the containers: a folder of the pod, in memory or on disk, or one of the machine."""

    name: str
    kind: str  # empty, memory, host, files, claim
    host_path: str = ""
    host_type: str = ""
    files: tuple[File, ...] = ()
    claim: str = ""
    size_limit: int = 0


@dataclass(frozen=True, slots=True)
class PodPlan:
    """A pod with all its containers; init containers first, in order. `told` is what the file asks for in vain."""

    pod: PodRequest
    init: tuple[ContainerRequest, ...]
    containers: tuple[ContainerRequest, ...]
    volumes: tuple[Volume, ...]
    pull: dict[str, str] = field(default_factory=dict)  # image -> always, missing, never
    grace_seconds: int = 30
    told: tuple[str, ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()
    needs_ip: bool = False
    where: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Directories:
    """A pod's id, and where its volumes are: on disk, in memory, and the claims that outlive it."""

    id: str
    volumes: str
    secrets: str
    claims: str


@dataclass(slots=True)
class Context:
    """What the parts of a file look up in each other."""

    config_maps: dict[str, dict[str, bytes]]
    secrets: dict[str, dict[str, bytes]]
    told: list[str]
    needs_ip: bool = False
    places: Directories = Directories("", "", "", "")


PLACEHOLDER_IP = "\0podIP\0"  # known only when the pod has joined its network
