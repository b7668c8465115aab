# SPDX-License-Identifier: Apache-2.0
"""Limits of a container and the name of its cgroup."""

from __future__ import annotations

from cri.engine.request import Resources
from cri.oci.facts import Device, Node, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEVICE_RULES: tuple[dict[str, Any], ...] = ({"allow": False, "access": "rwm"},)


def cgroups_path(parent: str, container_id: str, node: Node) -> str:
    """What kubelet and monitoring expect: PARENT/ID, or cri-containerd-ID.scope in the slice (cAdvisor's pattern)."""
    if node.cgroup_driver == "systemd":
        slice_name = parent.rstrip("/").rpartition("/")[2] or "system.slice"
        return f"{slice_name}:cri-containerd:{container_id}"
    return f"{(parent or node.default_cgroup_parent).rstrip('/')}/{container_id}"


def memory(limits: Resources, node: Node) -> dict[str, Any]:
    built: dict[str, Any] = {}
    if limits.memory_limit_bytes:
        built["limit"] = limits.memory_limit_bytes
    if limits.memory_swap_limit_bytes and node.swap:
        built["swap"] = limits.memory_swap_limit_bytes
    return built


def cpu(limits: Resources) -> dict[str, Any]:
    asked = {
        "shares": limits.cpu_shares,
        "quota": limits.cpu_quota,
        "period": limits.cpu_period,
        "cpus": limits.cpuset_cpus,
        "mems": limits.cpuset_mems,
    }
    return {key: value for key, value in asked.items() if value}


def hugepages(limits: Resources, node: Node) -> list[dict[str, Any]]:
    """A size that this node does not have can only be limited to nothing; that is granted."""
    built = []
    for limit in limits.hugepages:
        if node.hugepage_sizes and limit.page_size not in node.hugepage_sizes:
            if limit.limit:
                sizes = ", ".join(node.hugepage_sizes)
                raise Refused(f"resources.hugepage_limits: no pages of {limit.page_size} on this node (it has {sizes})")
            continue
        if node.hugepage_sizes:
            built.append({"pageSize": limit.page_size, "limit": limit.limit})
    return built


def device_rules(devices: tuple[Device, ...], *, privileged: bool) -> list[dict[str, Any]]:
    if privileged:
        return [{"allow": True, "access": "rwm"}]
    rules = [*DEVICE_RULES]  # what every container may use, the runtime adds by itself
    rules += [
        {"allow": True, "type": d.kind, "major": d.major, "minor": d.minor, "access": d.permissions} for d in devices
    ]
    return rules


def block_io_of(limits: Resources) -> dict[str, Any]:
    built: dict[str, Any] = {"weight": limits.blkio_weight} if limits.blkio_weight else {}
    for name, major, minor, rate in limits.throttles:
        built.setdefault(name, []).append({"major": major, "minor": minor, "rate": rate})
    return built


def resources(
    limits: Resources, node: Node, devices: tuple[Device, ...] = (), *, privileged: bool = False
) -> dict[str, Any]:
    """`linux.resources` of config.json."""
    asked = {"memory": memory(limits, node), "cpu": cpu(limits), "hugepageLimits": hugepages(limits, node)}
    built: dict[str, Any] = {"devices": device_rules(devices, privileged=privileged)}
    built.update({key: value for key, value in asked.items() if value})
    if limits.pids_limit:
        built["pids"] = {"limit": limits.pids_limit}
    block_io = block_io_of(limits)
    if block_io:
        built["blockIO"] = block_io
    if limits.unified:
        if node.cgroup_version != 2:
            raise Refused("resources.unified: needs cgroup v2, this node has v1")
        built["unified"] = dict(limits.unified)
    return built
