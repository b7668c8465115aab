# SPDX-License-Identifier: Apache-2.0
"""The container's control group: made with its limits while it is empty, and given to its user."""

from __future__ import annotations

import errno
import posix

from runtime.errors import CreateFailed
from runtime.linux import cgroup, namespaces, syscalls
from runtime.plan import device_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.linux.cgroup import Group
    from runtime.plan.container import Plan
    from runtime.spec.model import DeviceRule


def set_up(plan: Plan, layout: cgroup.Layout) -> tuple[Group, list[str]]:
    """Make the group and set its limits while it is empty; gives what was made, for the record."""
    group = cgroup.Group(plan.cgroup_paths, v2=plan.cgroup_v2)
    made = group.make(layout)
    apply_limits(plan, group)
    give_away(plan, group)
    return group, made


def give_away(plan: Plan, group: Group) -> None:
    """To the container's user, where the specification's conditions for that hold."""
    if plan.group_owner is not None:
        cgroup.give(group.paths[cgroup.UNIFIED], plan.group_owner, -1)


def apply_limits(plan: Plan, group: Group) -> None:
    """Write limits and the device filter; an error names the field of the config."""
    for step in plan.limits:
        try:
            step.apply(group)
        except OSError as error:
            raise CreateFailed(f"{step.where}: {_explain(step.controller, error)}") from None
    _set_device_filter(plan, group)


def _explain(controller: str, error: OSError) -> str:
    """Why a control file refused."""
    if error.errno == errno.ENOENT:
        return f"{error} (has this host the cgroup controller {controller}?)"
    if error.errno == errno.EBUSY:
        return f"{error} (more is in use already)"
    if error.errno == errno.EINVAL:
        return f"{error} (the kernel refuses the value)"
    return str(error)


def _set_device_filter(plan: Plan, group: Group) -> None:
    """What devices the container may use; left out where we lack the right to say so."""
    if plan.options.rootless or plan.moved_by_systemd or not plan.device_rules:
        return
    try:
        load_device_rules(group, plan.device_rules, v2=plan.cgroup_v2)
    except PermissionError:
        if not namespaces.is_rootless():
            raise


def load_device_rules(group: Group, rules: tuple[DeviceRule, ...], *, v2: bool) -> None:
    """Rules for the devices controller of v1, or a program for v2 that takes the place of those before."""
    if not v2:
        devices = group.directory("devices")
        if devices is not None:
            cgroup.write_lines(devices, device_filter.v1_lines(rules))
        return
    program = syscalls.bpf_load_device_filter(device_filter.program(rules))
    directory = posix.open(group.paths[cgroup.UNIFIED], posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    try:
        before = syscalls.bpf_device_filters(directory)
        syscalls.bpf_attach_device_filter(directory, program)
        for old in before:
            syscalls.bpf_detach_device_filter(directory, old)
            posix.close(old)
    finally:
        posix.close(directory)
        posix.close(program)
