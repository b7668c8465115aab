# SPDX-License-Identifier: Apache-2.0
"""SELinux labels of a container: what its process runs as, and what its files are marked with. Pure."""

from __future__ import annotations

from cri.engine.request import ContainerRequest, PodRequest, SELinux
from cri.oci.facts import Node

# What the policies of container-selinux call them. Only files may carry object_r and a type of files.
USER, ROLE, TYPE = "system_u", "system_r", "container_t"
FILE_ROLE, FILE_TYPE = "object_r", "container_file_t"
CATEGORIES = 1024


def level(pod_id: str) -> str:
    """Two categories out of the pod's id: its containers share them, other pods almost surely have others, and
    nothing need be remembered."""
    first, second = int(pod_id[:8], 16) % CATEGORIES, int(pod_id[8:16], 16) % (CATEGORIES - 1)
    second += second >= first
    return f"s0:c{min(first, second)},c{max(first, second)}"


def asked(request: ContainerRequest, pod: PodRequest) -> SELinux:
    """The container's own options, else those of the pod."""
    return request.selinux if request.selinux != SELinux() else pod.selinux


def process_label(request: ContainerRequest, pod: PodRequest, pod_id: str, node: Node) -> str:
    """Nothing where SELinux is off or the container is privileged; parts that nobody named are the policy's usual."""
    if not node.selinux or request.privileged:
        return ""
    options = asked(request, pod)
    parts = (options.user or USER, options.role or ROLE, options.type or TYPE, options.level or level(pod_id))
    return ":".join(parts)


def mount_label(request: ContainerRequest, pod: PodRequest, pod_id: str, node: Node) -> str:
    """The files of that process: the same user and level, the role and the type that files have."""
    if not node.selinux or request.privileged:
        return ""
    options = asked(request, pod)
    return ":".join((options.user or USER, FILE_ROLE, FILE_TYPE, options.level or level(pod_id)))
