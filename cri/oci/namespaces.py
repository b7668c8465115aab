# SPDX-License-Identifier: Apache-2.0
"""Which namespaces a container makes, and which it joins."""

from __future__ import annotations

from cri.engine.request import ContainerRequest, Mode, Namespaces
from cri.oci.facts import Node, PodPlace, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def of_container(request: ContainerRequest, pod: PodPlace) -> Namespaces:
    """A container that says nothing has what its pod has."""
    return request.namespaces or pod.request.namespaces


def namespaces(request: ContainerRequest, pod: PodPlace, node: Node, target_pid: str) -> list[dict[str, Any]]:
    """`linux.namespaces`: absent means the node's own."""
    asked = of_container(request, pod)
    built: list[dict[str, Any]] = [{"type": "mount"}]
    if pod.user_namespace:
        built.append({"type": "user", "path": pod.user_namespace})
    for kind, path in (("network", pod.network_namespace), ("uts", pod.uts_namespace), ("ipc", pod.ipc_namespace)):
        if path:
            built.append({"type": kind, "path": path})
    built.extend(pid_namespace(asked, pod, target_pid))
    if node.cgroup_version == 2 and not request.privileged:
        built.append({"type": "cgroup"})
    return built


def pid_namespace(asked: Namespaces, pod: PodPlace, target_pid: str) -> list[dict[str, Any]]:
    if asked.pid == Mode.NODE:
        return []
    if asked.pid == Mode.CONTAINER:
        return [{"type": "pid"}]
    if asked.pid == Mode.TARGET:
        if not target_pid:
            raise Refused("security_context.namespace_options.target_id: no running container of this pod has that id")
        return [{"type": "pid", "path": target_pid}]
    if not pod.pid_namespace:
        # The pod was made for containers with PID namespaces of their own, so there is none to share.
        return [{"type": "pid"}]
    return [{"type": "pid", "path": pod.pid_namespace}]
