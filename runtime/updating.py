# SPDX-License-Identifier: Apache-2.0
"""update: new limits for a living container, in an order in which each write is allowed; all or as before."""

from __future__ import annotations

from runtime.errors import RuntimeFailure
from runtime.plan import limits
from runtime.spec import parse
from runtime.spec.reader import Object, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.linux.cgroup import Group
    from runtime.plan.limits import CgroupWrite
    from runtime.record import Record
    from runtime.spec.model import Resources


def update(entry: Record, group: Group, raw: Any) -> None:
    """Apply a resources object."""
    try:
        resources = parse.resources(Object(raw, "linux.resources"))
        writes = limits.plan(resources, v2=entry.cgroup_v2)
    except SpecError as error:
        raise RuntimeFailure(str(error)) from None
    _check_memory(group, resources, v2=entry.cgroup_v2)
    if entry.systemd_unit:
        from runtime import systemd_scope

        systemd_scope.change(entry.systemd_unit, writes, v2=entry.cgroup_v2)
    for write in _ordered(group, writes):
        try:
            write.apply(group)
        except OSError as error:
            raise RuntimeFailure(f"{write.where}: {_explained(group, write, error)}") from None
    if resources.devices:
        _devices(group, resources, v2=entry.cgroup_v2)


def _number(text: str | None) -> int:
    """A limit as a number; "max" and -1 are infinite."""
    if text is None or text.strip() in ("max", "-1", ""):
        return 1 << 63
    return int(text)


def _ordered(group: Group, writes: list[CgroupWrite]) -> list[CgroupWrite]:
    """v1 wants limit <= memsw at every moment: to grow, memsw first; the default order serves shrinking."""
    files = {write.file: write for write in writes}
    limit, swap = files.get("memory.limit_in_bytes"), files.get("memory.memsw.limit_in_bytes")
    if limit is None or swap is None:
        return writes
    now = _number(group.read("memory", "memory.memsw.limit_in_bytes"))
    first = [swap, limit] if _number(limit.value) > now or _number(swap.value) > now else [limit, swap]
    return first + [write for write in writes if write not in first]


def _check_memory(group: Group, resources: Resources, *, v2: bool) -> None:
    """checkBeforeUpdate: refuse a limit below what is used now, instead of having somebody killed for it."""
    memory = resources.memory
    if memory is None or not memory.check_before_update or memory.limit is None or memory.limit < 0:
        return
    used = int(group.read("memory", "memory.current" if v2 else "memory.usage_in_bytes") or 0)
    if memory.limit < used:
        raise RuntimeFailure(
            f"linux.resources.memory.limit: {memory.limit} is below the {used} bytes in use now (checkBeforeUpdate)"
        )


def _explained(group: Group, write: CgroupWrite, error: OSError) -> str:
    if error.errno == 16 and write.file == "memory.limit_in_bytes":
        used = group.read("memory", "memory.usage_in_bytes")
        return f"cannot be lowered to {write.value}: {used} bytes are in use and cannot be freed"
    if error.errno == 2:
        return f"{error} (has this host the cgroup controller {write.controller}?)"
    return str(error)


def _devices(group: Group, resources: Resources, *, v2: bool) -> None:
    from runtime import container_group
    from runtime.plan import device_filter

    container_group.load_device_rules(group, device_filter.rules(resources.devices, ()), v2=v2)
