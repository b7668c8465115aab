# SPDX-License-Identifier: Apache-2.0
"""What a node's container runtime costs: CPU time and memory of all that is neither a pod nor Kubernetes' own."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tests.e2e import cgroup_root
from tests.e2e.node import Node

_NOT_THE_RUNTIME = ("system/kubelet", "system/kube-proxy", "kubepods")


def _used_seconds(group: Path) -> float:
    try:
        if cgroup_root.is_unified():
            found = re.search(r"^usage_usec (\d+)", (group / "cpu.stat").read_text(), re.M)
            return int(found[1]) / 1e6 if found else 0.0
        return int((group / "cpuacct.usage").read_text()) / 1e9
    except FileNotFoundError:
        return 0.0


def _root(node: Node) -> Path:
    kind = [] if cgroup_root.is_unified() else ["cpuacct"]
    return cgroup_root.MOUNTED.joinpath(*kind, node.machine.cgroup)


def runtime_cpu(node: Node) -> float:
    """CPU seconds so far: the whole node, less pods and Kubernetes' daemons. No runtime can hide from this sum."""
    root = _root(node)
    return _used_seconds(root) - sum(_used_seconds(root / part) for part in _NOT_THE_RUNTIME)


def kubelet_cpu(node: Node) -> float:
    """What the kubelet itself has used: the part of a wall time that no runtime can take away."""
    return _used_seconds(_root(node) / "system/kubelet")


def pods_cpu(node: Node) -> float:
    return _used_seconds(_root(node) / "kubepods")


def runtime_memory(node: Node) -> Counter[str]:
    """PSS in KiB by program name of the runtime's processes."""
    found: Counter[str] = Counter()
    others = tuple(f"/{part}" for part in _NOT_THE_RUNTIME)
    for pid in node.machine.processes():
        try:
            groups = Path(f"/proc/{pid}/cgroup").read_text()
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            pss = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
        except OSError:
            continue
        if pid != node.machine.pid and pss and not any(part in groups for part in others):
            found[name] += int(pss[1])
    return found
