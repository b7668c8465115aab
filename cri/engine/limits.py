# SPDX-License-Identifier: Apache-2.0
"""New limits for containers that exist: a resize writes what has changed into their cgroups."""

from __future__ import annotations

import errno
import json

from cri.engine import container
from cri.engine.book import State
from cri.engine.context import Context
from cri.engine.errors import BadRequest, Failed, WrongState
from cri.engine.records import ContainerPhase, PodPhase
from cri.engine.request import Resources
from cri.engine.sandbox import update as update_pod_record
from cri.oci import resources as oci
from cri.oci.facts import Refused
from runtime.linux.cgroup import Group
from runtime.linux.quick_dataclasses import fields, replace
from runtime.plan import limits
from runtime.spec import parse
from runtime.spec.reader import Object, SpecError


def merged(old: Resources, new: Resources) -> Resources:
    """A field that says nothing leaves what is there."""
    said = {f.name: getattr(new, f.name) for f in fields(Resources) if getattr(new, f.name)}
    return replace(old, **said)


def update(context: Context, identity: str, new: Resources) -> None:
    """Change a container's limits: before its start in its config.json, after it in its cgroup."""
    record = context.book.container(identity)
    with container.locked(context, record.id):
        record = context.book.container(record.id)
        if context.book.state(record) not in (State.CREATED, State.RUNNING):
            raise WrongState(f"container {record.id}: has ended, its limits cannot be changed")
        wanted = merged(record.request.resources, new)
        try:
            section = oci.resources(wanted, context.node, privileged=record.request.privileged)
            section.pop("devices", None)
            writes = limits.plan(parse.resources(Object(section, "linux.resources")), v2=context.cgroups.layout.v2)
        except (Refused, SpecError) as e:
            raise BadRequest(str(e)) from None
        if record.phase == ContainerPhase.STARTED:
            context.cgroups.tell_systemd(record.cgroups_path, writes)
            apply(context.cgroups.group(record.cgroups_path), writes, record.id)
        else:
            rewrite(context, record.id, section)
        container.update(context, record, request=replace(record.request, resources=wanted))


def apply(group: Group, writes: list[limits.CgroupWrite], identity: str) -> None:
    """On v1 limit <= memsw must hold at every moment: growing and shrinking need opposite orders, and one fits."""
    try:
        for write in writes:
            write.apply(group)
        return
    except OSError as error:
        pair = [w for w in writes if w.file in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")]
        if error.errno not in (errno.EINVAL, errno.EBUSY) or len(pair) != 2:
            raise Failed(f"container {identity}: its limits could not be changed: {error}") from error
    rest = [w for w in writes if w not in pair]
    try:
        for write in [*reversed(pair), *rest]:
            write.apply(group)
    except OSError as error:
        raise Failed(f"container {identity}: its limits could not be changed: {error}") from error


def rewrite(context: Context, identity: str, section: dict[str, object]) -> None:
    """A container that has not been started yet: its config.json carries the limits."""
    path = f"{context.bundles.directory(identity)}/config.json"
    with open(path) as file:
        config = json.load(file)
    held = config["linux"]["resources"]
    config["linux"]["resources"] = {"devices": held.get("devices", []), **section}
    with open(path, "w") as file:
        file.write(json.dumps(config, separators=(",", ":")))


def update_pod(context: Context, identity: str, *, overhead: Resources, resources: Resources) -> None:
    """The kubelet has written the pod's cgroup itself; we keep what it says for whoever asks."""
    record = context.book.pod(identity)
    if record.phase != PodPhase.READY:
        raise WrongState(f"pod sandbox {record.id}: is {record.phase}, not ready")
    request = replace(record.request, overhead=overhead, resources=resources)
    update_pod_record(context, record, request=request)
