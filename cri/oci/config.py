# SPDX-License-Identifier: Apache-2.0
"""config.json of one container, out of a request and what was found out for it."""

from __future__ import annotations

from cri.engine.request import ContainerRequest
from cri.oci import mounts, namespaces, resources, security, selinux
from cri.oci.facts import ContainerFacts, Device, Node, PodPlace
from cri.oci.process import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# How other CRI runtimes name these facts; VM and sandbox runtimes read them, and so do monitoring tools.
TYPE = "io.kubernetes.cri.container-type"
SANDBOX = "io.kubernetes.cri.sandbox-id"


def identity(request: ContainerRequest, pod: PodPlace, facts: ContainerFacts) -> dict[str, str]:
    return {
        **facts.annotations,
        TYPE: "container",
        SANDBOX: pod.id,
        "io.kubernetes.cri.sandbox-name": pod.request.name,
        "io.kubernetes.cri.sandbox-namespace": pod.request.namespace,
        "io.kubernetes.cri.sandbox-uid": pod.request.uid,
        "io.kubernetes.cri.container-name": request.name,
        "io.kubernetes.cri.image-name": facts.image_name,
    }


def linux(request: ContainerRequest, pod: PodPlace, facts: ContainerFacts, node: Node) -> dict[str, Any]:
    masked, readonly = security.hidden_paths(request, pod)
    built: dict[str, Any] = {
        "namespaces": namespaces.namespaces(request, pod, node, facts.target_pid_namespace),
        "cgroupsPath": resources.cgroups_path(pod.request.cgroup_parent, facts.id, node),
        "resources": resources.resources(request.resources, node, facts.devices, privileged=request.privileged),
        "maskedPaths": masked,
        "readonlyPaths": readonly,
        "devices": [device_json(device) for device in facts.devices],
    }
    if pod.user_namespace:
        built["uidMappings"] = mounts.id_map(pod.uids)
        built["gidMappings"] = mounts.id_map(pod.gids)
    if facts.seccomp is not None:
        built["seccomp"] = facts.seccomp
    propagation = mounts.rootfs_propagation(request)
    if propagation:
        built["rootfsPropagation"] = propagation
    label = selinux.mount_label(request, pod.request, pod.id, node)
    if label:
        built["mountLabel"] = label
    return built


def device_json(device: Device) -> dict[str, Any]:
    return {
        "path": device.path,
        "type": device.kind,
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
        "uid": device.uid,
        "gid": device.gid,
    }


def config(
    request: ContainerRequest, pod: PodPlace, facts: ContainerFacts, node: Node, rootfs: str = "rootfs"
) -> dict[str, Any]:
    """The whole file."""
    return {
        "ociVersion": "1.2.0",
        "root": {"path": rootfs, "readonly": request.readonly_rootfs},
        "process": process(request, pod, facts, node),
        "mounts": mounts.mounts(request, pod, facts.mounts),
        "annotations": identity(request, pod, facts),
        "linux": linux(request, pod, facts, node),
    }
