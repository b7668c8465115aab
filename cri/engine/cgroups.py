# SPDX-License-Identifier: Apache-2.0
"""The cgroups of pods and containers as the engine sees them: names, removal, and who is in them."""

from __future__ import annotations

import os

from cri.oci.facts import Node
from runtime import systemd_scope
from runtime.linux import cgroup, systemd
from runtime.plan.limits import CgroupWrite


class Cgroups:
    """Finds the hierarchies once."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.layout = cgroup.layout()

    def group(self, path: str) -> cgroup.Group:
        return cgroup.Group(self.layout.directories(path), v2=self.layout.v2)

    def of_reaper(self, parent: str, pod_id: str) -> str:
        """A leaf of its own: on v2 no process may be in a group that hands controllers to its children."""
        if self._node.cgroup_driver == "systemd":
            return f"{slice_path(parent or 'system.slice')}/ketch-{pod_id}.scope"
        return f"{(parent or self._node.default_cgroup_parent).rstrip('/')}/{pod_id}"

    def of_container(self, cgroups_path: str) -> str:
        """The directory name behind `cgroupsPath`: SLICE:PREFIX:NAME under systemd, else the path itself."""
        parts = cgroups_path.split(":")
        if len(parts) == 3:
            return f"{slice_path(parts[0])}/{parts[1]}-{parts[2]}.scope"
        return cgroups_path

    def of_parent(self, parent: str) -> str:
        """The pod's own group."""
        if self._node.cgroup_driver == "systemd":
            return slice_path(parent) if parent else "/system.slice"
        return parent or self._node.default_cgroup_parent

    def make(self, path: str) -> list[str]:
        """Create it; returns its directories, none for a scope: systemd makes those around a process (`adopt`)."""
        if self._node.cgroup_driver == "systemd":
            return []
        group = self.group(path)
        group.make(self.layout)
        return group.directories()

    def tell_systemd(self, path: str, writes: list[CgroupWrite]) -> None:
        """What its next reload would otherwise undo."""
        if self._node.cgroup_driver == "systemd":
            systemd_scope.change(path.rpartition("/")[2], writes, v2=self.layout.v2)

    def adopt(self, path: str, pid: int) -> None:
        """Have systemd make the scope of a process that is there already; nothing to do where we make cgroups."""
        if self._node.cgroup_driver != "systemd":
            return
        parent, _, unit = path.rpartition("/")
        described = ("Description", "s", f"ketch pod {unit.removesuffix('.scope')}")
        flags = [("Delegate", "b", True), ("DefaultDependencies", "b", False)]
        with systemd.Manager(user=False) as manager:
            slice_name = parent.rpartition("/")[2] or "-.slice"
            manager.start_scope(unit, [pid], [described, ("Slice", "s", slice_name), *flags])

    def remove(self, path: str) -> None:
        """Kill whoever is in it and remove it; a no-op when it is gone."""
        group = self.group(path)
        if group.exists():
            group.kill_and_wait()
            if self._node.cgroup_driver == "systemd":
                systemd.end(path.rpartition("/")[2])
            group.remove()
        if os.path.dirname(path) == self._node.default_cgroup_parent:
            # Made by us on the way, and by nobody else: the last one out removes it.
            cgroup.remove_if_empty(self.group(self._node.default_cgroup_parent).directories())


def slice_path(name: str) -> str:
    """Where systemd puts a slice: a-b.slice lies in a.slice."""
    name = name.rstrip("/").rpartition("/")[2]
    if name in ("", "-.slice"):
        return ""
    parts = name.removesuffix(".slice").split("-")
    return "".join(f"/{'-'.join(parts[: i + 1])}.slice" for i in range(len(parts)))
