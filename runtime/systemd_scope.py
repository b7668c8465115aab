# SPDX-License-Identifier: Apache-2.0
"""The scope of a container: started, changed, stopped. systemd makes the cgroup, we write what we know better."""

from __future__ import annotations

import os

from runtime.errors import CreateFailed
from runtime.linux import cgroup, syscalls, systemd
from runtime.plan import scope as scope_plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runtime.linux.cgroup import Group, Layout
    from runtime.linux.systemd import Manager, Property
    from runtime.plan.container import Plan
    from runtime.plan.limits import CgroupWrite
    from runtime.plan.scope import Scope
    from runtime.spec.model import Config, DeviceRule

# The first systemd with a property; older ones have the limit from our own writing only.
_SINCE = {"CPUQuotaPeriodUSec": 242, "AllowedCPUs": 244, "AllowedMemoryNodes": 244}


def plan(
    config: Config,
    container_id: str,
    layout: Layout,
    writes: Sequence[CgroupWrite],
    devices: Sequence[DeviceRule],
) -> Scope:
    """The scope that a container would get on this host; changes nothing."""
    own = layout.own.get(cgroup.UNIFIED if layout.v2 else "name=systemd", "/")
    return scope_plan.plan(
        cgroups_path=config.linux.cgroups_path,
        container_id=container_id,
        annotations=config.annotations,
        writes=writes,
        devices=devices,
        device_groups=_device_groups() if devices else {},
        v2=layout.v2,
        user_manager_at=scope_plan.user_top(own, os.geteuid()) if systemd.uses_user_manager() else None,
    )


def _device_groups() -> Mapping[tuple[str, int], str]:
    try:
        with open("/proc/devices") as table:
            return scope_plan.device_groups(table.read())
    except OSError:
        return {}


class Anchor:
    """A process of ours that holds a scope open, which is nothing without a process, until the init lives in it."""

    def __init__(self) -> None:
        reading, self._holding = os.pipe2(os.O_CLOEXEC)
        self.pid = syscalls.clone3(0)
        if self.pid == 0:
            os.close(self._holding)
            try:
                os.read(reading, 1)  # until it is let go, or its parent is no more
            finally:
                os._exit(0)
        os.close(reading)

    def let_go(self) -> None:
        """End it; a second time is a no-op."""
        if self.pid:
            os.write(self._holding, b"!")  # closing would not do: a child born meanwhile has a copy
            os.close(self._holding)
            os.waitpid(self.pid, 0)
            self.pid = 0


def start(scope: Scope, group: Group, layout: Layout) -> Anchor:
    """Have the scope made, with its cgroup in every hierarchy, before there is an init."""
    anchor = Anchor()
    try:
        with systemd.Manager(user=scope.user) as manager:
            manager.start_scope(scope.unit, [anchor.pid], known(manager, scope.properties))
        _complete(scope, group, layout, anchor)
    except BaseException:
        anchor.let_go()
        raise
    return anchor


def _complete(scope: Scope, group: Group, layout: Layout, anchor: Anchor) -> None:
    """systemd made the group where it has controllers; the other v1 hierarchies and sub-groups are ours to make."""
    top = layout.directories(scope.path)
    expected = top[cgroup.UNIFIED] if layout.v2 else top.get("name=systemd", "")
    if expected and not os.path.isdir(expected):
        actual = cgroup.read_own(anchor.pid)
        there = actual.get(cgroup.UNIFIED if layout.v2 else "name=systemd")
        raise CreateFailed(f"systemd started {scope.unit}, but not at {expected}: its cgroup is {there}")
    if layout.v2:
        if not (scope.subgroup or scope.delegate):
            return
        # A group with processes cannot hand controllers down: the anchor goes beneath first.
        for directory in (group.paths[cgroup.UNIFIED], *_delegated(scope, group)):
            os.makedirs(directory, 0o755, exist_ok=True)
        if scope.subgroup:
            cgroup.write(f"{group.paths[cgroup.UNIFIED]}/cgroup.procs", str(anchor.pid))
            _hand_down(expected, group.paths[cgroup.UNIFIED])
        return
    group.make(layout)


def _delegated(scope: Scope, group: Group) -> list[str]:
    return [f"{group.paths[cgroup.UNIFIED]}/{scope.delegate}"] if scope.delegate else []


def _hand_down(top: str, bottom: str) -> None:
    """Every controller from a group to one beneath it, level by level."""
    here = top
    for part in bottom.removeprefix(top).strip("/").split("/"):
        cgroup.delegate_controllers(here)
        here = f"{here}/{part}"


def known(manager: Manager, properties: Sequence[Property]) -> list[Property]:
    """What this systemd knows of them."""
    if not any(name in _SINCE for name, _, _ in properties):
        return list(properties)
    version = manager.version()
    return [prop for prop in properties if _SINCE.get(prop[0], 0) <= version]


def room_for_anchor(group: Group, writes: Sequence[CgroupWrite], *, more: int) -> None:
    """pids.max counts the anchor too: one more while it lives, what was asked for afterwards."""
    for write in writes:
        if write.file == "pids.max" and write.value != "max":
            group.write("pids", "pids.max", str(int(write.value) + more))


def settle(plan: Plan, group: Group, anchor: Anchor) -> None:
    """The init lives there now: the anchor goes, and with it what it stood in the way of."""
    anchor.let_go()
    room_for_anchor(group, plan.limits, more=0)
    scope = plan.scope
    assert scope is not None
    if scope.delegate:
        top = group.paths[cgroup.UNIFIED]
        _hand_down(top, f"{top}/{scope.delegate}")
        mine = plan.namespaces
        cgroup.give(f"{top}/{scope.delegate}", _outside(mine.uid_mappings), _outside(mine.gid_mappings))


def _outside(mappings: Sequence[object]) -> int:
    for mapping in mappings:
        if mapping.inside == 0:  # type: ignore[attr-defined]
            return int(mapping.host)  # type: ignore[attr-defined]
    return 0


def attach(scope: Scope, pid: int) -> None:
    """Have a process moved into the scope where we may not do it ourselves."""
    with systemd.Manager(user=scope.user) as manager:
        manager.attach(scope.unit, [pid])


def change(unit: str, writes: Sequence[CgroupWrite], *, v2: bool) -> None:
    """Tell systemd new limits, so that it does not write the old ones back at its next reload."""
    properties = scope_plan.limits(writes, v2=v2)
    if not properties:
        return
    with systemd.Manager(user=systemd.uses_user_manager()) as manager:
        manager.set_properties(unit, known(manager, properties))
