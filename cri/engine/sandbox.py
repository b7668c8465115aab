# SPDX-License-Identifier: Apache-2.0
"""The life of a pod: namespaces pinned, files written, network joined; and the one way all of it is taken down."""

from __future__ import annotations

import os
import time

from cri.engine import handlers, patience, pod_files, validate
from cri.engine.book import changed
from cri.engine.context import Context, new_id
from cri.engine.errors import NotFound
from cri.engine.events import Event, Kind
from cri.engine.phases import phase
from cri.engine.records import PodPhase, PodRecord
from cri.engine.request import Mode, Namespaces, PodRequest
from runtime.keep import client as keep
from runtime.linux import durable, mounts

NO_NETWORK = "none"  # the name of a network that is nothing but loopback


def run(context: Context, request: PodRequest, identity: str = "") -> str:
    """Make a pod; on any failure nothing of it is left. Returns its id, which the caller may have chosen."""
    validate.pod(request)
    handlers.find(context.config, request.handler)
    record = planned(context, request, identity or new_id())
    context.book.add_pod(record)
    try:
        with phase("record"):
            context.pods.save(record)
        bring_up(context, record)
    except BaseException:
        take_down(context, record.id)
        forget(context, record.id)
        raise
    context.events.publish(Event(Kind.CREATED, record.id, record.id))
    context.events.publish(Event(Kind.STARTED, record.id, record.id))
    return record.id


def planned(context: Context, request: PodRequest, identity: str) -> PodRecord:
    """The record with every place that will be used, before any of them is."""
    asked = request.namespaces
    directory = context.pods.directory(identity)
    pins = {}
    netns = ""
    if asked.network == Mode.POD:
        netns = f"{context.config.paths.netns}/ketch-{identity}"
        pins["net"] = netns
        pins["uts"] = f"{directory}/uts"
    if asked.ipc == Mode.POD:
        pins["ipc"] = f"{directory}/ipc"
    if asked.user.mode == Mode.POD:
        pins["user"] = f"{directory}/user"
    reaper_cgroup = ""
    if asked.pid == Mode.POD:
        pins["pid"] = f"{directory}/pid"
        reaper_cgroup = context.cgroups.of_reaper(request.cgroup_parent, identity)
    return PodRecord(
        id=identity,
        owner=context.owner,
        boot_id=context.boot_id,
        created_at=time.time_ns(),
        request=request,
        hostname=request.hostname or os.uname().nodename,
        pins=pins,
        netns=netns,
        reaper_cgroup=reaper_cgroup,
        uids=asked.user.uids,
        gids=asked.user.gids,
    )


def sysctls(context: Context, request: PodRequest) -> dict[str, str]:
    """What was asked for, over what a pod with its own network has by default."""
    chosen: dict[str, str] = {}
    if request.namespaces.network == Mode.POD:
        if context.config.runtime.unprivileged_ports:
            chosen["net.ipv4.ip_unprivileged_port_start"] = "0"
        if context.config.runtime.unprivileged_icmp:
            top = 2147483647
            for line in request.namespaces.user.gids:
                top = line.length - 1  # the kernel refuses ids that the pod's user namespace does not map
            chosen["net.ipv4.ping_group_range"] = f"0 {top}"
    chosen.update({name.replace("/", "."): value for name, value in request.sysctls.items()})
    return chosen


def bring_up(context: Context, record: PodRecord) -> None:
    """Everything a container of this pod will join; the record says where it all is."""
    patience.check()
    if record.pins:
        with phase("namespaces"):
            record = pin(context, record)
    directory = context.pods.directory(record.id)
    owner = pod_files.root_of(record.uids)
    if record.request.namespaces.ipc == Mode.POD:
        with phase("shm"):
            pod_files.mount_shm(f"{directory}/shm", context.config.runtime.shm_bytes, owner)
    if record.netns and record.request.network != NO_NETWORK:
        patience.check()
        with phase("network"):
            # Which network is written down before it is joined: leaving it needs no more than that.
            record = update(context, record, network=context.network.chosen(record.request.network).name)
            record = context.network.add(record)
    patience.check()
    with phase("files"):
        pod_files.write_all(directory, record.hostname, record.request.dns, record.ips, owner)
    with phase("record"):
        update(context, record, phase=PodPhase.READY)


def pin(context: Context, record: PodRecord) -> PodRecord:
    """Namespaces without a process; only a shared PID namespace needs one."""
    cgroups = context.cgroups.make(record.reaper_cgroup) if record.reaper_cgroup else []
    if record.netns:
        os.makedirs(context.config.paths.netns, mode=0o755, exist_ok=True)
    pinned = context.keep.pin_namespaces(
        keep.PinRequest(
            pins=record.pins,
            sysctls=sysctls(context, record.request),
            hostname=record.hostname if "uts" in record.pins else "",
            uid_mappings=[keep.IdMapping(r.container_id, r.host_id, r.length) for r in record.uids],
            gid_mappings=[keep.IdMapping(r.container_id, r.host_id, r.length) for r in record.gids],
            reaper_cgroups=cgroups,
        )
    )
    if pinned.reaper is None:
        return record
    record = update(context, record, reaper_pid=pinned.reaper.pid, reaper_start_time=pinned.reaper.start_time)
    context.cgroups.adopt(record.reaper_cgroup, pinned.reaper.pid)
    return record


def update(context: Context, record: PodRecord, **changes: object) -> PodRecord:
    """To disk, then to memory."""
    new: PodRecord = changed(record, **changes)
    context.pods.save(new)
    context.book.put(new)
    return new


def note(context: Context, record: PodRecord, **changes: object) -> None:
    """The same for what has happened, or goes down."""
    new: PodRecord = changed(record, **changes)
    context.pods.note(new)
    context.book.put(new)


def stop(context: Context, identity: str) -> None:
    """End all containers and let go of network and namespaces; a second time is a no-op. The record stays."""
    from cri.engine import container

    try:
        record = context.book.pod(identity)
    except NotFound:
        return
    with locked(context, record.id) as is_known:
        if not is_known:
            return
        record = context.book.pod(record.id)
        if record.phase == PodPhase.STOPPED:
            return
        note(context, record, phase=PodPhase.STOPPING)
        with phase("containers"):
            container.stop_all_of(context, record.id)
        take_down(context, record.id)
        note(context, context.book.pod(record.id), phase=PodPhase.STOPPED)
    context.events.publish(Event(Kind.STOPPED, record.id, record.id))


def take_down(context: Context, identity: str) -> None:
    """The one teardown of a pod's own things: works from the record, may run twice, each line a no-op once done."""
    record = context.book.pod(identity)
    if record.netns:
        with phase("network"):
            context.network.delete(record)
    with phase("namespaces"):
        if record.reaper_cgroup:
            context.cgroups.remove(record.reaper_cgroup)
        if record.pins:
            context.keep.unpin(record.pins)
    with phase("shm"):
        pod_files.unmount_shm(f"{context.pods.directory(record.id)}/shm")


def forget(context: Context, identity: str) -> None:
    """The last of it: the directory, which was bound on itself to be shared, and the record in it."""
    mounts.detach_all_beneath(context.pods.directory(identity))
    context.pods.forget(identity)
    context.book.forget_pod(identity)


def remove(context: Context, identity: str) -> None:
    """Stop it if it is not, remove its containers, forget it; a second time is a no-op."""
    from cri.engine import container

    try:
        record = context.book.pod(identity)
    except NotFound:
        return
    stop(context, record.id)
    container.remove_all_of(context, record.id)
    with locked(context, record.id) as is_known:
        if not is_known:
            return
        with phase("record"):
            forget(context, record.id)
    context.events.publish(Event(Kind.DELETED, record.id, record.id))


class locked:
    """The pod's lock, for threads and processes alike: a flock on its directory. False when the pod is gone. Where only
    its directory is, because somebody has removed it, there is nothing to lock, and the rest of it goes too."""

    def __init__(self, context: Context, identity: str) -> None:
        self._pods = context.book.pods
        self._identity = identity
        self._path = context.pods.directory(identity)
        self._held: durable.Locked | None = None

    def __enter__(self) -> bool:
        try:
            self._held = patience.lock(self._path)
        except FileNotFoundError:
            pass
        return self._identity in self._pods

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            self._held.close()


def namespaces_of(record: PodRecord) -> Namespaces:
    return record.request.namespaces
